"""Float32 rewrites that give each op a shape that int8 has.

    conv, linear, add, mul with an activation that is no clamp   →  the op, then a separate `act` (a table in int8)
    affine on an image                                           →  depthwise 1×1 convolution, whose int8 weights are exact:
                                                                    ±127 with the scale |w|/127 per channel

Nothing is changed in what the network computes, nor in ops that stay float32.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import numpy as np

from .. import spec
from ..errors import QuantizationError
from ..graph import Graph, Op, TensorSpec


def prepare(graph: Graph, keep_float: Collection[str] = ()) -> Graph:
    """Errors: QuantizationError for a graph that holds u8, weights that are not finite, and names of no op."""
    _refuse(graph, keep_float)
    tensors, constants = dict(graph.tensors), dict(graph.constants)
    ops: list[Op] = []
    for op in graph.ops:
        if op.name in keep_float:
            ops.append(op)
            continue
        if op.kind == "affine" and len(graph.tensors[op.outputs[0]].shape) == 3:
            op = _depthwise(op, constants)
        ops += _unfused(op, tensors)
    used = {name for op in ops for name in op.params.values()}
    kept = {name: c for name, c in constants.items() if name in used or any(name.startswith(f"{u}.") for u in used)}
    return spec.check(replace(graph, ops=tuple(ops), tensors=tensors, constants=kept))


def _refuse(graph: Graph, keep_float: Collection[str]) -> None:
    if graph.element == "int8":
        raise QuantizationError("this network is int8 already; quantise the float32 one that it was made from")
    unknown = sorted(set(keep_float) - {op.name for op in graph.ops})
    if unknown:
        raise QuantizationError(f"keep_float names {unknown[0]!r}, which is no layer; `jettison inspect` lists them")
    for op in graph.ops:
        for role, name in op.params.items():
            arrays = graph.weight_parts(op) if role == "weight" and op.kind in spec.WEIGHTED else {role: graph.constants[name]}
            if not all(np.isfinite(a).all() for a in arrays.values()):
                raise QuantizationError(f"layer {op.name}: its {role} holds NaN or infinity; the weights it came from are broken")


def _unfused(op: Op, tensors: dict[str, TensorSpec]) -> list[Op]:
    if op.kind == "act" or op.attrs.get("act", "none") in spec.CLAMPS or not spec.KINDS[op.kind].quantized:
        return [op]
    out = op.outputs[0]
    before = f"{out}/before act"
    tensors[before] = TensorSpec(before, tensors[out].shape)
    act = {"act": op.attrs["act"], "alpha": op.attrs["alpha"]}
    plain = replace(op, outputs=(before,), attrs={**op.attrs, "act": "none", "alpha": 0.0})
    return [plain, Op(f"{op.name}/act", "act", (before,), (out,), act)]


def _depthwise(op: Op, constants: dict[str, np.ndarray]) -> Op:
    scale, shift = (constants[op.params[role]] for role in ("scale", "shift"))
    names = {"weight": f"{op.name}.weight", "bias": f"{op.name}.bias"}
    constants.update({names["weight"]: scale.reshape(-1, 1, 1, 1), names["bias"]: shift})
    window = {"kernel": (1, 1), "stride": (1, 1), "pad": (0, 0, 0, 0), "dilation": (1, 1)}
    return replace(op, kind="conv", attrs={"k": len(scale), "groups": len(scale), **window, **op.attrs}, params=names)
