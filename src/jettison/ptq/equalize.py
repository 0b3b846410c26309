"""Cross-layer equalisation: neighbouring layers share out the ranges of the channels between them.

    y = W2 f(W1 x + b1)  =  (W2 S) f(S⁻¹ W1 x + S⁻¹ b1)      for f with f(s·v) = s·f(v), s > 0: none, ReLU
    S = diag(s),  s[i] = √(r1[i] / r2[i]),  r1[i], r2[i]: largest |weight| of channel i in W1's outputs, W2's inputs

After it both layers have the same range √(r1·r2) in channel i. For depthwise networks, whose channels differ much
in range. ReLU6 is replaced by ReLU in the layers it touches, as the source does: that is an approximation.

Source: Nagel et al. 2019 (arXiv 1906.04721), section 4.1, equations 7 to 11.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..graph import Graph, Op
from ..spec import WEIGHTED
from .placement import readers_of

ROUNDS = 40
CLOSE = 1e-3  # largest |s − 1| of a round that ends it

Weights = dict[str, dict[str, np.ndarray]]  # op name → role → float64


def equalized(graph: Graph) -> Graph:
    """Zeros stay zeros, so weights stay in their format."""
    pairs = _pairs(graph)
    weights = {op.name: _arrays(graph, op) for pair in pairs for op in pair}
    for _ in range(ROUNDS):
        if max((_equalize(weights, first, second) for first, second in pairs), default=0.0) < CLOSE:
            break
    constants = dict(graph.constants)
    for op in {op.name: op for pair in pairs for op in pair}.values():
        constants.update(_encoded(op, weights[op.name]))
    softened = {first.name for first, _ in pairs if first.attrs["act"] == "relu6"}
    ops = tuple(replace(op, attrs={**op.attrs, "act": "relu"}) if op.name in softened else op for op in graph.ops)
    return replace(graph, ops=ops, constants=constants)


def _pairs(graph: Graph) -> list[tuple[Op, Op]]:
    """(layer, the one layer that reads it), with nothing between them but a scale-preserving activation."""
    readers = readers_of(graph)
    found = []
    for op in graph.ops:
        after = readers[op.outputs[0]]
        alone = op.kind in WEIGHTED and len(op.inputs) == 1 and len(after) == 1 and op.outputs[0] not in graph.outputs
        if alone and op.attrs["act"] in ("none", "relu", "relu6") and after[0].kind in WEIGHTED and after[0].inputs[0] == op.outputs[0]:
            found.append((op, after[0]))
    return found


def _arrays(graph: Graph, op: Op) -> dict[str, np.ndarray]:
    bias = {"bias": graph.constants[op.params["bias"]].astype(np.float64)} if "bias" in op.params else {}
    return {"weight": graph.weight(op).astype(np.float64), **bias}


def _equalize(weights: Weights, first: Op, second: Op) -> float:
    """One pair; returns the largest |s − 1|."""
    w1, w2 = weights[first.name], weights[second.name]
    by_input = _by_input(w2["weight"], second)
    r1, r2 = np.abs(w1["weight"]).max(axis=(1, 2, 3)), np.abs(by_input).max(axis=(1, 2, 3))
    s = np.sqrt(np.divide(r1, r2, out=np.ones_like(r1), where=(r1 > 0) & (r2 > 0)))
    for array in w1.values():
        array /= s.reshape(-1, *(1,) * (array.ndim - 1))
    by_input *= s[:, None, None, None]
    w2["weight"] = _by_output(by_input, second, w2["weight"].shape)
    return float(np.abs(s - 1).max())


def _by_input(w: np.ndarray, op: Op) -> np.ndarray:
    """(k, r, s, c / groups) as (input channel, outputs of its group, r, s)."""
    k, r, s, c = w.shape
    groups = op.attrs.get("groups", 1)
    return w.reshape(groups, k // groups, r, s, c).transpose(0, 4, 1, 2, 3).reshape(groups * c, k // groups, r, s)


def _by_output(w: np.ndarray, op: Op, shape: tuple[int, ...]) -> np.ndarray:
    """And back."""
    k, r, s, c = shape
    groups = op.attrs.get("groups", 1)
    return w.reshape(groups, c, k // groups, r, s).transpose(0, 2, 3, 4, 1).reshape(shape)


def _encoded(op: Op, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    base = op.params["weight"]
    parts = op.format.encode(arrays["weight"].astype(np.float32), op.name)
    named = {base if op.format.kind == "dense" else f"{base}.{part}": array for part, array in parts.items()}
    return named | ({op.params["bias"]: arrays["bias"].astype(np.float32)} if "bias" in arrays else {})
