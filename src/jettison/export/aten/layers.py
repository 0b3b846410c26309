"""ATen layers with weights, normalisation, pooling and resizing."""

from __future__ import annotations

import numpy as np

from ...graph import window_count
from ..builder import IMAGE, Builder, Value
from .call import Call, as_axis
from .elementwise import NO_ACT, per_axis


def conv2d(b: Builder, call: Call) -> Value:
    """aten.conv2d, both overloads: padding in numbers, or "same" / "valid"."""
    weight = call.constant("weight")
    if weight is None or weight.ndim != 4:
        raise b.fail("conv2d: weights must be (k, c / groups, r, s)")
    kernel, dilation = weight.shape[2:], call.pair("dilation")
    attrs = {
        "k": weight.shape[0], "kernel": kernel, "stride": call.pair("stride"), "pad": _conv_pad(call, kernel, dilation),
        "dilation": dilation, "groups": call["groups"], **NO_ACT,
    }  # fmt: skip
    params = {"weight": weight.transpose(0, 2, 3, 1), "bias": call.constant("bias")}
    name = b.add("conv", [b.image(call.value("input"))], attrs, {k: v for k, v in params.items() if v is not None})
    return Value(name, IMAGE)


def _conv_pad(call: Call, kernel: tuple[int, int], dilation: tuple[int, int]) -> tuple[int, int, int, int]:
    """(top, left, bottom, right); "same" puts the odd one after, as PyTorch does."""
    if call["padding"] == "valid":
        return (0, 0, 0, 0)
    if call["padding"] == "same":
        total = [d * (taps - 1) for d, taps in zip(dilation, kernel)]
        return (total[0] // 2, total[1] // 2, total[0] - total[0] // 2, total[1] - total[1] // 2)
    return (*call.pair("padding"), *call.pair("padding"))


def linear(b: Builder, call: Call) -> Value:
    """aten.linear: x · weightᵀ + bias over the last axis."""
    return _linear(b, call.value("input"), call.constant("weight"), call.constant("bias"))


def matmul(b: Builder, call: Call) -> Value:
    """aten.matmul and mm with a constant (c, k) matrix on the right."""
    right = "other" if "other" in call.args else "mat2"
    return _linear(b, call.value("self"), _transposed(b, call, right), None)


def addmm(b: Builder, call: Call) -> Value:
    """aten.addmm: bias + x · matrix."""
    if call["alpha"] != 1 or call["beta"] != 1:
        raise b.fail("addmm: alpha and beta other than 1 are not supported; use nn.Linear")
    return _linear(b, call.value("mat1"), _transposed(b, call, "mat2"), call.constant("self"))


def _transposed(b: Builder, call: Call, name: str) -> np.ndarray:
    matrix = call.constant(name)
    if matrix is None or matrix.ndim != 2:
        raise b.fail(f"{call.op}: only a constant matrix (c, k) may stand on the right")
    return matrix.T


def _linear(b: Builder, x: Value, weight: np.ndarray | None, bias: np.ndarray | None) -> Value:
    if weight is None or weight.ndim != 2:
        raise b.fail("linear: weights must be (k, c)")
    x = b.innermost(x, len(x.axes) - 1)
    params = {"weight": weight[:, None, None, :]} | ({} if bias is None else {"bias": np.broadcast_to(bias, (len(weight),))})
    return Value(b.add("linear", [x.name], {"k": len(weight), **NO_ACT}, params), x.axes)


def batch_norm(b: Builder, call: Call) -> Value:
    """aten.batch_norm with running statistics: x · γ/√(var + eps) + β − mean · γ/√(var + eps) per channel."""
    mean, var = call.constant("running_mean"), call.constant("running_var")
    if call.args.get("training") or mean is None or var is None:
        raise b.fail("batch_norm: uses the statistics of the batch; train with track_running_stats=True")
    weight, bias = call.constant("weight"), call.constant("bias")
    scale = (1.0 if weight is None else weight.astype(np.float64)) / np.sqrt(var.astype(np.float64) + call["eps"])
    return per_axis(b, call.value("input"), 0, scale, (0.0 if bias is None else bias) - mean * scale)


def batch_norm_tuple(b: Builder, call: Call) -> tuple[Value]:
    """The spelling after functionalisation, with unused statistics as further results."""
    return (batch_norm(b, call),)


def layer_norm(b: Builder, call: Call) -> Value:
    """aten.layer_norm over the last axes; more than one are flattened into one."""
    x, size = call.value("input"), int(np.prod(call["normalized_shape"]))
    shape = b.shape(x)
    flat = b.view(x, (*shape[: len(shape) - len(call["normalized_shape"])], size)) if len(call["normalized_shape"]) > 1 else x
    y = normalised(b, flat, len(flat.axes) - 1, call["eps"], call.constant("weight"), call.constant("bias"))
    return b.view(y, shape)


def group_norm(b: Builder, call: Call) -> Value:
    """aten.group_norm: a layer norm over (c / groups, h, w), then scale and shift per channel."""
    x = call.value("input")
    shape, groups = b.shape(x), call["num_groups"]
    y = b.view(normalised(b, b.view(x, (groups, int(np.prod(shape)) // groups)), 1, call["eps"]), shape)
    weight, bias = call.constant("weight"), call.constant("bias")
    return per_axis(b, y, 0, 1.0 if weight is None else weight, 0.0 if bias is None else bias)


def normalised(b: Builder, x: Value, axis: int, eps: float, weight: np.ndarray | None = None, bias: np.ndarray | None = None) -> Value:
    """A layer norm along one axis."""
    x = b.innermost(x, axis)
    size = b.stored(x)[-1]
    params = {
        "weight": np.ones(size) if weight is None else weight.reshape(size),
        "bias": np.zeros(size) if bias is None else bias.reshape(size),
    }
    return Value(b.add("layer_norm", [x.name], {"eps": eps}, params), x.axes)


def _window(b: Builder, call: Call, x: str) -> dict:
    """kernel, stride, pad of a pooling window; ceil_mode is padding at the bottom and right."""
    kernel, pad = call.pair("kernel_size"), call.pair("padding")
    stride = call.pair("stride") if call["stride"] else kernel
    size, out = b.tensors[x].shape[:2], call.shape[1:]
    end = [max(pad[i], (out[i] - 1) * stride[i] + kernel[i] - size[i] - pad[i]) for i in (0, 1)]
    if out != tuple(window_count(size[i], pad[i] + end[i], kernel[i], stride[i]) for i in (0, 1)):
        raise b.fail(f"{call.op}: window {kernel}, stride {stride}, padding {pad} cannot be expressed")
    return {"kernel": kernel, "stride": stride, "pad": (*pad, *end)}


def max_pool2d(b: Builder, call: Call) -> Value:
    if call.pair("dilation") != (1, 1):
        raise b.fail("max_pool2d: dilation is not supported; use dilation 1")
    x = b.image(call.value("self"))
    return Value(b.add("max_pool", [x], _window(b, call, x)), IMAGE)


def avg_pool2d(b: Builder, call: Call) -> Value:
    """aten.avg_pool2d. With divisor_override every position counts, then the sum is divided anew."""
    x = b.image(call.value("self"))
    attrs, pad, divisor = _window(b, call, x), call.pair("padding"), call["divisor_override"]
    if divisor is not None:
        name = b.add("avg_pool", [x], {**attrs, "count_pad": attrs["pad"]})
        return per_axis(b, Value(name, IMAGE), 0, np.prod(attrs["kernel"]) / divisor, 0.0)
    count_pad = (*pad, *pad) if call["count_include_pad"] else (0, 0, 0, 0)
    return Value(b.add("avg_pool", [x], {**attrs, "count_pad": count_pad}), IMAGE)


def adaptive_avg_pool2d(b: Builder, call: Call) -> Value:
    x = b.image(call.value("self"))
    if call.shape[1:] == (1, 1):
        return Value(b.add("mean", [x], {"axes": (0, 1), "keepdims": True}), IMAGE)
    return Value(b.add("adaptive_avg_pool", [x], {"size": call.shape[1:]}), IMAGE)


def adaptive_max_pool2d(b: Builder, call: Call) -> tuple[Value]:
    """aten.adaptive_max_pool2d where the windows are equal, as for output size 1."""
    x = b.image(call.value("self"))
    size, out = b.tensors[x].shape[:2], call.shape[1:]
    if size[0] % out[0] or size[1] % out[1]:
        raise b.fail(f"adaptive_max_pool2d: {size} is not a multiple of {out}; use max_pool2d")
    kernel = (size[0] // out[0], size[1] // out[1])
    return (Value(b.add("max_pool", [x], {"kernel": kernel, "stride": kernel, "pad": (0, 0, 0, 0)}), IMAGE),)


def mean(b: Builder, call: Call) -> Value:
    """aten.mean over axes of each sample."""
    x = call.value("self")
    dims = [call["dim"]] if isinstance(call["dim"], int) else call["dim"] or list(range(len(x.axes) + 1))
    away = {as_axis(b, call.op, d, len(x.axes)) for d in dims}
    name = b.add("mean", [x.name], {"axes": tuple(sorted(x.axes[a] for a in away)), "keepdims": bool(call["keepdim"])})
    if call["keepdim"]:
        return Value(name, x.axes)
    kept = [x.axes[a] for a in range(len(x.axes)) if a not in away] or [0]
    return Value(name, tuple(sorted(kept).index(a) for a in kept))


def softmax(b: Builder, call: Call) -> Value:
    x = b.innermost(call.value("self"), call.axis("dim"))
    return Value(b.add("softmax", [x.name], {"axis": len(x.axes) - 1}), x.axes)


def upsample_nearest2d(b: Builder, call: Call) -> Value:
    return _upsample(b, call, "nearest", False)


def upsample_bilinear2d(b: Builder, call: Call) -> Value:
    return _upsample(b, call, "bilinear", call["align_corners"])


def _upsample(b: Builder, call: Call, mode: str, corners: bool) -> Value:
    """The input step per output step: 1 / scale factor if one is given, else input / output size."""
    x = b.image(call.value("input"))
    size, out = b.tensors[x].shape[:2], call.shape[1:]
    factors = call.args.get("scale_factors") or [call.args.get("scales_h"), call.args.get("scales_w")]
    if corners:
        steps = [(i - 1) / (o - 1) if i > 1 and o > 1 else 1.0 for i, o in zip(size, out)]
    else:
        steps = [1.0 / f if f else i / o for f, i, o in zip(factors, size, out)]
    attrs = {"mode": mode, "size": out, "scale": tuple(map(float, steps)), "align_corners": bool(corners)}
    return Value(b.add("upsample", [x], attrs), IMAGE)
