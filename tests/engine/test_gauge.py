"""A figure that is shown is read again after a second, not before."""

from __future__ import annotations

from runai.engine.gauge import RECENT_S, Gauge


class Thermometer:
    """Shows one more whenever it is read."""

    def __init__(self) -> None:
        self.now, self.reads = 0.0, 0

    def read(self) -> int:
        self.reads += 1
        return self.reads

    def gauge(self) -> Gauge:
        return Gauge(self.read, lambda: self.now)


def test_who_decides_by_it_has_it_read_each_time() -> None:
    gauge = Thermometer().gauge()
    assert [gauge.exact(), gauge.exact()] == [1, 2]


def test_who_shows_it_has_it_read_once_a_second() -> None:
    thermometer = Thermometer()
    gauge = thermometer.gauge()
    assert gauge.recent() == 1
    thermometer.now += RECENT_S / 2
    assert gauge.recent() == 1
    thermometer.now += RECENT_S / 2
    assert gauge.recent() == 2


def test_what_was_read_to_decide_is_shown() -> None:
    thermometer = Thermometer()
    gauge = thermometer.gauge()
    gauge.exact()
    thermometer.now += RECENT_S / 2
    gauge.exact()
    thermometer.now += RECENT_S * 3 / 4
    assert gauge.recent() == 2
