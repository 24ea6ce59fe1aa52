"""What a request that leaves it open is drawn with, where a LoRA makes its model a few-step one.

PURE. `detection` tells such a LoRA, by what its published kin are called and never by more of a
guess. It counts from half its weight on: with less of it the model is still what it was. A model
that was distilled itself stays what it is, and of LoRAs of two kinds nobody knows what they come
to: then the model's own defaults hold. What a request says is done, with a note where it is far
from what the LoRA was made for.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from runai.engine.archs import Defaults
from runai.engine.catalogue import Entry
from runai.engine.detection.few_step_loras import keeps_guidance, own_name, steps_in
from runai.engine.distillations import DISTILLATIONS, Distillation

LEAST_WEIGHT = 0.5
KEPT_GUIDANCE = 5.0  # of those that keep it; their authors say 5 to 8


@dataclass(frozen=True)
class FewSteps:
    """A LoRA of few steps, and its kind as far as it is its own: steps and guidance."""

    lora: str
    kind: Distillation

    @property
    def defaults(self) -> Defaults:
        return self.kind.defaults

    def surprises(self, choices: Defaults) -> Iterator[str]:
        """Notes on a request that asks for something else than the LoRA was made for."""
        yield from self.kind.surprises(choices, told=False, what=f"A model with {self.lora}")
        if choices.sampler != self.defaults.sampler:
            yield (
                f"{self.lora} is made for the sampler {self.defaults.sampler}; "
                f"{choices.sampler} was used as asked."
            )


def brought_by(model: Entry, loras: Iterable[tuple[Entry, float]]) -> FewSteps | None:
    """What the LoRAs of a request, each with its weight, make of a model; None: nothing else."""
    if model.distillation is not None:
        return None
    found = [e for e, weight in loras if e.distillation and weight >= LEAST_WEIGHT]
    if not found or len({entry.distillation for entry in found}) > 1:
        return None
    return max((_few_steps(entry) for entry in found), key=lambda f: f.kind.most_steps)


def _few_steps(lora: Entry) -> FewSteps:
    """By its kind, and by what its name says beyond that."""
    kind = DISTILLATIONS[lora.distillation or ""]
    name = own_name(lora.path)
    sampler, most = kind.lora_sampler, kind.most_steps
    defaults = replace(kind.defaults, sampler=sampler)
    if steps := steps_in(name):
        defaults, most = replace(defaults, num_inference_steps=steps), steps
    guidance = kind.most_guidance
    if keeps_guidance(name):
        guidance = KEPT_GUIDANCE
        defaults = replace(defaults, guidance_scale=guidance)
    return FewSteps(
        lora.name, replace(kind, defaults=defaults, most_steps=most, most_guidance=guidance)
    )
