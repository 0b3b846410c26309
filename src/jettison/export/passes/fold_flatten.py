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
from .rewrite import rebuilt, with_params


def fold_flatten(graph: Graph, formats: Mapping[str, Format]) -> Graph:
    made = {op.outputs[0]: op for op in graph.ops}
    tensors, constants, ops = dict(graph.tensors), dict(graph.constants), []
    for op in graph.ops:
        flat = made.get(op.inputs[0]) if op.kind == "linear" else None
        turn = made.get(flat.inputs[0]) if flat else None
        if flat is None or turn is None or (turn.kind, flat.kind) != ("transpose", "reshape") or len(tensors[flat.outputs[0]].shape) != 1:
            ops.append(op)
            continue
        weight = _permuted(graph.weight(op), tensors[turn.outputs[0]].shape, turn.attrs["perm"])
        if not formats.get(module_path(op), Dense()).satisfied(weight):
            ops.append(op)
            continue
        plain = f"{flat.name}.{op.name}"  # flattens for this layer alone: others may read the transposed one
        tensors[plain] = replace(tensors[flat.outputs[0]], name=plain)
        ops.append(Op(plain, "reshape", turn.inputs, (plain,), flat.attrs))
        ops.append(with_params(replace(op, inputs=(plain, *op.inputs[1:])), {"weight": weight}, constants))
    return rebuilt(replace(graph, tensors=tensors), ops, constants)


def _permuted(weight: np.ndarray, turned: tuple[int, ...], perm: tuple[int, ...]) -> np.ndarray:
    """Columns in the order of the image before the transpose that gave shape `turned`."""
    k = weight.shape[0]
    back = np.argsort(perm)
    return weight.reshape(k, *turned).transpose(0, *(back + 1)).reshape(k, 1, 1, -1)
