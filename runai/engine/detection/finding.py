"""What looking at a file or folder comes to."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from runai.errors import ModelBroken, ModelError, ModelUnsafe, ModelUnsupported
from runai.schema.events import Kind

Format = Literal["diffusers", "safetensors", "ckpt"]
MAX_REASON = 200
# whatever else a hostile file may bring about where it is looked at: an answer all the same
FAULTS = (
    OSError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    RecursionError,
    MemoryError,
)
_ERRORS: dict[str, type[ModelError]] = {
    "broken": ModelBroken,
    "foreign": ModelUnsupported,
    "unsafe": ModelUnsafe,
}


@dataclass(frozen=True)
class Finding:
    """What something is. Usable when it has a `kind`; else `reason` says what it is instead.

    `arch`: the row of `ARCHS`, or of what a LoRA or an embedding is for; empty: the header does
    not tell. `prediction`: what the UNet predicts, None: only the network itself can say.
    `zero_snr`: it was trained to a last step of pure noise. `distillation`: it draws in a few
    steps. `tiny`: a VAE that is a tiny autoencoder. `metadata`: what its trainer wrote, shortened.
    """

    kind: Kind | None = None
    arch: str = ""
    reason: str = ""
    fault: Literal["", "broken", "foreign", "unsafe"] = ""
    format: Format = "safetensors"
    metadata: dict[str, str] = field(default_factory=dict)
    trigger_words: tuple[str, ...] = ()
    distillation: str | None = None
    prediction: str | None = None
    zero_snr: bool = False
    tiny: bool = False

    def error(self, name: str) -> ModelError:
        """The error for somebody who wants to use it all the same."""
        return _ERRORS[self.fault](f"{name} cannot be used: {self.reason}.")


def shown(text: object, most: int = 100) -> str:
    """A plain value from a file, cut to what fits into a message, on one line."""
    plain = "".join(c if c.isprintable() else "?" for c in str(text)[: most + 1])
    return plain if len(plain) <= most else f"{plain[: most - 1]}…"


def foreign(reason: str) -> Finding:
    """Sound, but nothing that can be used here."""
    return Finding(reason=shown(reason, MAX_REASON), fault="foreign")


def broken(reason: str) -> Finding:
    """Damaged, incomplete, or nothing of the trade at all."""
    return Finding(reason=shown(reason, MAX_REASON), fault="broken")
