"""Every name that a client is known to use for a sampler is understood."""

from __future__ import annotations

import time

import pytest

from runai.errors import InvalidField
from runai.schema.samplers import METHODS, SAMPLERS, canonical_sampler

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
WEB_UI = {
    "LMS Karras": "lms_karras",
    "DPM++ 2S a": "dpmpp_2s_a",
    "DPM++ 2S a Karras": "dpmpp_2s_a_karras",
    "DPM++ SDE": "dpmpp_sde",
    "DPM++ SDE Karras": "dpmpp_sde_karras",
    "DPM++ 2M SDE Exponential": "dpmpp_2m_sde_exponential",
    "DPM++ 3M SDE Karras": "dpmpp_3m_sde_karras",
    "DPM++ 2M Beta": "dpmpp_2m_beta",
    "Euler SGM Uniform": "euler_sgm_uniform",
    "Euler Simple": "euler_sgm_uniform",
    "Euler a SGMUniform": "euler_a_sgm_uniform",
    "Euler Uniform": "euler",
    "LCM": "lcm",
    "TCD": "tcd",
    "k_euler_a": "euler_a",
    "k_euler_ancestral": "euler_a",
    "k_dpm_2_a_ka": "dpm2_a_karras",
    "k_dpmpp_2s_a_ka": "dpmpp_2s_a_karras",
    "k_dpmpp_2m_sde_ka": "dpmpp_2m_sde_karras",
}
DIFFUSERS = {
    "EulerAncestralDiscreteScheduler": "euler_a",
    "KDPM2DiscreteScheduler": "dpm2",
    "DPMSolverMultistepScheduler": "dpmpp_2m",
    "DPMSolverSinglestepScheduler": "dpmpp_2s",
    "DPMSolverSDEScheduler": "dpmpp_sde",
    "UniPCMultistepScheduler": "unipc",
    "LCMScheduler": "lcm",
    "TCDScheduler": "tcd",
}
KNOWN = [(n, c) for names in (PLUGIN, SUCCESSOR, WEB_UI, DIFFUSERS) for n, c in names.items()]


@pytest.mark.parametrize(("name", "canonical"), KNOWN)
def test_a_known_name_is_understood_however_it_is_spelled(name: str, canonical: str) -> None:
    for spelling in (name, name.upper(), f" {name} ", name.replace(" ", "_")):
        assert canonical_sampler(spelling) == canonical


def test_a_canonical_name_stands_for_itself() -> None:
    assert {name: canonical_sampler(name) for name in SAMPLERS} == {name: name for name in SAMPLERS}


def test_no_two_samplers_share_a_spelling() -> None:
    for name, others in SAMPLERS.items():
        assert {other: canonical_sampler(other) for other in others} == dict.fromkeys(others, name)


@pytest.mark.parametrize(
    ("typo", "meant"),
    [
        ("eulr", "euler"),
        ("dpmpp_2m_karas", "dpmpp_2m_karras"),
        ("DPM++ 2M SDE Caras", "dpmpp_2m_sde_karras"),
        ("unipcc", "unipc"),
        ("ddin", "ddim"),
    ],
)
def test_a_typo_is_refused_with_what_was_probably_meant(typo: str, meant: str) -> None:
    with pytest.raises(InvalidField) as caught:
        canonical_sampler(typo)
    assert caught.value.field == "sampler"
    assert repr(typo) in caught.value.message
    assert meant in caught.value.hint.removeprefix("Did you mean ").rstrip("?").split(", ")


@pytest.mark.parametrize("name", ["", "++", "restart", "x" * 100])
def test_a_name_like_no_other_is_refused_with_all_that_there_are(name: str) -> None:
    with pytest.raises(InvalidField) as caught:
        canonical_sampler(name)
    assert all(method in caught.value.hint for method in METHODS)
    assert "karras" in caught.value.hint


def test_a_schedule_that_a_method_cannot_follow_is_refused() -> None:
    for name in ("euler_a_karras", "ddim_beta", "lcm_sgm_uniform", "dpmpp_2s_sgm_uniform"):
        with pytest.raises(InvalidField):
            canonical_sampler(name)


def test_even_the_longest_wrong_name_is_answered_at_once() -> None:
    started = time.perf_counter()
    with pytest.raises(InvalidField):
        canonical_sampler("dpmpp_2m_sde_karras_" * 5)
    assert time.perf_counter() - started < 0.5
