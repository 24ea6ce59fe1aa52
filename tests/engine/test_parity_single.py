"""Single files draw what diffusers' pipelines draw with the same networks and scheduler."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import diffusers
import ldm
import pytest
import single_files
import tiny
import torch
from drawn import draw
from reference import STEPS, Reference, worst
from transformers import CLIPTokenizer

from runai.engine.archs import ARCHS, Arch
from runai.engine.archs.configs import SCHEDULER_XL
from runai.engine.detection.checkpoints import UNET_TENSORS
from runai.engine.engine import TorchEngine

# what Lin et al. (2023) train with, as diffusers' schedulers call it
TRAINED = {
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
    "timestep_spacing": "trailing",
}


def wide_sdxl(tokens: int) -> Arch:
    """Tiny, but as wide in its text as the published one, by which a file is known."""
    arch = single_files.tiny_arch("sdxl", tokens)
    texts = tuple(
        replace(text, config=tiny.make_text_encoder(tokens, width).config.to_dict())
        for text, width in zip(arch.texts, (768, 1280), strict=True)
    )
    sizes = {"cross_attention_dim": 2048, "projection_class_embeddings_input_dim": 6 * 8 + 1280}
    return replace(arch, texts=texts, unet={**arch.unet, **sizes})


def write_file(path: Path, arch: Arch) -> None:
    marks = {"v_pred": torch.zeros(0), "ztsnr": torch.zeros(0)}
    parts = single_files.parts_of(arch, single_files.make_networks(arch))
    ldm.write_checkpoint(path, [*parts, marks], {}, torch.float32)


def write_folder(path: Path, arch: Arch) -> None:
    """The same networks as a diffusers folder."""
    for folder, text in zip(("tokenizer", "tokenizer_2"), arch.texts, strict=True):
        tiny.write_tokenizer(path / folder, text.padding)
    made = single_files.make_networks(arch)
    diffusers.StableDiffusionXLPipeline(
        vae=made.vae,
        text_encoder=made.texts[0],
        text_encoder_2=made.texts[1],
        tokenizer=CLIPTokenizer.from_pretrained(path / "tokenizer"),
        tokenizer_2=CLIPTokenizer.from_pretrained(path / "tokenizer_2"),
        unet=made.unet,
        scheduler=diffusers.EulerDiscreteScheduler.from_config({**SCHEDULER_XL, **TRAINED}),
        add_watermarker=False,
    ).save_pretrained(path)


@pytest.mark.parametrize("sampler", ["euler", "euler_a", "ddim", "dpmpp_2m"])
def test_sdxl_trained_for_v_and_pure_noise_is_drawn_as_diffusers_draws_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sampler: str
) -> None:
    torch.set_num_threads(1)
    arch = wide_sdxl(single_files.write_vocabulary(tmp_path / "ours"))
    write_file(tmp_path / "ours" / "xl" / "noobish.safetensors", arch)
    write_folder(tmp_path / "theirs" / "xl", arch)
    monkeypatch.setitem(ARCHS, "sdxl", arch)
    monkeypatch.setitem(UNET_TENSORS, "sdxl", 1)  # a tiny one is not incomplete
    engine = TorchEngine(tmp_path / "ours", device="cpu", dtype="fp32")
    said = {"prompt": "a b c", "negative_prompt": "d", "guidance_scale": 7.5}
    ours = draw(
        engine, model="xl/noobish", num_inference_steps=STEPS, sampler=sampler,
        width=64, height=64, **said,
    )  # fmt: skip
    engine.close()
    size = {"width": 64, "height": 64, "guidance_scale": 7.5}
    theirs = Reference(tmp_path / "theirs").draw("xl", "sdxl", "txt2img", sampler, **size)
    assert worst(ours, theirs) <= 1
