"""Recordings of a UNet's calls on CUDA: its graphs.

(https://docs.pytorch.org/docs/stable/notes/cuda.html, "CUDA Graphs".) All share one pool of memory:
no two of them are played at the same time, and what they say is copied out before the next.
A recording that fails can leave torch's allocator in disorder, of which a further one may die
(https://github.com/pytorch/pytorch/pull/190308): so after one that failed no more are made.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch


class CudaGraphs:
    """The `Recorder` of one GPU."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._failed = False

    @cached_property
    def _pool(self) -> Any:
        return torch.cuda.graph_pool_handle()

    @cached_property
    def _stream(self) -> torch.cuda.Stream:
        return torch.cuda.Stream(self._device)

    def __call__(
        self, call: Callable[[], torch.Tensor]
    ) -> tuple[Callable[[], None], torch.Tensor, int]:
        if self._failed:
            raise RuntimeError("a recording has failed before")
        try:
            return self._recorded(call)
        except RuntimeError:
            self._failed = True
            raise

    def _recorded(
        self, call: Callable[[], torch.Tensor]
    ) -> tuple[Callable[[], None], torch.Tensor, int]:
        graph, device = torch.cuda.CUDAGraph(), self._device
        recording = torch.cuda.graph(
            graph,
            pool=self._pool,
            stream=self._stream,
            capture_error_mode="thread_local",  # other threads may ask how much memory is free
        )
        # the outer one: where recording fails, the inner one leaves its stream in force
        with torch.cuda.stream(torch.cuda.current_stream(device)), recording:
            before = torch.cuda.memory_reserved(device)
            said = call()
            more = torch.cuda.memory_reserved(device) - before
        return graph.replay, said, more
