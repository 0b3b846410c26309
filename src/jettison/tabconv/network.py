"""A network with tables, trained: `Graph` → torch.nn.Module → `Graph`, int8 all the way.

Forward is what the kernels compute, up to float32's rounding: u8 tensors of fixed scale, int8 weights and tables, hard
codes. Backward questions are soft (`lookup`). Rounding passes gradients on unchanged (Bengio et al. 2013, arXiv 1308.3432),
inside the range.

Sums are normalised while training, by the statistics of the batch, as batch normalisation does (`_Norm`): tables that move
change every sum behind them. It starts as the identity and is folded into the tables' scales and the bias at the end.
Every parameter is in units of its layer's deviation or range, so that one learning rate suits all.

Beside the loss of the scores, each layer of tables is at first drawn to what the exact network gives there (`_Drawn`): far from the
scores the gradients of many hard layers say little. In the end it would only keep the network from better ways to those scores.

Sources: Tang et al. 2023 (LUT-NN, arXiv 2302.03213): soft assignment backward, hard forward, tables and other weights trained
together; Romero et al. 2015 (FitNets, arXiv 1412.6550): learning from a teacher's layers.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import spec
from ..formats import Lut
from ..graph import Graph, Op, TensorSpec
from ..peers.nchw import HELD, weight_scale
from ..peers.torch_model import ACTS, LOWERINGS
from ..ptq.weights import BIAS_LIMIT
from .fit import tabulated
from .lookup import LookUp
from .tables import LARGEST, integers

TEMPERATURE = 12.0  # τ, in steps of the u8 input
LEVELS = 255  # steps of a u8
MOMENTUM = 0.1  # of a new batch in the running statistics
EPS = 1e-12
PULL = 1.0  # weight of each layer's distance from the exact network's
PULLED = 0.7  # of the training; then scores alone decide
ENTRY_UNIT = 10.0  # deviations: with one learning rate entries move this much faster than other parameters


class TableNetwork(nn.Module):
    """graph: int8 with `Lut` layers. exact: to learn from its layers. Images (n, c, h, w) in, scores out."""

    def __init__(self, graph: Graph, exact: Exact | None = None) -> None:
        super().__init__()
        self.graph = graph
        self.steps = nn.ModuleList(_step(graph, op) for op in graph.ops)
        self._exact = () if exact is None else (exact,)  # no submodule: it is neither trained nor stored
        self._drawn = True

    def advance(self, share: float) -> None:
        """share: of the training that is done."""
        self._drawn = share < PULLED

    def forward(self, images: Tensor) -> Tensor:
        return self.tensors(images)[self.graph.outputs[0]]

    def tensors(self, images: Tensor) -> dict[str, Tensor]:
        """Of the whole network, by name."""
        wanted = self._wanted(images) if self.training and self._drawn else {}
        return _tensors(self.graph, self.steps, images, wanted)

    def _wanted(self, images: Tensor) -> dict[str, Tensor]:
        """What the exact network gives where this one looks up tables."""
        if not self._exact:
            return {}
        exact = self._exact[0].tensors(images)
        return {op.outputs[0]: exact[op.outputs[0]] for op, step in zip(self.graph.ops, self.steps) if isinstance(step, _Tables)}

    def trained(self) -> Graph:
        """The graph with what was learnt, in integers."""
        made = self.graph
        for op, step in zip(self.graph.ops, self.steps):
            if isinstance(step, _Tables | _Weights):
                made = step.write(made, op)
        return spec.check(made)


class Exact(nn.Module):
    """The int8 network that the tables were made from, as a teacher of scores and of layers, both of one run for each batch."""

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self.graph = graph
        self.steps = nn.ModuleList((_Fixed if op.element == "i8" else _Step)(graph, op) for op in graph.ops)
        self._last: tuple[Tensor, dict[str, Tensor]] | None = None

    def forward(self, images: Tensor) -> Tensor:
        return self.tensors(images)[self.graph.outputs[0]]

    @torch.no_grad()
    def tensors(self, images: Tensor) -> dict[str, Tensor]:
        """Of the whole network, by name."""
        if self._last is None or self._last[0] is not images:
            self._last = images, _tensors(self.graph, self.to(images.device).steps, images, {})
        return self._last[1]


def _tensors(graph: Graph, steps: nn.ModuleList, images: Tensor, wanted: dict[str, Tensor]) -> dict[str, Tensor]:
    """Of the whole network, by name; those of `wanted` drawn to it."""
    values = {graph.inputs[0]: images}
    for op, step in zip(graph.ops, steps):
        name = op.outputs[0]
        y = step(*(values[x] for x in op.inputs))
        values[name] = _Drawn.apply(y, wanted[name]) if name in wanted else y  # type: ignore[assignment]
    return values


def _step(graph: Graph, op: Op) -> nn.Module:
    if isinstance(op.format, Lut):
        return _Tables(graph, op)
    return (_Weights if op.element == "i8" else _Step)(graph, op)


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


class _Entries(torch.autograd.Function):
    """Entries (C, K, k) → ((rint((e − m)/s)·s + m)·unit, m the middle of each table, s = max|e − m| of each output / 127; in one memory."""

    @staticmethod
    def forward(ctx: Any, entries: Tensor, unit: float) -> Tensor:
        ctx.unit = unit
        high, low = entries.amax(1, keepdim=True), entries.amin(1, keepdim=True)
        middle = (high + low) / 2
        s = (torch.maximum(high - middle, middle - low).amax(0) / LARGEST).clamp(min=1e-20)
        return (entries - middle).div_(s).round_().mul_(s).add_(middle).mul_(unit)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0] * ctx.unit, None


def _quantized(x: Tensor, to: TensorSpec, relu: bool = False) -> Tensor:
    """A real tensor as u8 stands for it. relu: of its positive part; only where that is what the clamp does."""
    return x if to.dtype == "f32" else _Quantize.apply(x, to.scale, to.zero, relu)  # type: ignore[return-value]


class _Drawn(torch.autograd.Function):
    """y; its gradient is that of the loss + `PULL`·mean((y − wanted)²)/var(wanted)."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, wanted: Tensor) -> Tensor:
        ctx.save_for_backward(y - wanted, 2 * PULL / y.numel() / torch.var(wanted, correction=0).clamp(min=EPS))
        return y.view_as(y)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return torch.addcmul(grads[0], *ctx.saved_tensors), None


class _Step(nn.Module):
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
        return _quantized(self.run(*xs), self.y)


class _Fixed(_Step):
    """A dense int8 layer that is not trained: what its integers stand for."""

    def constants(self, graph: Graph, op: Op) -> None:
        self.register_buffer("weight", torch.from_numpy(_held(graph, op)))
        self.register_buffer("bias", torch.from_numpy(_real_bias(graph, op)))

    def weights(self) -> Tensor:
        return self.weight  # type: ignore[return-value]


class _Weights(_Step):
    """A dense int8 layer: float weights, rounded per output channel, and a float bias."""

    def constants(self, graph: Graph, op: Op) -> None:
        weight = torch.from_numpy(_held(graph, op))
        self.unit = _deviation(weight)
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


class _Norm(nn.Module):
    """y = (γ·(x − μ)/σ + β)·u per channel; μ, σ of the batch while training, else their running means.

    The first training batch sets u = σ, β = μ/σ (plus the bias), γ = 1: nothing changes.
    """

    mean: Tensor
    variance: Tensor
    unit: Tensor
    ready: Tensor

    def __init__(self, bias: np.ndarray) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(len(bias)))
        self.beta = nn.Parameter(torch.from_numpy(bias.astype(np.float32)))
        self.register_buffer("mean", torch.zeros(len(bias)))
        self.register_buffer("variance", torch.ones(len(bias)))
        self.register_buffer("unit", torch.ones(len(bias)))
        self.register_buffer("ready", torch.zeros((), dtype=torch.bool))

    def forward(self, x: Tensor) -> Tensor:
        if self.training and not self.ready:
            self._adopt(x.detach())
        return F.batch_norm(x, self.mean, self.variance, self.gamma * self.unit, self.beta * self.unit, self.training, MOMENTUM, EPS)

    @torch.no_grad()
    def _adopt(self, x: Tensor) -> None:
        variance, mean = torch.var_mean(x, [d for d in range(x.dim()) if d != 1], correction=0)
        unit = torch.where(variance > 0, variance.sqrt(), 1.0)
        self.beta.copy_((self.beta + mean) / unit)
        self.unit.copy_(unit)
        self.mean.copy_(mean)
        self.variance.copy_(torch.where(variance > 0, variance, 1.0))
        self.ready.fill_(True)

    def folded(self) -> tuple[np.ndarray, np.ndarray]:
        """(scale, shift), float64: what it does to x in evaluation."""
        gamma, beta, unit, mean, variance = (
            t.detach().double().numpy() for t in (self.gamma, self.beta, self.unit, self.mean, self.variance)
        )
        scale = gamma * unit / np.sqrt(variance + EPS)
        return scale, beta * unit - mean * scale


