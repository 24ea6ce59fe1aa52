"""Tiny autoencoders: what is taken for one, how it is read, and what it draws."""

from __future__ import annotations

import io
import shutil
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from diffusers import (
    AutoencoderTiny,
    EulerDiscreteScheduler,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionPipeline,
)
from drawn import Pixels, draw, held, last, make_request, photo, pixels, run
from PIL import Image
from reference import worst
from safetensors.torch import save_file

from runai.engine import finish, footprint, loading, pictures
from runai.engine.catalogue import Catalogue
from runai.engine.devices import Place
from runai.engine.engine import TorchEngine
from runai.errors import ModelBroken, ModelError, ModelUnsupported
from runai.schema.events import JobEvent, Preview
from runai.schema.late import Late, made

FP32 = Place(torch.device("cpu"), torch.float32)
Named = dict[str, torch.Tensor]


def numbered(part: Any, first: int) -> Named:
    """Its author's names for a half: numbers, of a decoder from one layer more on."""
    named: Named = {}
    for name, value in part.layers.state_dict().items():
        number, _, rest = name.partition(".")
        named[f"{int(number) + first}.{rest}"] = value.contiguous()
    return named


def write_files(folder: Path, name: str, made: Any) -> None:
    """Both halves as its author publishes them."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(numbered(made.decoder, 1), folder / f"{name}_decoder.safetensors")
    save_file(numbered(made.encoder, 0), folder / f"{name}_encoder.safetensors")


def make(seed: int = 0, **sizes: Any) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return tiny.make_tiny_autoencoder(**sizes)


@pytest.fixture(scope="module")
def base(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models of every kind of latents. `taesd` lies there both ways, for SDXL there is none."""
    base = tmp_path_factory.mktemp("tiny")
    shutil.copytree(models / "v1" / "plain", base / "v1" / "plain")
    tiny.write_model(base / "xl" / "large", "sdxl")
    tiny.write_model(base / "v2" / "upscaler", "upscale-x4")
    make().save_pretrained(base / "VAE" / "taesd")
    write_files(base / "vae_approx", "taesd", make())
    write_files(base / "vae_approx", "unnamed", make(1))
    return base


@pytest.fixture(scope="module")
def drawer(base: Path) -> Iterator[TorchEngine]:
    engine = TorchEngine(base, device="cpu", dtype="fp32", max_batch=8)
    yield engine
    engine.close()


# --- what is taken for one -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "version"),
    [
        ("taesd_decoder", "v1"),
        ("TAESD_decoder", "v1"),
        ("taesd_13_decoder", "v1"),
        ("taesdxl_decoder", "xl"),
        ("taesdxl", "xl"),
        ("taesdv_decoder", None),
        ("mine", None),
    ],
)
@pytest.mark.parametrize("ending", [".safetensors", ".pth"])
def test_a_decoder_in_a_file_is_for_the_latents_that_its_name_says(
    tmp_path: Path, name: str, version: str | None, ending: str
) -> None:
    folder, named = tmp_path / "vae_approx", numbered(make().decoder, 1)
    folder.mkdir()
    path = folder / f"{name}{ending}"
    if ending == ".pth":
        torch.save(named, path)
    else:
        save_file(named, path)
    [entry] = Catalogue([tmp_path]).entries()
    assert (entry.kind, entry.tiny, entry.version) == ("vae", True, version)
    called = name.removesuffix("_decoder")
    assert Catalogue([tmp_path]).find(called, kind="vae") == entry


@pytest.mark.parametrize("place", ["madebyollin/taesdxl", "VAE/taesdxl", "models/VAE/taesdxl"])
def test_a_folder_of_diffusers_is_found_where_it_may_lie(tmp_path: Path, place: str) -> None:
    make().save_pretrained(tmp_path / place)
    [info] = Catalogue([tmp_path]).infos()
    assert (info.kind, info.arch, info.version, info.tiny) == ("vae", "sdxl", "xl", True)
    assert info.name == place.removeprefix("models/")


