"""Graph → torch.nn.Module, for PyTorch's compiler: the same decoded weights, in functions that it can trace.

`LOWERINGS` is the one table, kind → function that returns the step (tensors → tensor).

int8 is written as PyTorch's own quantisation flow leaves it: every op in float32, its inputs and weights dequantised
before it and its result quantised after it. Inductor fuses that to oneDNN's integer kernels.
https://docs.pytorch.org/ao/stable/tutorials_source/pt2e_quant_x86_inductor.html
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.ao.quantization.fx._decomposed  # registers the operators of QUANTIZED
import torch.nn.functional as F
from torch import Tensor, nn

from ..graph import Graph, Op, TensorSpec
from ..spec import WEIGHTED
from .nchw import HELD, STORED, count_correction, counts_evenly, held_axis, natural_scale, weight_scale

QUANTIZED = torch.ops.quantized_decomposed


class TorchModel(nn.Module):
    """Inputs and outputs in the user's layout; `forward` returns a tuple."""

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self.graph = graph
        self.steps = nn.ModuleList(_Step(graph, op) for op in graph.ops)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        graph, values = self.graph, dict[str, Tensor]()
        for name, x in zip(graph.inputs, inputs):
            values[name] = x if graph.layouts.get(name) == "nchw" else _hold(x)
        for op, step in zip(graph.ops, self.steps):
            values[op.outputs[0]] = step(*(values[name] for name in op.inputs))
        return tuple(values[name] if graph.layouts.get(name) == "nchw" else _store(values[name]) for name in graph.outputs)


class _Step(nn.Module):
    """One op: its constants as frozen parameters `weight`, `bias`, …, and the function of its kind."""

    def __init__(self, graph: Graph, op: Op) -> None:
        super().__init__()
        self.specs = [graph.tensors[name] for name in (*op.inputs, *op.outputs)]
        self.integer = op.element == "i8"
        for role, array in _constants(graph, op).items():
            self.register_parameter(role, nn.Parameter(torch.from_numpy(array.copy()), requires_grad=False))
        self.run = LOWERINGS[op.kind](self, graph, op)

    def forward(self, *xs: Tensor) -> Tensor:
        return _quantized(self.run(*map(_dequantized, xs, self.specs)), self.specs[-1])

    def weights(self) -> Tensor:
        """(k, c, r, s), or (k, c) of a linear layer that reads no image; float32."""
        if not self.integer:
            return self.weight  # type: ignore[return-value]
        return QUANTIZED.dequantize_per_channel(self.weight, self.scale, self.zeros, 0, -127, 127, torch.int8)


def _constants(graph: Graph, op: Op) -> dict[str, np.ndarray]:
    """Arrays by role; an int8 layer has its weights with `scale` and `zeros`, and a float32 bias."""
    if op.kind not in WEIGHTED:
        return {role: graph.constants[name] for role, name in op.params.items() if role != "table"}
    weight = graph.weight(op)
    bias = graph.constants.get(op.params.get("bias", ""))
    image = len(graph.tensors[op.inputs[0]].shape) == 3
    arrays = {"weight": weight.transpose(HELD) if image else weight[:, 0, 0]} | ({} if bias is None else {"bias": bias})
    if op.element == "f32":
        return arrays
    x, scale = graph.tensors[op.inputs[0]], weight_scale(graph, op)
    exact = (arrays["bias"] + x.zero * weight.sum(axis=(1, 2, 3), dtype=np.int64)) * scale * x.scale
    zeros = np.zeros(len(scale), np.int64)
    return arrays | {"bias": exact.astype(np.float32), "scale": scale.astype(np.float32), "zeros": zeros}


def _quantized(x: Tensor, spec: TensorSpec) -> Tensor:
    return x if spec.dtype == "f32" else QUANTIZED.quantize_per_tensor(x, spec.scale, spec.zero, 0, 255, torch.uint8)


def _dequantized(x: Tensor, spec: TensorSpec) -> Tensor:
    return x if spec.dtype == "f32" else QUANTIZED.dequantize_per_tensor(x, spec.scale, spec.zero, 0, 255, torch.uint8)


