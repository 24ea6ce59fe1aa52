"""What the engine draws with LoRAs, embeddings and other VAEs is what diffusers draws."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import diffusers
import lora_files
import numpy as np
import pytest
import tiny
import torch
from drawn import Pixels, draw, last, make_request, pixels, run
from safetensors.torch import save_file

from runai.engine import loading, step_loop
from runai.engine.catalogue import Catalogue
from runai.engine.devices import Place
from runai.engine.engine import TorchEngine
from runai.errors import ModelNotFound

STEPS = 5
MODELS = {"sd1": "v1/plain", "sdxl": "xl/plain"}
FORMS = {
    "sd1": ("kohya", "peft", "older diffusers"),
    "sdxl": ("kohya, original names", "peft"),
}
CASES = [(arch, form) for arch, forms in FORMS.items() for form in forms]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("models")
    catalogue = Catalogue([folder])
    place = Place(torch.device("cpu"), torch.float32)
    for arch, name in MODELS.items():
        tiny.write_model(folder / name, arch)
        model = loading.load(catalogue.find(name), place, [folder])
        for form in FORMS[arch]:
            path = folder / "lora" / f"{arch} {form}.safetensors"
            lora_files.write(path, lora_files.FORMS[form](model))
    tiny.write_model(folder / "unused", seed=9)
    (folder / "vae").mkdir()
    (folder / "unused" / "vae").rename(folder / "vae" / "other-vae")
    shutil.rmtree(folder / "unused")
    (folder / "embeddings").mkdir()
    vectors = 0.3 * torch.randn(2, tiny.WIDTH, generator=torch.Generator().manual_seed(4))
    save_file({"emb_params": vectors}, folder / "embeddings" / "zqword.safetensors")
    return folder


@pytest.fixture(scope="module")
def engine(base: Path) -> Iterator[TorchEngine]:
    engine = TorchEngine(base, device="cpu", dtype="fp32")
    yield engine
    engine.close()


def pipeline(base: Path, arch: str) -> Any:
    folder = base / MODELS[arch]
    pipe = diffusers.DiffusionPipeline.from_pretrained(folder, local_files_only=True)
    pipe.scheduler = diffusers.EulerDiscreteScheduler.from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def picture(pipe: Any, prompt: str = "a b c") -> Pixels:
    result = pipe(
        prompt,
        negative_prompt="d",
        num_inference_steps=STEPS,
        guidance_scale=7.5,
        generator=torch.Generator("cpu").manual_seed(7),
    )
    return np.asarray(result.images[0]).astype(int)


def ours(engine: TorchEngine, arch: str = "sd1", **fields: Any) -> Pixels:
    asked = {"prompt": "a b c", "negative_prompt": "d", "sampler": "euler", **fields}
    return draw(engine, model=MODELS[arch], num_inference_steps=STEPS, guidance_scale=7.5, **asked)


def worst(left: Pixels, right: Pixels) -> int:
    assert right.std() > 15, "a flat picture would hide differences"
    return int(abs(left - right).max())


@pytest.mark.parametrize(("arch", "form"), CASES)
def test_a_picture_with_a_lora_is_the_one_diffusers_draws(
    engine: TorchEngine, base: Path, arch: str, form: str
) -> None:
    name = f"{arch} {form}"
    before = ours(engine, arch)
    got = ours(engine, arch, loras=[{"name": name, "weight": 0.8}])
    pipe = pipeline(base, arch)
    assert worst(before, picture(pipe)) <= 1
    pipe.load_lora_weights(base / "lora", weight_name=f"{name}.safetensors", adapter_name="a")
    pipe.set_adapters("a", 0.8)
    assert worst(got, picture(pipe)) <= 1
    assert worst(got, before) > 20
    assert np.array_equal(ours(engine, arch), before)


def test_a_lora_in_the_prompt_is_the_lora_in_the_field(engine: TorchEngine) -> None:
    field = ours(engine, loras=[{"name": "sd1 kohya", "weight": 0.8}], prompt_dialect="webui")
    tag = ours(engine, prompt="a b c<lora:sd1 kohya:0.8>", prompt_dialect="webui")
    assert np.array_equal(field, tag)
    assert worst(tag, ours(engine, prompt_dialect="webui")) > 20


def test_a_word_in_the_prompt_is_the_one_diffusers_reads(engine: TorchEngine, base: Path) -> None:
    pipe = pipeline(base, "sd1")
    folder = base / "embeddings"
    pipe.load_textual_inversion(folder, weight_name="zqword.safetensors", token="zqword")
    expected = picture(pipe, "a b zqword c")
    assert worst(ours(engine, prompt="a b zqword c"), expected) <= 1
    assert worst(ours(engine), expected) > 20


def test_another_vae_is_the_one_diffusers_decodes_with(engine: TorchEngine, base: Path) -> None:
    pipe = pipeline(base, "sd1")
    before = ours(engine)
    pipe.vae = diffusers.AutoencoderKL.from_pretrained(base / "vae" / "other-vae")
    expected = picture(pipe)
    assert worst(ours(engine, vae="other-vae"), expected) <= 1
    assert worst(before, expected) > 20
    assert np.array_equal(ours(engine), before)


# --- who shares a UNet call --------------------------------------------------------------


def asked(*loras: tuple[str, float], **fields: Any) -> Any:
    wanted = [{"name": name, "weight": weight} for name, weight in loras]
    return make_request(prompt="a", sampler="euler", loras=wanted, **fields)


def batches(engine: TorchEngine, monkeypatch: pytest.MonkeyPatch, requests: dict[str, Any]) -> Any:
    """The pictures by key, and how many samples each UNet call had."""
    sizes: list[int] = []
    advance = step_loop.advance

    def counted(batch: Any, turn: int) -> None:
        sizes.append(len(batch))
        advance(batch, turn)

    monkeypatch.setattr(step_loop, "advance", counted)
    events = run(engine, requests)
    return {key: pixels(last(each)) for key, each in events.items()}, sizes


def test_only_requests_with_the_same_set_share_a_call(
    engine: TorchEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = ("sd1 kohya", 0.7), ("sd1 peft", 1.0)
    requests = {
        "plain": asked(seed=1),
        "one": asked(one, seed=1),
        "one more": asked(one, seed=2),
        "weaker": asked(("sd1 kohya", 0.3), seed=1),
        "both": asked(one, two, seed=1),
        "both, turned round": asked(two, one, seed=1),
    }
    alone = {key: pixels(last(run(engine, {key: r})[key])) for key, r in requests.items()}
    got, sizes = batches(engine, monkeypatch, requests)
    # four groups of different sets, each taking turns: two with two members, two with one
    assert sorted(sizes) == sorted([1, 2, 1, 2] * 4)
    assert all(worst(got[key], alone[key]) <= 1 for key in requests)
    assert np.array_equal(alone["both"], alone["both, turned round"])
    differing = [alone[key] for key in ("plain", "one", "weaker", "both")]
    assert all(worst(a, b) > 5 for i, a in enumerate(differing) for b in differing[:i])


def test_a_name_that_is_not_there_fails_its_request_only(engine: TorchEngine) -> None:
    with pytest.raises(ModelNotFound, match="sd1 khoya") as caught:
        engine.admit("k", asked(("sd1 khoya", 1.0)))
    assert "sd1 kohya" in str(caught.value)
    assert not engine.is_busy()


def test_notes_say_how_much_of_a_file_was_not_used(engine: TorchEngine, base: Path) -> None:
    path = base / "lora" / "partly.safetensors"
    layers = {"nowhere": 2, "mid_block_attentions_0_proj_in": 16}
    tensors = {}
    for layer, width in layers.items():
        tensors[f"lora_unet_{layer}.lora_down.weight"] = torch.ones(1, width, 1, 1)
        tensors[f"lora_unet_{layer}.lora_up.weight"] = torch.ones(width, 1, 1, 1)
    lora_files.write(path, tensors)
    [note] = last(run(engine, {"k": asked(("partly", 1.0))})["k"]).notes
    assert note.startswith("1 of the layers in the LoRA lora/partly were not used")
