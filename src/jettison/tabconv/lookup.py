"""Looking up tables in training: hard codes forward, soft questions backward.

With g = ∂L/∂y of a layer y[k] = Σ_j T[k, j, code[j]], the backward step gives

    tables       ∂L/∂T[k, j, i]  =  g[k] where code[j] = i
    a question   of level l, a > t:  slope = (e(i₁) − e(i₀)) · σ'((a − t)/τ)/τ,   e(i) = Σ_k g[k]·T[k, j, i];
                 ∂L/∂a = slope, ∂L/∂t = −slope
                 i₁, i₀: the leaves reached when its answer is yes, or no, and every later question is asked with the
                 thresholds of that branch

σ is the logistic function: `slope` is the derivative of the layer whose question l alone is soft. The input's gradient is the sum of
the slopes of all questions that ask it, so layers before learn to give what trees tell apart.

On a processor native/lookup.cpp does it; elsewhere PyTorch's operations, of which it takes so many that a processor needs
several times as long with them.

Sources: Tang et al. 2023 (LUT-NN, arXiv 2302.03213): soft assignment backward, hard forward; Schönleber et al. 2023 (Stella Nera,
arXiv 2311.10207): the same through a hash tree. Asking the later questions again in the other branch is ours.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import _native

ISA = _native.isas()[0]
ROWS = 2048  # at once in PyTorch on a processor: what belongs to them stays in a cache
FLOATS = 1 << 28  # elsewhere, e of so many leaves at once: a device wants work, and has memory for several times this GiB


class LookUp(torch.autograd.Function):
    """(x (n, c·h·w), starts (p·q), places (C, L), thresholds (C, K − 1), entries (C·K, k), τ) → sums (n·p·q, k).

    The trees of an output pixel ask x at its start plus their places.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, starts: Tensor, places: Tensor, thresholds: Tensor, entries: Tensor, tau: float) -> Tensor:
        native = x.device.type == "cpu" and x.dtype == torch.float32
        codes, sums = (_native_forward if native else _forward)(x, starts, places, thresholds, entries)
        ctx.save_for_backward(x, starts, places, thresholds, entries, codes)
        ctx.tau, ctx.native = tau, native
        return sums

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, Tensor, Tensor, None]:
        x, starts, places, thresholds, entries, codes = ctx.saved_tensors
        step = _native_backward if ctx.native else _backward
        for_x, for_thresholds, for_entries = step(x, starts, places, thresholds, entries, codes, grads[0].contiguous(), ctx.tau)
        return for_x, None, None, for_thresholds.view_as(thresholds).to(thresholds.dtype), for_entries, None


def _layer(x: Tensor, starts: Tensor, places: Tensor, thresholds: Tensor, entries: Tensor) -> _native.LookUpLayer:
    starts, places = starts.to(torch.int32), places.T.to(torch.int32).contiguous()
    return _native.LookUpLayer(starts, places, thresholds.contiguous(), entries.contiguous(), x.shape[1])


def _native_forward(x: Tensor, starts: Tensor, places: Tensor, thresholds: Tensor, entries: Tensor) -> tuple[Tensor, Tensor]:
    """codes u16 (C, n·p·q), sums (n·p·q, k)."""
    rows = len(x) * len(starts)
    codes, sums = torch.empty(len(places), rows, dtype=torch.uint16), torch.empty(rows, entries.shape[1])
    layer = _layer(x, starts, places, thresholds, entries)
    layer.forward(_native.Pool(torch.get_num_threads()), ISA, x.contiguous(), codes, sums)
    return codes, sums


def _native_backward(
    x: Tensor, starts: Tensor, places: Tensor, thresholds: Tensor, entries: Tensor, codes: Tensor, grad: Tensor, tau: float
) -> tuple[Tensor, Tensor, Tensor]:
    threads, x = torch.get_num_threads(), x.contiguous()
    for_x, for_thresholds, for_entries = torch.zeros_like(x), torch.zeros(threads, *thresholds.shape), torch.zeros(threads, *entries.shape)
    layer = _layer(x, starts, places, thresholds, entries)
    layer.backward(_native.Pool(threads), ISA, x, codes, grad, tau, for_x, for_thresholds, for_entries)
    return for_x, for_thresholds.sum(0), for_entries.sum(0) if threads > 1 else for_entries[0]  # millions of floats, not copied


