"""The integers of one convolution or linear layer.

    s_w[k] = max |w[k]| / 127                  q[k] = rint(w[k] / s_w[k])             a zero stays a zero
    bias[k] = rint(b[k] / (s_x·s_w[k])) − z_x·Σ q[k]                                   int32
    multiplier[k] = s_x·s_w[k] / s_y,  or s_x·s_w[k] where the output is float32

Rounding weights shifts the mean of each output channel; **bias correction** takes that shift back:

    Δ[k] = mean over images and positions of conv(x, w − ŵ)[k] = Σ_{r, s, c} (w − ŵ)[k, r, s, c] · x̄[r, s, c]

x̄[r, s, c]: the mean input that kernel tap (r, s) meets, padding included. Exact, as convolution is linear.
Source: Nagel et al. 2019 (arXiv 1906.04721), section 4.2, with measured means instead of BatchNorm's.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..graph import Graph, Op, TensorSpec

BIAS_LIMIT = 1 << 30  # of |bias|, so that adding the products cannot leave int32


@dataclass(frozen=True, slots=True)
class Integers:
    """weight: int8 (k, r, s, c / groups); bias: int32 (k,); multiplier: float32 (k,)."""

    weight: np.ndarray
    bias: np.ndarray
    multiplier: np.ndarray


def integers(graph: Graph, op: Op, x: TensorSpec, y: TensorSpec, mean: np.ndarray | None) -> Integers:
    """Constants of `op` when its input is `x` and its output `y`. mean: of the input, (h, w, c), to correct the bias with."""
    w = graph.weight(op).astype(np.float64)
    bias = graph.constants[op.params["bias"]].astype(np.float64) if "bias" in op.params else np.zeros(len(w))
    scale = _scales(w, bias, x)
    wide = scale[:, None, None, None]
    q = np.rint(w / wide)
    if mean is not None:
        bias = bias + _shift(w - q * wide, mean, op)
    whole = np.clip(np.rint(bias / (x.scale * scale)), -BIAS_LIMIT, BIAS_LIMIT) - x.zero * q.sum(axis=(1, 2, 3))
    multiplier = x.scale * scale / (y.scale if y.dtype == "u8" else 1.0)
    return Integers(q.astype(np.int8), whole.astype(np.int32), multiplier.astype(np.float32))


def _scales(w: np.ndarray, bias: np.ndarray, x: TensorSpec) -> np.ndarray:
    """Per channel; larger than the weights need where the bias would not fit otherwise, as in a channel of zeros."""
    largest = np.abs(w).max(axis=(1, 2, 3)) / 127
    for_bias = np.abs(bias) * 2 / (x.scale * BIAS_LIMIT)
    scale = np.maximum(largest, for_bias)
    return np.where(scale > 0, scale, 1.0)


def _shift(error: np.ndarray, mean: np.ndarray, op: Op) -> np.ndarray:
    """Σ error · x̄ per output channel."""
    k, r, s, c = error.shape
    if op.kind == "linear":
        return error[:, 0, 0] @ mean.reshape(-1, c).mean(axis=0)
    groups = op.attrs["groups"]
    taps = _taps(mean, op).reshape(r, s, groups, c)
    return np.einsum("gkrsc,rsgc->gk", error.reshape(groups, k // groups, r, s, c), taps).reshape(k)


def _taps(mean: np.ndarray, op: Op) -> np.ndarray:
    """(r, s, c): the mean over all output positions of the input at each kernel tap."""
    (r, s), (sh, sw), (dh, dw) = op.attrs["kernel"], op.attrs["stride"], op.attrs["dilation"]
    t, l, b, right = op.attrs["pad"]
    x = np.pad(mean, ((t, b), (l, right), (0, 0)))
    h, w = x.shape[0] - dh * (r - 1), x.shape[1] - dw * (s - 1)
    return np.array([[x[i * dh : i * dh + h : sh, j * dw : j * dw + w : sw].mean(axis=(0, 1)) for j in range(s)] for i in range(r)])
