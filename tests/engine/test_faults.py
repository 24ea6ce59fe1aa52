"""What is made of what torch raises: a request's failure, no memory, or a device that is lost."""

from __future__ import annotations

import pytest
import torch

from runai.engine.faults import LOSING_CODES, device_errors, device_may_be_lost
from runai.errors import DeviceLost, EngineError, OutOfMemory

ADVICE = """
CUDA kernel errors might be asynchronously reported at some other API call.
Compile with `TORCH_USE_CUDA_DSA` to enable device-side assertions."""
LOST = (
    "CUDA error: device-side assert triggered",
    "CUDA error: an illegal memory access was encountered",
    "CUDA error: unspecified launch failure",
    "CUDA error: an illegal instruction was encountered",
    "CUDA error: misaligned address",
    "CUDA error: the launch timed out and was terminated",
    "CUDA error: uncorrectable ECC error encountered",
    "CUDA error: unknown error",
    "HIP error: an illegal memory access was encountered",
    "CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemmEx( handle )`",
    "cuDNN error: CUDNN_STATUS_EXECUTION_FAILED",
)
NO_MEMORY = (
    "CUDA error: out of memory",
    "MPS backend out of memory (MPS allocated: 9.05 GB)",
    "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    "could not create a primitive",
    "[enforce fail at alloc_cpu.cpp:117] . DefaultCPUAllocator: can't allocate memory: "
    "you tried to allocate 9663676416 bytes. Error code 12 (Cannot allocate memory)",
)
# the advice that torch adds to every error of CUDA's speaks of device-side assertions
HARMLESS = (
    "could not create a primitive descriptor for a convolution forward propagation primitive",
    "CUDA error: invalid argument" + ADVICE,
    "CUDA error: no kernel image is available for execution on the device" + ADVICE,
    "CUDA error: CUBLAS_STATUS_NOT_SUPPORTED when calling `cublasGemmEx( handle )`",
    "mat1 and mat2 shapes cannot be multiplied (2x4 and 5x5)",
)


@pytest.mark.parametrize("said", LOST)
@pytest.mark.parametrize("kind", [RuntimeError, torch.AcceleratorError])
def test_a_device_is_known_to_be_lost_by_what_is_said(said: str, kind: type[RuntimeError]) -> None:
    with pytest.raises(DeviceLost) as caught, device_errors():
        raise kind(said + ADVICE)
    assert caught.value.message == f"The device failed and cannot be used any more: {said}."
    assert "exit code 4" in caught.value.hint


@pytest.mark.parametrize("number", sorted(LOSING_CODES))
def test_a_device_is_known_to_be_lost_by_its_number(number: int) -> None:
    error = torch.AcceleratorError("CUDA error: in words of tomorrow")
    error.error_code = number
    with pytest.raises(DeviceLost), device_may_be_lost():
        raise error


@pytest.mark.parametrize("said", NO_MEMORY)
def test_a_full_device_is_not_lost(said: str) -> None:
    with pytest.raises(OutOfMemory), device_errors():
        raise torch.AcceleratorError(said + ADVICE)


@pytest.mark.parametrize("said", HARMLESS)
def test_any_other_fault_is_a_failure_of_what_was_drawn(said: str) -> None:
    with pytest.raises(EngineError) as caught, device_errors():
        raise RuntimeError(said)
    assert type(caught.value) is EngineError


def test_what_is_no_error_of_the_device_is_left_alone() -> None:
    for error in (KeyError("device-side assert"), OSError("illegal memory access")):
        with pytest.raises(type(error)), device_may_be_lost():
            raise error