def _forward(x: Tensor, starts: Tensor, places: Tensor, thresholds: Tensor, entries: Tensor) -> tuple[Tensor, Tensor]:
    """codes int64 (n·p·q, C), sums (n·p·q, k)."""
    few, at = _images(x, starts, entries), starts.view(-1, 1, 1) + places
    codes = torch.cat([walk(_asked(piece, at), thresholds) for piece in x.split(few)])
    first = _first(codes, thresholds.shape[1] + 1)
    return codes, torch.cat([F.embedding_bag(code + first, entries, mode="sum") for code in codes.split(few * len(at))])


def _backward(
    x: Tensor, starts: Tensor, places: Tensor, thresholds: Tensor, entries: Tensor, codes: Tensor, grad: Tensor, tau: float
) -> tuple[Tensor, Tensor, Tensor]:
    few, at = _images(x, starts, entries), starts.view(-1, 1, 1) + places
    for_x, for_entries = torch.zeros_like(x), torch.zeros_like(entries)
    for_thresholds = torch.zeros(thresholds.numel(), dtype=torch.float64, device=x.device)
    rows = few * len(at)
    for piece, its_gradient, g, code in zip(x.split(few), for_x.split(few), grad.split(rows), codes.split(rows)):
        slope, node = _slopes(_asked(piece, at), code, thresholds, g @ entries.T, tau)
        for_entries += _one_hot(code, thresholds.shape[1] + 1).T @ g
        for_thresholds -= torch.bincount(node.flatten(), slope.flatten(), thresholds.numel())
        its_gradient.index_add_(1, at.flatten(), slope.view(len(piece), -1))
    return for_x, for_thresholds, for_entries


def _images(x: Tensor, starts: Tensor, entries: Tensor) -> int:
    """How many at once."""
    rows = ROWS if x.device.type == "cpu" else FLOATS // len(entries)
    return max(1, rows // len(starts))


def _asked(x: Tensor, at: Tensor) -> Tensor:
    """(rows, C, L) of images (n, c·h·w)."""
    return x.index_select(1, at.flatten()).view(-1, *at.shape[1:])


def walk(asked: Tensor, thresholds: Tensor, code: Tensor | None = None, level: int = 0) -> Tensor:
    """Leaves (…, C) of what trees ask (…, C, L), from `code` on `level` down the trees."""
    if code is None:
        code = torch.zeros(asked.shape[:-1], dtype=torch.int64, device=asked.device)
    flat, first = thresholds.flatten(), _first(code, thresholds.shape[1])
    for i in range(level, asked.shape[-1]):
        code = code + ((asked[..., i] > flat[code + (first + (1 << i) - 1)]).long() << i)
    return code


def _slopes(asked: Tensor, code: Tensor, thresholds: Tensor, each: Tensor, tau: float) -> tuple[Tensor, Tensor]:
    """(slope of every question, its threshold's place), both (rows, C, L). each: e, (rows, C·K)."""
    levels, prototypes = asked.shape[2], thresholds.shape[1] + 1
    each = each.view(len(code), -1, prototypes)
    change, node = torch.empty_like(asked), torch.empty(asked.shape, dtype=torch.int64, device=asked.device)
    for i in range(levels):
        before = code & ((1 << i) - 1)
        yes = (code >> i & 1).bool()
        other = walk(asked, thresholds, before + ((~yes).long() << i), i + 1)
        there, here = (each.gather(2, leaf[:, :, None])[:, :, 0] for leaf in (other, code))
        change[:, :, i] = torch.where(yes, here - there, there - here)
        node[:, :, i] = before + (_first(code, prototypes - 1) + (1 << i) - 1)
    soft = torch.sigmoid((asked - thresholds.flatten()[node]) / tau)
    return change * soft * (1 - soft) / tau, node


def _one_hot(code: Tensor, prototypes: int) -> Tensor:
    """(rows, C·K) float32."""
    hot = torch.zeros(*code.shape, prototypes, device=code.device)
    return hot.scatter_(2, code[:, :, None], 1.0).flatten(1)


def _first(code: Tensor, each: int) -> Tensor:
    """Where each codebook's entries start: (C,)."""
    return torch.arange(code.shape[-1], device=code.device) * each