Function = Callable[..., Tensor]
Constants = Any  # the _Step, seen as a bag of tensors by role


def _store(x: Tensor) -> Tensor:
    return x.permute(STORED) if x.ndim == 4 else x


def _hold(x: Tensor) -> Tensor:
    return x.permute(HELD) if x.ndim == 4 else x


ACTS: dict[str, Callable[[float], Function]] = {
    "none": lambda alpha: lambda x: x,
    "relu": lambda alpha: F.relu,
    "relu6": lambda alpha: F.relu6,
    "silu": lambda alpha: F.silu,
    "hardswish": lambda alpha: F.hardswish,
    "hardsigmoid": lambda alpha: F.hardsigmoid,
    "gelu": lambda alpha: F.gelu,
    "gelu_tanh": lambda alpha: partial(F.gelu, approximate="tanh"),
    "sigmoid": lambda alpha: torch.sigmoid,
    "tanh": lambda alpha: torch.tanh,
    "leaky_relu": lambda alpha: partial(F.leaky_relu, negative_slope=alpha),
}


def _activation(op: Op) -> Function:
    return ACTS[op.attrs["act"]](op.attrs["alpha"])


def _conv(c: Constants, graph: Graph, op: Op) -> Function:
    a, act, (t, l, b, r) = op.attrs, _activation(op), op.attrs["pad"]
    stride, dilation, groups, bias = tuple(a["stride"]), tuple(a["dilation"]), a["groups"], "bias" in op.params
    even = (t, l) == (b, r)

    def run(x: Tensor, *residual: Tensor) -> Tensor:
        x = x if even else F.pad(x, (l, r, t, b))
        y = F.conv2d(x, c.weights(), c.bias if bias else None, stride, (t, l) if even else 0, dilation, groups)
        return act(y + residual[0] if residual else y)

    return run


def _linear(c: Constants, graph: Graph, op: Op) -> Function:
    """Over the last axis; of an image a 1×1 convolution."""
    act, bias, image = _activation(op), "bias" in op.params, len(graph.tensors[op.inputs[0]].shape) == 3

    def run(x: Tensor, *residual: Tensor) -> Tensor:
        b = c.bias if bias else None
        y = (F.conv2d if image else F.linear)(x, c.weights(), b)
        return act(y + residual[0] if residual else y)

    return run


def _max_pool(c: Constants, graph: Graph, op: Op) -> Function:
    a, (t, l, b, r) = op.attrs, op.attrs["pad"]
    kernel, stride = tuple(a["kernel"]), tuple(a["stride"])
    if (t, l) == (b, r) and 2 * t <= kernel[0] and 2 * l <= kernel[1]:  # what PyTorch's own padding allows
        return lambda x: F.max_pool2d(x, kernel, stride, (t, l))
    return lambda x: F.max_pool2d(F.pad(x, (l, r, t, b), value=-float("inf")), kernel, stride)


def _avg_pool(c: Constants, graph: Graph, op: Op) -> Function:
    a, (t, l, b, r) = op.attrs, op.attrs["pad"]
    kernel, stride = tuple(a["kernel"]), tuple(a["stride"])
    if counts_evenly(a) and (t, l) == (b, r) and 2 * t <= kernel[0] and 2 * l <= kernel[1]:
        return lambda x: F.avg_pool2d(x, kernel, stride, (t, l), count_include_pad=any(a["count_pad"]))
    c.register_buffer("correction", torch.from_numpy(count_correction(graph.tensors[op.inputs[0]].shape, a).copy()))
    return lambda x: F.avg_pool2d(F.pad(x, (l, r, t, b)), kernel, stride) * c.correction


def _adaptive_avg_pool(c: Constants, graph: Graph, op: Op) -> Function:
    size = tuple(op.attrs["size"])
    return lambda x: F.adaptive_avg_pool2d(x, size)


