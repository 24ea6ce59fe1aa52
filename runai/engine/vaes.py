"""PURE: which tiny autoencoder goes with which model.

The latents of Stable Diffusion 1 and 2 are alike, those of SDXL are others, and a tiny autoencoder
draws nonsense of latents that it was not made for. Whether the sizes fit is seen when it is loaded.
"""

from __future__ import annotations

from collections.abc import Iterable

from runai.engine.catalogue import Entry
from runai.errors import ModelUnsupported

_LATENTS = {"v1": "Stable Diffusion 1 and 2", "v2": "Stable Diffusion 1 and 2", "xl": "SDXL"}
_FOR = {"Stable Diffusion 1 and 2": "taesd", "SDXL": "taesdxl"}


def require(vae: Entry, model: Entry) -> None:
    """ModelUnsupported for a tiny autoencoder of other latents than the model's."""
    made_for, needed = _latents(vae), _latents(model)
    if vae.tiny and made_for and needed and made_for != needed:
        raise ModelUnsupported(
            f"{vae.name} decodes the latents of {made_for}; {model.name} has those of {needed}.",
            hint=f"Use {_FOR[needed]} with this model, or no other VAE.",
            field="vae",
        )


def for_previews(vaes: Iterable[Entry], model: Entry) -> Entry | None:
    """The tiny autoencoder that is taken for a model's previews without being asked for: one that
    says what it is for. The example model's latents are its own.
    """
    if model.example or not _latents(model):
        return None
    fitting = (vae for vae in vaes if vae.tiny and _latents(vae) == _latents(model))
    return next(fitting, None)


def _latents(entry: Entry) -> str:
    """Whose latents a model has or a VAE is for; empty if nothing tells."""
    return _LATENTS.get(entry.version or "", "")
