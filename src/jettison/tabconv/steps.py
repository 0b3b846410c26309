"""Steps of a network that is trained in int8, of layers without tables: rounding passes gradients on unchanged.

Source: Bengio et al. 2013 (arXiv 1308.3432).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..graph import Graph, Op, TensorSpec
from ..peers.nchw import HELD, weight_scale
from ..peers.torch_model import LOWERINGS
from ..ptq.weights import BIAS_LIMIT
from .tables import LARGEST

LEVELS = 255  # steps of a u8


class _Round(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.round()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return grads[0]


def rounded(x: Tensor) -> Tensor:
    return _Round.apply(x)  # type: ignore[return-value]


class _Quantize(torch.autograd.Function):
    """(clamp(rint(x/s) + z, 0, 255) − z)·s, in passes that PyTorch has vector code for: its fake_quantize has none on a processor.

    Gradients pass inside the range, those of a ReLU before it above 0: with z = 0 the clamp is the ReLU.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: float, zero: int, relu: bool) -> Tensor:
        steps = x * (1 / scale)
        ctx.save_for_backward(steps)
        ctx.range = (0.0 if relu else -zero - 0.5, LEVELS - zero + 0.5)
        return steps.round().clamp_(-zero, LEVELS - zero).mul_(scale)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        return torch.ops.aten.hardtanh_backward(grads[0], *ctx.saved_tensors, *ctx.range), None, None, None


def quantized(x: Tensor, to: TensorSpec, relu: bool = False) -> Tensor:
    """A real tensor as u8 stands for it. relu: of its positive part; only where that is what the clamp does."""
    return x if to.dtype == "f32" else _Quantize.apply(x, to.scale, to.zero, relu)  # type: ignore[return-value]


class Step(nn.Module):
    """An op without anything to train: constants as buffers, by role."""

    def __init__(self, graph: Graph, op: Op) -> None:
        super().__init__()
        self.x, self.y = graph.tensors[op.inputs[0]], graph.tensors[op.outputs[0]]
        self.constants(graph, op)
        self.run = LOWERINGS[op.kind](self, graph, op)

    def constants(self, graph: Graph, op: Op) -> None:
        for role, name in op.params.items():
            if role != "table":
                self.register_buffer(role, torch.from_numpy(graph.constants[name].copy()))

    def forward(self, *xs: Tensor) -> Tensor:
        return quantized(self.run(*xs), self.y)


class Fixed(Step):
    """A dense int8 layer that is not trained: what its integers stand for."""

    def constants(self, graph: Graph, op: Op) -> None:
        self.register_buffer("weight", torch.from_numpy(_held(graph, op)))
        self.register_buffer("bias", torch.from_numpy(_real_bias(graph, op)))

    def weights(self) -> Tensor:
        return self.weight  # type: ignore[return-value]


class Weights(Step):
    """A dense int8 layer: float weights, rounded per output channel, and a float bias."""

    def constants(self, graph: Graph, op: Op) -> None:
        weight = torch.from_numpy(_held(graph, op))
        self.unit = deviation(weight)
        self.relative = nn.Parameter(weight / self.unit)
        self.bias = nn.Parameter(torch.from_numpy(_real_bias(graph, op)))

    @property
    def weight(self) -> Tensor:
        return self.relative * self.unit

    def _scale(self) -> Tensor:
        largest = self.weight.detach().flatten(1).abs().amax(1)
        return torch.where(largest > 0, largest / LARGEST, 1.0)

    def weights(self) -> Tensor:
        s = self._scale().view(-1, *(1,) * (self.weight.dim() - 1))
        return rounded(self.weight / s) * s

    def write(self, graph: Graph, op: Op) -> Graph:
        s = self._scale().double().numpy()
        w = self.weight.detach().double().numpy()
        q = np.rint(w / s.reshape(-1, *(1,) * (w.ndim - 1))).astype(np.int8)
        q = q.transpose(0, 2, 3, 1) if q.ndim == 4 else q[:, None, None]
        wide = np.clip(np.rint(self.bias.detach().double().numpy() / (s * self.x.scale)), -BIAS_LIMIT, BIAS_LIMIT)
        bias = wide - self.x.zero * q.sum(axis=(1, 2, 3), dtype=np.int64)
        multiplier = s * self.x.scale / (self.y.scale if self.y.dtype == "u8" else 1.0)
        p = op.params
        new = {p["weight"]: np.ascontiguousarray(q), p["bias"]: bias.astype(np.int32), p["multiplier"]: multiplier.astype(np.float32)}
        return replace(graph, constants={**graph.constants, **new})


def deviation(t: Tensor) -> float:
    return float(t.std(correction=0)) or 1.0


def _held(graph: Graph, op: Op) -> np.ndarray:
    """Real weights of a dense int8 layer, (k, c, r, s), or (k, c) of a linear layer that reads no image."""
    w = graph.weight(op) * weight_scale(graph, op)[:, None, None, None]
    image = len(graph.tensors[op.inputs[0]].shape) == 3
    return np.ascontiguousarray(w.transpose(HELD) if image else w[:, 0, 0], np.float32)


def _real_bias(graph: Graph, op: Op) -> np.ndarray:
    x = graph.tensors[op.inputs[0]]
    sums = graph.constants[op.params["bias"]] + x.zero * graph.weight(op).sum(axis=(1, 2, 3), dtype=np.int64)
    return (sums * weight_scale(graph, op) * x.scale).astype(np.float32)