def _mean(c: Constants, graph: Graph, op: Op) -> Function:
    shape, out, a = graph.tensors[op.inputs[0]].shape, graph.tensors[op.outputs[0]].shape, op.attrs
    if a["keepdims"]:
        held = [held_axis(i, len(shape)) for i in a["axes"]]
        return lambda x: x.mean(held, keepdim=True)
    stored = [i + 1 for i in a["axes"]]
    return lambda x: _hold(_store(x).mean(stored).reshape(-1, *out))


def _add(c: Constants, graph: Graph, op: Op) -> Function:
    act = _activation(op)
    return lambda x, y: act(x + y)


def _mul(c: Constants, graph: Graph, op: Op) -> Function:
    act = _activation(op)
    return lambda x, y: act(x * y)


def _affine(c: Constants, graph: Graph, op: Op) -> Function:
    act = _activation(op)
    shape = (1, -1, 1, 1) if len(graph.tensors[op.inputs[0]].shape) == 3 else (-1,)
    return lambda x: act(x * c.scale.view(shape) + c.shift.view(shape))


def _act(c: Constants, graph: Graph, op: Op) -> Function:
    return _activation(op)


def _softmax(c: Constants, graph: Graph, op: Op) -> Function:
    axis = held_axis(op.attrs["axis"], len(graph.tensors[op.inputs[0]].shape))
    return lambda x: x.softmax(axis)


def _layer_norm(c: Constants, graph: Graph, op: Op) -> Function:
    width, eps = (graph.tensors[op.inputs[0]].shape[-1],), op.attrs["eps"]
    return lambda x: _hold(F.layer_norm(_store(x), width, c.weight, c.bias, eps))


def _concat(c: Constants, graph: Graph, op: Op) -> Function:
    axis = held_axis(op.attrs["axis"], len(graph.tensors[op.inputs[0]].shape))
    return lambda *xs: torch.cat(xs, axis)


def _slice(c: Constants, graph: Graph, op: Op) -> Function:
    a, axis = op.attrs, held_axis(op.attrs["axis"], len(graph.tensors[op.inputs[0]].shape))
    chosen = (slice(None),) * axis + (slice(a["start"], a["stop"], a["step"]),)
    return lambda x: x[chosen]


def _pad(c: Constants, graph: Graph, op: Op) -> Function:
    pads = [(0, 0)] * (1 + len(op.attrs["pads"]))
    for axis, pair in enumerate(op.attrs["pads"]):
        pads[held_axis(axis, len(op.attrs["pads"]))] = tuple(pair)
    flat, value = [n for pair in reversed(pads) for n in pair], op.attrs["value"]  # F.pad starts from the last axis
    return lambda x: F.pad(x, flat, value=value)


def _upsample(c: Constants, graph: Graph, op: Op) -> Function:
    a = op.attrs
    corners = {} if a["mode"] == "nearest" else {"align_corners": a["align_corners"]}
    if natural_scale(graph.tensors[op.inputs[0]].shape, a):
        return lambda x: F.interpolate(x, size=tuple(a["size"]), mode=a["mode"], **corners)
    return lambda x: F.interpolate(x, scale_factor=tuple(1 / s for s in a["scale"]), mode=a["mode"], **corners)


def _channel_shuffle(c: Constants, graph: Graph, op: Op) -> Function:
    g = op.attrs["groups"]

    def run(x: Tensor) -> Tensor:
        y = _store(x)
        return _hold(y.unflatten(-1, (g, -1)).transpose(-1, -2).flatten(-2))

    return run


def _reshape(c: Constants, graph: Graph, op: Op) -> Function:
    out = graph.tensors[op.outputs[0]].shape
    return lambda x: _hold(_store(x).reshape(-1, *out))


def _transpose(c: Constants, graph: Graph, op: Op) -> Function:
    perm = (0, *(i + 1 for i in op.attrs["perm"]))
    return lambda x: _hold(_store(x).permute(perm))


def _as_it_is(c: Constants, graph: Graph, op: Op) -> Function:
    """Inputs arrive as float32 and results are quantised by the step, so changing type is nothing."""
    return lambda x: x


LOWERINGS: dict[str, Callable[[Constants, Graph, Op], Function]] = {
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
