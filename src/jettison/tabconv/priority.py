"""Priority masking: which layers stay exact, one after the other, until a budget is kept.

Every step makes one more layer exact and fits those behind it again. Which one, by `criterion`:

    cosine     the layer where similarity to the exact network falls most:  Δ_i = cos_{i−1} − cos_i,
               cos_i: of the outputs of layer i, cos_0 = 1; the layers in the order in which they run
    top1, top5 the layer that alone costs most: top-1 changed, or members of the exact network's top 5 lost, when it is
               the only one made of tables
    latency    the layer that gains least for what it costs: milliseconds saved over top-1 changed, it alone being tables

Images have no labels: what counts as lost is a change of the exact network's answer, on images that nothing was fitted to.

Source: Gupta et al. 2024 (TabConv, arXiv 2404.05872), section III-C, for cosine; its successors are asked for in its outlook.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..analysis.measure import Measured, measure
from ..errors import TabConvError, instead_of_percent
from ..formats.lut import LookUp
from ..graph import Graph, Op, TensorSpec
from ..ptq.calibrate import whole
from ..runtime import Session
from .accounting import operations
from .fit import SAME, Formats, LayerFit, Progress, Stage, choose, fits_of, need_images, stages
from .observe import batches

CRITERIA = ("cosine", "top1", "top5", "latency")
HELD_OUT = 0.125  # share of the images that judge
RUNS = 5  # of a network that is timed
SAMPLES = 16  # images that these take by turns
TOP = 5
SMALLEST = 1e-3  # loss that counts, so that a layer which costs nothing has a finite worth


@dataclass(frozen=True, slots=True)
class Budget:
    """What must hold of the result; None: no matter. Errors: TabConvError.

    ops: share of the exact operations saved at least, by the paper's count. accuracy: points of top-1 agreement lost at
    most. ms: median time of one image at most.

    `accuracy` makes layers exact until it holds. `ops` and `ms` make layers exact as long as they hold: what they leave
    room for is given to accuracy. Tables may take longer than weights: then layers are made exact until `ms` holds, too.
    """

    ops: float | None = None
    accuracy: float | None = None
    ms: float | None = None

    def __post_init__(self) -> None:
        if self.ops is not None and not 0 <= self.ops < 1:
            hint = instead_of_percent(self.ops)
            raise TabConvError(f"budget of operations: the share saved must be at least 0 and below 1, got {self.ops:g}{hint}")
        for what, value in (("accuracy", self.accuracy), ("ms", self.ms)):
            if value is not None and not value >= 0:
                raise TabConvError(f"budget of {what}: must be a number of at least 0, got {value:g}")

    @property
    def given(self) -> bool:
        return (self.ops, self.accuracy, self.ms) != (None, None, None)


@dataclass(frozen=True, slots=True)
class Masked:
    """The result. masked: (layer, its score by the criterion) in the order in which they were made exact."""

    graph: Graph
    fits: list[LayerFit]
    masked: list[tuple[str, float]]
    lost_points: float
    saved_ops: float


def prioritised(
    graph: Graph,
    images: Any,
    fmt: LookUp,
    budget: Budget,
    criterion: str = "cosine",
    exact: Collection[str] = (),
    include: Collection[str] = (),
    rows: int | None = None,
    seed: int = 0,
    threads: int | None = None,
    progress: Progress = lambda what, done: None,
    formats: Formats = SAME,
) -> Masked:
    """`fit` with as few or as many layers left exact as `budget` asks for. Arguments as `fit`'s; an eighth of the images judges.

    Errors: those of `fit`; TabConvError (unknown criterion, a budget that cannot be kept).
    """
    if criterion not in CRITERIA:
        raise TabConvError(f"criterion must be one of {', '.join(CRITERIA)}, got {criterion!r}")
    arrays = whole(graph, images)
    fitting, judges = parted(len(arrays[0]))
    chosen = choose(graph, fmt, exact, include, formats)
    need_images(graph, chosen, fmt, formats, fitting, judges)
    judge = _Judge(graph, tuple(a[:judges] for a in arrays), threads)
    fitted = tuple(a[judges:] for a in arrays)

    def made(kept: Collection[str], known: Sequence[Stage] = (), tell: Progress = lambda what, done: None) -> list[Stage]:
        return stages(graph, fitted, fmt, (*exact, *kept), include, rows, seed, threads, tell, formats, known)

    todo = [name for name, why in chosen.items() if not why]
    found = made((), tell=progress)
    _check_operations(budget, found[-1].made, "include more layers")  # fewer tables save less
    scores = _alone(criterion, graph, todo, made, judge, progress) if criterion != "cosine" else {}
    masked: list[tuple[str, float]] = []
    while len(todo) > 1:
        if budget.accuracy is not None and judge.lost(found[-1].made) <= budget.accuracy:
            break
        score = scores or judge.drops(found[-1].made, todo)
        worst = max(todo, key=lambda name: score[name])
        rest = [name for name in todo if name != worst]
        progress(f"making {worst} exact", len(masked) / (len(masked) + len(rest)))
        candidate = made([*(n for n, _ in masked), worst], found)
        if budget.accuracy is None and _kept(budget, found[-1].made, judge) and not _kept(budget, candidate[-1].made, judge):
            break
        found, todo = candidate, rest
        masked.append((worst, float(score[worst])))
    result, named = found[-1].made, dict(masked)
    _check(budget, result, judge)
    fits = fits_of(choose(graph, fmt, (*exact, *named), include, formats), found)
    fits = [replace(f, reason=f"masked by {criterion}") if f.name in named else f for f in fits]
    return Masked(result, fits, masked, judge.lost(result), operations(result).saved_paper)


def parted(images: int) -> tuple[int, int]:
    """How many of them are fitted to, and how many judge."""
    judges = max(1, int(images * HELD_OUT))
    return images - judges, judges


def _kept(budget: Budget, graph: Graph, judge: _Judge) -> bool:
    return (budget.ops is None or operations(graph).saved_paper >= budget.ops) and (budget.ms is None or judge.ms(graph) <= budget.ms)


def _check(budget: Budget, graph: Graph, judge: _Judge) -> None:
    lost = judge.lost(graph)
    _check_operations(budget, graph, "allow more points to be lost" if budget.accuracy is not None else "allow more milliseconds")
    if budget.accuracy is not None and lost > budget.accuracy:
        raise TabConvError(f"the budget cannot be kept: {lost:.2f} points are lost with one layer left, not {budget.accuracy:.2f}; lower v")
    if budget.ms is not None and judge.ms(graph) > budget.ms:
        raise TabConvError(f"the budget cannot be kept: one image takes {judge.ms(graph):.4f} ms, not {budget.ms:.4f}; raise v")


def _check_operations(budget: Budget, graph: Graph, cure: str) -> None:
    saved = operations(graph).saved_paper
    if budget.ops is not None and saved < budget.ops:
        raise TabConvError(f"the budget cannot be kept: {saved:.1%} of the operations are saved, not {budget.ops:.1%}; {cure}")


class _Judge:
    """Compares networks with the exact one on images kept for it."""

    def __init__(self, exact: Graph, images: tuple[np.ndarray, ...], threads: int | None) -> None:
        self.exact, self.images, self.threads = exact, images, threads
        self.scores = self._run(exact)
        self.times: list[tuple[Graph, Measured]] = []

    def _run(self, graph: Graph) -> np.ndarray:
        out: Any = Session(graph, threads=self.threads).run(*self.images)
        return out[0] if isinstance(out, tuple) else out

    def lost(self, graph: Graph) -> float:
        """Percent of images whose top-1 is another than the exact network's."""
        return 100 * float((self._run(graph).argmax(-1) != self.scores.argmax(-1)).mean())

    def lost_top(self, graph: Graph) -> float:
        """Percent of the exact network's top 5 that are missing."""
        top = min(TOP, self.scores.shape[-1])
        ours, theirs = (np.argsort(-s, axis=-1, kind="stable")[..., :top] for s in (self._run(graph), self.scores))
        return 100 * float(1 - (ours[..., :, None] == theirs[..., None, :]).any(-1).mean())

    def ms(self, graph: Graph) -> float:
        """Median of one image."""
        return self._timed(graph).median_ms

    def layer_ms(self, graph: Graph) -> Mapping[str, float]:
        """The same of each kernel, by the name of its op."""
        return self._timed(graph).times_ms

    def _timed(self, graph: Graph) -> Measured:
        """Measured once, so that two questions about a network have one answer; another image each run, or tables stay in the caches."""
        if not any(known is graph for known, _ in self.times):
            singles = [tuple(a[i : i + 1] for a in self.images) for i in range(min(len(self.images[0]), SAMPLES))]
            self.times.append((graph, measure(Session(graph, threads=self.threads), singles, RUNS)))
        return next(found for known, found in self.times if known is graph)

    def drops(self, graph: Graph, layers: Collection[str]) -> dict[str, float]:
        """Δ_i of each layer."""
        found, before = {}, 1.0
        for op in graph.ops:
            if op.name in layers:
                similar = self._cosine(graph, op)
                found[op.name], before = before - similar, similar
        return found

    def _cosine(self, graph: Graph, op: Op) -> float:
        """Of what `op` gives, as real numbers, in batches: outputs of a layer are many times as large as images."""
        ours, exact = (Session(_watched(g, op.outputs[0]), threads=self.threads) for g in (graph, self.exact))
        both = np.zeros(3)
        for _, batch in batches(self.images):
            a, b = (np.asarray(s.run(*batch), np.float64) for s in (ours, exact))
            both += (a * b).sum(), (a * a).sum(), (b * b).sum()
        return float(both[0] / max(np.sqrt(both[1] * both[2]), 1e-30))