class _Tables(_Step):
    """A layer of tables: entries in units of ten deviations, thresholds as shares of the u8 range, and the bias in `norm`."""

    splits: Tensor

    def __init__(self, graph: Graph, op: Op) -> None:
        super().__init__(graph, op)
        a = op.attrs
        self.relu = a["act"] == "relu" and self.y.dtype == "u8" and self.y.zero == 0
        self.act = ACTS["none" if self.relu else a["act"]](a["alpha"])
        self.window = tuple(a.get(name, (1, 1)) for name in ("kernel", "stride", "dilation"))
        t, l, b, r = a.get("pad", (0, 0, 0, 0))
        self.pad = (l, r, t, b)

    def constants(self, graph: Graph, op: Op) -> None:
        parts = graph.weight_parts(op)
        scale = graph.constants[op.params["multiplier"]].astype(np.float64) * (self.y.scale if self.y.dtype == "u8" else 1.0)
        real = torch.from_numpy((parts["tables"] * scale[:, None, None]).astype(np.float32)).permute(1, 2, 0).contiguous()
        self.unit = ENTRY_UNIT * _deviation(real)
        self.entries = nn.Parameter(real / self.unit)
        self.norm = _Norm(graph.constants[op.params["bias"]] * scale)
        self.thresholds = nn.Parameter((torch.from_numpy(parts["thresholds"].astype(np.float32)) + 0.5 - self.x.zero) / LEVELS)
        self.register_buffer("splits", torch.from_numpy(parts["splits"].astype(np.int64)))

    def _rounded_entries(self) -> Tensor:
        """(C·K, k), as int8 with a scale per output holds them: the middle of each table is exact, as it goes to the bias."""
        return _Entries.apply(self.entries, self.unit).flatten(0, 1)  # type: ignore[union-attr]

    def forward(self, *xs: Tensor) -> Tensor:
        x = xs[0] if xs[0].dim() == 4 else xs[0][:, :, None, None]
        padded = F.pad(x, self.pad)  # with the zero point, the real number 0
        starts, places, (p, q) = self._places(*padded.shape[1:])
        step = LEVELS * self.x.scale
        thresholds = self._kept_in_range() * step
        sums = LookUp.apply(padded.contiguous().flatten(1), starts, places, thresholds, self._rounded_entries(), TEMPERATURE * self.x.scale)
        y = sums.view(len(x), p, q, -1).permute(HELD).contiguous() if xs[0].dim() == 4 else sums
        y = self.norm(y)
        return _quantized(self.act(y + xs[1] if len(xs) > 1 else y), self.y, self.relu)

    def _kept_in_range(self) -> Tensor:
        """The thresholds, those that a step took out of what u8 holds put back: with t < 0 a question is always yes, also for q = 0."""
        with torch.no_grad():
            self.thresholds.clamp_((0.5 - self.x.zero) / LEVELS, (LEVELS + 0.5 - self.x.zero) / LEVELS)
        return self.thresholds

    def _places(self, c: int, h: int, w: int) -> tuple[Tensor, Tensor, tuple[int, int]]:
        """(p·q,) and (C, L), whose sum is where in a padded image the trees of an output pixel ask; and (p, q)."""
        (r, s), (sh, sw), (dh, dw) = self.window
        p, q = (h - dh * (r - 1) - 1) // sh + 1, (w - dw * (s - 1) - 1) // sw + 1
        tap = self.splits // c
        places = self.splits % c * (h * w) + tap // s * (dh * w) + tap % s * dw
        starts = torch.arange(p)[:, None] * (sh * w) + torch.arange(q) * sw
        return starts.flatten().to(places.device), places, (p, q)

    def write(self, graph: Graph, op: Op) -> Graph:
        scale, shift = self.norm.folded()
        real = (self.entries.detach().double() * self.unit).numpy().transpose(2, 0, 1)
        n = integers(real * scale[:, None, None], shift)
        steps = np.floor(self._kept_in_range().detach().double().numpy() * LEVELS + self.x.zero)
        parts = {"splits": self.splits.numpy().astype(np.int32), "thresholds": np.clip(steps, 0, 255).astype(np.uint8), "tables": n.tables}
        return tabulated(graph, op, op.format, parts, n)  # type: ignore[arg-type]


def _deviation(t: Tensor) -> float:
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
