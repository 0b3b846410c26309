"""One ATen call as its function sees it: arguments by schema name, results by shape."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..builder import Builder, Shape, Value


@dataclass(frozen=True)
class Call:
    """args: by the names of the ATen schema, defaults filled in; a tensor is a Value (computed from the
    input) or a torch.Tensor (constant). shapes: of each result, per sample."""

    op: str
    args: Mapping[str, Any]
    shapes: tuple[Shape, ...]
    builder: Builder

    def __getitem__(self, name: str) -> Any:
        return self.args[name]

    @property
    def shape(self) -> Shape:
        return self.shapes[0]

    def value(self, name: str) -> Value:
        """An argument that must be computed from the input."""
        return as_value(self.builder, self.op, self.args[name])

    def constant(self, name: str) -> np.ndarray | None:
        """A float32 argument that must not depend on the input, or None."""
        given = self.args[name]
        if given is None:
            return None
        if not isinstance(given, torch.Tensor):
            raise self.builder.fail(f"{self.op}: {name} is computed from the input; only constants are supported there")
        return given.float().numpy()

    def pair(self, name: str) -> tuple[int, int]:
        """(rows, columns) from one or two numbers."""
        given = self.args[name]
        given = [given] if isinstance(given, int) else list(given)
        return (given[0], given[-1])

    def axis(self, name: str) -> int:
        """A dimension as per-sample axis."""
        return as_axis(self.builder, self.op, self.args[name], len(self.builder.shape(self.value_of_axes())))

    def value_of_axes(self) -> Value:
        return self.value("self" if "self" in self.args else "input")


def as_value(b: Builder, op: str, given: Any) -> Value:
    if not isinstance(given, Value):
        raise b.fail(f"{op}: needs a tensor computed from the input, got a constant; compute the result once and keep it as a buffer")
    return given


def as_axis(b: Builder, op: str, dim: int, rank: int) -> int:
    """Dimension `dim` of a tensor with batch and `rank` more axes, the batch not counted."""
    axis = dim % (rank + 1) - 1
    if axis < 0:
        raise b.fail(f"{op}: works along the batch axis, which must stay as it is")
    return axis


Function = Callable[[Builder, Call], Any]
