"""Which weights a format keeps, as a PyTorch mask: the same rule as `formats/*.py`, differentiable code's side.

PyTorch stores weights as (k, c, r, s) or (k, c); the groups of N:M and the blocks' columns run along dimension 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import numpy as np
import torch
from torch import Tensor

from ..errors import FormatError
from ..formats import NM, Block, Dense, Format


def keep_mask(weight: Tensor, fmt: Format) -> Tensor:
    """Bool mask shaped like `weight`, True where `fmt` keeps the weight."""
    if isinstance(fmt, Dense):
        return torch.ones_like(weight, dtype=torch.bool)
    if isinstance(fmt, NM):
        return nm_mask(weight, fmt.n, fmt.m)
    if isinstance(fmt, Block):
        inside = keep_mask(weight, fmt.inner)
        return inside & expand_blocks(largest_blocks(block_sums(weight.abs(), fmt), fmt.kept(krsc_shape(weight))), weight, fmt)
    raise FormatError(
        f"{fmt} is no pattern of zeros, so weights cannot be pruned to it; prune to N:M or to blocks, such as 1:4 or 32x32/2:4"
    )


def nm_mask(weight: Tensor, n: int, m: int) -> Tensor:
    """The N largest |w| of every M consecutive input channels, exactly N; ties go to the lowest index.

    Where M or N is small, element-wise operations on the M members of all groups at once take a fraction of a selection's time.
    """
    a = weight.detach().abs()
    if m > 16 and n > 2:
        return _chosen_by_selection(a, n, m)
    mask = torch.zeros_like(a, dtype=torch.bool)
    members, chosen = (t.unflatten(1, (-1, m)).unbind(2) for t in (a, mask))
    (_choose_by_rounds if 4 * n < m else _choose_by_rank)(members, chosen, n)
    return mask


def _chosen_by_selection(a: Tensor, n: int, m: int) -> Tensor:
    """Those not below the N-th largest of their group; where that has equals, the first of them."""
    last = a.movedim(1, -1)
    groups = last.reshape(-1, m)
    least = groups.topk(n, dim=1, sorted=False).values.amin(1, keepdim=True)
    mask = groups >= least
    if int(mask.sum()) > n * len(groups):
        above, equal = groups > least, groups == least
        mask = above | equal & (equal.cumsum(1) <= n - above.sum(1, keepdim=True))
    return mask.reshape(last.shape).movedim(-1, 1)


def _choose_by_rounds(members: Sequence[Tensor], chosen: Sequence[Tensor], n: int) -> None:
    """N times: the largest of what is left, at its first occurrence."""
    for done in range(n):
        left = [x.masked_fill(c, -1.0) for x, c in zip(members, chosen)] if done else members
        largest = reduce(torch.maximum, left)
        found = torch.zeros_like(largest, dtype=torch.bool)
        for x, c in zip(left, chosen):
            here = (x == largest) > found
            c |= here
            found |= here


def _choose_by_rank(members: Sequence[Tensor], chosen: Sequence[Tensor], n: int) -> None:
    """Those that fewer than N others beat: a larger one, or an equal one before it."""
    beaten = [torch.zeros_like(x, dtype=torch.uint8) for x in members]
    for j, y in enumerate(members):
        for i in range(j):
            before_wins = members[i] >= y
            beaten[j] += before_wins
            beaten[i] += ~before_wins
    for count, c in zip(beaten, chosen):
        c.copy_(count < n)


def block_sums(score: Tensor, fmt: Block) -> Tensor:
    """Σ of `score`, shaped like a weight, over each block: (k / rows, T), T = r·s·c / cols in the order (r, s, c)."""
    rows = score.detach().float().movedim(1, -1).reshape(score.shape[0], -1)
    return rows.reshape(len(rows) // fmt.rows, fmt.rows, -1, fmt.cols).sum((1, 3))


def largest_blocks(sums: Tensor, kept: int) -> Tensor:
    """Bool like `sums` (block-rows, T): the `kept` largest of each row; ties go to the lowest column."""
    order = sums.argsort(dim=1, descending=True, stable=True)[:, :kept]
    return torch.zeros_like(sums, dtype=torch.bool).scatter_(1, order, True)


def expand_blocks(blocks: Tensor, weight: Tensor, fmt: Block) -> Tensor:
    """(k / rows, T) per block → per weight, shaped like `weight`."""
    k, c, *window = weight.shape
    rows = blocks.repeat_interleave(fmt.rows, 0).repeat_interleave(fmt.cols, 1)
    return rows.reshape(k, *window, c).movedim(-1, 1)


def to_krsc(weight: Tensor) -> np.ndarray:
    """(k, c, r, s) or (k, c) tensor as the (k, r, s, c) float32 array that formats speak of."""
    w = weight.detach().float().cpu()
    w = w[:, :, None, None] if w.dim() == 2 else w
    return np.ascontiguousarray(w.permute(0, 2, 3, 1).numpy())


def krsc_shape(weight: Tensor) -> tuple[int, ...]:
    k, c, *window = weight.shape
    r, s = window or (1, 1)
    return k, r, s, c
