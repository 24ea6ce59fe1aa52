"""The example LoRA: the same scenes, only their outlines drawn.

Low-rank additions (Hu et al. 2021) to every linear layer and convolution of the UNet's blocks
and to the text encoder's layers, written in kohya's form, which is what most LoRAs on people's
disks have. Half of the captions begin with the trigger word, so that it is not needed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from adapting import Base
from data import SIDE, scenes
from progress import Average, Log, learning_rate
from safetensors.torch import save_file
from text import token_ids
from torch import nn

from runai.testing import shapes

NAME, TRIGGER = "outline", "outline"
STROKE = 0.05
RANK = 4
ITERATIONS, BATCH, PEAK_LR = 500, 24, 3e-3
SCENES, CAPTIONS_EACH = 2500, 2
DROPPED = 0.1


class LowRank(nn.Module):
    """What is added to one layer's output: `up(down(input))`, nothing at first."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        if isinstance(layer, nn.Conv2d):
            self.down: nn.Module = nn.Conv2d(
                layer.in_channels,
                RANK,
                layer.kernel_size,
                layer.stride,
                layer.padding,
                bias=False,
            )
            self.up: nn.Module = nn.Conv2d(RANK, layer.out_channels, 1, bias=False)
        else:
            self.down = nn.Linear(layer.in_features, RANK, bias=False)
            self.up = nn.Linear(RANK, layer.out_features, bias=False)
        nn.init.zeros_(self.up.weight)
        layer.register_forward_hook(lambda _, given, said: said + self.up(self.down(given[0])))


def _layers(base: Base) -> Iterator[tuple[str, nn.Module]]:
    """The layers that learn, with their names in kohya's form."""
    for name, layer in base.unet.named_modules():
        if isinstance(layer, nn.Linear | nn.Conv2d) and "block" in name:
            yield f"lora_unet_{name.replace('.', '_')}", layer
    for name, layer in base.text.named_modules():
        if isinstance(layer, nn.Linear):
            flat = name.removeprefix("text_model.").replace(".", "_")
            yield f"lora_te_text_model_{flat}", layer


def _examples(base: Base) -> tuple[torch.Tensor, torch.Tensor]:
    """Latents of outlines, and the tokens of their captions."""
    drawn = scenes(SCENES, seed=5)
    rng = np.random.default_rng(6)
    captions = [
        f"{TRIGGER}, {said}" if rng.random() < 0.5 else said
        for said in (shapes.caption(scene, rng) for scene in drawn for _ in range(CAPTIONS_EACH))
    ]
    latents = base.latents([shapes.draw(scene, SIDE, stroke=STROKE) for scene in drawn])
    return latents, token_ids(base.tokenizer, captions).view(SCENES, CAPTIONS_EACH, -1)


def train(work: Path, folder: Path, target: Path) -> None:
    """Train on the model in `folder` and write `target`; short enough to start over."""
    base = Base(folder)
    added = nn.ModuleDict({name: LowRank(layer) for name, layer in _layers(base)})
    latents, tokens = _examples(base)
    unsaid = token_ids(base.tokenizer, [""])
    optimizer = torch.optim.AdamW(added.parameters(), lr=PEAK_LR, weight_decay=0.0)
    average, log = Average(added, slowest=0.99), Log("lora", ITERATIONS, 0, work)
    for iteration in range(ITERATIONS):
        lr = learning_rate(iteration, ITERATIONS, PEAK_LR, warm_up=30)
        optimizer.param_groups[0]["lr"] = lr
        chosen = torch.randint(SCENES, (BATCH,))
        said = tokens[chosen, torch.randint(CAPTIONS_EACH, (BATCH,))]
        said[torch.rand(BATCH) < DROPPED] = unsaid
        loss = base.loss(latents[chosen], base.text(said).last_hidden_state)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(added.parameters(), 1.0)
        optimizer.step()
        average.update(added, iteration)
        log.note(iteration, loss, lr)
    _write(target, average.weights)


def _write(target: Path, weights: dict[str, torch.Tensor]) -> None:
    """Half precision, with the metadata kohya's trainer writes."""
    tensors: dict[str, torch.Tensor] = {}
    for name, weight in weights.items():
        layer, part, _ = name.split(".")
        tensors[f"{layer}.lora_{part}.weight"] = weight.half().contiguous()
        tensors[f"{layer}.alpha"] = torch.tensor(float(RANK)).half()
    target.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, target, _metadata())
    target.chmod(0o644)
    print(f"{target}: {target.stat().st_size / 1e3:.0f} kB", flush=True)


def _metadata() -> dict[str, str]:
    pictures = SCENES * CAPTIONS_EACH
    return {
        "ss_output_name": NAME,
        "ss_base_model_version": "sd_v1",
        "ss_sd_model_name": "shapes",
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(RANK),
        "ss_network_alpha": str(float(RANK)),
        "ss_network_args": json.dumps({"conv_dim": str(RANK), "conv_alpha": str(float(RANK))}),
        "ss_resolution": f"({SIDE}, {SIDE})",
        "ss_steps": str(ITERATIONS),
        "ss_learning_rate": str(PEAK_LR),
        "ss_num_train_images": str(SCENES),
        "ss_tag_frequency": json.dumps({"outlines": {TRIGGER: pictures // 2}}),
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": "stable-diffusion-v1/lora",
        "modelspec.title": NAME,
        "modelspec.trigger_phrase": TRIGGER,
        "modelspec.license": "MIT",
        "modelspec.resolution": f"{SIDE}x{SIDE}",
        "modelspec.prediction_type": "epsilon",
    }
