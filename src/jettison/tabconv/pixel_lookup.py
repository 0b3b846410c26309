"""Looking up tables with codes of pixels in training: hard codes forward, soft questions backward, as in `lookup`.

With g = ∂L/∂y of a layer y[out, k] = Σ_tap Σ_g T[k, tap·G + g, code[pixel, g]], pixel = seen[tap, out], the backward step gives

    tables       ∂L/∂T[k, tap·G + g, i]  =  Σ g[out, k] where code[seen[tap, out], g] = i
    a question   of level l, a > t:  slope = (e(i₁) − e(i₀)) · σ'((a − t)/τ)/τ,   ∂L/∂a = slope,  ∂L/∂t = −slope
                 e(i) = Σ_tap Σ_k g[out, k]·T[k, tap·G + g, i], over all outputs that see the pixel; i₁, i₀ as in `lookup`
    the input    a is the mean of q[i] and q[j], or of q[i] and 255 − q[j]: ∂L/∂q[i] = slope/2,  ∂L/∂q[j] = ±slope/2

On a processor native/pixel_lookup.cpp does it; elsewhere PyTorch's operations.

Sources: those of `lookup` and of formats/pixel_lut.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import _native
from .lookup import walk
from .steps import LEVELS

ISA = _native.isas()[0]


@dataclass(frozen=True, slots=True)
class PixelLayer:
    """questions int32 (G, L, 2) as in formats/pixel_lut.py; seen int32 (taps, places): the pixel of a padded image that an output sees.

    step, zero: of the u8 input; tau: in its steps.
    """

    questions: Tensor
    seen: Tensor
    step: float
    zero: int
    tau: float


class PixelLookUp(torch.autograd.Function):
    """(x (n, c, pixels), thresholds (G, K − 1) in steps of the u8, entries (taps·G·K, k), layer) → sums (n, places, k)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, thresholds: Tensor, entries: Tensor, layer: PixelLayer) -> Tensor:
        ctx.native, ctx.layer = x.device.type == "cpu" and x.dtype == torch.float32, layer
        q = (x * (1 / layer.step)).add_(layer.zero).round_().clamp_(0, LEVELS).to(torch.uint8)
        codes, sums = (_native_forward if ctx.native else _forward)(q, thresholds, entries, layer)
        ctx.save_for_backward(q, thresholds, entries, codes)
        return sums

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        q, thresholds, entries, codes = ctx.saved_tensors
        step = _native_backward if ctx.native else _backward
        for_q, for_thresholds, for_entries = step(q, thresholds, entries, codes, grads[0].contiguous(), ctx.layer)
        return for_q.mul_(1 / ctx.layer.step), for_thresholds, for_entries, None


def _layer(q: Tensor, layer: PixelLayer) -> _native.PixelLookUpLayer:
    return _native.PixelLookUpLayer(layer.questions.contiguous(), layer.seen.contiguous(), q.shape[1], q.shape[2])


def _native_forward(q: Tensor, thresholds: Tensor, entries: Tensor, layer: PixelLayer) -> tuple[Tensor, Tensor]:
    """codes u16 (n, G, pixels), sums (n, places, k)."""
    pool, its = _native.Pool(torch.get_num_threads()), _layer(q, layer)
    codes = torch.empty(len(q), len(layer.questions), q.shape[2], dtype=torch.uint16)
    sums = torch.empty(len(q), layer.seen.shape[1], entries.shape[1])
    its.encode(pool, ISA, q.contiguous(), thresholds.contiguous(), codes)
    its.look_up(pool, ISA, codes, entries.contiguous(), sums)
    return codes, sums


def _native_backward(
    q: Tensor, thresholds: Tensor, entries: Tensor, codes: Tensor, grad: Tensor, layer: PixelLayer
) -> tuple[Tensor, Tensor, Tensor]:
    threads = torch.get_num_threads()
    pool, its = _native.Pool(threads), _layer(q, layer)
    for_q, for_thresholds, for_entries = torch.zeros(q.shape), torch.zeros(threads, *thresholds.shape), torch.zeros(threads, *entries.shape)
    its.slopes(pool, ISA, q, codes, thresholds.contiguous(), entries.contiguous(), grad, layer.tau, for_q, for_thresholds)
    its.spread(pool, ISA, codes, grad, for_entries)
    return for_q, for_thresholds.sum(0), for_entries.sum(0) if threads > 1 else for_entries[0]  # millions of floats, not copied


