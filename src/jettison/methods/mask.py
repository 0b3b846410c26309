"""Which weights a format keeps, as a PyTorch mask: the same rule as `formats/*.py`, differentiable code's side.

PyTorch stores weights as (k, c, r, s) or (k, c); the groups of N:M run along dimension 1.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..formats import NM, Dense, Format


def keep_mask(weight: Tensor, fmt: Format) -> Tensor:
    """Bool mask shaped like `weight`, True where `fmt` keeps the weight."""
    if isinstance(fmt, Dense):
        return torch.ones_like(weight, dtype=torch.bool)
    if isinstance(fmt, NM):
        return nm_mask(weight, fmt.n, fmt.m)
    raise NotImplementedError(f"no mask is defined for format {fmt}")


def nm_mask(weight: Tensor, n: int, m: int) -> Tensor:
    """The N largest |w| of every M consecutive input channels, exactly N; ties go to the lowest index.

    Bits of a non-negative float sort like integers, so key = bits(|w|)·M + (M − 1 − index) is
    distinct inside a group and the mask is key ≥ N-th largest key: no sort, no tie handling.
    """
    channels_last = weight.detach().movedim(1, -1)
    a = channels_last.reshape(-1, m).abs()
    order = torch.arange(m - 1, -1, -1, device=weight.device)
    if a.dtype == torch.float64:  # 63 bits leave no room for the index
        kept = a.argsort(dim=1, descending=True, stable=True)[:, :n]
        mask = torch.zeros_like(a, dtype=torch.bool).scatter_(1, kept, True)
    else:
        key = a.float().view(torch.int32).to(torch.int64) * m + order
        least = key.amax(1, keepdim=True) if n == 1 else key.topk(n, dim=1).values[:, -1:]
        mask = key >= least
    return mask.reshape(channels_last.shape).movedim(-1, 1)


def to_krsc(weight: Tensor) -> np.ndarray:
    """(k, c, r, s) or (k, c) tensor as the (k, r, s, c) float32 array that formats speak of."""
    w = weight.detach().float().cpu()
    w = w[:, :, None, None] if w.dim() == 2 else w
    return np.ascontiguousarray(w.permute(0, 2, 3, 1).numpy())


def krsc_shape(weight: Tensor) -> tuple[int, ...]:
    k, c, *window = weight.shape
    r, s = window or (1, 1)
    return k, r, s, c