def test_what_no_name_tells_its_folder_may(tmp_path: Path) -> None:
    (tmp_path / "xl").mkdir()
    save_file(numbered(make().decoder, 1), tmp_path / "xl" / "mine.safetensors")
    [entry] = Catalogue([tmp_path]).entries()
    assert (entry.tiny, entry.arch, entry.version) == (True, "", "xl")


def test_a_file_that_diffusers_wrote_is_named_by_its_folder(tmp_path: Path) -> None:
    made = make()
    made.save_pretrained(tmp_path / "vae_approx" / "taesdxl")
    (tmp_path / "vae_approx" / "taesdxl" / "config.json").unlink()
    [entry] = Catalogue([tmp_path]).entries()
    assert (entry.tiny, entry.version) == (True, "xl")
    assert_same(loading.load_vae(entry, FP32), made)


def of_other_family() -> Named:
    return numbered(AutoencoderTiny(latent_channels=16).decoder, 1)


def without_end() -> Named:
    named = numbered(make().decoder, 1)
    return {name: value for name, value in named.items() if int(name.partition(".")[0]) < 12}


UNUSABLE = {
    "its encoder": (lambda: numbered(make().encoder, 0), "the decoder is used"),
    "one for FLUX": (of_other_family, "16 channels"),
    "half a decoder": (without_end, "without an end"),
}


@pytest.mark.parametrize("case", UNUSABLE)
def test_what_cannot_be_used_is_listed_with_the_reason(tmp_path: Path, case: str) -> None:
    make_named, reason = UNUSABLE[case]
    (tmp_path / "vae").mkdir()
    save_file(make_named(), tmp_path / "vae" / "taesd.safetensors")
    catalogue = Catalogue([tmp_path])
    [unusable] = catalogue.unusable()
    assert reason in unusable.reason
    with pytest.raises(ModelError, match=reason):
        catalogue.find("taesd", kind="vae")


# --- how it is read ------------------------------------------------------------------------


def assert_same(loaded: Any, made: Any) -> None:
    wanted = {n: v for n, v in made.state_dict().items() if n.startswith("decoder.")}
    assert loaded.state_dict().keys() == wanted.keys(), "the decoder, and nothing else"
    assert all(torch.equal(value, wanted[name]) for name, value in loaded.state_dict().items())
    latents = torch.randn(1, 4, 8, 8)
    assert torch.equal(loaded.decode(latents).sample, made.decode(latents).sample)


@pytest.mark.parametrize("form", ["file", "diffusers' names", "Comfy's names", "folder"])
@pytest.mark.parametrize("blocks", [(2, 1, 1, 1), (1, 2, 3, 1), (3, 3, 3, 1)])
def test_both_layouts_are_read_as_diffusers_reads_its_own(
    tmp_path: Path, form: str, blocks: tuple[int, ...]
) -> None:
    made = make(blocks=blocks)
    path = tmp_path / "VAE" / "taesd.safetensors"
    path.parent.mkdir()
    decoder = numbered(made.decoder, 1)
    if form == "folder":
        made.save_pretrained(path.with_suffix(""))
        made = AutoencoderTiny.from_pretrained(path.with_suffix(""), local_files_only=True)
    elif form == "file":
        save_file(decoder, path)
    elif form == "diffusers' names":
        save_file(made.state_dict(), path)
    else:
        save_file({f"taesd_decoder.{name}": value for name, value in decoder.items()}, path)
    [entry] = Catalogue([tmp_path]).entries()
    assert_same(loading.load_vae(entry, FP32), made)


def test_a_file_that_lacks_tensors_is_an_error_that_names_it(tmp_path: Path) -> None:
    named = numbered(make().decoder, 1)
    del named["3.conv.2.bias"]
    (tmp_path / "VAE").mkdir()
    save_file(named, tmp_path / "VAE" / "taesd.safetensors")
    [entry] = Catalogue([tmp_path]).entries()
    with pytest.raises(ModelBroken, match=r"VAE/taesd .*tiny autoencoder"):
        loading.load_vae(entry, FP32)