def _forward(q: Tensor, thresholds: Tensor, entries: Tensor, layer: PixelLayer) -> tuple[Tensor, Tensor]:
    """codes int64 (n, G, pixels), sums (n, places, k)."""
    codes = walk(_asked(q, layer.questions), thresholds.floor()).transpose(1, 2)
    groups, prototypes = thresholds.shape[0], thresholds.shape[1] + 1
    sums = torch.zeros(len(q) * layer.seen.shape[1], entries.shape[1], dtype=entries.dtype, device=q.device)
    for tap, seen in enumerate(layer.seen.long()):
        first = (torch.arange(groups, device=q.device) + tap * groups) * prototypes
        sums += F.embedding_bag((codes[:, :, seen] + first[:, None]).transpose(1, 2).reshape(-1, groups), entries, mode="sum")
    return codes, sums.view(len(q), -1, entries.shape[1])


def _backward(
    q: Tensor, thresholds: Tensor, entries: Tensor, codes: Tensor, grad: Tensor, layer: PixelLayer
) -> tuple[Tensor, Tensor, Tensor]:
    groups, prototypes = thresholds.shape[0], thresholds.shape[1] + 1
    asked, whole = _asked(q, layer.questions), thresholds.floor()
    for_entries, for_thresholds, for_q = torch.zeros_like(entries), torch.zeros_like(thresholds), torch.zeros_like(q, dtype=grad.dtype)
    flat = grad.reshape(-1, grad.shape[2])
    for g in range(groups):
        code, a = codes[:, g], asked[:, :, g : g + 1]
        others = (walk(a, whole[g : g + 1], _other(code, i)[..., None], i + 1)[..., 0] for i in range(a.shape[-1]))
        leaf = torch.stack([code, *others], 1)  # (n, 1 + L, pixels)
        each = torch.zeros(leaf.shape, dtype=grad.dtype, device=q.device)
        for tap, seen in enumerate(layer.seen.long()):
            table = entries[(tap * groups + g) * prototypes :][:prototypes]
            its = for_entries[(tap * groups + g) * prototypes :][:prototypes]
            its.index_add_(0, code[:, seen].flatten(), flat)
            each[:, :, seen] += (table[leaf[:, :, seen]] * grad[:, None]).sum(3)  # at one tap no two outputs see a pixel
        for i, (one, two) in enumerate(layer.questions[g].tolist()):
            node = (1 << i) - 1 + (code & ((1 << i) - 1))
            change = (each[:, 0] - each[:, 1 + i]) * ((code >> i & 1) * 2 - 1)
            soft = torch.sigmoid((a[:, :, 0, i] - thresholds[g][node]) / layer.tau)
            slope = change * soft * (1 - soft) / layer.tau
            for_thresholds[g].index_add_(0, node.flatten(), -slope.flatten())
            for_q[:, one] += slope / 2
            for_q[:, two if two >= 0 else -1 - two] += slope / (2 if two >= 0 else -2)
    return for_q, for_thresholds, for_entries


def _asked(q: Tensor, questions: Tensor) -> Tensor:
    """(n, pixels, G, L) int64."""
    x, (i, j) = q.long(), questions.long().flatten(0, 1).T
    second = x[:, torch.where(j < 0, -1 - j, j)]
    asked = (x[:, i] + torch.where((j < 0)[:, None], LEVELS - second, second) + 1) >> 1
    return asked.transpose(1, 2).reshape(len(q), -1, *questions.shape[:2])


def _other(code: Tensor, level: int) -> Tensor:
    """The answers up to `level`, that one the other way."""
    return (code & ((1 << level) - 1)) | (~code & (1 << level))
