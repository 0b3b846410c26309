"""Builds a Graph op by op, and knows in which order the axes of each PyTorch tensor are stored.

PyTorch sees an image as (c, h, w); the graph stores it as (h, w, c). A `Value` is a stored tensor
with the PyTorch axes laid over it, so permuting costs nothing until some op needs another order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from .. import spec
from ..errors import ExportError, GraphError
from ..graph import Graph, Op, TensorSpec

Shape = tuple[int, ...]

IMAGE = (2, 0, 1)  # PyTorch's c, h, w are stored axes 2, 0, 1

MOVES = ("concat", "pad", "reshape", "slice", "transpose")  # never what a module is there for


@dataclass(frozen=True, slots=True)
class Value:
    """A tensor per sample: axis i of PyTorch's view of it (the batch left out) is stored axis `axes[i]`."""

    name: str
    axes: tuple[int, ...]


class Builder:
    """Collects ops. `path` and `where` say which module the next ops belong to."""

    def __init__(self) -> None:
        self.ops: list[Op] = []
        self.tensors: dict[str, TensorSpec] = {}
        self.constants: dict[str, np.ndarray] = {}
        self.expanded: dict[str, Value] = {}  # results of expand -> what was expanded; broadcasting ops take that
        self.path = ""
        self.is_leaf = False
        self.where = ""

    def input(self, name: str, shape: Shape) -> Value:
        """A graph input; PyTorch shape (c, h, w) is stored as an image, any other as it is."""
        image = len(shape) == 3
        self.tensors[name] = TensorSpec(name, (*shape[1:], shape[0]) if image else shape)
        return Value(name, IMAGE if image else tuple(range(len(shape))))

    def stored(self, v: Value) -> Shape:
        return self.tensors[v.name].shape

    def shape(self, v: Value) -> Shape:
        """The shape as PyTorch sees it, per sample."""
        return tuple(self.stored(v)[a] for a in v.axes)

    def fail(self, what: str) -> ExportError:
        return ExportError(f"{self.where}: {what}")

    def add(self, kind: str, inputs: Sequence[str], attrs: Mapping[str, Any], params: Mapping[str, np.ndarray] | None = None) -> str:
        """Append an op named after the module it stands in; returns the name of its output tensor."""
        name = self._name(kind)
        try:
            shape = spec.output_shape(kind, [self.tensors[i].shape for i in inputs], attrs, name)
        except GraphError as e:
            raise ExportError(f"{self.where}: {e}") from None
        for role, array in (params or {}).items():
            self.constants[f"{name}.{role}"] = np.ascontiguousarray(array, np.float32)
        self.ops.append(Op(name, kind, tuple(inputs), (name,), dict(attrs), {role: f"{name}.{role}" for role in params or {}}))
        self.tensors[name] = TensorSpec(name, shape)
        return name

    def _name(self, kind: str) -> str:
        """The module's path if it does one thing, else path.kind; "#2", "#3" where that is taken."""
        whole = self.is_leaf and self.path and kind not in MOVES
        base = self.path if whole else f"{self.path}.{kind}".lstrip(".")
        name, count = base, 1
        while name in self.tensors:
            count += 1
            name = f"{base}#{count}"
        return name

    def reshape(self, name: str, shape: Sequence[int]) -> str:
        """Other stored sizes, same order of elements; nothing if they are the same."""
        if self.tensors[name].shape == tuple(shape):
            return name
        return self.add("reshape", [name], {"shape": tuple(shape)})

    def arrange(self, v: Value, axes: tuple[int, ...]) -> str:
        """Name of a tensor that holds `v` stored in the order `axes`; moves data only if it must."""
        shape = self.shape(v)
        order = sorted(range(len(axes)), key=lambda a: axes[a])  # PyTorch axis at each stored position
        long = [a for a in order if shape[a] > 1]
        if [v.axes[a] for a in long] == sorted(v.axes[a] for a in long):
            return self.reshape(v.name, [shape[a] for a in order])
        return self.add("transpose", [v.name], {"perm": tuple(v.axes[a] for a in order)})

    def image(self, v: Value) -> str:
        """Name of a tensor that holds `v` as (h, w, c)."""
        if len(v.axes) != 3:
            raise self.fail(f"needs an image (n, c, h, w), got {len(v.axes) + 1} axes")
        return self.arrange(v, IMAGE)

    def innermost(self, v: Value, axis: int) -> Value:
        """`v` stored so that PyTorch's `axis` comes last."""
        if v.axes[axis] == len(v.axes) - 1:
            return v
        rest = sorted((a for a in range(len(v.axes)) if a != axis), key=lambda a: v.axes[a])
        axes = tuple(len(rest) if a == axis else rest.index(a) for a in range(len(v.axes)))
        return Value(self.arrange(v, axes), axes)

    def view(self, v: Value, shape: Shape) -> Value:
        """Reshape as PyTorch means it (row-major over PyTorch's axes).

        Axes split and merge in groups of equal size, e.g. (c, h, w) -> (g, c/g, h, w) is c -> g, c/g. Groups
        stay where they are stored; data moves only if the axes merged in one group do not lie side by side.
        """
        shape = shape or (1,)
        groups = sorted(_groups(self.shape(v), shape), key=lambda g: max(v.axes[a] for a in g[0]))
        wanted = [v.axes[a] for old, _ in groups for a in old]
        name = v.name
        if wanted != sorted(wanted):
            rest = [a for a in range(len(v.axes)) if a not in wanted]
            name = self.add("transpose", [name], {"perm": (*rest, *wanted)})
        order = [a for a, d in enumerate(shape) if d == 1] + [a for _, new in groups for a in new]
        return Value(self.reshape(name, [shape[a] for a in order]), tuple(order.index(a) for a in range(len(shape))))

    def graph(self, inputs: Sequence[Value], outputs: Sequence[Value]) -> Graph:
        """The finished graph, checked."""
        layouts = {v.name: "nchw" if v.axes == IMAGE else "plain" for v in inputs}
        names = []
        for v in outputs:
            layout = "plain" if v.axes == tuple(range(len(v.axes))) else "nchw" if v.axes == IMAGE else None
            if layout is None or layouts.get(v.name, layout) != layout:
                layout = "nchw" if len(v.axes) == 3 and v.axes != IMAGE else "plain"
                v = Value(self.arrange(v, IMAGE if layout == "nchw" else tuple(range(len(v.axes)))), ())
            layouts[v.name] = layout
            names.append(v.name)
        return spec.check(Graph(tuple(self.ops), self.tensors, tuple(v.name for v in inputs), tuple(names), self.constants, layouts))


def _groups(old: Shape, new: Shape) -> list[tuple[list[int], list[int]]]:
    """Smallest runs of axes (sizes 1 left out) that hold the same elements before and after."""
    left, right = ([a for a, d in enumerate(shape) if d > 1] for shape in (old, new))
    groups = []
    while left:
        a, b = [left.pop(0)], [right.pop(0)]
        while (before := prod(old[i] for i in a)) != (after := prod(new[i] for i in b)):
            if before < after:
                a.append(left.pop(0))
            else:
                b.append(right.pop(0))
        groups.append((a, b))
    return groups
