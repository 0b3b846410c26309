"""Which ops compute in float32, and which tensors need a range.

An op stays float32 if it has no int8 form, if the user keeps it, or if it only moves numbers (or activates them)
for readers that are all float32. Everything else is int8. A convolution or linear layer whose readers are all float32
gives float32 directly.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from ..graph import Graph, Op
from ..spec import KINDS, WEIGHTED


def place(graph: Graph, keep_float: Collection[str] = ()) -> frozenset[str]:
    """Names of the ops that compute in float32."""
    readers = readers_of(graph)
    floats: set[str] = set()
    for op in reversed(graph.ops):
        follows = moves(op) or op.kind == "act"
        if op.name in keep_float or not has_int8(op) or (follows and all(r.name in floats for r in readers[op.outputs[0]])):
            floats.add(op.name)
    return frozenset(floats)


def has_int8(op: Op) -> bool:
    if op.kind == "upsample":
        return op.attrs["mode"] == "nearest"
    if op.kind == "pad":
        return op.attrs["value"] == 0.0  # any other might lie outside the range
    return bool(KINDS[op.kind].quantized)


def moves(op: Op) -> bool:
    """True for kinds whose int8 output has the scale of the input."""
    return "same" in KINDS[op.kind].quantized


def readers_of(graph: Graph) -> Mapping[str, list[Op]]:
    """The ops that read each tensor."""
    readers: dict[str, list[Op]] = {name: [] for name in graph.tensors}
    for op in graph.ops:
        for name in op.inputs:
            readers[name].append(op)
    return readers


def gives_u8(graph: Graph, op: Op, floats: Collection[str], readers: Mapping[str, list[Op]]) -> bool:
    """Whether an op's result is u8 as it leaves the op."""
    if op.name in floats:
        return False
    return op.kind not in WEIGHTED or any(r.name not in floats for r in readers[op.outputs[0]])


def observed_tensors(graph: Graph, floats: Collection[str]) -> list[str]:
    """Tensors that appear as u8 with a range of their own, in the order in which they are computed."""
    readers = readers_of(graph)
    inherited = {op.outputs[0] for op in graph.ops if moves(op) and op.name not in floats}
    given = {op.outputs[0] for op in graph.ops if gives_u8(graph, op, floats, readers)}
    read = {name for op in graph.ops if op.name not in floats for name in op.inputs}
    order = [*graph.inputs, *(op.outputs[0] for op in graph.ops)]
    return [name for name in order if name in (given | read) - inherited]
