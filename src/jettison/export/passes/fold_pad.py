"""Explicit padding of rows and columns becomes padding of the op that reads it.

A convolution and an average pooling take zeros (which the pooling then counts), a max pooling the lowest float32.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ...graph import Graph, Op
from .rewrite import rebuilt

LOWEST = float(np.finfo(np.float32).min)


def fold_pad(graph: Graph) -> Graph:
    pads = {op.outputs[0]: op for op in graph.ops if op.kind == "pad"}
    return rebuilt(graph, [_folded(pads[op.inputs[0]], op) if op.inputs[0] in pads else op for op in graph.ops], graph.constants)


def _folded(pad: Op, op: Op) -> Op:
    pairs = pad.attrs["pads"]
    if len(pairs) != 3 or any(pairs[2]) or pad.attrs["value"] != {"conv": 0.0, "avg_pool": 0.0, "max_pool": LOWEST}.get(op.kind):
        return op
    (top, bottom), (left, right), _ = pairs
    grown = tuple(a + b for a, b in zip(op.attrs["pad"], (top, left, bottom, right)))
    attrs = {**op.attrs, "pad": grown}
    if op.kind != "conv" and any(g >= k for g, k in zip(grown, op.attrs["kernel"] * 2)):
        return op
    if op.kind == "avg_pool":
        attrs["count_pad"] = tuple(a + b for a, b in zip(op.attrs["count_pad"], (top, left, bottom, right)))
    return replace(op, inputs=(pad.inputs[0], *op.inputs[1:]), attrs=attrs)
