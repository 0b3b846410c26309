"""A network with tables, trained: `Graph` → torch.nn.Module → `Graph`, int8 all the way.

Forward is what the kernels compute, up to float32's rounding: u8 tensors of fixed scale, int8 weights and tables, hard
codes. Backward, with g = ∂L/∂y of a layer y[k] = Σ_j T[k, j, code[j]] + b[k]:

    tables       ∂L/∂T[k, j, i]  =  g[k] where code[j] = i
    thresholds   a node that asks a > t:  (e(bit 1) − e(bit 0)) · σ'((a − t)/τ)/τ,  minus that for t;
                 e(i) = Σ_k g[k]·T[k, j, i], with the other bits of the code as they are
    input        as if the layer were the convolution that it approximates:  ∂L/∂x = gᵀW

σ is the logistic function. Rounding passes gradients on unchanged (Bengio et al. 2013, arXiv 1308.3432), inside the range.

Sources: Tang et al. 2023 (LUT-NN, arXiv 2302.03213): soft assignment backward, hard forward, tables and other weights
trained together; Schönleber et al. 2023 (Stella Nera, arXiv 2311.10207): the same through a hash tree. Taking the
input's gradient from the exact weights is ours: a tree asks 4 of v inputs, and only near its thresholds.
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
from ..peers.nchw import HELD, STORED, weight_scale
from ..peers.torch_model import ACTS, LOWERINGS
from .fit import tabulated
from .tables import LARGEST, integers

TEMPERATURE = 12.0  # τ, in steps of the u8 input
BIAS_LIMIT = 1 << 30
CHUNK = 2048  # rows


class TableNetwork(nn.Module):
    """graph: int8 with `Lut` layers. exact: the int8 network that it was fitted to. Images (n, c, h, w) in, scores out."""

    def __init__(self, graph: Graph, exact: Graph) -> None:
        super().__init__()
        self.graph, self.exact = graph, exact
        self.steps = nn.ModuleList(_step(graph, exact, op) for op in graph.ops)

    def forward(self, images: Tensor) -> Tensor:
        values = {self.graph.inputs[0]: images}
        for op, step in zip(self.graph.ops, self.steps):
            values[op.outputs[0]] = step(*(values[name] for name in op.inputs))
        return values[self.graph.outputs[0]]

    def trained(self) -> Graph:
        """The graph with what was learnt, in integers."""
        made = self.graph
        for op, step in zip(self.graph.ops, self.steps):
            if isinstance(step, _Tables | _Weights):
                made = step.write(made, op)
        return spec.check(made)


def _step(graph: Graph, exact: Graph, op: Op) -> nn.Module:
    if isinstance(op.format, Lut):
        return _Tables(graph, op, exact)
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


def _quantized(x: Tensor, to: TensorSpec) -> Tensor:
    """A real tensor as u8 stands for it: (clamp(rint(x/s) + z, 0, 255) − z)·s."""
    if to.dtype == "f32":
        return x
    return rounded((x / to.scale).clamp(-to.zero, 255 - to.zero)) * to.scale


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


class _Weights(_Step):
    """A dense int8 layer: float weights, rounded per output channel, and a float bias."""

    def constants(self, graph: Graph, op: Op) -> None:
        self.weight = nn.Parameter(torch.from_numpy(_held(graph, op)))
        self.bias = nn.Parameter(torch.from_numpy(_real_bias(graph, op)))

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


class _Tables(_Step):
    """A layer of tables: entries, thresholds and bias in real units. `weight`: of the exact layer."""

    weight: Tensor
    splits: Tensor

    def __init__(self, graph: Graph, op: Op, exact: Graph) -> None:
        self.like = next(o for o in exact.ops if o.name == op.name)
        self.exact = exact
        super().__init__(graph, op)
        a = op.attrs
        # the exact layer's sums alone: only their gradient is used
        plain = replace(op, attrs={**a, "act": "none", "alpha": 0.0}, params={"weight": op.params["weight"]})
        self.run, self.act = LOWERINGS[op.kind](self, graph, plain), ACTS[a["act"]](a["alpha"])
        self.window = tuple(a.get(name, (1, 1)) for name in ("kernel", "stride", "dilation"))
        t, l, b, r = a.get("pad", (0, 0, 0, 0))
        self.pad = (l, r, t, b)

    def constants(self, graph: Graph, op: Op) -> None:
        parts = graph.weight_parts(op)
        y = graph.tensors[op.outputs[0]]
        scale = graph.constants[op.params["multiplier"]].astype(np.float64) * (y.scale if y.dtype == "u8" else 1.0)
        bias = graph.constants[op.params["bias"]] * scale
        real = parts["tables"] * scale[:, None, None]
        self.tables = nn.Parameter(torch.from_numpy(real.astype(np.float32)))
        self.bias = nn.Parameter(torch.from_numpy(bias.astype(np.float32)))
        steps = (parts["thresholds"].astype(np.float32) + 0.5 - self.x.zero) * self.x.scale
        self.thresholds = nn.Parameter(torch.from_numpy(steps.astype(np.float32)))
        self.register_buffer("weight", torch.from_numpy(_held(self.exact, self.like)))
        self.register_buffer("splits", torch.from_numpy(parts["splits"].astype(np.int64)))

    def weights(self) -> Tensor:
        return self.weight

    def _entries(self) -> Tensor:
        """(C·K, k), as int8 with a scale per output holds them: the middle of each table is exact, as it goes to the bias."""
        t = self.tables.detach()
        middle = (t.amax(2, keepdim=True) + t.amin(2, keepdim=True)) / 2
        s = ((t - middle).abs().amax((1, 2), keepdim=True) / LARGEST).clamp(min=1e-20)
        return (rounded((self.tables - middle) / s) * s + middle).flatten(1).T.contiguous()

    def forward(self, *xs: Tensor) -> Tensor:
        x = xs[0]
        like = self.run(x)  # the exact layer's sums, for the input's gradient alone
        asked = self._rows(x.detach() if x.dim() == 4 else x.detach()[:, :, None, None])
        sums = LookUp.apply(asked, self.thresholds, self._entries(), TEMPERATURE * self.x.scale)
        y = sums + self.bias
        y = y.view(len(x), *like.shape[2:], -1).permute(HELD) if x.dim() == 4 else y
        y = y + (like - like.detach())
        return _quantized(self.act(y + xs[1] if len(xs) > 1 else y), self.y)

    def _rows(self, x: Tensor) -> Tensor:
        """(n·p·q, C, L): what the trees ask, of every output pixel. Padding holds the zero point, the real number 0."""
        (r, s), (sh, sw), (dh, dw) = self.window
        x = F.pad(x.permute(STORED), (0, 0, *self.pad))
        n, h, w, c = x.shape
        rows = torch.arange((h - dh * (r - 1) - 1) // sh + 1, device=x.device) * (sh * w * c)
        columns = torch.arange((w - dw * (s - 1) - 1) // sw + 1, device=x.device) * (sw * c)
        split = self.splits.flatten()
        tap = split // c
        within = tap // s * (dh * w * c) + tap % s * (dw * c) + split % c
        at = (rows[:, None] + columns).flatten()[:, None] + within
        return x.reshape(n, -1)[:, at.flatten()].view(-1, *self.splits.shape)

    def write(self, graph: Graph, op: Op) -> Graph:
        n = integers(self.tables.detach().double().numpy(), self.bias.detach().double().numpy())
        steps = np.floor(self.thresholds.detach().double().numpy() / self.x.scale + self.x.zero)
        parts = {"splits": self.splits.numpy().astype(np.int32), "thresholds": np.clip(steps, 0, 255).astype(np.uint8), "tables": n.tables}
        fmt = op.format
        return tabulated(graph, op, fmt, parts, n)  # type: ignore[arg-type]


class LookUp(torch.autograd.Function):
    """(asked (m, C, L), thresholds (C, K − 1), entries (C·K, k), τ) → sums (m, k) of m rows. No gradient for `asked`.

    In pieces of `CHUNK` rows, which stay in a cache.
    """

    @staticmethod
    def forward(ctx: Any, asked: Tensor, thresholds: Tensor, entries: Tensor, tau: float) -> Tensor:
        codes = [_codes(a, thresholds) for a in asked.split(CHUNK)]
        ctx.save_for_backward(asked, thresholds, entries, *codes)
        ctx.tau = tau
        first = _first(codes[0], thresholds.shape[1] + 1)
        return torch.cat([F.embedding_bag(code + first, entries, mode="sum") for code in codes])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, Tensor, Tensor, None]:
        asked, thresholds, entries, *codes = ctx.saved_tensors
        for_entries = torch.zeros_like(entries)
        for_thresholds = torch.zeros(thresholds.numel(), dtype=torch.float64, device=thresholds.device)
        for a, code, g in zip(asked.split(CHUNK), codes, grads[0].split(CHUNK)):
            one = _piece(a, code, thresholds, entries, g.contiguous(), ctx.tau)
            for_entries += one[0]
            for_thresholds += one[1]
        return None, for_thresholds.view_as(thresholds).to(thresholds.dtype), for_entries, None


def _codes(asked: Tensor, thresholds: Tensor) -> Tensor:
    """(m, C)."""
    flat = thresholds.flatten()
    code = torch.zeros(asked.shape[:2], dtype=torch.int64, device=asked.device)
    first = _first(code, thresholds.shape[1])
    for level in range(asked.shape[2]):
        code += (asked[:, :, level] > flat[code + (first + (1 << level) - 1)]).long() << level
    return code


def _piece(asked: Tensor, code: Tensor, thresholds: Tensor, entries: Tensor, g: Tensor, tau: float) -> tuple[Tensor, Tensor]:
    """Gradients of entries and, flat, of thresholds from some rows."""
    rows, count, levels = asked.shape
    prototypes = 1 << levels
    hot = torch.zeros(rows, count, prototypes, device=g.device).scatter_(2, code[:, :, None], 1.0)
    each = (g @ entries.T).view(rows, count, prototypes)  # e
    bits = 1 << torch.arange(levels, device=g.device)
    up = code[:, :, None] | bits
    change = each.gather(2, up) - each.gather(2, up - bits)
    node = (code[:, :, None] & (bits - 1)) + ((bits - 1) + _first(code, prototypes - 1)[:, None])
    soft = torch.sigmoid((asked - thresholds.flatten()[node]) / tau)
    slope = change * soft * (1 - soft) / -tau
    return hot.view(rows, -1).T @ g, torch.bincount(node.flatten(), slope.flatten(), thresholds.numel())


def _first(code: Tensor, each: int) -> Tensor:
    """Where each codebook's entries start: (C,)."""
    return torch.arange(code.shape[1], device=code.device) * each


def _held(graph: Graph, op: Op) -> np.ndarray:
    """Real weights of a dense int8 layer, (k, c, r, s), or (k, c) of a linear layer that reads no image."""
    w = graph.weight(op) * weight_scale(graph, op)[:, None, None, None]
    image = len(graph.tensors[op.inputs[0]].shape) == 3
    return np.ascontiguousarray(w.transpose(HELD) if image else w[:, 0, 0], np.float32)


def _real_bias(graph: Graph, op: Op) -> np.ndarray:
    x = graph.tensors[op.inputs[0]]
    sums = graph.constants[op.params["bias"]] + x.zero * graph.weight(op).sum(axis=(1, 2, 3), dtype=np.int64)
    return (sums * weight_scale(graph, op) * x.scale).astype(np.float32)
