"""Token merging: self-attention reads tokens that are alike as one.

Theory of operation. Self-attention where the picture is finest takes time with the square of its
tokens, most of which look like a neighbour (Bolya & Hoffman 2023, "Token Merging for Fast Stable
Diffusion"). Before it, of every 2 × 2 tokens the first one stands; of all others those that are
most like one of these, as many as the ratio says, are averaged into it. What attention says of
it is said of all of them. Nothing but self-attention of the finest transformers sees fewer tokens.

Which tokens are merged follows from the tokens alone. The paper draws by lot which of the 2 × 2
stands; here it is always the first, so that a picture is the same whoever shares the call. Sums
are made by products of matrices, in blocks: in a fixed order, on a GPU too, and without a matrix
of all against all.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

_BLOCK = 1024  # tokens that are compared, and summed, at one time


@dataclass(frozen=True)
class Merge:
    """How the tokens of each row are merged. `kept`: which of them are alone; `target`: where
    those go that are not, `gone`; `origin`: of every token, where in the merged ones it is.
    """

    standing: torch.Tensor
    kept: torch.Tensor
    gone: torch.Tensor
    target: torch.Tensor
    origin: torch.Tensor

    def merged(self, tokens: torch.Tensor) -> torch.Tensor:
        """rows × tokens × channels, with fewer tokens: those alone, then those that stand."""
        standing = tokens[:, self.standing]
        total, count = standing.clone(), torch.ones_like(standing[..., :1])
        gone = _at(tokens, self.gone)
        for some, target in zip(gone.split(_BLOCK, 1), self.target.split(_BLOCK, 1), strict=True):
            into = F.one_hot(target, standing.shape[1]).to(tokens.dtype).transpose(1, 2)
            total += into @ some
            count += into.sum(-1, keepdim=True)
        return torch.cat([_at(tokens, self.kept), total / count], dim=1)

    def unmerged(self, tokens: torch.Tensor) -> torch.Tensor:
        """What was said of the merged tokens, for each of them all."""
        return _at(tokens, self.origin)


def plan(tokens: torch.Tensor, height: int, width: int, ratio: float) -> Merge:
    """How to merge `ratio` of the tokens of a picture: rows × (height · width) × channels."""
    rows, whole, _ = tokens.shape
    grid = torch.arange(whole, device=tokens.device).view(height, width)
    standing = grid[::2, ::2].flatten()
    others = grid.flatten()[~torch.isin(grid.flatten(), standing)]
    likeness, nearest = _nearest(tokens, others, standing)
    order = likeness.argsort(dim=1, descending=True, stable=True)
    count = min(int(whole * ratio), len(others))
    gone, alone = order[:, :count], order[:, count:]
    target = nearest.gather(1, gone)
    origin = torch.empty(rows, whole, dtype=torch.long, device=tokens.device)
    first = len(others) - count  # of those that stand, in the merged ones
    origin[:, standing] = first + torch.arange(len(standing), device=tokens.device)
    origin.scatter_(1, others[alone], torch.arange(first, device=tokens.device).expand(rows, -1))
    origin.scatter_(1, others[gone], first + target)
    return Merge(standing, others[alone], others[gone], target, origin)


def _nearest(
    tokens: torch.Tensor, others: torch.Tensor, standing: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """How like the most alike of the standing tokens each other one is, and which that is."""
    unit = F.normalize(tokens, dim=-1)
    to = unit[:, standing].transpose(1, 2)
    best = [(unit[:, some] @ to).max(dim=-1) for some in others.split(_BLOCK)]
    return torch.cat([b.values for b in best], 1), torch.cat([b.indices for b in best], 1)


def _at(tokens: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Of each row the tokens at its own places."""
    return tokens.gather(1, places[..., None].expand(-1, -1, tokens.shape[-1]))


# --- in a UNet ---------------------------------------------------------------------------


@contextmanager
def merging(unet: Any, ratio: float) -> Iterator[None]:
    """While in force, a call of the UNet merges so much of the tokens where they are most; of 0 it
    is as ever.
    """
    with ExitStack() as stack:
        for transformer in _finest(unet) if ratio else ():
            for hook in _Merging(ratio).hooks(transformer):
                stack.callback(hook.remove)
        yield


def _finest(unet: Any) -> Iterator[Any]:
    """The transformers that see the picture at its finest: on the way down, and up."""
    for blocks in (unet.down_blocks, reversed(unet.up_blocks)):
        block = next((b for b in blocks if getattr(b, "has_cross_attention", False)), None)
        yield from () if block is None else block.attentions


class _Merging:
    """The hooks of one transformer, and how its present tokens are merged."""

    def __init__(self, ratio: float) -> None:
        self._ratio = ratio
        self._size = (0, 0)
        self._merge: Any = None

    def hooks(self, transformer: Any) -> Iterator[Any]:
        yield transformer.register_forward_pre_hook(self._look)
        for block in transformer.transformer_blocks:
            yield block.attn1.register_forward_pre_hook(self._before)
            yield block.attn1.register_forward_hook(self._after)

    def _look(self, _: Any, given: tuple[torch.Tensor, ...]) -> None:
        height, width = given[0].shape[-2:]
        self._size = height, width

    def _before(self, _: Any, given: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        self._merge = plan(given[0], *self._size, self._ratio)
        return self._merge.merged(given[0]), *given[1:]

    def _after(self, _: Any, __: Any, said: torch.Tensor) -> torch.Tensor:
        unmerged: torch.Tensor = self._merge.unmerged(said)
        return unmerged
