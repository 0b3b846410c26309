"""Weights move into the format that their layer was trained for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from ...errors import FormatError
from ...formats import Dense, Format
from ...graph import Graph, Op
from ...spec import WEIGHTED


def encode_weights(graph: Graph, formats: Mapping[str, Format]) -> Graph:
    """Encode the weight of every layer named in `formats`.

    Errors: FormatError on a name that is no layer, and on weights that do not satisfy the format.
    """
    layers = {module_path(op) for op in graph.ops if "weight" in op.params and op.kind in WEIGHTED}
    unknown = sorted(set(formats) - layers)
    if unknown:
        raise FormatError(f"formats name {unknown}, but the network's conv and linear layers are: {', '.join(sorted(layers))}")
    constants: dict[str, np.ndarray] = dict(graph.constants)
    ops = [_encoded(graph, op, formats.get(module_path(op), Dense()), constants) for op in graph.ops]
    used = {name for op in ops for name in op.params.values()}
    parts = {name: c for name, c in constants.items() if name not in graph.constants}
    return replace(graph, ops=tuple(ops), constants={k: v for k, v in constants.items() if k in used} | parts)


def module_path(op: Op) -> str:
    """The module an op comes from: a module that is called twice gives "conv" and "conv#2"."""
    return op.name.partition("#")[0]


def _encoded(graph: Graph, op: Op, fmt: Format, constants: dict[str, np.ndarray]) -> Op:
    if op.kind not in WEIGHTED or isinstance(fmt, Dense):
        return op
    base = op.params["weight"]
    constants.update({f"{base}.{part}": array for part, array in fmt.encode(graph.weight(op), op.name).items()})
    del constants[base]
    return replace(op, format=fmt)
