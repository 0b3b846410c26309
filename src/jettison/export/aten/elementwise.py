"""ATen arithmetic and activations, one result per element."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from ..builder import Builder, Value
from .call import Call, Function

NO_ACT = {"act": "none", "alpha": 0.0}
FAR = 16.0  # bounds of a clamp


def act(name: str) -> Function:
    """The function of a plain activation."""

    def convert(b: Builder, call: Call) -> Value:
        return activate(b, call.value("self"), name)

    return convert


def activate(b: Builder, x: Value, name: str, alpha: float = 0.0) -> Value:
    return Value(b.add("act", [x.name], {"act": name, "alpha": alpha}), x.axes)


def gelu(b: Builder, call: Call) -> Value:
    return activate(b, call.value("self"), "gelu_tanh" if call["approximate"] == "tanh" else "gelu")


def leaky_relu(b: Builder, call: Call) -> Value:
    return activate(b, call.value("self"), "leaky_relu", float(call["negative_slope"]))


def hardtanh(b: Builder, call: Call) -> Value:
    return _clamp(b, call.value("self"), call["min_val"], call["max_val"])


def clamp(b: Builder, call: Call) -> Value:
    """aten.clamp, clamp_min and clamp_max with numbers as bounds."""
    low, high = call.args.get("min"), call.args.get("max")
    if isinstance(low, (Value, torch.Tensor)) or isinstance(high, (Value, torch.Tensor)):
        raise b.fail("clamp: bounds must be numbers")
    return _clamp(b, call.value("self"), low, high)


def _clamp(b: Builder, x: Value, low: float | None, high: float | None) -> Value:
    """0 … 6 is relu6, 0 … ∞ relu; others are one of these, shifted and scaled.

    A shift by a large bound would leave few digits of x, so far around 0 both signs are clamped apart: min(x⁺, high) − min(x⁻, −low).
    """
    low, high = -math.inf if low is None else low, math.inf if high is None else high
    if low < 0 < high and any(FAR < bound < math.inf for bound in (-low, high)):
        return _both(b, "add", _up_to(b, x, high, 1.0), _up_to(b, x, -low, -1.0), b.shape(x))
    if high == math.inf:
        return x if low == -math.inf else _shifted_relu(b, x, 1.0, low)
    if low == -math.inf:
        return _shifted_relu(b, x, -1.0, high)
    if (low, high) == (0, 6):
        return activate(b, x, "relu6")
    if low >= high:
        return per_axis(b, x, 0, 0.0, high)
    scale = 6 / (high - low)
    return per_axis(b, activate(b, per_axis(b, x, 0, scale, -low * scale), "relu6"), 0, 1 / scale, low)


def _up_to(b: Builder, x: Value, bound: float, sign: float) -> Value:
    """sign · min(relu(sign · x), bound)."""
    if bound == math.inf:
        return per_axis(b, activate(b, per_axis(b, x, 0, sign, 0.0), "relu"), 0, sign, 0.0)
    scale = sign * 6 / bound
    return per_axis(b, activate(b, per_axis(b, x, 0, scale, 0.0), "relu6"), 0, 1 / scale, 0.0)


def _shifted_relu(b: Builder, x: Value, sign: float, bound: float) -> Value:
    """max(x, bound) = relu(x − bound) + bound; min by signs turned round."""
    if sign == 1.0 and bound == 0:
        return activate(b, x, "relu")
    return per_axis(b, activate(b, per_axis(b, x, 0, sign, -sign * bound), "relu"), 0, sign, bound)


def per_axis(b: Builder, x: Value, axis: int, scale: Any, shift: Any) -> Value:
    """x · scale + shift, with numbers or one entry per position of PyTorch's `axis`."""
    if np.size(scale) == np.size(shift) == 1:
        axis = x.axes.index(len(x.axes) - 1)  # any axis will do: the one stored last costs nothing
    x = b.innermost(x, axis)
    width = (b.stored(x)[-1],)
    params = {"scale": np.broadcast_to(scale, width), "shift": np.broadcast_to(shift, width)}
    return Value(b.add("affine", [x.name], NO_ACT, params), x.axes)


def add(b: Builder, call: Call) -> Value:
    """aten.add: self + alpha · other."""
    return _sum(b, call, call["self"], call["other"], 1.0, call.args.get("alpha", 1))


def sub(b: Builder, call: Call) -> Value:
    return _sum(b, call, call["self"], call["other"], 1.0, -call.args.get("alpha", 1))


