"""Layer-wise N:M: how many of every M weights each layer keeps, so that the network as a whole stays within a budget.

    minimise  Σ_l L_l(n_l)   subject to   Σ_l C_l(n_l) ≤ budget,   1 ≤ n_l ≤ M;   budget = Σ_l C_l(kept·M)

L_l(n) = Σ w² over the weights that n:M prunes / Σ w² of the layer, the share of its energy that goes. C_l(n) is its cost: parameters,
multiply-adds, or milliseconds measured here, apart from the network (`Session.profile_apart`).
n = M leaves a layer dense. Losses of layers are taken to add up.

This is a multiple-choice knapsack, solved by dynamic programming on `STEPS` equal parts of the budget (`solve`): exact up to
their size, deterministic, milliseconds for a hundred layers, and it needs neither convex losses nor costs that grow with n.
A measured time need not: the dense kernel may win.

Source: the aim is that of Sun et al. 2021, "DominoSearch: Find layer-wise fine-grained N:M sparse schemes from dense neural
networks" (NeurIPS 34), which finds n_l by penalties in training.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from .analysis.whatif import pruned_to
from .bench import processors
from .bench.process import pinned
from .bench.target import in_element
from .errors import CheckpointError, FormatError, PatternError
from .export import Example, export
from .export.passes.encode_weights import module_path
from .file import replace
from .formats import NM, Dense, Format
from .graph import Graph, Op, problem
from .methods import Select, choose_layers
from .methods.mask import krsc_shape
from .methods.select import Rule
from .runtime import Session
from .spec import WEIGHTED

COSTS = ("parameters", "macs", "latency")
STEPS = 20_000  # equal parts of what the budget leaves above the cheapest choice
PASSES = 3  # over all patterns when measuring; the least median counts

Tell = Callable[[str, float], None]


@dataclass(frozen=True, slots=True)
class Timed:
    """What is measured for cost "latency": a run of so many images on these processors, all cores by default, in this arithmetic."""

    cpus: tuple[int, ...] | None = None
    batch: int = 1
    element: str = "f32"

    @property
    def processors(self) -> tuple[int, ...]:
        return tuple(processors(None)) if self.cpus is None else self.cpus


@dataclass(frozen=True, slots=True)
class Share:
    """What one layer got: n of every m. cost: in the budget's unit; loss: its L; uniform_…: with N = kept·M everywhere."""

    name: str
    shape: tuple[int, ...]
    n: int
    m: int
    cost: float
    loss: float
    uniform_cost: float
    uniform_loss: float

    @property
    def format(self) -> Format:
        return Dense() if self.n == self.m else NM(self.n, self.m)


@dataclass(frozen=True, slots=True)
class Budget:
    """cost: one of `COSTS`; limit: what all layers together may cost: weights, multiply-adds of one image, or milliseconds of a batch.

    tied: by layer, layers that share its weight and so its format.
    """

    cost: str
    limit: float
    shares: tuple[Share, ...]
    tied: Mapping[str, tuple[str, ...]]

    @property
    def formats(self) -> dict[str, Format]:
        """For `sparsify_`: of every layer that was given a share, dense ones included."""
        return {name: s.format for s in self.shares for name in (s.name, *self.tied[s.name])}

    @property
    def spent(self) -> float:
        return sum(s.cost for s in self.shares)


def check(kept: float | None, cost: str, fmt: Format) -> None:
    """Errors: PatternError for a budget that makes no sense; kept None: there is none."""
    if cost not in COSTS:
        raise PatternError(f"a budget is one of {', '.join(COSTS)}, got {cost!r}")
    if kept is not None and not isinstance(fmt, NM):
        raise PatternError(f"N is chosen layer by layer for N:M, not for {fmt}")
    if kept is not None and isinstance(fmt, NM) and not 1 / fmt.m <= kept < 1:
        raise PatternError(f"with M = {fmt.m} the share kept is at least 1/{fmt.m} = {1 / fmt.m:.3g} and below 1, got {kept}")


