"""Models distilled to draw in a few steps: what each kind does well with.

Drawn with the usual 20 steps and strong guidance, such a model gives burnt pictures; so what a
request leaves open comes from here, and what it says is done, with a note where that is far
from what the model was made for. Facts of the published models:

    turbo      1 to 4 steps, no guidance, Euler ancestral on trailing timesteps
               (Sauer et al. 2023; https://huggingface.co/stabilityai/sdxl-turbo, sd-turbo)
    lightning  as many steps as the checkpoint says (2, 4, 8), no guidance, Euler on trailing
               timesteps (Lin et al. 2024; https://huggingface.co/ByteDance/SDXL-Lightning)
    lcm        2 to 8 steps by LCM's own sampler; guidance from 1 to 2 (Luo et al. 2023, LCM-LoRA;
               https://huggingface.co/latent-consistency/lcm-lora-sdv1-5), but around 8 where the
               UNet is told the guidance (https://huggingface.co/SimianLuo/LCM_Dreamshaper_v7)
    tcd        4 steps or some more, no guidance, TCD's own sampler (Zheng et al. 2024;
               https://huggingface.co/h1t/TCD-SDXL-LoRA); published as LoRAs only
    hyper      1 to 8 steps, no guidance, DDIM on trailing timesteps (Ren et al. 2024;
               https://huggingface.co/ByteDance/Hyper-SD); its few CFG-preserving checkpoints
               want 5 to 8 of guidance, and a request that says so

Which kind a model is, is told by `detection`. A LoRA can make such a model of another one
(`loras_few_steps`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from runai.engine.archs import Config, Defaults

FAR = 2  # times what a model is made for: beyond that, a note


@dataclass(frozen=True)
class Distillation:
    """One kind. `scheduler`: laid over the configuration of a model that brings none.

    `most_steps`, `most_guidance`: the ends of what its authors recommend. `told_guidance`: the
    guidance of those whose UNet is told it, which is another scale; None if there are none.
    `lora_sampler`: of its LoRAs, whose sampler has to say the spacing of the timesteps itself,
    since they are laid over a model with a configuration of its own.
    """

    defaults: Defaults
    scheduler: Config
    most_steps: int
    lora_sampler: str
    most_guidance: float = 1.0
    told_guidance: float | None = None

    def defaults_for(self, *, told: bool) -> Defaults:
        """`told`: whether the model's UNet reads its guidance from an embedding."""
        if told and self.told_guidance is not None:
            return replace(self.defaults, guidance_scale=self.told_guidance)
        return self.defaults

    def surprises(self, choices: Defaults, *, told: bool, what: str = "This model") -> list[str]:
        """Notes on a request that asks for far more than such a model is made for."""
        steps, guidance = choices.num_inference_steps, choices.guidance_scale
        strong = guidance > FAR * self.most_guidance and not (told and self.told_guidance)
        if steps <= FAR * self.most_steps and not strong:
            return []
        return [
            f"{what} is made for at most {self.most_steps} steps and a guidance of "
            f"{self.most_guidance:g}; {steps} steps and {guidance:g} were used as asked."
        ]


_TRAILING: Config = {"timestep_spacing": "trailing"}
DISTILLATIONS: dict[str, Distillation] = {
    "turbo": Distillation(Defaults(4, 0.0, "euler_a"), _TRAILING, 4, "euler_a_sgm_uniform"),
    "lightning": Distillation(Defaults(4, 0.0, "euler"), _TRAILING, 8, "euler_sgm_uniform"),
    "lcm": Distillation(
        Defaults(4, 1.0, "lcm"), {}, 8, "lcm", most_guidance=2.0, told_guidance=8.0
    ),
    "tcd": Distillation(Defaults(4, 0.0, "tcd"), {}, 8, "tcd"),
    "hyper": Distillation(Defaults(8, 0.0, "ddim"), _TRAILING, 8, "ddim_sgm_uniform"),
}