# --- latents -------------------------------------------------------------------------------


def by_hand(rgb_of_latents: torch.Tensor, offset: torch.Tensor) -> Any:
    """A decoder that can be computed by hand: of a latent z, held back as 3 tanh(z / 3), each
    pixel below it is `rgb_of_latents` z + `offset`, from 0 to 1.

    Its layers pass on what is positive of z and of -z, in 8 channels.
    """
    made = make()
    with torch.no_grad():
        for value in made.decoder.parameters():
            value.zero_()
        first, *between, final = [m for m in made.decoder.layers if isinstance(m, torch.nn.Conv2d)]
        for channel in range(4):
            first.weight[channel, channel, 1, 1] = 1.0
            first.weight[channel + 4, channel, 1, 1] = -1.0
        for conv in between:
            conv.weight[range(8), range(8), 1, 1] = 1.0
        final.weight[:, :4, 1, 1] = rgb_of_latents
        final.weight[:, 4:, 1, 1] = -rgb_of_latents
        final.bias += offset
    return made


@pytest.mark.parametrize(
    ("model", "factor"), [("v1/plain", 1.0), ("xl/large", 1.0), ("v1/plain", 2.0)]
)
def test_latents_are_decoded_as_the_unet_has_them_whatever_the_vae_scales_by(
    base: Path, model: str, factor: float
) -> None:
    rng = torch.Generator().manual_seed(5)
    matrix = torch.rand(3, 4, generator=rng) / 10
    made = by_hand(matrix, torch.tensor([0.3, 0.5, 0.7]))
    made.register_to_config(scaling_factor=factor)
    loaded = loading.load(Catalogue([base]).find(model), FP32, [base])
    assert loaded.vae.config.scaling_factor in (0.18215, 0.13025)
    latents = torch.randn(1, 4, 2, 3, generator=rng)
    held_back = 3 * np.tanh(latents[0].numpy() / factor / 3)
    colours = np.einsum("rc,chw->hwr", matrix.numpy(), held_back) + np.array([0.3, 0.5, 0.7])
    wanted = np.repeat(np.repeat(colours, 8, axis=0), 8, axis=1) * 255
    assert wanted.std() > 20
    assert wanted.min() > 0
    assert wanted.max() < 255
    picture = finish.decode(loading.with_vae(loaded, made), latents)
    assert abs(np.asarray(picture) - wanted).max() <= 0.5 + 1e-3


# --- finished pictures ---------------------------------------------------------------------