def choose(
    model: nn.Module,
    example: Example,
    kept: float,
    m: int = 16,
    cost: str = "macs",
    *,
    select: Rule | None = None,
    timed: Timed = Timed(),
    tell: Tell = lambda what, done: None,
) -> Budget:
    """Choose N for every layer of `model` that `select` selects and whose channels divide by m; the model is not changed.

    kept: share of the weights that uniform N:M would keep; its cost is the budget. timed: for cost "latency".
    Errors: PatternError, FormatError, those of export.
    """
    check(kept, cost, NM(m, m))
    layers = prunable(model, m, select)
    graph = export(copy.deepcopy(model).eval(), example)
    return within(model, costs(graph, layers, m, cost, timed, tell), kept, m, cost)


def costs(
    graph: Graph,
    layers: Mapping[str, tuple[int, ...]],
    m: int,
    cost: str,
    timed: Timed = Timed(),
    tell: Tell = lambda what, done: None,
) -> dict[str, np.ndarray]:
    """By layer, (m,): C(n) for n = 1 … m, all uses of the layer together. layers: the (k, r, s, c) of those to choose for."""
    if cost == "latency":
        return _latencies(graph, set(layers), m, timed, tell)
    whole = dict.fromkeys(layers, 0)
    for op in _weighted(graph, set(layers)):
        whole[module_path(op)] += problem(graph, op).macs
    each = whole if cost == "macs" else {name: prod(shape) for name, shape in layers.items()}
    return {name: value * np.arange(1, m + 1) / m for name, value in each.items()}


def within(
    model: nn.Module, table: Mapping[str, np.ndarray], kept: float, m: int, cost: str, weigh: Mapping[str, float] | None = None
) -> Budget:
    """The best choice for the layers of `table`, as `costs` gives it, at the cost of uniform kept·M. weigh: factors of their losses, 1
    unless given. Errors: PatternError, FormatError."""
    check(kept, cost, NM(m, m))
    modules = dict(model.named_modules())
    names: dict[int, list[str]] = {}  # of the layers that share a weight
    for name in table:
        names.setdefault(id(modules[name].weight), []).append(name)
    tied = {first: tuple(others) for first, *others in names.values()}
    weights: dict[str, Any] = {name: modules[name].weight for name in tied}
    loss = np.array([lost_energy(w, m) * (weigh or {}).get(name, 1.0) for name, w in weights.items()])
    price = np.array([table[name] if cost == "parameters" else sum(table[n] for n in (name, *tied[name])) for name in tied])
    uniform = np.array([[np.interp(kept * m - 1, range(m), row) for row in rows] for rows in (price, loss)])  # N may be a fraction
    limit = float(uniform[0].sum())
    shares = [
        Share(name, krsc_shape(w), o + 1, m, float(price[i, o]), float(loss[i, o]), float(uniform[0, i]), float(uniform[1, i]))
        for i, ((name, w), o) in enumerate(zip(weights.items(), solve(loss, price, limit)))
    ]
    return Budget(cost, limit, tuple(shares), tied)


def prunable(model: nn.Module, m: int, select: Rule | None = None) -> dict[str, tuple[int, ...]]:
    """(k, r, s, c) of every layer that may have N:M. Projections of attention, which no kernel runs, stay dense."""
    choices = choose_layers(model, NM(m, m), Select() if select is None else select, "dense")
    return {c.name: c.shape for c in choices if c.format is not None and c.parameter == "weight"}


def resumed(path: Path, resume: bool, *args: Any, timed: Timed = Timed(), **settings: Any) -> Budget:
    """`choose`, noted in `path`; a resumed run goes on with what is there, for measured times differ. Errors: CheckpointError too."""
    mine = json.loads(json.dumps(asdict(timed)))
    if not (resume and path.is_file()):
        chosen = choose(*args, timed=timed, **settings)
        replace(path, (json.dumps({**asdict(chosen), "timed": mine}, indent=1) + "\n").encode())
        return chosen
    try:
        found = json.loads(path.read_text())
        theirs = found.get("timed", mine)
        shares = tuple(Share(**{**share, "shape": tuple(share["shape"])}) for share in found["shares"])
        noted = Budget(found["cost"], found["limit"], shares, {name: tuple(others) for name, others in found["tied"].items()})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as e:
        raise CheckpointError(f"{path}: cannot be read ({e}); start anew without --resume") from e
    if noted.cost == "latency" and theirs != mine:
        raise CheckpointError(f"{path}: times were measured with {theirs} (now {mine}); use the same, or start anew without --resume")
    return noted


