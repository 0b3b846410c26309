"""Scale and shift per channel (BatchNorm, layer scale, input normalisation) move into a layer next to them.

    after a layer:   s · (W x + b) + t = (s W) x + (s b + t)         always exact
    before a layer:  W (s x + t) + b   = (W s) x + (b + Σ W t)       exact where no padding is added, or t = 0
    two in a row:    s₂ (s₁ x + t₁) + t₂ = (s₂ s₁) x + (s₂ t₁ + t₂)

Scaling never turns a zero into a non-zero, so a sparsity pattern survives.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ...graph import Graph, Op
from ...spec import WEIGHTED
from .rewrite import Constants, fuse_pairs, rebuilt, with_params


def fold_batch_norm(graph: Graph) -> Graph:
    return _without_identities(fuse_pairs(graph, _fold))


def _fold(graph: Graph, op: Op, reader: Op, i: int, constants: Constants) -> Op | None:
    if reader.kind == "affine" and op.kind in WEIGHTED and op.attrs["act"] == "none" and len(op.inputs) == 1:
        return _after(op, reader, constants)
    if op.kind == "affine" and op.attrs["act"] == "none" and i == 0:
        if reader.kind == "affine":
            return _merged(op, reader, constants)
        if reader.kind in WEIGHTED:
            return _before(graph, op, reader, constants)
    return None


def _arrays(op: Op, constants: Constants) -> dict[str, np.ndarray]:
    return {role: constants[name].astype(np.float64) for role, name in op.params.items()}


def _after(layer: Op, affine: Op, constants: Constants) -> Op:
    w, a = _arrays(layer, constants), _arrays(affine, constants)
    weight = w["weight"] * a["scale"][:, None, None, None]
    bias = w.get("bias", 0.0) * a["scale"] + a["shift"]
    fused = replace(layer, outputs=affine.outputs, attrs={**layer.attrs, "act": affine.attrs["act"], "alpha": affine.attrs["alpha"]})
    return with_params(fused, {"weight": weight, "bias": bias}, constants)


def _before(graph: Graph, affine: Op, layer: Op, constants: Constants) -> Op | None:
    w, a = _arrays(layer, constants), _arrays(affine, constants)
    if any(layer.attrs.get("pad", ())) and a["shift"].any():
        return None
    # input channels of each output channel: those of its group
    groups, k = layer.attrs.get("groups", 1), layer.attrs["k"]
    scale, shift = (np.repeat(a[role].reshape(groups, -1), k // groups, axis=0)[:, None, None, :] for role in ("scale", "shift"))
    bias = w.get("bias", 0.0) + (w["weight"] * shift).sum(axis=(1, 2, 3))
    fused = replace(layer, inputs=(affine.inputs[0], *layer.inputs[1:]))
    return with_params(fused, {"weight": w["weight"] * scale, "bias": bias}, constants)


def _merged(first: Op, second: Op, constants: Constants) -> Op:
    a, c = _arrays(first, constants), _arrays(second, constants)
    arrays = {"scale": a["scale"] * c["scale"], "shift": a["shift"] * c["scale"] + c["shift"]}
    return with_params(replace(second, inputs=first.inputs), arrays, constants)


def _without_identities(graph: Graph) -> Graph:
    """An affine op with scale 1 and shift 0 is its activation, or nothing at all."""

    def simple(op: Op) -> bool:
        return (
            op.kind == "affine" and bool((graph.constants[op.params["scale"]] == 1).all()) and not graph.constants[op.params["shift"]].any()
        )

    return rebuilt(graph, [replace(op, kind="act", params={}) if simple(op) else op for op in graph.ops], graph.constants)
