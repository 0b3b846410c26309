"""SR-STE: STE whose pruned weights are pulled towards zero, so that the mask settles.

    Ŵ = E(W)⊙W;  ∂L/∂W = ∂L/∂Ŵ + λ·(1 − E(W))⊙W

The second term is added once per optimizer step, after gradient averaging and unscaling
(`Sparsifier.step`). Inside autograd, where the authors' code has it, λ would grow with the
number of processes, of accumulated batches and of modules that share the weight, and vanish under loss
scaling. Ordinary weight decay applies on top.

Source: Zhou et al. 2021 (arXiv 2102.04010), section 3.3, equation 9; λ = 2e-4 is theirs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ..errors import TrainingError
from ..formats import Format
from .method import Parametrization
from .ste import FollowingMask


@dataclass(frozen=True, slots=True)
class SRSTE:
    """decay: λ, per optimizer step, relative to the gradient of the loss."""

    decay: float = 2e-4
    kind: ClassVar[str] = "srste"

    def __post_init__(self) -> None:
        if not 0 <= self.decay < float("inf"):
            raise TrainingError(f"SRSTE: decay must be a number >= 0, got {self.decay}")

    @property
    def retrain(self) -> bool:
        return True

    def parametrization(self, weight: Tensor, fmt: Format) -> Parametrization:
        return FollowingMask(fmt)

    def gradient_term(self, weight: Tensor, mask: Tensor) -> Tensor:
        return (weight * ~mask).mul_(self.decay)
