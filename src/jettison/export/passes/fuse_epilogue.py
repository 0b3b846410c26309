"""A residual addition or an activation becomes part of the op before it, while its result is still in registers.

conv, linear:                  y = act(W x + b + residual)
add, mul, affine, conv, linear: an activation that follows
"""

from __future__ import annotations

from dataclasses import replace

from ...graph import Graph, Op
from ...spec import KINDS, WEIGHTED
from .rewrite import Constants, fuse_pairs


def fuse_epilogue(graph: Graph) -> Graph:
    return fuse_pairs(graph, _fuse)


def _fuse(graph: Graph, op: Op, reader: Op, i: int, constants: Constants) -> Op | None:
    if op.attrs.get("act") != "none" or "act" not in KINDS[op.kind].attrs:
        return None
    if reader.kind == "act":
        return replace(op, outputs=reader.outputs, attrs={**op.attrs, "act": reader.attrs["act"], "alpha": reader.attrs["alpha"]})
    if reader.kind == "add" and op.kind in WEIGHTED and len(op.inputs) == 1:
        residual = reader.inputs[1 - i]
        if graph.tensors[residual].shape != graph.tensors[op.outputs[0]].shape or residual == op.outputs[0]:
            return None
        attrs = {**op.attrs, "act": reader.attrs["act"], "alpha": reader.attrs["alpha"]}
        return replace(op, inputs=(*op.inputs, residual), outputs=reader.outputs, attrs=attrs)
    return None
