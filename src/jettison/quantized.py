"""The integer meaning of the kinds whose inputs are u8: the definition, bit by bit, of int8 inference.

A u8 tensor of scale s and zero point z stands for (q − z)·s. Integers are exact; the few real numbers
are **float32, one rounding per operation, no fused multiply-add**, so that every instruction set gives
the same bits:

    requantize(t) = clamp(rint(t), low − z, high − z) + z        rint: ties to even
    low, high     = 0, 255;  relu: low = z;  relu6: high = min(255, z + rint(6 / s)) too

Products of scales are formed in double precision and rounded to float32 once.

Source of the scheme: Jacob et al. 2018 (arXiv 1712.05877), sections 2.1 to 2.4, with a float32 in the
place of the fixed-point multiplier.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod
from typing import Any

import numpy as np

from . import reference
from .formats import lut, pixel_lut
from .graph import TensorSpec

Attrs = Mapping[str, Any]
Params = Mapping[str, np.ndarray]
Specs = list[TensorSpec]
F32 = np.float32


def compute(kind: str, xs: list[np.ndarray], specs: Specs, out: TensorSpec, attrs: Attrs, params: Params) -> np.ndarray:
    """One op on u8 arrays (n, …) in storage order, u8 or float32 out, as `out` says. `quantize` takes float32."""
    return OPS[kind](xs, specs, out, attrs, params)


def quantize(x: np.ndarray, spec: TensorSpec) -> np.ndarray:
    """clamp(rint(x · (1/s)) + z, 0, 255), the reciprocal rounded to float32 first. NaN becomes 0."""
    return _requantize(x.astype(F32) * F32(1.0 / spec.scale), spec)


def dequantize(q: np.ndarray, spec: TensorSpec) -> np.ndarray:
    """(q − z)·s."""
    return _centred(q, spec).astype(F32) * F32(spec.scale)


def act_table(act: str, alpha: float, x: TensorSpec, out: TensorSpec) -> np.ndarray:
    """The 256 answers of a quantized activation: clamp(rint(act((q − z)·s) / s_out) + z_out, 0, 255), in double precision."""
    real = (np.arange(256, dtype=np.float64) - x.zero) * x.scale
    y = np.rint(reference.ACTS[act](real, alpha) / out.scale) + out.zero
    return np.clip(y, 0, 255).astype(np.uint8)


def bounds(act: str, out: TensorSpec) -> tuple[int, int]:
    """Smallest and largest q that a clamping activation leaves."""
    low = out.zero if act in ("relu", "relu6") else 0
    high = min(255.0, out.zero + np.rint(6.0 / out.scale)) if act == "relu6" else 255
    return low, int(high)


def _requantize(t: np.ndarray, out: TensorSpec, act: str = "none") -> np.ndarray:
    low, high = bounds(act, out)
    return (np.minimum(np.fmax(np.rint(t.astype(F32)), low - out.zero), high - out.zero) + out.zero).astype(np.uint8)  # fmax drops NaN


def _centred(q: np.ndarray, spec: TensorSpec) -> np.ndarray:
    return q.astype(np.int32) - np.int32(spec.zero)


def _ratio(numerator: float, denominator: float) -> np.float32:
    return F32(float(numerator) / float(denominator))


def _conv(xs: list[np.ndarray], specs: Specs, out: TensorSpec, attrs: Attrs, params: Params) -> np.ndarray:
    """acc = Σ x·w or Σ look-ups (formats/lut.py), padding counted as the zero point;

    t = float32(acc + bias)·multiplier[k] (+ float32(r − z_r)·(s_r/s)).

    bias (int32) already holds −z·Σw. The multiplier is s_x·s_w[k]/s, or s_x·s_w[k] when the output is float32.
    """
    acc = _look_ups(xs[0], specs[0], attrs, params) if "tables" in params else _products(xs[0], specs[0], attrs, params)
    acc = acc + params["bias"].astype(np.int64)
    y = acc.astype(np.int32).astype(F32) * params["multiplier"]
    if len(xs) > 1:
        y = y + _centred(xs[1], specs[1]).astype(F32) * _ratio(specs[1].scale, out.scale)
    return y


def _products(q: np.ndarray, spec: TensorSpec, attrs: Attrs, params: Params) -> np.ndarray:
    x, weight = q.astype(np.float64), params["weight"].astype(np.float64)  # sums of integers below 2^53: exact
    if "kernel" not in attrs:
        return (x @ weight[:, 0, 0].T).astype(np.int64)
    inside = {**attrs, "pad": (0, 0, 0, 0), "act": "none"}
    return reference.OPS["conv"]([_padded(x, spec, attrs)], inside, {"weight": weight}).astype(np.int64)


def _look_ups(q: np.ndarray, spec: TensorSpec, attrs: Attrs, params: Params) -> np.ndarray:
    x = im2col(q, spec, attrs) if "kernel" in attrs else q
    rows = x.reshape(-1, x.shape[-1])
    if "questions" in params:  # by pixels: those of one output stand one after the other in its row
        code = pixel_lut.codes(rows.reshape(-1, q.shape[-1]), params["questions"], params["thresholds"]).reshape(len(rows), -1)
    else:
        code = lut.codes(rows, params["splits"], params["thresholds"])
    return lut.look_up(code, params["tables"]).reshape(*x.shape[:-1], -1)


def im2col(q: np.ndarray, spec: TensorSpec, attrs: Attrs) -> np.ndarray:
    """(n, p, q, r·s·c): what each output of a convolution sees, ordered (r, s, c)."""
    taps = reference.taps(_padded(q, spec, attrs), attrs["kernel"], attrs["stride"], attrs["dilation"])
    return np.concatenate([tap for _, _, tap in taps], axis=-1)


def _padded(x: np.ndarray, spec: TensorSpec, attrs: Attrs) -> np.ndarray:
    t, l, b, r = attrs["pad"]
    return np.pad(x, ((0, 0), (t, b), (l, r), (0, 0)), constant_values=spec.zero)


def _weighted(xs: list[np.ndarray], specs: Specs, out: TensorSpec, attrs: Attrs, params: Params) -> np.ndarray:
    t = _conv(xs, specs, out, attrs, params)
    if out.dtype == "u8":
        return _requantize(t, out, attrs["act"])
    return reference.ACTS[attrs["act"]](t, 0.0).astype(F32)


def _add(xs: list[np.ndarray], specs: Specs, out: TensorSpec, attrs: Attrs, params: Params) -> np.ndarray:
    """t = float32(a − z_a)·(s_a/s) + float32(b − z_b)·(s_b/s)."""
    a, b = (_centred(x, s).astype(F32) * _ratio(s.scale, out.scale) for x, s in zip(xs, specs))
    return _requantize(a + b, out, attrs["act"])


def _mul(xs: list[np.ndarray], specs: Specs, out: TensorSpec, attrs: Attrs, params: Params) -> np.ndarray:
    """t = float32((a − z_a)·(b − z_b))·(s_a·s_b/s)."""
    product = _centred(xs[0], specs[0]) * _centred(xs[1], specs[1])
    return _requantize(product.astype(F32) * _ratio(specs[0].scale * specs[1].scale, out.scale), out, attrs["act"])


def _average(total: np.ndarray, count: np.ndarray, x: TensorSpec, out: TensorSpec) -> np.ndarray:
    """t = float32(Σ (q − z)) · (s_x / (count·s)), the factor rounded to float32 for each count."""
    factor = (x.scale / (count.astype(np.float64) * out.scale)).astype(F32)
    return _requantize(total.astype(F32) * factor, out)


def _mean(xs: list[np.ndarray], specs: Specs, out: TensorSpec, attrs: Attrs, params: Params) -> np.ndarray:
    axes = tuple(a + 1 for a in attrs["axes"])
    total = _centred(xs[0], specs[0]).sum(axis=axes, keepdims=attrs["keepdims"])
    count = np.full(total.shape, prod(xs[0].shape[a] for a in axes))
    return _average(total, count, specs[0], out).reshape(xs[0].shape[0], *out.shape)


def _avg_pool(xs: list[np.ndarray], specs: Specs, out: TensorSpec, attrs: Attrs, params: Params) -> np.ndarray:
    """Padding adds nothing to the sum; `count_pad` decides whether it counts."""
    sums = {**attrs, "count_pad": attrs["pad"]}
    total = np.rint(reference.OPS["avg_pool"]([_centred(xs[0], specs[0]).astype(np.float64)], sums, {}) * _divisors(xs[0], sums))
    return _average(total.astype(np.int32), _divisors(xs[0], attrs), specs[0], out)


def _divisors(x: np.ndarray, attrs: Attrs) -> np.ndarray:
    """Positions each window counts: 1 / the average of a single one."""
    h, w = x.shape[1:3]
    t, l, b, r = attrs["count_pad"]
    kernel, stride, pad = attrs["kernel"], attrs["stride"], attrs["pad"]
    rows = _overlap(h, kernel[0], stride[0], pad[0], pad[2], t, b)
    columns = _overlap(w, kernel[1], stride[1], pad[1], pad[3], l, r)
    return (rows[:, None] * columns[None, :])[None, :, :, None]


def _overlap(size: int, taps: int, stride: int, before: int, after: int, count_before: int, count_after: int) -> np.ndarray:
    starts = np.arange((size + before + after - taps) // stride + 1) * stride - before
    return np.minimum(starts + taps, size + count_after) - np.maximum(starts, -count_before)


def _adaptive(xs: list[np.ndarray], specs: Specs, out: TensorSpec, attrs: Attrs, params: Params) -> np.ndarray:
    x = _centred(xs[0], specs[0])
    p, q = attrs["size"]
    rows, columns = _parts(x.shape[1], p), _parts(x.shape[2], q)
    total = np.array([[x[:, a:b, c:d].sum(axis=(1, 2)) for c, d in columns] for a, b in rows]).transpose(2, 0, 1, 3)
    count = np.array([[(b - a) * (d - c) for c, d in columns] for a, b in rows])[None, :, :, None]
    return _average(total, count, specs[0], out)


def _parts(size: int, parts: int) -> list[tuple[int, int]]:
    return [(i * size // parts, -(-(i + 1) * size // parts)) for i in range(parts)]


def _concat(xs: list[np.ndarray], specs: Specs, out: TensorSpec, attrs: Attrs, params: Params) -> np.ndarray:
    """Each input brought to the output's scale: t = float32(q − z)·(s_x/s)."""
    parts = [_requantize(_centred(x, s).astype(F32) * _ratio(s.scale, out.scale), out) for x, s in zip(xs, specs)]
    return np.concatenate(parts, axis=attrs["axis"] + 1)


