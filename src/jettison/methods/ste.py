"""STE: the mask follows the weights, and pruned weights keep learning.

    Ŵ = E(W)⊙W;  ∂L/∂W = ∂L/∂Ŵ

E(W) keeps the N largest |w| of each group and is computed afresh in every forward pass. A
pruned weight whose gradient makes it grow comes back.

Source: Zhou et al. 2021 (arXiv 2102.04010), section 3.1, equation 5.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..formats import Format
from .mask import keep_mask
from .method import Parametrization, straight_through


@dataclass(frozen=True, slots=True)
class STE:
    kind: ClassVar[str] = "ste"

    @property
    def retrain(self) -> bool:
        return True

    def parametrization(self, weight: Tensor, fmt: Format) -> Parametrization:
        return FollowingMask(fmt)

    def gradient_term(self, weight: Tensor, mask: Tensor) -> None:
        return None


class FollowingMask(Parametrization):
    """Ŵ = E(W)⊙W with the straight-through gradient."""

    def forward(self, weight: Tensor) -> Tensor:
        with torch.no_grad():
            self.used = self.mask(weight)
            pruned = weight * self.used
        return straight_through(weight, pruned)

    def mask(self, weight: Tensor) -> Tensor:
        return keep_mask(weight, self.fmt)
