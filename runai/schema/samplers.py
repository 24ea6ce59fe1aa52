"""The public names of samplers, and the names others use for them.

A *sampler* is what a user picks; the diffusers class behind it (a *scheduler*) is the
engine's business. This table only says which names mean the same.
"""

from __future__ import annotations

from runai.errors import InvalidField

# canonical name -> other spellings (compared without case, spaces, '-', '_' and '.')
SAMPLERS: dict[str, tuple[str, ...]] = {
    "euler": ("Euler",),
    "euler_a": ("Euler a", "Euler ancestral"),
    "lms": ("LMS",),
    "heun": ("Heun",),
    "dpm2": ("DPM2",),
    "dpm2_karras": ("DPM2 Karras",),
    "dpm2_a": ("DPM2 a",),
    "dpm2_a_karras": ("DPM2 a Karras",),
    "dpmpp_2m": ("DPM++ 2M", "DPM", "dpm"),
    "dpmpp_2m_karras": ("DPM++ 2M Karras",),
    "dpmpp_2m_sde_karras": ("DPM++ 2M SDE Karras",),
    "ddim": ("DDIM",),
    "ddpm": ("DDPM",),
    "unipc": ("UniPC",),
    "deis": ("DEIS",),
    "pndm": ("PNDM", "PLMS", "plms"),
}


def _squash(name: str) -> str:
    return name.lower().replace("+", "p").translate({ord(c): None for c in " -_."})


_BY_SQUASHED = {
    _squash(spelling): name for name, others in SAMPLERS.items() for spelling in (name, *others)
}


def canonical_sampler(name: str) -> str:
    """The canonical name of a sampler in any known spelling; InvalidField if there is none."""
    found = _BY_SQUASHED.get(_squash(name))
    if found is None:
        known = ", ".join(SAMPLERS)
        raise InvalidField(
            f"There is no sampler {name!r}.", hint=f"Use one of: {known}.", field="sampler"
        )
    return found