def _act(xs: list[np.ndarray], specs: Specs, out: TensorSpec, attrs: Attrs, params: Params) -> np.ndarray:
    return params["table"][xs[0]]


def _pad(xs: list[np.ndarray], specs: Specs, out: TensorSpec, attrs: Attrs, params: Params) -> np.ndarray:
    value = quantize(np.array(attrs["value"], F32), out)
    return reference.OPS["pad"]([xs[0].astype(np.float64)], {**attrs, "value": float(value)}, {}).astype(np.uint8)


def _moved(kind: str) -> Callable[..., np.ndarray]:
    """Kinds that only move or compare numbers do the same to integers."""

    def run(xs: list[np.ndarray], specs: Specs, out: TensorSpec, attrs: Attrs, params: Params) -> np.ndarray:
        return reference.OPS[kind]([x.astype(np.float64) for x in xs], attrs, {}).astype(np.uint8)

    return run


OPS: dict[str, Callable[..., np.ndarray]] = {
    "conv": _weighted,
    "linear": _weighted,
    "quantize": lambda xs, specs, out, attrs, params: quantize(xs[0], out),
    "dequantize": lambda xs, specs, out, attrs, params: dequantize(xs[0], specs[0]),
    "add": _add,
    "mul": _mul,
    "act": _act,
    "mean": _mean,
    "avg_pool": _avg_pool,
    "adaptive_avg_pool": _adaptive,
    "concat": _concat,
    "pad": _pad,
    **{kind: _moved(kind) for kind in ("max_pool", "slice", "channel_shuffle", "reshape", "transpose", "upsample")},
}
