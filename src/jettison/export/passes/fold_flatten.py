"""Flattening an image in PyTorch's order (c, h, w) before a linear layer: permute the weights once, not the image each time.

    transpose · reshape · linear(W)  =  reshape · linear(W with its input columns permuted)

The pattern of N:M weights lies along PyTorch's order; where the permuted weights no longer satisfy their
format, the layer keeps its transpose.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from ...formats import Dense, Format
from ...graph import Graph, Op
from .encode_weights import module_path
from .rewrite import reads, rebuilt, with_params


def fold_flatten(graph: Graph, formats: Mapping[str, Format]) -> Graph:
    count = reads(graph)
    made = {op.outputs[0]: op for op in graph.ops}
    constants = dict(graph.constants)
    instead: dict[str, Op] = {}
    for op in graph.ops:
        flat = made.get(op.inputs[0])
        turn = made.get(flat.inputs[0]) if flat else None
        if flat is None or turn is None or (turn.kind, flat.kind, op.kind) != ("transpose", "reshape", "linear"):
            continue
        if len(flat.attrs["shape"]) != 1 or count[flat.outputs[0]] != 1:
            continue
        weight = _permuted(graph.weight(op), graph.tensors[turn.outputs[0]].shape, turn.attrs["perm"])
        if formats.get(module_path(op), Dense()).satisfied(weight):
            instead[flat.name] = replace(flat, inputs=turn.inputs)
            instead[op.name] = with_params(op, {"weight": weight}, constants)
    return rebuilt(graph, [instead.get(op.name, op) for op in graph.ops], constants)


def _permuted(weight: np.ndarray, turned: tuple[int, ...], perm: tuple[int, ...]) -> np.ndarray:
    """Columns in the order of the image before the transpose that gave shape `turned`."""
    k = weight.shape[0]
    back = np.argsort(perm)
    return weight.reshape(k, *turned).transpose(0, *(back + 1)).reshape(k, 1, 1, -1)
