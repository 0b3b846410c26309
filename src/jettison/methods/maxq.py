"""MaxQ: N:M whose kept weights are scaled by how much they stand out in their filter and at their kernel position.

    Ŵ = m⊙W,  m = B⊙(1 + F + P);  ∂L/∂W = ∂L/∂Ŵ + λ·(1 − B)⊙W

with A = |W| and, for weights (k, c, r, s):

    B  block axis:   the N:M mask, except in the blocks that the ramp leaves dense, where it is 1
    F  filter axis:  over the n = c·r·s weights of one output channel,  q = n·(M − N)/M,
                     θ = mean of the q-th and the (q+1)-th smallest A;  F = σ((A − θ)/τ) where A ≥ θ, else 0
    P  kernel axis:  the same over the k·c weights at one kernel position; 0 where the kernel has only one

so a kept weight is multiplied by 1 to 3, which the BatchNorm behind it absorbs. With N = M nothing is pruned along any axis:
Ŵ = W. A Linear weight (k, c) has no kernel axis. The decay is added as in SR-STE, once per optimizer step.

**Ramp.** A share p of a layer's M-blocks stays dense, falling from 1 at epoch `start` to 0 at epoch `end`, x between them from 0 to 1:

    linear  1 − x        cubic  (1 − x)³        cos  cos(π·x/2)        exp  (e^{−5x} − e^{−5})/(1 − e^{−5})

As published the blocks with the least Σ A stay dense longest ("ascending"). The training loop says where it stands by
`Sparsifier.advance(epoch)`; end = 0, the default, means sparse from the first step. Ŵ becomes the constant weight in `finish()`.

Source: Xiang et al. 2024, "MaxQ: Multi-Axis Query for N:M Sparsity Network" (arXiv 2312.07061), sections 3.2 to 3.4; the
gradient and the ramp as in the authors' code.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import FormatError, TrainingError
from ..formats import NM, Format
from .mask import keep_mask
from .method import Parametrization, straight_through

EXP_RATE = 5.0
RAMPS: dict[str, Callable[[float], float]] = {
    "linear": lambda x: 1 - x,
    "cubic": lambda x: (1 - x) ** 3,
    "cos": lambda x: math.cos(math.pi * x / 2),
    "exp": lambda x: (math.exp(-EXP_RATE * x) - math.exp(-EXP_RATE)) / (1 - math.exp(-EXP_RATE)),
}
ORDERS: dict[str, Callable[[Tensor], Tensor]] = {  # L1 norms of the blocks → score; the lowest stay dense longest
    "ascending": lambda norm: norm,
    "descending": lambda norm: -norm,
    "random": lambda norm: torch.rand(norm.shape, generator=torch.Generator().manual_seed(0)).to(norm.device),
}


@dataclass(frozen=True, slots=True)
class MaxQ:
    """decay: λ, per optimizer step. temperature: τ. start, end: of the ramp, in epochs. Errors: TrainingError."""

    decay: float = 2e-4
    temperature: float = 0.01
    start: float = 0.0
    end: float = 0.0
    ramp: Literal["linear", "cubic", "cos", "exp"] = "linear"
    order: Literal["ascending", "descending", "random"] = "ascending"
    kind: ClassVar[str] = "maxq"

    def __post_init__(self) -> None:
        if not 0 <= self.decay < math.inf:
            raise TrainingError(f"MaxQ: decay must be a number >= 0, got {self.decay}")
        if not 0 < self.temperature < math.inf:
            raise TrainingError(f"MaxQ: temperature must be a number > 0, got {self.temperature}")
        if not 0 <= self.start <= self.end < math.inf:
            raise TrainingError(f"MaxQ: the ramp needs 0 <= start <= end, got {self.start} and {self.end}")
        for name, known in (("ramp", RAMPS), ("order", ORDERS)):
            if getattr(self, name) not in known:
                raise TrainingError(f"MaxQ: {name} must be one of {', '.join(known)}, got {getattr(self, name)!r}")

    @property
    def retrain(self) -> bool:
        return True

    def parametrization(self, weight: Tensor, fmt: Format) -> Parametrization:
        return MultiAxis(weight, fmt, self)

    def gradient_term(self, weight: Tensor, mask: Tensor) -> Tensor:
        return (weight * ~mask).mul_(self.decay)

    def dense_share(self, epoch: float) -> float:
        """p at `epoch`, counted from 0, parts of epochs included."""
        if epoch >= self.end:
            return 0.0
        if epoch <= self.start:
            return 1.0
        return RAMPS[self.ramp]((epoch - self.start) / (self.end - self.start))


class MultiAxis(Parametrization):
    """Ŵ = m⊙W with the straight-through gradient. The blocks left dense are a buffer, so a checkpoint carries them."""

    dense_blocks: Tensor | None

    def __init__(self, weight: Tensor, fmt: Format, method: MaxQ) -> None:
        super().__init__(fmt)
        if not isinstance(fmt, NM):
            raise FormatError(f"MaxQ prunes to N:M, not to {fmt}; use srste")
        self.method = method
        self.nm = fmt
        dense = torch.ones(weight.numel() // fmt.m, dtype=torch.bool, device=weight.device) if method.end > 0 else None
        self.register_buffer("dense_blocks", dense)
        self.ramping = dense is not None
        self.advance(weight, 0.0)

    @torch.no_grad()
    def advance(self, weight: Tensor, epoch: float) -> None:
        """Choose the round(p·G) of the G blocks that stay dense now; never more than before, also when training starts anew."""
        if self.dense_blocks is None:
            return
        count = min(round(self.method.dense_share(epoch) * len(self.dense_blocks)), int(self.dense_blocks.sum()))
        self.ramping = count > 0
        if self.ramping:
            norm = weight.movedim(1, -1).reshape(-1, self.nm.m).abs().sum(1)
            self.dense_blocks.copy_(lowest(ORDERS[self.method.order](norm), count))
        else:
            self.dense_blocks.zero_()

    def forward(self, weight: Tensor) -> Tensor:
        with torch.no_grad():
            self.used = self.mask(weight)
            pruned = self.soft_mask(weight, self.used).mul_(weight).to(weight.dtype)
        return straight_through(weight, pruned)

    def mask(self, weight: Tensor) -> Tensor:
        """B."""
        keep = keep_mask(weight, self.fmt)
        if self.dense_blocks is None or not self.ramping:
            return keep
        rows = keep.movedim(1, -1)
        return (rows | self.dense_blocks.repeat_interleave(self.nm.m).view(rows.shape)).movedim(-1, 1)

    def soft_mask(self, weight: Tensor, mask: Tensor) -> Tensor:
        """m = B⊙(1 + F + P), in float32 or wider. mask: B."""
        if self.nm.n == self.nm.m:
            return torch.ones_like(weight)
        a = weight.abs().to(torch.promote_types(weight.dtype, torch.float32))
        by_filter = (a if a.is_contiguous() else a.movedim(1, -1)).flatten(1)  # (k, n), in memory order: no copy
        m = self._gate(a, self._threshold(by_filter).view(-1, *(1,) * (a.dim() - 1))).add_(1)
        if a.dim() == 4 and a.shape[2] * a.shape[3] > 1:
            by_position = a.permute(2, 3, 0, 1).flatten(2)  # (r, s, k·c)
            m += self._gate(a, self._threshold(by_position))
        return m.mul_(mask)

    def _gate(self, a: Tensor, threshold: Tensor) -> Tensor:
        above = a - threshold
        above = nn.functional.threshold(above, -torch.finfo(above.dtype).tiny, -math.inf, inplace=True)  # σ(−∞) = 0
        return above.div_(self.method.temperature).sigmoid_()

    def _threshold(self, rows: Tensor) -> Tensor:
        """θ of each row of n: half-way between the last weight that N:M of the whole row would prune and the first it would keep."""
        select = select_numpy if rows.device.type == "cpu" else select_torch
        low, high = select(rows, rows.shape[-1] * (self.nm.m - self.nm.n) // self.nm.m)  # type: ignore[call-arg]
        return (low + high) / 2


@torch.compiler.disable
def select_numpy(rows: Tensor, q: int) -> tuple[Tensor, Tensor]:
    """The q-th and the (q + 1)-th smallest of each row, q ≥ 1; ten times as fast as kthvalue on a processor."""
    parts = np.partition(rows.numpy(), q - 1, axis=-1)
    return torch.from_numpy(parts[..., q - 1].copy()), torch.from_numpy(parts[..., q:].min(-1))


def select_torch(rows: Tensor, q: int) -> tuple[Tensor, Tensor]:
    return rows.kthvalue(q, dim=-1).values, rows.kthvalue(q + 1, dim=-1).values


def lowest(score: Tensor, count: int) -> Tensor:
    """Bool (G,): exactly the `count` ≥ 1 lowest of `score` (G,), the lowest index first on ties. By selection, without sorting."""
    last = score.kthvalue(count).values
    below, tied = score < last, score == last
    return below | tied & (tied.cumsum(0) <= count - below.sum())
