"""What torch and diffusers raise while drawing, as errors that say what to do.

Some faults of a GPU are for good: the CUDA runtime says of them that "this leaves the process in
an inconsistent state and any further CUDA work will return the same error. To continue using
CUDA, the process must be terminated and relaunched." Those are the server's end (`DeviceLost`),
where all others are a request's.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from runai.engine.devices import is_out_of_memory
from runai.errors import DeviceLost, EngineError, OutOfMemory

# what torch and diffusers raise while drawing; anything else is a fault of ours
_DEVICE_FAULTS = (RuntimeError, ValueError, TypeError, LookupError, MemoryError)
# Numbers of the faults that the runtime says that of, and of a device or a driver that has failed
# itself (cudaError_t in https://docs.nvidia.com/cuda/cuda-runtime-api/group__CUDART__TYPES.html);
# torch.AcceleratorError has them as `error_code` (c10/util/Exception.h) …
LOSING_CODES = frozenset(
    {
        214,  # cudaErrorECCUncorrectable
        220,  # cudaErrorNvlinkUncorrectable
        700,  # cudaErrorIllegalAddress
        702,  # cudaErrorLaunchTimeout
        710,  # cudaErrorAssert
        714,  # cudaErrorHardwareStackError
        715,  # cudaErrorIllegalInstruction
        716,  # cudaErrorMisalignedAddress
        717,  # cudaErrorInvalidAddressSpace
        718,  # cudaErrorInvalidPc
        719,  # cudaErrorLaunchFailure
        721,  # cudaErrorTensorMemoryLeak
        999,  # cudaErrorUnknown
    }
)
# … and their words, which a RuntimeError of an older torch, of ROCm or of a library has; and what
# cuBLAS, cuDNN and the like say when a kernel of theirs was not carried out, which is one of the
# above (ATen/cuda/Exceptions.h; https://docs.nvidia.com/cuda/cublas/#cublasstatus-t)
LOSING_WORDS = (
    "uncorrectable ECC error",
    "uncorrectable NVLink error",
    "illegal memory access",
    "launch timed out and was terminated",
    "device-side assert",
    "hardware stack error",
    "illegal instruction was encountered",
    "misaligned address",
    "operation not supported on global/shared address space",
    "invalid program counter",
    "unspecified launch failure",
    "CUDA error: unknown error",
    "CUBLAS_STATUS_EXECUTION_FAILED",
    "CUDNN_STATUS_EXECUTION_FAILED",
    "CUSOLVER_STATUS_EXECUTION_FAILED",
    "CUSPARSE_STATUS_EXECUTION_FAILED",
    "GPU is lost",
)


def is_device_lost(error: BaseException) -> bool:
    """Whether this process can use its device no more."""
    if getattr(error, "error_code", None) in LOSING_CODES:
        return isinstance(error, torch.AcceleratorError)
    # of the first line: the ones below it hold advice, about device-side assertions among others
    said = first_line(error) if isinstance(error, RuntimeError) else ""
    return any(words in said for words in LOSING_WORDS)


def is_of_device(error: BaseException) -> bool:
    """Whether the device is to blame, for being full or lost, and not what was given to it."""
    return is_out_of_memory(error) or is_device_lost(error)


@contextmanager
def device_may_be_lost() -> Iterator[None]:
    """Raises DeviceLost for what says so; all else is left as it is."""
    try:
        yield
    except RuntimeError as error:
        if is_device_lost(error):
            raise DeviceLost(
                f"The device failed and cannot be used any more: {first_line(error)}."
            ) from error
        raise


def first_line(error: BaseException) -> str:
    """Of what an error says, as much as a message should hold."""
    return (str(error).splitlines() or [type(error).__name__])[0][:300].rstrip(".")


@contextmanager
def device_errors() -> Iterator[None]:
    """Raises OutOfMemory, DeviceLost or EngineError for what a network's call raises."""
    try:
        with device_may_be_lost():
            yield
    except _DEVICE_FAULTS as error:
        if is_out_of_memory(error):
            traceback.clear_frames(error.__traceback__)  # they hold what had been computed
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            raise OutOfMemory("There is not enough memory on the device for this.") from error
        raise EngineError(f"Drawing failed: {first_line(error)}") from error
