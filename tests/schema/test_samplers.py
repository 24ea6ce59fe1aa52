"""Every name that a client is known to use for a sampler is understood."""

from __future__ import annotations

import pytest

from runai.errors import InvalidField
from runai.schema.samplers import SAMPLERS, canonical_sampler

PLUGIN = {
    "euler_a": "euler_a",
    "euler": "euler",
    "ddpm": "ddpm",
    "ddim": "ddim",
    "plms": "pndm",
    "lms": "lms",
    "dpm": "dpmpp_2m",
}
SUCCESSOR = {
    "Euler a": "euler_a",
    "Euler": "euler",
    "LMS": "lms",
    "Heun": "heun",
    "DPM2": "dpm2",
    "DPM2 a": "dpm2_a",
    "DPM2 Karras": "dpm2_karras",
    "DPM2 a Karras": "dpm2_a_karras",
    "DPM++ 2M": "dpmpp_2m",
    "DPM++ 2M Karras": "dpmpp_2m_karras",
    "DPM++ 2M SDE Karras": "dpmpp_2m_sde_karras",
    "DPM": "dpmpp_2m",
    "DDIM": "ddim",
    "UniPC": "unipc",
    "DDPM": "ddpm",
    "DEIS": "deis",
    "PLMS": "pndm",
    "PNDM": "pndm",
}


@pytest.mark.parametrize(("name", "canonical"), [*PLUGIN.items(), *SUCCESSOR.items()])
def test_a_known_name_is_understood_however_it_is_spelled(name: str, canonical: str) -> None:
    for spelling in (name, name.upper(), f" {name} ", name.replace(" ", "_")):
        assert canonical_sampler(spelling) == canonical


def test_a_canonical_name_stands_for_itself() -> None:
    assert {name: canonical_sampler(name) for name in SAMPLERS} == {name: name for name in SAMPLERS}


def test_no_two_samplers_share_a_spelling() -> None:
    spellings = [canonical_sampler(s) == name for name, others in SAMPLERS.items() for s in others]
    assert all(spellings)


@pytest.mark.parametrize("name", ["", "eulr", "DPM3", "++"])
def test_an_unknown_name_is_refused_with_the_known_ones(name: str) -> None:
    with pytest.raises(InvalidField) as caught:
        canonical_sampler(name)
    assert caught.value.field == "sampler"
    assert all(known in caught.value.hint for known in SAMPLERS)
