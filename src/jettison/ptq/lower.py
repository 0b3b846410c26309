"""A prepared float32 graph and what its tensors hold → the int8 graph.

A tensor that both float32 and int8 ops read exists in both forms; the conversion between them is made once.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

import numpy as np

from ..graph import Graph, Op, TensorSpec
from ..quantized import act_table
from ..spec import WEIGHTED
from .calibrate import Observed
from .placement import gives_u8, moves, observed_tensors, readers_of
from .ranges import RANGES, scale_zero
from .weights import integers

Scales = Mapping[str, tuple[float, int]]


def lower(graph: Graph, floats: Collection[str], seen: Mapping[str, Observed], ranges: str, bias_correction: bool) -> Graph:
    """floats: names of the ops that stay float32. seen: of every one of `placement.observed_tensors`."""
    writer = _Writer(graph, scales(graph, floats, seen, ranges))
    readers = readers_of(graph)
    for op in graph.ops:
        if op.name in floats:
            writer.keep(op)
        else:
            mean = seen[op.inputs[0]].mean if bias_correction and op.kind in WEIGHTED and op.inputs[0] in seen else None
            writer.quantize(op, gives_u8(graph, op, floats, readers), mean)
    for name in graph.outputs:
        writer.as_f32(name)
    return replace(graph, ops=tuple(writer.ops), tensors=writer.tensors, constants=writer.constants)


def scales(graph: Graph, floats: Collection[str], seen: Mapping[str, Observed], ranges: str) -> dict[str, tuple[float, int]]:
    """(scale, zero) of every tensor that appears as u8.

    What only moves keeps its input's. What only one concatenation reads takes the scale of its result, so that
    concatenating is copying.
    """
    found = {name: scale_zero(*RANGES[ranges].choose(seen[name])) for name in observed_tensors(graph, floats)}
    readers = readers_of(graph)
    copied = {op.outputs[0] for op in graph.ops if moves(op)}
    for op in reversed(graph.ops):
        if op.kind == "concat" and op.name not in floats:
            for name in op.inputs:
                if len(readers[name]) == 1 and name not in copied and name not in graph.outputs:
                    found[name] = found[op.outputs[0]]
    for op in graph.ops:
        if moves(op) and op.name not in floats:
            found[op.outputs[0]] = found[op.inputs[0]]
    return found


class _Writer:
    """The int8 graph as it grows. A tensor keeps its name in the form that its op gives, a graph output its name in f32."""

    def __init__(self, graph: Graph, found: Scales) -> None:
        self.graph, self.found = graph, found
        self.ops: list[Op] = []
        self.tensors: dict[str, TensorSpec] = {name: graph.tensors[name] for name in graph.inputs}
        self.constants: dict[str, np.ndarray] = {}
        self.f32 = {name: name for name in graph.inputs}  # tensor of the float32 graph → its name as f32 here
        self.u8: dict[str, str] = {}  # … and as u8

    def keep(self, op: Op) -> None:
        """The op as it is, on float32."""
        parts = [f"{op.params['weight']}.{part}" for part in self.graph.weight_parts(op)] if op.kind in WEIGHTED else []
        names = [name for name in (*op.params.values(), *parts) if name in self.graph.constants]
        self.constants.update({name: self.graph.constants[name] for name in names})
        out = op.outputs[0]
        self.ops.append(replace(op, inputs=tuple(self.as_f32(name) for name in op.inputs)))
        self.tensors[out] = self.graph.tensors[out]
        self.f32[out] = out

    def quantize(self, op: Op, gives_u8: bool, mean: np.ndarray | None) -> None:
        """The op on u8, giving u8 or float32. mean: of its input, for bias correction."""
        inputs = tuple(self.as_u8(name) for name in op.inputs)
        y = self._tensor(op.outputs[0], "u8" if gives_u8 else "f32")
        made = replace(op, inputs=inputs, outputs=(y.name,), params={})
        x = self.tensors[inputs[0]]
        if op.kind in WEIGHTED:
            made = self._weighted(op, made, x, y, mean)
        elif op.kind == "act":
            table = self._constant(f"{op.name}.table", act_table(op.attrs["act"], op.attrs["alpha"], x, y))
            made = replace(made, params={"table": table})
        self.ops.append(made)

    def _weighted(self, op: Op, made: Op, x: TensorSpec, y: TensorSpec, mean: np.ndarray | None) -> Op:
        n = integers(self.graph, op, x, y, mean)
        base = f"{op.name}.weight"
        parts = op.format.encode(n.weight, op.name)
        dense = op.format.kind == "dense"
        for part, array in parts.items():
            self._constant(base if dense else f"{base}.{part}", array)
        roles = {"bias": n.bias, "multiplier": n.multiplier}
        params = {"weight": base, **{role: self._constant(f"{op.name}.{role}", array) for role, array in roles.items()}}
        return replace(made, params=params, element="i8")

    def as_u8(self, name: str) -> str:
        if name not in self.u8:
            source = self.f32[name]
            made = self._tensor(name, "u8").name
            self.ops.append(Op(f"{name}/quantize", "quantize", (source,), (made,)))
        return self.u8[name]

    def as_f32(self, name: str) -> str:
        if name not in self.f32:
            source = self.u8[name]
            made = self._tensor(name, "f32").name
            self.ops.append(Op(f"{name}/dequantize", "dequantize", (source,), (made,)))
        return self.f32[name]

    def _tensor(self, name: str, dtype: str) -> TensorSpec:
        """Declare this form of a tensor."""
        shape = self.graph.tensors[name].shape
        taken = name in self.tensors or (dtype == "u8" and name in self.graph.outputs)
        called = f"{name}/{dtype}" if taken else name
        scale, zero = self.found[name] if dtype == "u8" else (1.0, 0)
        self.tensors[called] = TensorSpec(called, shape, dtype, scale, zero)
        (self.u8 if dtype == "u8" else self.f32)[name] = called
        return self.tensors[called]

    def _constant(self, name: str, array: np.ndarray) -> str:
        self.constants[name] = array
        return name
