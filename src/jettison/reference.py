"""The slow NumPy meaning of every op kind: the definition that exporters and kernels are tested against.

`OPS` is the one table, kind -> function; `jettison.quantized` is its like for u8. Each function takes arrays with the batch n in front, in
storage order (images (n, h, w, c)), the op's attributes and its constants by role. It sums in
float64; `compute` rounds the result to float32 once. Clear rather than fast: for tests, and for
anyone who wants to know what exactly an op means.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from .errors import GraphError, InputError
from .graph import Graph, Op
from .spec import WEIGHTED

Arrays = list[np.ndarray]
Attrs = Mapping[str, Any]
Params = Mapping[str, np.ndarray]


def run(graph: Graph, *inputs: np.ndarray) -> tuple[np.ndarray, ...]:
    """Run the whole graph; inputs and outputs in the user's layout ("nchw" images are (n, c, h, w)).

    Errors: InputError on a wrong number of inputs or a wrong shape.
    """
    if len(inputs) != len(graph.inputs):
        raise InputError(f"the network has {len(graph.inputs)} inputs {list(graph.inputs)}, got {len(inputs)}")
    values = {name: _stored(graph, name, x) for name, x in zip(graph.inputs, inputs)}
    for op in graph.ops:
        values[op.outputs[0]] = _step(graph, op, [values[i] for i in op.inputs])
    return tuple(values[name].transpose(0, 3, 1, 2) if graph.layouts.get(name) == "nchw" else values[name] for name in graph.outputs)


def _step(graph: Graph, op: Op, inputs: Arrays) -> np.ndarray:
    specs, out = [graph.tensors[i] for i in op.inputs], graph.tensors[op.outputs[0]]
    if specs[0].dtype == out.dtype == "f32":
        return compute(op.kind, inputs, op.attrs, _params(graph, op))
    from . import quantized  # which builds on this module

    return quantized.compute(op.kind, inputs, specs, out, op.attrs, _params(graph, op))


def compute(kind: str, inputs: Arrays, attrs: Attrs, params: Params) -> np.ndarray:
    """One op on arrays (n, …) in storage order; float64 inside, float32 out. Errors: GraphError on an unknown kind."""
    if kind not in OPS:
        raise GraphError(f"op kind {kind!r} is not known; known: {', '.join(OPS)}")
    wide = [x.astype(np.float64) for x in inputs]
    return np.ascontiguousarray(OPS[kind](wide, attrs, {k: v.astype(np.float64) for k, v in params.items()}), np.float32)


def _stored(graph: Graph, name: str, x: np.ndarray) -> np.ndarray:
    seen = graph.user_shape(name)
    if x.ndim != len(seen) + 1 or x.shape[1:] != seen:
        raise InputError(f"input {name!r} needs shape (n, {', '.join(map(str, seen))}), got {x.shape}")
    return x.transpose(0, 2, 3, 1) if graph.layouts.get(name) == "nchw" else x


def _params(graph: Graph, op: Op) -> dict[str, np.ndarray]:
    """Constants by role; a weight decoded, or the parts of a layer that has none."""
    roles: dict[str, np.ndarray] = {}
    for role, name in op.params.items():
        if role == "weight" and op.kind in WEIGHTED:
            roles |= {role: graph.weight(op)} if op.format.linear else graph.weight_parts(op)
        else:
            roles[role] = graph.constants[name]
    return roles


def _sigmoid(x: np.ndarray) -> np.ndarray:
    """1 / (1 + e^−x), written so that nothing overflows."""
    return 0.5 * (1 + np.tanh(0.5 * x))


def _hardsigmoid(x: np.ndarray) -> np.ndarray:
    """min(max(x + 3, 0), 6) / 6."""
    return np.clip(x + 3, 0, 6) / 6


def _gelu(x: np.ndarray) -> np.ndarray:
    """x · ½ (1 + erf(x / √2)) (Hendrycks & Gimpel 2016, arXiv 1606.08415)."""
    return 0.5 * x * (1 + np.vectorize(math.erf, otypes=[np.float64])(x / math.sqrt(2)))


def _gelu_tanh(x: np.ndarray) -> np.ndarray:
    """x · ½ (1 + tanh(√(2/π) (x + 0.044715 x³))), the approximation of the same paper."""
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


# act -> function of (x, alpha)
ACTS: dict[str, Callable[[np.ndarray, float], np.ndarray]] = {
    "none": lambda x, alpha: x,
    "relu": lambda x, alpha: np.maximum(x, 0),
    "relu6": lambda x, alpha: np.clip(x, 0, 6),
    "silu": lambda x, alpha: x * _sigmoid(x),
    "hardswish": lambda x, alpha: x * _hardsigmoid(x),
    "hardsigmoid": lambda x, alpha: _hardsigmoid(x),
    "gelu": lambda x, alpha: _gelu(x),
    "gelu_tanh": lambda x, alpha: _gelu_tanh(x),
    "sigmoid": lambda x, alpha: _sigmoid(x),
    "tanh": lambda x, alpha: np.tanh(x),
    "leaky_relu": lambda x, alpha: np.where(x >= 0, x, alpha * x),
}


def _activate(x: np.ndarray, attrs: Attrs) -> np.ndarray:
    return ACTS[attrs["act"]](x, attrs["alpha"])


def _conv(xs: Arrays, attrs: Attrs, params: Params) -> np.ndarray:
    """y[n, p, q, k] = act(Σ_{r, s, c} x[n, p·stride + r·dilation − pad, …, c] · w[k, r, s, c] + bias[k] + residual[n, p, q, k]).

    Output channel k of group ⌊k·groups / K⌋ sees only the input channels of its group.
    """
    weight, groups = params["weight"], attrs["groups"]
    k, r, s, c = weight.shape
    x = _padded(xs[0], attrs["pad"], 0.0)
    y: Any = 0.0
    for i, j, tap in taps(x, (r, s), attrs["stride"], attrs["dilation"]):
        if groups == 1:
            y = y + tap @ weight[:, i, j].T
        else:
            parts = tap.reshape(*tap.shape[:3], groups, c)
            y = y + np.einsum("npqgc,gkc->npqgk", parts, weight[:, i, j].reshape(groups, k // groups, c)).reshape(*tap.shape[:3], k)
    return _epilogue(y, xs, attrs, params)


def _linear(xs: Arrays, attrs: Attrs, params: Params) -> np.ndarray:
    """y[…, k] = act(Σ_c x[…, c] · w[k, c] + bias[k] + residual[…, k])."""
    return _epilogue(xs[0] @ params["weight"][:, 0, 0].T, xs, attrs, params)


def _epilogue(y: np.ndarray, xs: Arrays, attrs: Attrs, params: Params) -> np.ndarray:
    y = y + params.get("bias", 0.0)
    return _activate(y + xs[1] if len(xs) > 1 else y, attrs)


def _padded(x: np.ndarray, pad: tuple[int, int, int, int], value: float) -> np.ndarray:
    top, left, bottom, right = pad
    return np.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)), constant_values=value)


def taps(x: np.ndarray, kernel: tuple[int, int], stride: tuple[int, int], dilation: tuple[int, int] = (1, 1)) -> list:
    """(i, j, x seen by kernel position i, j at every output: (n, p, q, c)) for a padded x; only whole windows."""
    spans = [[d * (taps - 1) + 1 for d, taps in zip(dilation, kernel)][axis] for axis in (0, 1)]
    rows, cols = (x.shape[1 + axis] - spans[axis] + 1 for axis in (0, 1))
    (sh, sw), (dh, dw) = stride, dilation
    return [
        (i, j, x[:, i * dh : i * dh + rows : sh, j * dw : j * dw + cols : sw]) for i in range(kernel[0]) for j in range(kernel[1])
    ]  # fmt: skip


def _max_pool(xs: Arrays, attrs: Attrs, params: Params) -> np.ndarray:
    """Maximum over each window; a padded position is −∞."""
    x = _padded(xs[0], attrs["pad"], -np.inf)
    return np.max([tap for _, _, tap in taps(x, attrs["kernel"], attrs["stride"])], axis=0)


def _avg_pool(xs: Arrays, attrs: Attrs, params: Params) -> np.ndarray:
    """Sum over each window (padding is 0) / number of its positions inside the image grown by count_pad.

    count_pad = 0: padding does not count. count_pad = pad: every position counts. In between: PyTorch's
    ceil_mode, where the overhang of the last window never counts.
    """
    counted = np.pad(np.ones((1, *xs[0].shape[1:3], 1)), _image_pads(attrs["count_pad"]), constant_values=1.0)
    rest = [pad - count for pad, count in zip(attrs["pad"], attrs["count_pad"])]
    total = taps(_padded(xs[0], attrs["pad"], 0.0), attrs["kernel"], attrs["stride"])
    count = taps(np.pad(counted, _image_pads(rest)), attrs["kernel"], attrs["stride"])
    return np.sum([t for _, _, t in total], axis=0) / np.sum([t for _, _, t in count], axis=0)


def _image_pads(pad: Any) -> tuple[tuple[int, int], ...]:
    top, left, bottom, right = pad
    return ((0, 0), (top, bottom), (left, right), (0, 0))


def _adaptive_avg_pool(xs: Arrays, attrs: Attrs, params: Params) -> np.ndarray:
    """Output row i averages input rows ⌊i·h/p⌋ … ⌈(i+1)·h/p⌉ − 1; columns alike."""
    x, (p, q) = xs[0], attrs["size"]
    h, w = x.shape[1:3]

    def window(i: int, size: int, count: int) -> slice:
        return slice(i * size // count, -(-(i + 1) * size // count))

    rows = [[x[:, window(i, h, p), window(j, w, q)].mean(axis=(1, 2)) for j in range(q)] for i in range(p)]
    return np.stack([np.stack(row, axis=1) for row in rows], axis=1)


def _mean(xs: Arrays, attrs: Attrs, params: Params) -> np.ndarray:
    """Mean over per-sample axes (axis 0 is h of an image, the batch does not count)."""
    y = xs[0].mean(axis=tuple(a + 1 for a in attrs["axes"]), keepdims=attrs["keepdims"])
    return y if y.ndim > 1 else y[:, None]


def _add(xs: Arrays, attrs: Attrs, params: Params) -> np.ndarray:
    """act(x + y); y has 1 where it is repeated."""
    return _activate(xs[0] + xs[1], attrs)


def _mul(xs: Arrays, attrs: Attrs, params: Params) -> np.ndarray:
    """act(x · y); y has 1 where it is repeated."""
    return _activate(xs[0] * xs[1], attrs)


def _affine(xs: Arrays, attrs: Attrs, params: Params) -> np.ndarray:
    """act(x · scale + shift), one scale and shift per entry of the last axis."""
    return _activate(xs[0] * params["scale"] + params["shift"], attrs)


def _act(xs: Arrays, attrs: Attrs, params: Params) -> np.ndarray:
    return _activate(xs[0], attrs)


def _softmax(xs: Arrays, attrs: Attrs, params: Params) -> np.ndarray:
    """e^(x − max) / Σ e^(x − max) over a per-sample axis."""
    axis = attrs["axis"] + 1
    e = np.exp(xs[0] - xs[0].max(axis=axis, keepdims=True))
    return e / e.sum(axis=axis, keepdims=True)


def _layer_norm(xs: Arrays, attrs: Attrs, params: Params) -> np.ndarray:
    """(x − mean) / √(var + eps) · weight + bias; mean and (biased) var over the last axis."""
    x = xs[0] - xs[0].mean(axis=-1, keepdims=True)
    return x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + attrs["eps"]) * params["weight"] + params["bias"]


def _concat(xs: Arrays, attrs: Attrs, params: Params) -> np.ndarray:
    return np.concatenate(xs, axis=attrs["axis"] + 1)


def _slice(xs: Arrays, attrs: Attrs, params: Params) -> np.ndarray:
    """x[start : stop : step] along a per-sample axis."""
    chosen = slice(attrs["start"], attrs["stop"], attrs["step"])
    return xs[0][(slice(None),) * (attrs["axis"] + 1) + (chosen,)]


def _pad(xs: Arrays, attrs: Attrs, params: Params) -> np.ndarray:
    """`value` before and after every per-sample axis, as many as `pads` says."""
    return np.pad(xs[0], ((0, 0), *map(tuple, attrs["pads"])), constant_values=attrs["value"])


def _upsample(xs: Arrays, attrs: Attrs, params: Params) -> np.ndarray:
    """Resize by source positions, float32 as in PyTorch; `scale` is the input step per output step.

    nearest: row ⌊i·scale⌋, at most h − 1. bilinear: position (i + ½)·scale − ½, at least 0
    (align_corners: i·scale); a + t between row ⌊a⌋ and the next, at most h − 1.
    """
    x = xs[0]
    for axis in (0, 1):
        low, high, t = _sources(attrs, x.shape[1 + axis], axis)
        t = t.reshape((-1, 1, 1) if axis == 0 else (-1, 1))
        x = x.take(low, axis=1 + axis) * (1 - t) + x.take(high, axis=1 + axis) * t
    return x


def _sources(attrs: Attrs, size: int, axis: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each output index: the two input indices and the weight of the second."""
    i, step, half = np.arange(attrs["size"][axis], dtype=np.float32), np.float32(attrs["scale"][axis]), np.float32(0.5)
    if attrs["mode"] == "nearest":
        low = np.minimum(np.floor(i * step).astype(np.int64), size - 1)
        return low, low, np.zeros(len(i))
    source = i * step if attrs["align_corners"] else np.maximum((i + half) * step - half, 0)
    low = np.minimum(source.astype(np.int64), size - 1)
    return low, np.minimum(low + 1, size - 1), np.clip(source - low, 0, 1).astype(np.float64)