def diffusers_own(base: Path, pipeline: Any) -> Any:
    pipe = pipeline.from_pretrained(base / "v1" / "plain", local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = EulerDiscreteScheduler.from_config(pipe.scheduler.config)
    return pipe


WORDS = {"prompt": "a b c", "negative_prompt": "d"}


@pytest.mark.parametrize("name", ["VAE/taesd", "vae_approx/taesd_decoder", "unnamed_decoder"])
def test_a_picture_is_the_one_of_diffusers_with_its_tiny_autoencoder(
    drawer: TorchEngine, base: Path, name: str
) -> None:
    pipe = diffusers_own(base, StableDiffusionPipeline)
    pipe.vae = make(int(name.startswith("unnamed")))
    generator = torch.Generator().manual_seed(7)
    theirs = pipe(**WORDS, num_inference_steps=4, generator=generator, height=64, width=64)
    ours = draw(drawer, **WORDS, vae=name)
    assert worst(ours, np.asarray(theirs.images[0]).astype(int)) <= 1
    assert abs(ours - draw(drawer, **WORDS)).max() > 30


def test_a_given_picture_is_encoded_by_the_models_own_vae(drawer: TorchEngine, base: Path) -> None:
    pipe = diffusers_own(base, StableDiffusionImg2ImgPipeline)
    latents = pipe(
        **WORDS,
        image=photo(),
        strength=0.5,
        num_inference_steps=8,
        generator=torch.Generator().manual_seed(7),
        output_type="latent",
    ).images
    with torch.no_grad():
        decoded = make().decode(latents).sample
    theirs = pipe.image_processor.postprocess(decoded, output_type="pil")[0]
    asked = {"task": "img2img", "strength": 0.5, "num_inference_steps": 8, "vae": "VAE/taesd"}
    assert worst(draw(drawer, **WORDS, **asked), np.asarray(theirs).astype(int)) <= 1


def test_the_answer_says_it_and_sent_back_it_draws_the_same(drawer: TorchEngine) -> None:
    first = last(run(drawer, {"k": make_request(**WORDS, vae="taesd_decoder")})["k"])
    said = first.parameters.model_dump(exclude_none=True)
    assert said["vae"] == "vae_approx/taesd_decoder"
    assert (draw(drawer, **said) == pixels(first)).all()


def test_a_model_that_was_drawn_with_one_is_exact_for_everybody_else(drawer: TorchEngine) -> None:
    before = draw(drawer, **WORDS)
    wanted = {"exact": make_request(**WORDS), "quick": make_request(**WORDS, vae="VAE/taesd")}
    together = run(drawer, wanted)
    assert abs(pixels(last(together["exact"])) - before).max() <= 1
    assert abs(pixels(last(together["quick"])) - before).max() > 30
    assert held(drawer).tiny is None


@pytest.mark.parametrize(
    ("model", "fields"),
    [
        ("xl/large", {}),
        ("v2/upscaler", {"task": "upscale"}),
    ],
)
def test_one_of_other_latents_is_refused_with_what_to_do(
    drawer: TorchEngine, model: str, fields: dict[str, Any]
) -> None:
    request = make_request(model=model, vae="VAE/taesd", **fields)
    with pytest.raises(ModelUnsupported) as caught:
        drawer.admit("k", request)
    assert caught.value.field == "vae"
    assert "VAE/taesd" in caught.value.message or model in caught.value.message
    if model == "xl/large":
        assert "taesdxl" in caught.value.hint
        assert model not in drawer.loaded_models(), "it was refused before anything was loaded"


def test_a_large_picture_is_decoded_in_tiles_and_almost_the_same(base: Path) -> None:
    catalogue = Catalogue([base])
    loaded = loading.load(catalogue.find("v1/plain"), FP32, [base])
    vae = loading.load_vae(catalogue.find("VAE/taesd", kind="vae"), FP32)
    quick, latents = loading.with_vae(loaded, vae), torch.randn(1, 4, 96, 64)
    whole, tiled = (
        np.asarray(finish.decode(quick, latents, tiled=how)).astype(int) for how in (False, True)
    )
    assert tiled.shape == whole.shape == (768, 512, 3)
    assert whole.std() > 15
    assert 0 < abs(tiled - whole).mean() < 4
    assert not vae.use_tiling


# --- previews ------------------------------------------------------------------------------


def events_of(events: list[JobEvent]) -> list[Preview]:
    return [event for event in events if isinstance(event, Preview)]


def previews(events: list[JobEvent]) -> list[Pixels]:
    pngs = [event.png for event in events_of(events)]
    return [np.asarray(Image.open(io.BytesIO(png))).astype(int) for png in pngs]


LONG = {"num_inference_steps": 9, "preview": True, **WORDS}


@pytest.fixture
def _time_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "FINE_SHARE", 1e9)


@pytest.mark.usefixtures("_time_for_all")
def test_previews_are_whole_pictures_where_one_is_there(drawer: TorchEngine) -> None:
    events = run(drawer, {"k": make_request(**LONG)})["k"]
    assert [preview.shape for preview in previews(events)] == [(64, 64, 3)] * 2
    assert last(events).notes == []
    assert last(events).parameters.vae == ""
    with_none = {name: value for name, value in LONG.items() if name != "preview"}
    assert (pixels(last(events)) == draw(drawer, **with_none)).all(), "the picture stays exact"


