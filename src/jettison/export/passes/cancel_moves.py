"""Moves of data that undo or continue each other become one or none.

transpose · transpose and reshape · reshape are one; a transpose or reshape that changes nothing, and an
activation that is none, are dropped.
"""

from __future__ import annotations

from dataclasses import replace

from ...graph import Graph, Op
from .rewrite import Constants, fuse_pairs, rebuilt


def cancel_moves(graph: Graph) -> Graph:
    return _without_idle(fuse_pairs(graph, _merge))


def _merge(graph: Graph, op: Op, reader: Op, i: int, constants: Constants) -> Op | None:
    if op.kind != reader.kind:
        return None
    if op.kind == "reshape":
        return replace(reader, inputs=op.inputs)
    if op.kind == "transpose":
        return replace(reader, inputs=op.inputs, attrs={"perm": tuple(op.attrs["perm"][p] for p in reader.attrs["perm"])})
    return None


def _idle(graph: Graph, op: Op) -> bool:
    if op.kind == "transpose":
        return list(op.attrs["perm"]) == sorted(op.attrs["perm"])
    if op.kind == "reshape":
        return graph.tensors[op.inputs[0]].shape == graph.tensors[op.outputs[0]].shape
    return op.kind == "act" and op.attrs["act"] == "none"


def _without_idle(graph: Graph) -> Graph:
    """Readers of an idle op read its input; one that makes a graph output stays."""
    instead: dict[str, str] = {}
    ops = []
    for op in graph.ops:
        op = replace(op, inputs=tuple(instead.get(name, name) for name in op.inputs))
        if _idle(graph, op) and op.outputs[0] not in graph.outputs:
            instead[op.outputs[0]] = op.inputs[0]
        else:
            ops.append(op)
    return rebuilt(graph, ops, graph.constants)
