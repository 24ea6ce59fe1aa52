"""What is loaded stays while there is room; what is longest unused goes first."""

from __future__ import annotations

import gc
import shutil
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from drawn import as_base64, make_request, photo

from runai.engine import footprint, loading, plan
from runai.engine.cache import ModelCache
from runai.engine.catalogue import Catalogue, Entry
from runai.engine.devices import Place
from runai.engine.held import weigh
from runai.errors import ModelBroken, OutOfMemory

CPU = Place(torch.device("cpu"), torch.float32)
NAMES = ("v1/plain", "v1/painter-inpainting", "v2/velocity")
Make = Callable[..., "Small"]


class Small(ModelCache):
    """A cache on a machine that has room for `models` of the three and for drawing with one."""

    def __init__(self, base: Path, models: float, max_models: float = 0) -> None:
        self.now, self.others = 0.0, 0
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
            beside=lambda: self.others,
            free_bytes=self.left,
            clock=lambda: self.now,
        )

    def left(self) -> int:
        return self.capacity - sum(held.bytes for held in self.loaded(()))

    def use(self, name: str, *in_use: str, width: int = 64) -> Any:
        """Take up a request for a model while others are drawn with."""
        return self.take(self.entries[name], {self.entries[n] for n in in_use}, width)

    def take(
        self, entry: Entry, in_use: set[Entry], width: int = 64, vae: Entry | None = None
    ) -> Any:
        self.now += 1
        request = make_request(model=entry.name, width=width, height=64)
        chosen = self.plan(entry, request, in_use, vae)
        model = self.get(entry, in_use, chosen, vae)
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
    cache.free({cache.entries["v2/velocity"]})
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
    assert cache.rest(30.0, {cache.entries["v2/velocity"]}) is None
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


@pytest.fixture
def soft(models: Path, tmp_path: Path) -> Entry:
    """A VAE of the same name as a model: names are unique per kind only."""
    shutil.copytree(models / "v1" / "plain" / "vae", tmp_path / "soft")
    return Entry("v1/plain", "v1", "diffusers", tmp_path / "soft", kind="vae")


def test_a_vae_is_held_as_models_are(small: Make, soft: Entry) -> None:
    cache = small(10)
    plain = cache.entries["v1/plain"]
    model = cache.take(plain, set(), vae=soft)
    assert cache.take(plain, set(), vae=soft) is model
    assert cache.use("v1/plain").vae is not model.vae
    [vae, _] = cache.loaded({soft})
    assert (vae.name, vae.kind, vae.in_use) == ("v1/plain", "vae", True)
    assert vae.bytes == sum(p.nbytes for p in model.vae.parameters())
    assert cache.names() == ["v1/plain"]
    assert soft in cache and plain in cache
    cache.free({plain})
    assert soft not in cache and plain in cache
    assert cache.take(plain, set(), vae=soft) is not model


def test_a_vae_that_is_let_go_of_leaves_nothing_behind(small: Make, soft: Entry) -> None:
    cache = small(10)
    plain = cache.entries["v1/plain"]
    weight = weakref.ref(cache.take(plain, set(), vae=soft).vae.decoder.conv_in.weight)
    cache.free({plain})
    assert weight() is None


def test_a_vae_counts_in_the_plan(small: Make, soft: Entry) -> None:
    cache = small(10)
    plain, request = cache.entries["v1/plain"], make_request(width=64, height=64)
    size = footprint.of_vae(soft) * 4
    alone = cache.plan(plain, request, ())
    both = cache.plan(plain, request, (), soft)
    assert both.needed_bytes == alone.needed_bytes + size > alone.needed_bytes
    cache.take(plain, set(), vae=soft)
    after = cache.plan(plain, request, {plain, soft}, soft)
    assert after.room.free == both.room.free  # its own: it need not be had twice
    assert cache.plan(plain, request, {plain, soft}).room.free == both.room.free - size


def test_what_others_hold_is_within_the_maximum(small: Make) -> None:
    cache = small(10, max_models=2.5)
    cache.others = cache.one
    for name in NAMES:
        cache.use(name)
    assert cache.names() == [NAMES[-1]]


def test_room_is_made_for_what_others_will_hold(small: Make) -> None:
    cache = small(3)
    plain = cache.entries["v1/plain"]
    cache.use("v1/plain")
    cache.use("v2/velocity")
    spare = cache.left()
    cache.make_room(spare, {plain})
    assert cache.names() == ["v1/plain", "v2/velocity"]
    cache.make_room(spare + 1, {plain})
    assert cache.names() == ["v1/plain"]
    with pytest.raises(OutOfMemory, match=r"This needs \d+ MB more; \d+ MB are free"):
        cache.make_room(cache.left() + 1, {plain})
    assert cache.names() == ["v1/plain"]


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
    new = replace(cache.entries["v1/plain"], stamp=(1, 1))
    assert new not in cache
    assert cache.take(new, set()) is not before
    assert [held.name for held in cache.loaded(())] == ["v1/plain"]


def test_a_model_that_was_replaced_on_disk_stays_while_it_is_drawn_with(small: Make) -> None:
    cache = small(10)
    old = cache.entries["v1/plain"]
    before, new = cache.use("v1/plain"), replace(old, stamp=(1, 1))
    after = cache.take(new, {old})
    assert after is not before
    cache.arrange(before, "tiling")
    assert [(held.plan, held.in_use) for held in cache.loaded({old})] == [
        ("tiling", True),
        ("full", False),
    ]
    assert cache.names() == ["v1/plain"]
    cache.take(new, set())
    assert old not in cache and new in cache


def test_a_replacement_that_is_broken_takes_nothing_from_who_draws(
    small: Make, tmp_path: Path
) -> None:
    cache = small(10)
    old = cache.entries["v1/plain"]
    before = cache.use("v1/plain")
    with pytest.raises(ModelBroken):
        cache.get(replace(old, path=tmp_path), {old}, cache.plan(old, make_request(), {old}))
    cache.arrange(before, "full")
    assert cache.names() == ["v1/plain"]


@pytest.mark.parametrize("way", ["rest", "free", "clear"])
def test_memory_is_given_back_when_nothing_stands_for_it_any_more(small: Make, way: str) -> None:
    cache, freed = small(10), []
    weights = [weakref.ref(cache.use(name).unet.conv_in.weight) for name in NAMES]

    def look(phase: str, _: Any) -> None:
        if phase == "stop":
            freed.append([weight() is None for weight in weights])

    gc.disable()  # but for the collection that comes before memory is given back
    gc.callbacks.append(look)
    try:
        cache.now += 60
        {
            "rest": lambda: cache.rest(30.0, ()),
            "free": lambda: cache.free(()),
            "clear": cache.clear,
        }[way]()
    finally:
        gc.callbacks.remove(look)
        gc.enable()
    assert freed == [[True] * 3]


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
