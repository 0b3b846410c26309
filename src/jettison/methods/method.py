"""The contract of every method that makes weights satisfy a format while a model trains.

A method is a frozen dataclass of its settings. For each selected layer it supplies a
*parametrization*: a module that maps the trained weight W to the weight Ŵ the layer computes
with, so `model.state_dict()`, shared weights, `torch.compile` and DistributedDataParallel work
as in any PyTorch model. What has to be added to the gradient besides back-propagation
is returned by `gradient_term` and added once per optimizer step by `Sparsifier.step`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from ..formats import Format


class Parametrization(nn.Module, ABC):
    """W → Ŵ, where Ŵ satisfies `fmt`. Subclasses define `forward(weight)` and `mask(weight)`.

    used: the mask of the last forward pass, where forward computes one; `Sparsifier.step` need not compute it again.
    """

    used: Tensor | None = None

    def __init__(self, fmt: Format) -> None:
        super().__init__()
        self.fmt = fmt

    @abstractmethod
    def mask(self, weight: Tensor) -> Tensor:
        """Bool, shaped like `weight`: True where Ŵ keeps the weight."""

    def advance(self, weight: Tensor, epoch: float) -> None:
        """Training has come to `epoch`, counted from 0, parts of epochs included. For methods with a schedule."""


@runtime_checkable
class Method(Protocol):
    """`kind` is the name in `METHODS`; `retrain` is False when nothing is left to train (one-shot)."""

    kind: ClassVar[str]

    @property
    def retrain(self) -> bool: ...

    def parametrization(self, weight: Tensor, fmt: Format) -> Parametrization:
        """The module that prunes this layer's weight in every forward pass."""
        ...

    def gradient_term(self, weight: Tensor, mask: Tensor) -> Tensor | None:
        """What to add to ∂L/∂W once per optimizer step, outside autograd; None for nothing."""
        ...


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, pruned: Tensor) -> Tensor:
        return pruned.view_as(pruned)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0], None


def straight_through(weight: Tensor, pruned: Tensor) -> Tensor:
    """Ŵ in the forward pass, bit for bit; ∂L/∂W = ∂L/∂Ŵ in the backward pass (Bengio et al. 2013, arXiv 1308.3432)."""
    return _StraightThrough.apply(weight, pruned)  # type: ignore[return-value]
