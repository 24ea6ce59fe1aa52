"""What is loaded stays while there is room; what is longest unused goes first."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from drawn import as_base64, make_request, photo

from runai.engine import footprint, loading, plan
from runai.engine.cache import ModelCache, weigh
from runai.engine.catalogue import Catalogue, Entry
from runai.engine.devices import Place
from runai.errors import OutOfMemory

CPU = Place(torch.device("cpu"), torch.float32)
NAMES = ("v1/plain", "v1/painter-inpainting", "v2/velocity")
Make = Callable[..., "Small"]


class Small(ModelCache):
    """A cache on a machine that has room for `models` of the three and for drawing with one."""

    def __init__(self, base: Path, models: float, max_models: float = 0) -> None:
        self.now = 0.0
        self.catalogue = Catalogue([base])
        self.entries = {name: self.catalogue.find(name) for name in NAMES}
        known = footprint.of(self.entries["v1/plain"])
        work = known.work(make_request(width=64, height=64), 4, fp16=False)
        self.one = known.weights(4).total
        drawing = plan.needed("full", known.weights(4), work) - self.one
        self.capacity = int(drawing + models * self.one)
        super().__init__(
            lambda entry, place: loading.load(entry, place, [base]),
            loading.load_vae,
            CPU,
            max_bytes=int(drawing + max_models * self.one) if max_models else 0,
            free_bytes=self.left,
            clock=lambda: self.now,
        )

    def left(self) -> int:
        return self.capacity - sum(held.bytes for held in self.loaded(()))

    def use(self, name: str, *in_use: str, width: int = 64) -> Any:
        """Take up a request for a model while others are drawn with."""
        self.now += 1
        entry = self.entries[name]
        chosen = self.plan(entry, make_request(model=name, width=width, height=64), in_use)
        model = self.get(entry, in_use, chosen)
        self.arrange(model, chosen.name)
        return model


@pytest.fixture
def small(models: Path) -> Make:
    return lambda *size, **more: Small(models, *size, **more)


def test_with_enough_memory_everything_stays(small: Make) -> None:
    cache = small(10)
    first = [cache.use(name) for name in NAMES]
    assert [cache.use(name) for name in NAMES] == first
    assert cache.names() == list(NAMES)


def test_the_longest_unused_goes_first(small: Make) -> None:
    cache = small(2.5)
    cache.use("v1/plain")
    cache.use("v2/velocity")
    cache.use("v1/plain")
    cache.use("v1/painter-inpainting")
    assert cache.names() == ["v1/plain", "v1/painter-inpainting"]


def test_no_more_goes_than_has_to(small: Make) -> None:
    cache = small(2.5)
    for name in NAMES:
        cache.use(name)
    assert cache.names() == list(NAMES[1:])


def test_what_is_in_use_stays_though_it_was_longest_unused(small: Make) -> None:
    cache = small(2.5)
    cache.use("v1/plain")
    cache.use("v2/velocity")
    cache.use("v1/painter-inpainting", "v1/plain")
    assert cache.names() == ["v1/plain", "v1/painter-inpainting"]


def test_a_request_that_fits_only_without_what_is_in_use_is_refused(small: Make) -> None:
    cache = small(1.5)
    cache.use("v1/plain")
    with pytest.raises(OutOfMemory):
        cache.use("v2/velocity", "v1/plain")
    assert cache.names() == ["v1/plain"]
    cache.use("v2/velocity")
    assert cache.names() == ["v2/velocity"]


def test_freeing_takes_all_that_is_not_in_use(small: Make) -> None:
    cache = small(10)
    for name in NAMES:
        cache.use(name)
    cache.free({"v2/velocity"})
    assert cache.names() == ["v2/velocity"]


def test_a_maximum_is_kept_though_the_machine_has_more(small: Make) -> None:
    cache = small(10, max_models=2.5)
    for name in NAMES:
        cache.use(name)
    assert cache.names() == list(NAMES[1:])
    with pytest.raises(OutOfMemory):
        cache.use("v1/plain", *NAMES[1:])


def test_a_larger_picture_takes_the_room_of_unused_models(small: Make) -> None:
    cache = small(2.3)
    cache.use("v1/plain")
    cache.use("v2/velocity")
    assert cache.names() == ["v1/plain", "v2/velocity"]
    cache.use("v2/velocity", width=88)
    assert cache.names() == ["v2/velocity"]


def test_what_is_idle_too_long_goes_and_the_next_is_told(small: Make) -> None:
    cache = small(10)
    assert cache.rest(30.0, ()) is None
    cache.use("v1/plain")
    cache.now += 10
    cache.use("v2/velocity")
    assert cache.rest(30.0, ()) == pytest.approx(19.0)
    cache.now += 19
    assert cache.rest(30.0, ()) == pytest.approx(11.0)
    assert cache.names() == ["v2/velocity"]
    cache.now += 11
    assert cache.rest(30.0, {"v2/velocity"}) is None
    assert cache.names() == ["v2/velocity"]
    assert cache.rest(30.0, ()) is None
    assert cache.names() == []


def test_drawing_with_a_model_is_using_it(small: Make) -> None:
    cache = small(10)
    model = cache.use("v1/plain")
    cache.now += 25
    cache.arrange(model, "full")
    cache.now += 10
    assert cache.rest(30.0, ()) == pytest.approx(20.0)


def test_a_vae_is_held_as_models_are(small: Make, models: Path, tmp_path: Path) -> None:
    shutil.copytree(models / "v1" / "plain" / "vae", tmp_path / "soft")
    cache = small(10)
    entry = Entry("VAE/soft", "v1", "diffusers", tmp_path / "soft")
    vae = cache.vae(entry, ())
    assert cache.vae(entry, ()) is vae
    [held] = cache.loaded({"VAE/soft"})
    assert (held.name, held.kind, held.in_use) == ("VAE/soft", "vae", True)
    assert held.bytes == sum(p.nbytes for p in vae.parameters())
    assert cache.names() == []
    cache.free(())
    assert cache.loaded(()) == []


def test_the_holdings_are_told(small: Make) -> None:
    cache = small(10)
    model = cache.use("v1/plain")
    cache.now += 5
    holdings = cache.holdings(())
    [held] = holdings.loaded
    assert (held.plan, held.in_use, held.idle_s) == ("full", False, 5.0)
    assert held.bytes == holdings.loaded_bytes == weigh(model).total
    assert holdings.free_bytes == cache.left()


def test_a_model_that_was_replaced_on_disk_is_read_again(small: Make) -> None:
    cache = small(10)
    before = cache.use("v1/plain")
    cache.entries["v1/plain"] = replace(cache.entries["v1/plain"], stamp=(1, 1))
    assert cache.use("v1/plain") is not before
    assert cache.names() == ["v1/plain"]


@pytest.mark.parametrize("name", NAMES)
def test_the_footprint_of_a_folder_is_exactly_what_is_loaded(small: Make, name: str) -> None:
    cache = small(10)
    known = footprint.of(cache.entries[name])
    model = cache.use(name)
    expected, exact = known.weights(4), weigh(model)
    assert (expected.unet, expected.vae) == (exact.unet, exact.vae)
    assert expected.texts == pytest.approx(exact.texts, rel=0.03)  # without its position numbers
    assert known.native == model.size
    assert known.unet_width == model.unet.config.block_out_channels[0]


def test_the_plan_counts_the_size_of_a_picture_that_is_given(small: Make) -> None:
    cache = small(10)
    entry = cache.entries["v1/plain"]
    request = make_request(task="img2img", image=as_base64(photo(200, 90)))
    assert (cache.plan(entry, request, ()).work.width, 88) == (200, 88)
    assert cache.plan(entry, request, ()).work.height == 88
    unread = make_request(task="img2img", image=as_base64(photo())[:80])
    assert cache.plan(entry, unread, ()).work.width == 64
