"""Layer-wise N:M: the best choice within the budget, never above it, and what networks then are."""

from __future__ import annotations

import copy
import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from jettison import budget
from jettison.bench import processors
from jettison.compression import compress
from jettison.errors import CheckpointError, FormatError, PatternError
from jettison.export import export
from jettison.formats import NM, Dense
from jettison.graph import Graph, problem
from jettison.methods import ASP, SRSTE, Select, nm_mask, sparsify_
from jettison.settings import Settings
from jettison.training.data import load
from jettison.training.data.dataset import Split

torch.set_num_threads(1)
IMAGE = (3, 12, 12)


class Net(nn.Module):
    """Layers of unlike sizes and weights; `twice` is used twice; `tied` shares its weight; `six` cannot have M = 8."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.wide, self.small = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 32, 3), nn.Conv2d(32, 16, 1)
        self.twice, self.mine, self.tied = nn.Conv2d(16, 16, 1), nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        self.tied.weight = self.mine.weight
        self.narrow, self.six, self.head = nn.Conv2d(16, 6, 1), nn.Conv2d(6, 8, 1), nn.Linear(8, 4)
        with torch.no_grad():
            self.wide.weight[:, ::8] *= 20  # few weights hold nearly all of the energy

    def forward(self, x: Tensor) -> Tensor:
        x = self.small(self.wide(self.stem(x).relu()).relu()).relu()
        x = self.tied(self.mine(self.twice(self.twice(x).relu()).relu()).relu())
        return self.head(self.six(self.narrow(x)).mean((2, 3)))


def kept_macs(graph: Graph) -> int:
    return sum(problem(graph, op).cost(op.format, 0).macs for op in graph.ops if op.kind in ("conv", "linear"))


def best_by_trial(losses: np.ndarray, costs: np.ndarray, limit: float) -> float:
    rows = range(len(costs))
    options = itertools.product(range(costs.shape[1]), repeat=len(costs))
    return min(sum(losses[l, o] for l, o in zip(rows, c)) for c in options if sum(costs[l, o] for l, o in zip(rows, c)) <= limit)


@pytest.mark.parametrize("seed", range(8))
def test_no_other_choice_loses_less(seed: int) -> None:
    """Costs that fall and jump as measured times do, losses that are not convex."""
    rng = np.random.default_rng(seed)
    losses, costs = np.sort(rng.random((5, 6)), axis=1)[:, ::-1], rng.random((5, 6))
    limit = float(rng.uniform(1.2 * costs.min(1).sum(), costs.max(1).sum()))
    chosen = budget.solve(losses, costs, limit)
    rows = np.arange(5)
    assert costs[rows, chosen].sum() <= limit
    lost = losses[rows, chosen].sum()
    assert best_by_trial(losses, costs, limit) <= lost + 1e-12
    assert lost <= best_by_trial(losses, costs, limit * (1 - 5 / budget.STEPS)) + 1e-12
    assert chosen == budget.solve(losses, costs, limit)


def test_the_budget_may_be_spent_to_the_last_and_cannot_be_too_small() -> None:
    losses, costs = np.array([[2.0, 1.0, 0.0]] * 2), np.array([[1.0, 2.0, 3.0]] * 2)
    assert sum(budget.solve(losses, costs, 5.0)) == 3
    assert budget.solve(losses, costs, 6.0) == [2, 2]
    assert budget.solve(losses, costs, 2.0) == [0, 0]
    with pytest.raises(FormatError, match="cheapest choice of every layer costs 2"):
        budget.solve(losses, costs, 1.9)


def test_a_layer_that_sparse_kernels_do_not_speed_up_stays_dense() -> None:
    """And its time pays for nothing, so others gain nothing by it."""
    model = Net()
    linear = np.arange(1, 9) / 8
    found = budget.within(model, {"wide": 1 + 0 * linear, "small": linear, "twice": linear}, 0.5, 8, "latency")
    assert found.formats["wide"] == Dense()
    assert found.limit == pytest.approx(2.0)
    assert found.spent <= found.limit


def test_lost_energy_is_that_of_the_pruned_weights() -> None:
    w = torch.randn(6, 16, 3, 3)
    for n, lost in enumerate(budget.lost_energy(w, 8), 1):
        kept = (w * nm_mask(w, n, 8)).square().sum() / w.square().sum()
        assert lost == pytest.approx(1 - float(kept), abs=1e-6)


@pytest.mark.parametrize("cost", ["macs", "parameters"])
def test_a_network_costs_no_more_than_the_same_n_everywhere_and_loses_less(cost: str) -> None:
    model = Net()
    before = copy.deepcopy(model.state_dict())
    found = budget.choose(model, IMAGE, 0.25, 8, cost)
    assert all(torch.equal(t, before[k]) for k, t in model.state_dict().items())
    assert found == budget.choose(model, IMAGE, 0.25, 8, cost)
    assert set(found.formats) == {"wide", "small", "twice", "mine", "tied", "narrow"}
    assert found.formats["mine"] == found.formats["tied"]
    assert len(set(map(str, found.formats.values()))) > 1
    assert found.spent <= found.limit
    assert sum(s.loss for s in found.shares) < sum(s.uniform_loss for s in found.shares)
    assert next(s for s in found.shares if s.name == "wide").n <= 2  # little is left to lose there
    nets = []
    for fmt in (found.formats, NM(2, 8)):
        net = copy.deepcopy(model)
        formats = sparsify_(net, fmt, ASP(retrain=False), remainder="dense").finish()
        nets.append(export(net.eval(), IMAGE, formats))
    dense = export(model.eval(), IMAGE)
    if cost == "macs":
        assert kept_macs(nets[0]) <= kept_macs(nets[1])
        uses = {"wide": 1, "small": 1, "twice": 2, "mine": 1, "tied": 1, "narrow": 1}
        others = sum(problem(dense, op).macs for op in dense.ops if op.name in ("stem", "six", "head"))
        assert sum(uses.values()) == 7 and found.limit == pytest.approx(kept_macs(nets[1]) - others)
    else:
        assert found.limit == pytest.approx(sum(np.prod(s.shape) for s in found.shares) / 4)


def test_time_is_measured_for_each_layer_and_n() -> None:
    graph = export(Net().eval(), IMAGE)
    layers = {"wide": (32, 3, 3, 16), "twice": (16, 1, 1, 16)}
    timed = budget.Timed(tuple(processors(1)))
    table = budget.costs(graph, layers, 4, "latency", timed)
    assert {name: ms.shape for name, ms in table.items()} == {"wide": (4,), "twice": (4,)}
    assert all((ms > 0).all() and np.isfinite(ms).all() for ms in table.values())


def test_a_budget_of_dense_layers_alone_is_no_job(monkeypatch, tmp_path) -> None:
    """As where the dense kernel is as fast as a sparse one of as many weights."""
    monkeypatch.setattr(budget, "costs", lambda graph, layers, m, *_: {name: np.ones(m) for name in layers})
    settings = Settings("resnet20_cifar", "4:8", epochs=1, dense_epochs=1, kept=0.5)
    data = load("digits", size=32)
    few = Split(data.test.images[:8], data.test.labels[:8])  # type: ignore[index]
    with pytest.raises(PatternError, match="kept, macs is best spent on dense layers"):
        compress(settings, replace(data, train=few, test=few), tmp_path, progress=False)


def test_formats_by_layer_are_trained_and_kept() -> None:
    model = Net()
    formats = {"wide": NM(1, 8), "small": NM(3, 8), "twice": Dense(), "mine": NM(1, 4), "tied": NM(1, 4)}
    handle = sparsify_(model, formats, SRSTE())
    why = {r.name: r.reason for r in handle.report()}
    assert (why["twice"], why["narrow"], why["wide"]) == ("dense as asked for", "not selected", "")
    model(torch.randn(2, *IMAGE)).square().sum().backward()
    handle.step()
    state = handle.state_dict()
    other = sparsify_(Net(), {**formats, "small": NM(2, 8)}, SRSTE())
    with pytest.raises(CheckpointError, match="format"):
        other.load_state_dict(state)
    assert handle.finish() == {name: f for name, f in formats.items() if f != Dense()}


@pytest.mark.parametrize(
    ("formats", "words"),
    [
        ({"wrong": NM(1, 8)}, "is called 'wrong'"),
        ({"mine": NM(1, 8), "tied": NM(2, 8)}, "its weight is also that of tied"),
        ({"six": NM(1, 8)}, "divisible by 8, got 6"),
        ({"wide": Dense()}, "no layer is left"),
    ],
)
def test_formats_that_cannot_be(formats: dict, words: str) -> None:
    with pytest.raises(FormatError, match=words):
        sparsify_(Net(), formats)


@pytest.mark.parametrize(
    ("kept", "m", "cost", "words"),
    [(0.25, 8, "joules", "one of parameters, macs, latency"), (0.05, 8, "macs", "at least 1/8"), (1.0, 8, "macs", "below 1")],
)
def test_budgets_that_cannot_be(kept: float, m: int, cost: str, words: str) -> None:
    with pytest.raises(PatternError, match=words):
        budget.choose(Net(), IMAGE, kept, m, cost, select=Select())


def test_a_resumed_run_goes_on_with_what_was_chosen(tmp_path) -> None:
    path = tmp_path / "budget.json"
    first = budget.resumed(path, False, Net(), IMAGE, 0.25, 8, "macs")
    other = Net()
    nn.init.normal_(other.small.weight)
    assert budget.resumed(path, True, other, IMAGE, 0.25, 8, "macs") == first
    path.write_text("{}")
    with pytest.raises(CheckpointError, match="start anew without --resume"):
        budget.resumed(path, True, other, IMAGE, 0.25, 8, "macs")
