"""Steps of a network in training that look up tables: entries, thresholds and the normalisation of the sums are what is trained."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..formats import PixelLut
from ..formats.pixel_lut import seen_by
from ..graph import Graph, Op
from ..peers.nchw import HELD
from ..peers.torch_model import ACTS
from .fit import tabulated
from .lookup import LookUp
from .pixel_lookup import PixelLayer, PixelLookUp
from .steps import LEVELS, Step, deviation, quantized
from .tables import LARGEST, integers

TEMPERATURE = 12.0  # τ, in steps of the u8 input
MOMENTUM = 0.1  # of a new batch in the running statistics
EPS = 1e-12
ENTRY_UNIT = 10.0  # deviations: with one learning rate entries move this much faster than other parameters


def _rounded(entries: Tensor) -> Tensor:
    """Entries (C, K, k) → rint((e − m)/s)·s + m, m the middle of each table, s = max|e − m| of each output / 127."""
    high, low = entries.amax(1, keepdim=True), entries.amin(1, keepdim=True)
    middle = (high + low) / 2
    s = (torch.maximum(high - middle, middle - low).amax(0) / LARGEST).clamp(min=1e-20)
    return (entries - middle).div_(s).round_().mul_(s).add_(middle)


class _Norm(nn.Module):
    """y = (γ·(x − μ)/σ + β)·u per channel; μ, σ of the batch while training, else their running means.

    x in units: the first training batch sets u = σ·unit, β = μ/σ (plus the bias), γ = 1, so that y stays x·unit + bias.
    """

    mean: Tensor
    variance: Tensor
    unit: Tensor
    ready: Tensor

    def __init__(self, bias: np.ndarray, unit: float) -> None:
        super().__init__()
        self.of_sums = unit
        self.gamma = nn.Parameter(torch.ones(len(bias)))
        self.beta = nn.Parameter(torch.from_numpy(bias.astype(np.float32)))
        self.register_buffer("mean", torch.zeros(len(bias)))
        self.register_buffer("variance", torch.full((len(bias),), unit**-2))
        self.register_buffer("unit", torch.ones(len(bias)))
        self.register_buffer("ready", torch.zeros((), dtype=torch.bool))

    def forward(self, x: Tensor) -> Tensor:
        if self.training and not self.ready:
            self._adopt(x.detach())
        return F.batch_norm(x, self.mean, self.variance, self.gamma * self.unit, self.beta * self.unit, self.training, MOMENTUM, EPS)

    @torch.no_grad()
    def _adopt(self, x: Tensor) -> None:
        variance, mean = torch.var_mean(x, [d for d in range(x.dim()) if d != 1], correction=0)
        variance = torch.where(variance > 0, variance, self.variance)
        unit = variance.sqrt() * self.of_sums
        self.beta.copy_((self.beta + mean * self.of_sums) / unit)
        self.unit.copy_(unit)
        self.mean.copy_(mean)
        self.variance.copy_(variance)
        self.ready.fill_(True)

    def folded(self) -> tuple[np.ndarray, np.ndarray]:
        """(scale, shift), float64: what it does to x in evaluation."""
        gamma, beta, unit, mean, variance = (
            t.detach().double().numpy() for t in (self.gamma, self.beta, self.unit, self.mean, self.variance)
        )
        scale = gamma * unit / np.sqrt(variance + EPS)
        return scale, beta * unit - mean * scale


class Tables(Step, ABC):
    """A layer of tables: `entries` in units of ten deviations, thresholds as shares of the u8 range, and the bias in `norm`."""

    name_of_questions: str  # the part that is not trained
    zero: int  # of the bytes that thresholds are compared with
    questions: Tensor

    def __init__(self, graph: Graph, op: Op) -> None:
        super().__init__(graph, op)
        a = op.attrs
        self.relu = a["act"] == "relu" and self.y.dtype == "u8" and self.y.zero == 0
        self.act = ACTS["none" if self.relu else a["act"]](a["alpha"])
        self.window = a.get("kernel", (1, 1)), a.get("stride", (1, 1)), a.get("dilation", (1, 1))
        t, l, b, r = a.get("pad", (0, 0, 0, 0))
        self.pad = (l, r, t, b)

    def constants(self, graph: Graph, op: Op) -> None:
        parts = graph.weight_parts(op)
        scale = graph.constants[op.params["multiplier"]].astype(np.float64) * (self.y.scale if self.y.dtype == "u8" else 1.0)
        real = torch.from_numpy((parts["tables"] * scale[:, None, None]).astype(np.float32)).permute(1, 2, 0).contiguous()
        unit = ENTRY_UNIT * deviation(real)
        self.entries = nn.Parameter(real / unit)
        self.norm = _Norm(graph.constants[op.params["bias"]] * scale, unit)
        self.thresholds = nn.Parameter((torch.from_numpy(parts["thresholds"].astype(np.float32)) + 0.5 - self.zero) / LEVELS)
        self.register_buffer("questions", torch.from_numpy(parts[self.name_of_questions].astype(np.int32)))

    @abstractmethod
    def sums(self, padded: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """(n·p·q·k in that order, in units of the entries, (p, q)) of padded inputs (n, c, h, w)."""

    def forward(self, *xs: Tensor) -> Tensor:
        x = xs[0] if xs[0].dim() == 4 else xs[0][:, :, None, None]
        sums, (p, q) = self.sums(F.pad(x, self.pad).contiguous())  # with the zero point, the real number 0
        y = sums.view(len(x), p, q, -1).permute(HELD).contiguous() if xs[0].dim() == 4 else sums.view(len(x), -1)
        y = self.norm(y)
        return quantized(self.act(y + xs[1] if len(xs) > 1 else y), self.y, self.relu)

    def rows(self) -> Tensor:
        """(C·K, k), in units. In evaluation as int8 with a scale per output holds them, the middle of each exact.

        While training as they are: rounding takes several passes over all tables, and what it changes is far below what codes lose.
        """
        return (self.entries if self.training else _rounded(self.entries)).flatten(0, 1)

    def kept_in_range(self) -> Tensor:
        """The thresholds, those that a step took out of what u8 holds put back: with t < 0 a question is always yes, also for q = 0."""
        with torch.no_grad():
            self.thresholds.clamp_((0.5 - self.zero) / LEVELS, (LEVELS + 0.5 - self.zero) / LEVELS)
        return self.thresholds

    def write(self, graph: Graph, op: Op) -> Graph:
        scale, shift = self.norm.folded()
        entries = self.entries.detach().double().numpy().transpose(2, 0, 1)
        n = integers(entries * scale[:, None, None], shift)
        steps = np.floor(self.kept_in_range().detach().double().numpy() * LEVELS + self.zero)
        trees = {self.name_of_questions: self.questions.numpy(), "thresholds": np.clip(steps, 0, 255).astype(np.uint8)}
        return tabulated(graph, op, op.format, {**trees, "tables": n.tables}, n)  # type: ignore[arg-type]


class WindowTables(Tables):
    """Of `Lut`: thresholds are compared with real numbers."""

    name_of_questions = "splits"

    @property
    def zero(self) -> int:
        return self.x.zero

    def sums(self, padded: Tensor) -> tuple[Tensor, tuple[int, int]]:
        starts, places, size = self._places(*padded.shape[1:])
        thresholds = self.kept_in_range() * (LEVELS * self.x.scale)
        tau = TEMPERATURE * self.x.scale
        return LookUp.apply(padded.flatten(1), starts, places, thresholds, self.rows(), tau), size  # type: ignore[return-value]

    def _places(self, c: int, h: int, w: int) -> tuple[Tensor, Tensor, tuple[int, int]]:
        """(p·q,) and (C, L), whose sum is where in a padded image the trees of an output pixel ask; and (p, q)."""
        (r, s), (sh, sw), (dh, dw) = self.window
        p, q = (h - dh * (r - 1) - 1) // sh + 1, (w - dw * (s - 1) - 1) // sw + 1
        splits = self.questions.long()
        tap = splits // c
        places = splits % c * (h * w) + tap // s * (dh * w) + tap % s * dw
        starts = torch.arange(p)[:, None] * (sh * w) + torch.arange(q) * sw
        return starts.flatten().to(places.device), places, (p, q)


class PixelTables(Tables):
    """Of `PixelLut`: thresholds are compared with bytes."""

    name_of_questions = "questions"
    zero = 0

    def sums(self, padded: Tensor) -> tuple[Tensor, tuple[int, int]]:
        h, w = padded.shape[2:]
        seen, size = seen_by(h, w, *self.window)
        at = torch.from_numpy(seen).to(padded.device)
        layer = PixelLayer(self.questions, at, self.x.scale, self.x.zero, TEMPERATURE)
        thresholds = self.kept_in_range() * LEVELS
        return PixelLookUp.apply(padded.flatten(2), thresholds, self.rows(), layer), size  # type: ignore[return-value]


def step_of(graph: Graph, op: Op) -> Tables:
    return (PixelTables if isinstance(op.format, PixelLut) else WindowTables)(graph, op)
