"""A network with tables, trained: `Graph` → torch.nn.Module → `Graph`, int8 all the way.

Forward is what the kernels compute, up to float32's rounding: u8 tensors of fixed scale, int8 weights and tables, hard
codes; while training, tables are not rounded. Backward questions are soft (`lookup`). Rounding passes gradients on unchanged
(Bengio et al. 2013, arXiv 1308.3432), inside the range.

Sums are normalised while training, by the statistics of the batch, as batch normalisation does (`_Norm`): tables that move
change every sum behind them. It starts as the identity and is folded into the tables' scales and the bias at the end.
Every parameter is in units of its layer's deviation or range, so that one learning rate suits all.

Beside the loss of the scores, each layer of tables is at first drawn to what the exact network gives there (`_Drawn`): far from the
scores the gradients of many hard layers say little. In the end it would only keep the network from better ways to those scores.

Sources: Tang et al. 2023 (LUT-NN, arXiv 2302.03213): soft assignment backward, hard forward, tables and other weights trained
together; Romero et al. 2015 (FitNets, arXiv 1412.6550): learning from a teacher's layers.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .. import spec
from ..formats.lut import LookUp
from ..graph import Graph, Op
from .steps import Fixed, Step, Weights
from .table_steps import EPS, Tables, step_of

PULL = 1.0  # weight of each layer's distance from the exact network's
PULLED = 0.7  # of the training; then scores alone decide


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
        return {op.outputs[0]: exact[op.outputs[0]] for op, step in zip(self.graph.ops, self.steps) if isinstance(step, Tables)}

    def trained(self) -> Graph:
        """The graph with what was learnt, in integers."""
        made = self.graph
        for op, step in zip(self.graph.ops, self.steps):
            if isinstance(step, Tables | Weights):
                made = step.write(made, op)
        return spec.check(made)


class Exact(nn.Module):
    """The int8 network that the tables were made from, as a teacher of scores and of layers, both of one run for each batch."""

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self.graph = graph
        self.steps = nn.ModuleList((Fixed if op.element == "i8" else Step)(graph, op) for op in graph.ops)
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
    if isinstance(op.format, LookUp):
        return step_of(graph, op)
    return (Weights if op.element == "i8" else Step)(graph, op)


class _Drawn(torch.autograd.Function):
    """y; its gradient is that of the loss + `PULL`·mean((y − wanted)²)/var(wanted)."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, wanted: Tensor) -> Tensor:
        ctx.save_for_backward(y - wanted, 2 * PULL / y.numel() / torch.var(wanted, correction=0).clamp(min=EPS))
        return y.view_as(y)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return torch.addcmul(grads[0], *ctx.saved_tensors), None