def _watched(graph: Graph, tensor: str) -> Graph:
    """`graph` with `tensor`, in float32, as its only output."""
    if graph.tensors[tensor].dtype == "f32":
        return replace(graph, outputs=(tensor,))
    seen = "watched"
    ops = (*graph.ops, Op(seen, "dequantize", (tensor,), (seen,)))
    return replace(graph, ops=ops, tensors={**graph.tensors, seen: TensorSpec(seen, graph.tensors[tensor].shape)}, outputs=(seen,))


def _alone(
    criterion: str, graph: Graph, layers: list[str], made: Callable[..., list[Stage]], judge: _Judge, progress: Progress
) -> dict[str, float]:
    """Score of every layer when it is the only one made of tables: the higher, the sooner it is made exact."""
    exact_ms = judge.layer_ms(graph) if criterion == "latency" else {}
    scores = {}
    for i, name in enumerate(layers):
        progress(f"{name} alone", i / len(layers))
        alone = made([other for other in layers if other != name])[-1].made
        if criterion == "top5":
            scores[name] = judge.lost_top(alone)
        elif criterion == "top1":
            scores[name] = judge.lost(alone)
        else:
            scores[name] = -(exact_ms[name] - judge.layer_ms(alone)[name]) / max(judge.lost(alone), SMALLEST)
    return scores