def sizes(events: Iterable[JobEvent | Late]) -> list[int]:
    return [preview.shape[0] for preview in previews([made(event) for event in events])]


class Clock:
    """By which a fine preview takes 100 s, and all else next to nothing unless the test says so."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def monotonic(self) -> float:
        return time.monotonic() + self.ahead

    def perf_counter(self) -> float:
        self._ticks = getattr(self, "_ticks", 0.0) + 100.0
        return self._ticks


@pytest.fixture
def clock(drawer: TorchEngine, monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    """As if all time could go into previews, and what one takes was known."""
    clock = Clock()
    monkeypatch.setattr(pictures, "time", clock)
    monkeypatch.setattr(pictures, "FINE_SHARE", 1.0)
    drawer._pictures._fine_s.clear()
    for _ in range(2):
        clock.ahead += 1000
        run(drawer, {"k": make_request(**LONG)})
    clock.ahead = 0
    assert [round(price * 4 * 8 * 8) for price in drawer._pictures._fine_s.values()] == [100]
    yield clock
    drawer._pictures._fine_s.clear()


def test_previews_are_coarse_until_there_is_time_and_none_between_two(
    drawer: TorchEngine, clock: Clock
) -> None:
    drawer.admit("k", make_request(**{**LONG, "num_inference_steps": 25}))
    shown: list[int] = []
    while drawer.is_busy():
        if len(shown) == 2:
            clock.ahead = 150  # one is paid for
        shown += sizes(event for _, event in drawer.step())
    assert shown == [8, 8, 64]


def test_who_shares_the_time_with_others_has_as_much_less(
    drawer: TorchEngine, clock: Clock
) -> None:
    clock.ahead = 150
    for crowd, expected in ((1, [64]), (2, [8, 8])):
        for number in range(crowd):
            drawer.admit(str(number), make_request(**LONG))
        shown: list[int] = []
        while not shown:
            shown = sizes(event for _, event in drawer.step())
        assert shown == expected
        for number in range(crowd):
            drawer.drop(str(number))


def test_all_pictures_of_a_request_have_their_turn(drawer: TorchEngine, clock: Clock) -> None:
    drawer.admit("k", make_request(**LONG, num_images=2))
    clock.ahead = 150
    shown: list[tuple[int, int]] = []
    while drawer.is_busy():
        events = [made(event) for _, event in drawer.step()]
        shown += [(p.index, s) for p, s in zip(events_of(events), sizes(events), strict=True)]
        if len(shown) == 2:
            clock.ahead = 250
    assert shown == [(0, 64), (1, 8), (1, 64)]


def test_a_price_that_was_too_high_is_forgotten_by_and_by(
    drawer: TorchEngine, clock: Clock
) -> None:
    clock.ahead = 50
    for _ in range(10):
        if 64 in sizes(run(drawer, {"k": make_request(**LONG)})["k"]):
            return
    raise AssertionError("there was no fine one any more")


def test_the_first_one_of_all_tells_nothing_of_the_next(drawer: TorchEngine) -> None:
    drawer._pictures._fine_s.clear()
    for known in (False, True):
        assert sizes(run(drawer, {"k": make_request(**LONG)})["k"])[0] == 64
        assert any(drawer._pictures._fine_s.values()) == known


@pytest.mark.usefixtures("_time_for_all")
def test_a_preview_is_what_the_tiny_autoencoder_makes_of_the_estimate(drawer: TorchEngine) -> None:
    drawer.admit("k", make_request(**LONG))
    sample = drawer._drawings["k"].samples[0]
    shown: list[Pixels] = []
    while not shown:
        shown = previews([event for _, event in drawer.step()])
    assert sample.estimate is not None
    with torch.no_grad():
        decoded = make().decode(sample.estimate).sample
    wanted = held(drawer).images.postprocess(decoded, output_type="np")[0] * 255
    drawer.drop("k")
    assert wanted.std() > 15
    assert abs(shown[0] - wanted).max() <= 1


@pytest.mark.usefixtures("_time_for_all")
def test_the_last_preview_of_a_quick_picture_is_close_to_it(drawer: TorchEngine) -> None:
    events = run(drawer, {"k": make_request(**LONG, vae="unnamed_decoder")})["k"]
    picture = pixels(last(events))
    apart = abs(previews(events)[-1] - picture).mean()
    assert (
        apart
        < 0.7 * abs(previews(run(drawer, {"k": make_request(**LONG)})["k"])[-1] - picture).mean()
    )


@pytest.mark.parametrize("vae", ["", "VAE/taesd"])
def test_previews_are_coarse_where_memory_is_short(drawer: TorchEngine, vae: str) -> None:
    events = run(drawer, {"k": make_request(**LONG, vae=vae, memory_plan="tiling")})["k"]
    assert [preview.shape for preview in previews(events)] == [(8, 8, 3)] * 2


def test_previews_of_other_latents_are_coarse(drawer: TorchEngine) -> None:
    events = run(drawer, {"k": make_request(model="xl/large", **LONG)})["k"]
    assert [preview.shape for preview in previews(events)] == [(8, 8, 3)] * 2


def test_one_that_cannot_be_read_leaves_previews_coarse_and_a_note(
    models: Path, tmp_path: Path
) -> None:
    shutil.copytree(models / "v1" / "plain", tmp_path / "v1" / "plain")
    named = numbered(make().decoder, 1)
    del named["3.conv.2.bias"]
    (tmp_path / "VAE").mkdir()
    save_file(named, tmp_path / "VAE" / "taesd.safetensors")
    engine = TorchEngine(tmp_path, device="cpu", dtype="fp32")
    try:
        events = run(engine, {"k": make_request(**LONG)})["k"]
    finally:
        engine.close()
    assert [preview.shape for preview in previews(events)] == [(8, 8, 3)] * 2
    [note] = last(events).notes
    assert note.startswith("Previews are coarse. VAE/taesd cannot be loaded.")


def test_the_example_model_has_latents_of_its_own(models: Path, tmp_path: Path) -> None:
    make().save_pretrained(tmp_path / "VAE" / "taesd")
    engine = TorchEngine(tmp_path, device="cpu", dtype="fp32", example_path=models)
    try:
        events = run(engine, {"k": make_request(**LONG)})["k"]
    finally:
        engine.close()
    assert [preview.shape for preview in previews(events)] == [(8, 8, 3)] * 2


def test_what_previews_are_decoded_by_is_in_use_and_then_let_go_of(base: Path) -> None:
    engine = TorchEngine(base, device="cpu", dtype="fp32")
    try:
        engine.admit("k", make_request(**LONG))
        [tiny_one] = [one for one in engine.holdings().loaded if one.kind == "vae"]
        assert tiny_one.in_use
        assert tiny_one.bytes == sum(p.nbytes for p in make().decoder.parameters())
        engine.drop("k")
        assert not any(one.in_use for one in engine.holdings().loaded)
    finally:
        engine.close()


# --- memory --------------------------------------------------------------------------------


def test_a_picture_that_one_decodes_takes_less_memory_by_the_estimate(
    drawer: TorchEngine, base: Path
) -> None:
    draw(drawer, **WORDS)
    plain = drawer._catalogue.find("v1/plain")
    for name in ("VAE/taesd", "vae_approx/taesd_decoder"):
        vae = drawer._catalogue.find(name, kind="vae")
        narrow = replace(footprint.of(plain), vae_width=256)
        request = make_request(width=512, height=512)
        work = narrow.work(request, 4, fp16=False)
        assert footprint.decoded_by(vae, work, request).vae_width == 8
        given = make_request(task="img2img")
        assert footprint.decoded_by(vae, work, given) == work
