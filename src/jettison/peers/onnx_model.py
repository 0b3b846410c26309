"""Graph → ONNX, for the engines that read it: the same decoded weights, with standard operators only.

`LOWERINGS` is the one table, kind → function. The batch size is fixed: engines plan better with it.

int8 becomes QDQ, which engines fuse back into integer kernels: every op computes in float32 between a
DequantizeLinear of its inputs, int8 weights (a scale per output channel) and int32 bias, and a QuantizeLinear of its output.
https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from ..graph import Graph, Op, TensorSpec
from .nchw import HELD, STORED, count_correction, counts_evenly, held_axis, natural_scale, weight_scale

OPSET = 20  # the first with Gelu
IR_VERSION = 9  # the one of that opset's release


def onnx_model(graph: Graph, batch: int) -> onnx.ModelProto:
    """The whole graph for `batch` samples. Inputs and outputs keep their names and the user's layout."""
    w = _Writer(graph, batch)
    for name in graph.inputs:
        w.value[name] = name if graph.layouts.get(name) == "nchw" else w.hold(name, graph.tensors[name].shape)
    for op in graph.ops:
        w.value[op.outputs[0]] = w.rounded(LOWERINGS[op.kind](w, op), graph.tensors[op.outputs[0]])
    for name in graph.outputs:
        y = w.value[name] if graph.layouts.get(name) == "nchw" else w.store(w.value[name], graph.tensors[name].shape)
        w.nodes.append(helper.make_node("Identity", [y], [f"{name}:out"]))
    body = helper.make_graph(
        w.nodes,
        "jettison",
        [w.info(name, name) for name in graph.inputs],
        [w.info(name, f"{name}:out") for name in graph.outputs],
        w.constants,
    )
    return helper.make_model(body, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)


