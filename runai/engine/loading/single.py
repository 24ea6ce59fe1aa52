"""Single files: one state dict in the original's naming, and nothing else on disk.

The arch's row says what the networks are and the vocabulary comes from the base paths
(`vocabulary`). A checkpoint without a VAE takes the one beside it that has its name
(`NAME.vae.safetensors`, `NAME.vae.pt`), as the web UI does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from runai.engine import detection, vocabulary
from runai.engine.archs import Arch, Config, TextEncoding
from runai.engine.detection import Finding
from runai.engine.detection.checkpoints import TOLD
from runai.engine.detection.tensors import VAE_PREFIXES
from runai.engine.distillations import DISTILLATIONS
from runai.engine.loading import folders, networks
from runai.engine.loading.names import text_layouts, unet_layouts, vae_layouts
from runai.engine.loading.weights import Reader, Rows, read_index
from runai.engine.model import DepthEstimator, TextEncoder
from runai.errors import ModelBroken

VAES_BESIDE = (".vae.safetensors", ".vae.pt", ".vae.ckpt")
# trained so that the last step is pure noise (Lin et al. 2023), and to be drawn from there
ZERO_SNR: Config = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
DEPTH_ESTIMATORS = ("Intel/dpt-hybrid-midas", "Intel/dpt-large")


def read(
    path: Path,
    arch: Arch,
    finding: Finding,
    base_paths: Sequence[Path],
    reader: Reader,
    velocity: Arch | None = None,
) -> tuple[Arch, dict[str, Any]]:
    """The parts of a whole model, and its arch.

    `velocity`: the arch's v-prediction form, if it has one: taken where the file or, failing
    that, the network itself says that it predicts v.
    """
    rows, metadata = read_index(path)
    unet = networks.empty_unet(unet_config(arch, rows))
    vae = networks.empty_vae(arch.vae)
    vae_rows = _vae_rows(path, rows)
    parts = {
        "texts": tuple(_text(row, rows, base_paths, reader) for row in arch.texts),
        "vae": networks.fill(vae, vae_rows, vae_layouts(vae.config), reader),
        "unet": networks.fill(unet, rows, unet_layouts(unet.config), reader),
    }
    if velocity and not finding.prediction:
        finding = replace(finding, prediction=prediction(parts["unet"], metadata, reader))
    if velocity and finding.prediction == "v_prediction":
        arch = velocity
        parts["unet"] = networks.reconfigured(parts["unet"], unet_config(arch, rows))
    parts["scheduler"] = {**arch.scheduler, **trained_for(finding)}
    if arch.beside == "depth":
        parts["depth"] = _depth(base_paths, reader)
    return arch, parts


def _text(row: TextEncoding, rows: Rows, base_paths: Sequence[Path], reader: Reader) -> TextEncoder:
    tokenizer = vocabulary.find(base_paths, row.padding, row.config["vocab_size"])
    empty = networks.empty_text_encoder(row.config, pooled=row.pooled)
    network = networks.fill(empty, rows, text_layouts(row.kind, row.prefix), reader)
    return TextEncoder(tokenizer, network, row.layer, row.pooled)


def unet_config(arch: Arch, rows: Rows) -> Config:
    """The arch's UNet, and the width of the embedding by which a distilled one is told guidance."""
    told = rows.get(TOLD)
    return {**arch.unet, **({"time_cond_proj_dim": told.shape[1]} if told else {})}


def trained_for(finding: Finding) -> Config:
    """What a file's scheduler has to know beside what its arch's row says."""
    few_steps = DISTILLATIONS.get(finding.distillation or "")
    return {
        **(few_steps.scheduler if few_steps else {}),
        **({"prediction_type": finding.prediction} if finding.prediction else {}),
        **(ZERO_SNR if finding.zero_snr else {}),
    }


def _depth(base_paths: Sequence[Path], reader: Reader) -> DepthEstimator | None:
    """A depth estimator from the base paths: the file holds one that diffusers cannot build."""
    homes = (base / name for base in base_paths for name in DEPTH_ESTIMATORS)
    return next(
        (found for home in homes if (found := folders.read_depth(home, home, reader))), None
    )


# --- the VAE -----------------------------------------------------------------------------


def _vae_rows(path: Path, rows: Rows) -> Rows:
    """Where the VAE's tensors are: in the checkpoint, or in the file beside it."""
    if _vae_prefix(rows) is not None:
        return rows
    for ending in VAES_BESIDE:
        if path.with_suffix(ending).is_file():
            return read_index(path.with_suffix(ending))[0]
    raise ModelBroken(
        f"{path.name} holds no VAE.",
        hint=f"Put its VAE beside it, as {path.with_suffix(VAES_BESIDE[0]).name}.",
    )


def _vae_prefix(rows: Rows) -> str | None:
    return next((p for p in VAE_PREFIXES if f"{p}decoder.conv_in.weight" in rows), None)


def read_vae(path: Path, like: Arch, reader: Reader) -> Any:
    """A VAE that is alone in a file: built `like` an arch's, of the sizes its tensors say."""
    rows, _ = read_index(path)
    prefix = _vae_prefix(rows)
    if prefix is None:
        raise ModelBroken(f"{path.name} is not a VAE.")
    network = networks.empty_vae({**like.vae, **_vae_sizes(rows, prefix)})
    return networks.fill(network, rows, vae_layouts(network.config), reader)


def _vae_sizes(rows: Rows, prefix: str) -> dict[str, Any]:
    original = f"{prefix}encoder.down.{{}}.block.{{}}.conv1.weight"
    ours = f"{prefix}encoder.down_blocks.{{}}.resnets.{{}}.conv1.weight"
    block = original if original.format(0, 0) in rows else ours
    levels = [row for i in range(8) if (row := rows.get(block.format(i, 0)))]
    return {
        "down_block_types": ["DownEncoderBlock2D"] * len(levels),
        "up_block_types": ["UpDecoderBlock2D"] * len(levels),
        "block_out_channels": [row.shape[0] for row in levels],
        "layers_per_block": sum(block.format(0, i) in rows for i in range(8)),
        "latent_channels": rows[f"{prefix}decoder.conv_in.weight"].shape[1],
    }


# --- what an SD 2 UNet predicts ----------------------------------------------------------


def prediction(unet: Any, metadata: dict[str, str], reader: Reader) -> str:
    return detection.prediction_in(metadata) or _asked(unet, reader)


@torch.inference_mode()
def _asked(unet: Any, reader: Reader) -> str:
    """What a UNet predicts, found by asking it once.

    At the last timestep the input is almost pure noise. A network that predicts noise gives
    it back; one that predicts v (≈ minus the picture there) does not.
    """
    noise = torch.randn(1, 4, 32, 32, generator=torch.Generator().manual_seed(0))
    text = torch.zeros(1, 77, unet.config.cross_attention_dim)
    said = unet(
        noise.to(reader.device, reader.dtype),
        torch.tensor([999.0], device=reader.device),
        encoder_hidden_states=text.to(reader.device, reader.dtype),
    ).sample
    likeness = torch.nn.functional.cosine_similarity(
        said.float().cpu().flatten(), noise.flatten(), dim=0
    )
    return "epsilon" if likeness > 0.5 else "v_prediction"
