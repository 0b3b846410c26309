"""ASP: prune a trained network once, then retrain the weights that are left.

    Ŵ = E⊙W with E fixed at the start;  ∂L/∂W = E⊙∂L/∂Ŵ

`ASP(retrain=False)` is one-shot pruning: the weights are pruned at once and stay plain parameters.

Source: Mishra et al. 2021, "Accelerating sparse deep neural networks" (arXiv 2104.08378), section 5;
the ASP baseline of Zhou et al. 2021 (arXiv 2102.04010).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ..formats import Format
from .mask import keep_mask
from .method import Parametrization


@dataclass(frozen=True, slots=True)
class ASP:
    """retrain: keep training the remaining weights under the fixed mask."""

    retrain: bool = True
    kind: ClassVar[str] = "asp"

    def parametrization(self, weight: Tensor, fmt: Format) -> Parametrization:
        return FixedMask(weight, fmt)

    def gradient_term(self, weight: Tensor, mask: Tensor) -> None:
        return None


class FixedMask(Parametrization):
    """Ŵ = E⊙W. E is a buffer, so a checkpoint carries it."""

    keep: Tensor

    def __init__(self, weight: Tensor, fmt: Format) -> None:
        super().__init__(fmt)
        self.register_buffer("keep", keep_mask(weight, fmt))

    def forward(self, weight: Tensor) -> Tensor:
        return weight * self.keep

    def mask(self, weight: Tensor) -> Tensor:
        return self.keep