class _Writer:
    """Nodes and constants as they are added. `value` gives the ONNX name under which a tensor is held."""

    def __init__(self, graph: Graph, batch: int) -> None:
        self.graph, self.batch = graph, batch
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.value: dict[str, str] = {}

    def add(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """One node; returns the name of its output."""
        name = f"{operator}:{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(inputs), [name], **attributes))
        return name

    def constant(self, array: Any) -> str:
        name = f"constant:{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(array, order="C"), name))
        return name

    def floats(self, array: Any) -> str:
        return self.constant(np.asarray(array, np.float32))

    def ints(self, *values: int) -> str:
        return self.constant(np.asarray(values, np.int64))

    def info(self, name: str, as_name: str) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(as_name, onnx.TensorProto.FLOAT, (self.batch, *self.graph.user_shape(name)))

    def inputs(self, op: Op) -> list[str]:
        return [self.value[name] for name in op.inputs]

    def shape(self, name: str) -> tuple[int, ...]:
        return self.graph.tensors[name].shape

    def param(self, op: Op, role: str) -> np.ndarray:
        return self.graph.constants[op.params[role]]

    def weights(self, op: Op, array: np.ndarray, axis: int = 0) -> str:
        """Its weights, arranged with the output channels along `axis`; int8 with its DequantizeLinear."""
        if op.element == "f32":
            return self.floats(array)
        scale = weight_scale(self.graph, op).astype(np.float32)
        zero = self.constant(np.zeros(len(scale), np.int8))
        return self.add("DequantizeLinear", self.constant(array), self.floats(scale), zero, axis=axis)

    def bias(self, op: Op) -> str:
        """Zeros where there is none; of int8 without the part that our integers hold for the zero point of the input."""
        if op.element == "f32":
            return self.floats(self.param(op, "bias") if "bias" in op.params else np.zeros(op.attrs["k"]))
        x = self.graph.tensors[op.inputs[0]]
        sums = self.graph.weight(op).sum(axis=(1, 2, 3), dtype=np.int64)
        whole = (self.param(op, "bias") + x.zero * sums).astype(np.int32)
        scale = (weight_scale(self.graph, op) * x.scale).astype(np.float32)
        return self.add("DequantizeLinear", self.constant(whole), self.floats(scale), axis=0)

    def rounded(self, x: str, spec: TensorSpec) -> str:
        """`x` as the u8 tensor `spec` would hold it; float32 as it is."""
        if spec.dtype != "u8":
            return x
        how = (self.floats(spec.scale), self.constant(np.array(spec.zero, np.uint8)))
        return self.add("DequantizeLinear", self.add("QuantizeLinear", x, *how), *how)

    def reshape(self, x: str, *shape: int) -> str:
        return self.add("Reshape", x, self.ints(self.batch, *shape))

    def store(self, x: str, shape: tuple[int, ...]) -> str:
        """Held → storage order; moves nothing where one pixel or one channel makes both the same."""
        if len(shape) != 3:
            return x
        return self.reshape(x, *shape) if prod(shape[:2]) == 1 or shape[2] == 1 else self.add("Transpose", x, perm=STORED)

    def hold(self, x: str, shape: tuple[int, ...]) -> str:
        """Storage order → held."""
        if len(shape) != 3:
            return x
        h, w, c = shape
        return self.reshape(x, c, h, w) if h * w == 1 or c == 1 else self.add("Transpose", x, perm=HELD)

    def activate(self, x: str, op: Op) -> str:
        return ACTS[op.attrs["act"]](self, x, op.attrs["alpha"])


ACTS: dict[str, Callable[[_Writer, str, float], str]] = {
    "none": lambda w, x, alpha: x,
    "relu": lambda w, x, alpha: w.add("Relu", x),
    "relu6": lambda w, x, alpha: w.add("Clip", x, w.floats(0.0), w.floats(6.0)),
    "silu": lambda w, x, alpha: w.add("Mul", x, w.add("Sigmoid", x)),
    "hardswish": lambda w, x, alpha: w.add("HardSwish", x),
    "hardsigmoid": lambda w, x, alpha: w.add("HardSigmoid", x, alpha=1 / 6, beta=0.5),
    "gelu": lambda w, x, alpha: w.add("Gelu", x, approximate="none"),
    "gelu_tanh": lambda w, x, alpha: w.add("Gelu", x, approximate="tanh"),
    "sigmoid": lambda w, x, alpha: w.add("Sigmoid", x),
    "tanh": lambda w, x, alpha: w.add("Tanh", x),
    "leaky_relu": lambda w, x, alpha: w.add("LeakyRelu", x, alpha=alpha),
}


def _conv(w: _Writer, op: Op) -> str:
    a = op.attrs
    y = w.add(
        "Conv", w.inputs(op)[0], w.weights(op, w.graph.weight(op).transpose(HELD)), w.bias(op),
        kernel_shape=a["kernel"], strides=a["stride"], pads=a["pad"], dilations=a["dilation"], group=a["groups"],
    )  # fmt: skip
    return _residual(w, op, y)


def _linear(w: _Writer, op: Op) -> str:
    """Over the last axis: of an image a 1×1 convolution, of a vector Gemm, of a sequence MatMul."""
    x, rank = w.inputs(op)[0], len(w.shape(op.inputs[0]))
    weight, bias = w.graph.weight(op)[:, 0, 0], w.bias(op)
    if rank == 3:
        y = w.add("Conv", x, w.weights(op, weight[:, :, None, None]), bias, kernel_shape=(1, 1))
    elif rank == 1:
        y = w.add("Gemm", x, w.weights(op, weight), bias, transB=1)
    else:
        y = w.add("Add", w.add("MatMul", x, w.weights(op, weight.T, axis=1)), bias)
    return _residual(w, op, y)


def _residual(w: _Writer, op: Op, y: str) -> str:
    xs = w.inputs(op)
    if len(xs) == 1:
        return w.activate(y, op)
    if op.element == "i8" and w.graph.tensors[op.outputs[0]].dtype == "u8":
        y = w.rounded(y, _branch(w.graph, op))
    return w.activate(w.add("Add", y, xs[1]), op)


def _branch(graph: Graph, op: Op) -> TensorSpec:
    """The u8 type of a convolution's result before a residual is added. We have none: our sum is rounded once.

    ONNX Runtime computes only what lies between two roundings in integers, and OpenVINO fuses this form no worse.
    The range low_y − high_r … high_y − low_r cuts nothing off: beyond it the sum y saturates anyway.
    """
    r, y = graph.tensors[op.inputs[1]], graph.tensors[op.outputs[0]]
    scale = y.scale + r.scale
    zero = np.rint((y.zero * y.scale + (255 - r.zero) * r.scale) / scale)
    return TensorSpec("part", y.shape, "u8", scale, int(zero))


def _max_pool(w: _Writer, op: Op) -> str:
    a = op.attrs
    return w.add("MaxPool", w.inputs(op)[0], kernel_shape=a["kernel"], strides=a["stride"], pads=a["pad"])


def _avg_pool(w: _Writer, op: Op) -> str:
    """With padding counted by the operator where it can, else corrected by a constant map."""
    a, x = op.attrs, w.inputs(op)[0]
    window = {"kernel_shape": a["kernel"], "strides": a["stride"], "pads": a["pad"]}
    if counts_evenly(a):
        return w.add("AveragePool", x, count_include_pad=int(any(a["count_pad"])), **window)
    mean = w.add("AveragePool", x, count_include_pad=1, **window)
    return w.add("Mul", mean, w.floats(count_correction(w.shape(op.inputs[0]), a)))


def _adaptive_avg_pool(w: _Writer, op: Op) -> str:
    """Windows of equal size are an ordinary pooling; else a product with averaging matrices from both sides."""
    x, (p, q), (h, width, _) = w.inputs(op)[0], op.attrs["size"], w.shape(op.inputs[0])
    if (p, q) == (1, 1):
        return w.add("GlobalAveragePool", x)
    if h % p == 0 and width % q == 0:
        size = (h // p, width // q)
        return w.add("AveragePool", x, kernel_shape=size, strides=size)
    return w.add("MatMul", w.add("MatMul", w.floats(_averaging(p, h)), x), w.floats(_averaging(q, width).T))


def _averaging(p: int, h: int) -> np.ndarray:
    """(p, h): row i averages ⌊i·h/p⌋ … ⌈(i+1)·h/p⌉ − 1."""
    a = np.zeros((p, h))
    for i in range(p):
        first, last = i * h // p, -(-(i + 1) * h // p)
        a[i, first:last] = 1 / (last - first)
    return a


def _mean(w: _Writer, op: Op) -> str:
    shape, out, a = w.shape(op.inputs[0]), w.shape(op.outputs[0]), op.attrs
    if len(shape) == 3 and sorted(a["axes"]) == [0, 1] and w.graph.tensors[op.outputs[0]].dtype == "u8":
        y = w.rounded(w.add("GlobalAveragePool", w.inputs(op)[0]), w.graph.tensors[op.outputs[0]])  # engines have it in integers
        return y if a["keepdims"] else w.reshape(y, *out)
    if a["keepdims"]:
        axes = w.ints(*(held_axis(i, len(shape)) for i in a["axes"]))
        return w.add("ReduceMean", w.inputs(op)[0], axes, keepdims=1)
    if len(shape) == 3 and sorted(a["axes"]) == [0, 1]:
        return w.add("ReduceMean", w.inputs(op)[0], w.ints(2, 3), keepdims=0)
    x = w.store(w.inputs(op)[0], shape)
    y = w.add("ReduceMean", x, w.ints(*(i + 1 for i in a["axes"])), keepdims=0)
    return w.hold(w.reshape(y, *out), out)


def _add(w: _Writer, op: Op) -> str:
    return w.activate(w.add("Add", *w.inputs(op)), op)


def _mul(w: _Writer, op: Op) -> str:
    return w.activate(w.add("Mul", *w.inputs(op)), op)


def _affine(w: _Writer, op: Op) -> str:
    shape = (1, -1, 1, 1) if len(w.shape(op.inputs[0])) == 3 else (-1,)
    scale, shift = (w.floats(w.param(op, role).reshape(shape)) for role in ("scale", "shift"))
    return w.activate(w.add("Add", w.add("Mul", w.inputs(op)[0], scale), shift), op)


def _act(w: _Writer, op: Op) -> str:
    return w.activate(w.inputs(op)[0], op)


def _softmax(w: _Writer, op: Op) -> str:
    return w.add("Softmax", w.inputs(op)[0], axis=held_axis(op.attrs["axis"], len(w.shape(op.inputs[0]))))


def _layer_norm(w: _Writer, op: Op) -> str:
    shape = w.shape(op.inputs[0])
    weight, bias = (w.floats(w.param(op, role)) for role in ("weight", "bias"))
    y = w.add("LayerNormalization", w.store(w.inputs(op)[0], shape), weight, bias, axis=-1, epsilon=op.attrs["eps"])
    return w.hold(y, shape)


def _concat(w: _Writer, op: Op) -> str:
    return w.add("Concat", *w.inputs(op), axis=held_axis(op.attrs["axis"], len(w.shape(op.inputs[0]))))


def _slice(w: _Writer, op: Op) -> str:
    a, axis = op.attrs, held_axis(op.attrs["axis"], len(w.shape(op.inputs[0])))
    return w.add("Slice", w.inputs(op)[0], w.ints(a["start"]), w.ints(a["stop"]), w.ints(axis), w.ints(a["step"]))


def _pad(w: _Writer, op: Op) -> str:
    pads = np.zeros((2, 1 + len(op.attrs["pads"])), np.int64)
    for axis, pair in enumerate(op.attrs["pads"]):
        pads[:, held_axis(axis, len(op.attrs["pads"]))] = pair
    return w.add("Pad", w.inputs(op)[0], w.ints(*pads.ravel().tolist()), w.floats(op.attrs["value"]))


def _upsample(w: _Writer, op: Op) -> str:
    a, shape = op.attrs, w.shape(op.inputs[0])
    if a["mode"] == "nearest":
        how = {"mode": "nearest", "nearest_mode": "floor", "coordinate_transformation_mode": "asymmetric"}
    else:
        how = {"mode": "linear", "coordinate_transformation_mode": "align_corners" if a["align_corners"] else "half_pixel"}
    if natural_scale(shape, a):
        return w.add("Resize", w.inputs(op)[0], "", "", w.ints(w.batch, shape[2], *a["size"]), **how)
    return w.add("Resize", w.inputs(op)[0], "", w.floats([1, 1, *(1 / s for s in a["scale"])]), **how)


def _channel_shuffle(w: _Writer, op: Op) -> str:
    shape, g = w.shape(op.inputs[0]), op.attrs["groups"]
    c = shape[-1]
    if len(shape) == 3:
        y = w.add("Transpose", w.reshape(w.inputs(op)[0], g, c // g, *shape[:2]), perm=(0, 2, 1, 3, 4))
        return w.reshape(y, c, *shape[:2])
    rank = len(shape)
    y = w.reshape(w.inputs(op)[0], *shape[:-1], g, c // g)
    return w.reshape(w.add("Transpose", y, perm=(*range(rank), rank + 1, rank)), *shape)


def _reshape(w: _Writer, op: Op) -> str:
    out = w.shape(op.outputs[0])
    return w.hold(w.reshape(w.store(w.inputs(op)[0], w.shape(op.inputs[0])), *out), out)


def _transpose(w: _Writer, op: Op) -> str:
    x = w.store(w.inputs(op)[0], w.shape(op.inputs[0]))
    y = w.add("Transpose", x, perm=(0, *(i + 1 for i in op.attrs["perm"])))
    return w.hold(y, w.shape(op.outputs[0]))


def _as_it_is(w: _Writer, op: Op) -> str:
    """Values are held as float32 and u8 results are rounded where they arise, so changing type is nothing."""
    return w.inputs(op)[0]


LOWERINGS: dict[str, Callable[[_Writer, Op], str]] = {
    "quantize": _as_it_is,
    "dequantize": _as_it_is,
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