def solve(losses: np.ndarray, costs: np.ndarray, limit: float) -> list[int]:
    """Option o of each layer that minimises Σ losses[l, o] with Σ costs[l, o] ≤ limit. losses, costs: (layers, options).

    Costs are rounded up to parts of the budget, so that it is kept; what rounding left over goes to the steps that gain most
    for their cost. Errors: FormatError when even the cheapest options cost more.
    """
    rows = np.arange(len(costs))
    least = costs.min(1)
    free = limit - least.sum()
    if free < -1e-9 * abs(limit):
        raise FormatError(f"budget: {limit:.4g} cannot be met, the cheapest choice of every layer costs {least.sum():.4g}; keep more")
    units = np.ceil((costs - least[:, None]) * (STEPS / max(free, 1e-300)) - 1e-6)
    units = np.minimum(units, STEPS + 1).astype(int)
    best = np.zeros(STEPS + 1)  # least loss with so many parts
    taken = np.zeros((len(costs), STEPS + 1), np.int16)
    for layer in rows:
        new = np.full(STEPS + 1, np.inf)
        for option, u in enumerate(units[layer]):
            if u <= STEPS:
                total = best[: STEPS + 1 - u] + losses[layer, option]
                better = total < new[u:]
                new[u:][better] = total[better]
                taken[layer, u:][better] = option
        best = new
    chosen, left = np.zeros(len(costs), int), STEPS
    for layer in rows[::-1]:
        chosen[layer] = taken[layer, left]
        left -= units[layer, chosen[layer]]
    return _filled(losses, costs, limit, chosen).tolist()


def _filled(losses: np.ndarray, costs: np.ndarray, limit: float, chosen: np.ndarray) -> np.ndarray:
    """`chosen` with single steps that still fit, best gain for its cost first."""
    rows = np.arange(len(costs))
    while True:
        gain = losses[rows, chosen][:, None] - losses
        extra = costs - costs[rows, chosen][:, None]
        fits = (gain > 0) & (extra <= limit * (1 + 1e-12) - costs[rows, chosen].sum())
        if not fits.any():
            return chosen
        worth = np.where(fits, gain / np.maximum(extra, 1e-12 * limit), -np.inf)
        layer, option = np.unravel_index(int(worth.argmax()), worth.shape)
        chosen[layer] = option


def lost_energy(weight: Tensor, m: int) -> np.ndarray:
    """(m,) float64: L(n) for n = 1 … m of a weight (k, c, …)."""
    squares = weight.detach().double().square().movedim(1, -1).reshape(-1, m)
    by_rank = squares.sort(dim=1, descending=True).values.sum(0).cpu().numpy()
    return (by_rank.sum() - by_rank.cumsum()).clip(0) / max(by_rank.sum(), 1e-300)


def _weighted(graph: Graph, layers: Collection[str]) -> list[Op]:
    return [op for op in graph.ops if op.kind in WEIGHTED and module_path(op) in layers]


def _latencies(graph: Graph, layers: Collection[str], m: int, timed: Timed, tell: Tell) -> dict[str, np.ndarray]:
    """Milliseconds of each layer's kernels. Every pattern is measured `PASSES` times, in turns; the least counts: others only add time.

    Where the dense kernel is chosen, whatever N, it is one time: that of n = m.
    """
    names = {op.name: module_path(op) for op in _weighted(graph, layers)}
    sessions, found = [], {name: np.full(m, np.inf) for name in layers}
    with pinned(timed.processors):
        for n in range(1, m + 1):
            tell(f"building {n}:{m}", n / m / 2)
            own = pruned_to(graph, dict.fromkeys(names, NM(n, m))) if n < m else graph
            sessions.append(Session(in_element(own, timed.element, seed=0), threads=len(timed.processors), fuse=False))
        for turn in range(PASSES):
            for n, session in enumerate(sessions):
                tell(f"measuring {n + 1}:{m}", 0.5 + (turn + n / m) / PASSES / 2)
                times, totals = session.profile_apart(timed.batch), dict.fromkeys(layers, 0.0)
                for op, layer in names.items():
                    totals[layer] += times[op]
                for layer, ms in totals.items():
                    found[layer][n] = min(found[layer][n], ms)
    sparse = [{names[row.name] for row in s.layers() if row.name in names and row.kernel.startswith("nm")} for s in sessions]
    for layer, ms in found.items():
        dense = [n for n in range(m) if layer not in sparse[n]]
        ms[dense] = ms[dense].min()
    return found