def _channel_shuffle(xs: Arrays, attrs: Attrs, params: Params) -> np.ndarray:
    """y[…, j·g + i] = x[…, i·(c/g) + j] (Zhang et al. 2018, arXiv 1707.01083, figure 1)."""
    x, g = xs[0], attrs["groups"]
    return x.reshape(*x.shape[:-1], g, -1).swapaxes(-1, -2).reshape(x.shape)


def _reshape(xs: Arrays, attrs: Attrs, params: Params) -> np.ndarray:
    return xs[0].reshape(xs[0].shape[0], *attrs["shape"])


def _transpose(xs: Arrays, attrs: Attrs, params: Params) -> np.ndarray:
    """Axis i of the result is axis perm[i] of x, per sample."""
    return xs[0].transpose(0, *(a + 1 for a in attrs["perm"]))


OPS: dict[str, Callable[[Arrays, Attrs, Params], np.ndarray]] = {
    "conv": _conv,
    "linear": _linear,
    "max_pool": _max_pool,
    "avg_pool": _avg_pool,
    "adaptive_avg_pool": _adaptive_avg_pool,
    "mean": _mean,
    "add": _add,
    "mul": _mul,
    "affine": _affine,
    "act": _act,
    "softmax": _softmax,
    "layer_norm": _layer_norm,
    "concat": _concat,
    "slice": _slice,
    "pad": _pad,
    "upsample": _upsample,
    "channel_shuffle": _channel_shuffle,
    "reshape": _reshape,
    "transpose": _transpose,
}