def rsub(b: Builder, call: Call) -> Value:
    return _sum(b, call, call["other"], call["self"], 1.0, -call.args.get("alpha", 1))


def neg(b: Builder, call: Call) -> Value:
    return per_axis(b, call.value("self"), 0, -1.0, 0.0)


def mul(b: Builder, call: Call) -> Value:
    x, y = call["self"], call["other"]
    if isinstance(x, Value) and isinstance(y, Value):
        return _both(b, "mul", x, y, call.shape)
    return _with_constant(b, x, y, 0.0) if isinstance(x, Value) else _with_constant(b, y, x, 0.0)


def div(b: Builder, call: Call) -> Value:
    if isinstance(call["other"], Value):
        raise b.fail("div: dividing by a computed tensor is not supported; only by a constant")
    if call.args.get("rounding_mode"):
        raise b.fail("div: rounding is not supported")
    return _with_constant(b, call.value("self"), 1.0 / _array(call["other"]), 0.0)


def _sum(b: Builder, call: Call, x: Any, y: Any, a: float, c: float) -> Value:
    """a · x + c · y, of which at least one is computed."""
    if not isinstance(x, Value):
        x, y, a, c = y, x, c, a
    if not isinstance(y, Value):
        return _with_constant(b, x, a, c * _array(y))
    x, y = (v if factor == 1 else per_axis(b, v, 0, factor, 0.0) for v, factor in ((x, a), (y, c)))
    return _both(b, "add", x, y, call.shape)


def _both(b: Builder, kind: str, x: Value, y: Value, shape: tuple[int, ...]) -> Value:
    """A commutative op with a result of this shape; the smaller operand is repeated along axes where it has size 1. Of an
    expanded operand what was expanded is taken, where that is enough."""
    x, y = (b.view(v, (1,) * (len(shape) - len(v.axes)) + b.shape(v)) for v in (x, y))
    pairs = [(x, b.expanded.get(y.name, y)), (y, b.expanded.get(x.name, x))]
    for larger, smaller in sorted(pairs, key=lambda pair: pair[0].name in b.expanded):
        if b.shape(larger) == shape:
            return Value(b.add(kind, [larger.name, b.arrange(smaller, larger.axes)], NO_ACT), larger.axes)
    raise b.fail(f"{kind}: shapes {b.shape(x)} and {b.shape(y)} both need repeating; expand one of them first")


def _array(given: Any) -> np.ndarray:
    return given.double().numpy() if isinstance(given, torch.Tensor) else np.asarray(given, np.float64)


def _with_constant(b: Builder, x: Value, scale: Any, shift: Any) -> Value:
    """x · scale + shift with constants of any shape that broadcasts to x."""
    shape = b.shape(x)
    scale, shift = (_per_sample(b, _array(v), len(shape)) for v in (scale, shift))
    if np.broadcast_shapes(shape, scale.shape, shift.shape) != shape:
        raise b.fail(f"a constant of shape {scale.shape if scale.ndim else shift.shape} is larger than the computed tensor {shape}")
    varies = [a for a in range(len(shape)) if scale.shape[a] > 1 or shift.shape[a] > 1]
    if not varies or (len(varies) == 1 and x.axes[varies[0]] == len(shape) - 1):
        return per_axis(b, x, varies[0] if varies else 0, scale.ravel(), shift.ravel())
    return _everywhere(b, x, scale, shift)


def _per_sample(b: Builder, array: np.ndarray, rank: int) -> np.ndarray:
    """`array` with as many axes as a sample."""
    if array.ndim > rank:
        if any(d != 1 for d in array.shape[: array.ndim - rank]):
            raise b.fail(f"a constant of shape {array.shape} differs between the images of a batch")
        array = array.reshape(array.shape[array.ndim - rank :])
    return array.reshape((1,) * (rank - array.ndim) + array.shape)


def _everywhere(b: Builder, x: Value, scale: np.ndarray, shift: np.ndarray) -> Value:
    """One scale and shift per element, as for position embeddings: an affine op on the sample laid flat."""
    shape, stored = b.shape(x), b.stored(x)
    order = np.argsort(x.axes)
    params = {role: np.broadcast_to(v, shape).transpose(order).ravel() for role, v in (("scale", scale), ("shift", shift))}
    flat = b.reshape(x.name, (int(np.prod(stored)),))
    return Value(b.reshape(b.add("affine", [flat], NO_ACT, params), stored), x.axes)
