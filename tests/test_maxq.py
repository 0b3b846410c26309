"""MaxQ against a slow NumPy reading of its formulas; its ramp, its folding, and what it refuses."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn

from jettison.errors import FormatError, TrainingError
from jettison.export import export
from jettison.formats import NM, Dense
from jettison.methods import MaxQ, Select, nm_mask, sparsify_
from jettison.methods.mask import to_krsc
from jettison.methods.maxq import ORDERS, RAMPS, lowest, select_numpy, select_torch
from jettison.runtime import Session

torch.set_num_threads(1)
EVERY = Select(stem=True, classifier=True, grouped=True)


def reference(w: np.ndarray, n: int, m: int, temperature: float, dense_blocks: np.ndarray | None = None) -> np.ndarray:
    """Ŵ of (k, r, s, c) weights, an axis, a filter and a kernel position at a time."""
    if n == m:
        return w
    a = np.abs(w)
    mask = NM(n, m).mask(w).reshape(-1, m)
    if dense_blocks is not None:
        mask[dense_blocks] = True
    soft = np.ones_like(w)
    for k in range(len(w)):
        soft[k] += gate(a[k], n, m, temperature)
    if w.shape[1] * w.shape[2] > 1:
        for r, s in itertools.product(*map(range, w.shape[1:3])):
            soft[:, r, s] += gate(a[:, r, s], n, m, temperature)
    return w * soft * mask.reshape(w.shape)


def gate(a: np.ndarray, n: int, m: int, temperature: float) -> np.ndarray:
    q = int((m - n) / m * a.size)
    ascending = np.sort(a.ravel())
    threshold = (ascending[q - 1] + ascending[q]) / 2
    return np.where(a < threshold, 0, 1 / (1 + np.exp(-(a - threshold) / temperature)))


def layer(shape: tuple[int, ...], seed: int = 0, ties: bool = False) -> nn.Module:
    """A Conv2d or Linear in float64 with weights of `shape` (k, c[, r, s])."""
    g = torch.Generator().manual_seed(seed)
    made = nn.Linear(shape[1], shape[0]) if len(shape) == 2 else nn.Conv2d(shape[1], shape[0], shape[2:])  # type: ignore[arg-type]
    values = torch.randint(-2, 3, shape, generator=g).double() / 20 if ties else 0.1 * torch.randn(shape, generator=g, dtype=torch.float64)
    made.double().weight.data = values
    return made


SHAPES = [(6, 8), (8, 16, 1, 1), (6, 16, 3, 3), (4, 8, 5, 5), (5, 8, 1, 7), (3, 16, 2, 3)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("n", "m"), [(2, 4), (1, 8), (3, 4), (4, 4), (1, 2)])
@pytest.mark.parametrize("ties", [False, True])
def test_the_pruned_weight_is_that_of_the_formula(shape: tuple[int, ...], n: int, m: int, ties: bool) -> None:
    net = layer(shape, ties=ties)
    before = net.weight.detach().clone()
    sparsify_(net, NM(n, m), MaxQ(temperature=0.03), EVERY)
    w = before if len(shape) == 4 else before[:, :, None, None]
    expected = torch.from_numpy(reference(w.permute(0, 2, 3, 1).numpy(), n, m, 0.03)).permute(0, 3, 1, 2)
    torch.testing.assert_close(net.weight, expected.reshape(shape), atol=1e-12, rtol=1e-12)
    net.to(memory_format=torch.channels_last)
    torch.testing.assert_close(net.weight, expected.reshape(shape), atol=1e-12, rtol=1e-12)


def test_grouped_weights_are_their_own_network() -> None:
    """A kernel axis over all k and the c of one group."""
    net = nn.Conv2d(16, 8, 3, groups=2)
    before = net.weight.detach().clone()
    sparsify_(net, NM(1, 4), MaxQ(), EVERY)
    np.testing.assert_allclose(to_krsc(net.weight), reference(to_krsc(before), 1, 4, 0.01), rtol=1e-5)


def test_kept_weights_are_scaled_by_one_to_three() -> None:
    net = layer((16, 32, 3, 3))
    before = net.weight.detach().clone()
    sparsify_(net, NM(1, 16), MaxQ(), EVERY)
    scale = (net.weight / before).detach()
    kept = nm_mask(before, 1, 16)
    assert (scale[~kept] == 0).all()
    assert scale[kept].min() >= 1 and scale[kept].max() <= 3
    largest = before.abs() == before.abs().max()
    assert scale[largest].item() > 2.9


def test_the_gradient_passes_straight_through_and_decays_what_is_pruned() -> None:
    torch.manual_seed(3)
    net = nn.Linear(8, 5, bias=False)
    w, x, y = net.weight.detach().clone(), torch.randn(7, 8), torch.randn(7, 5)
    handle = sparsify_(net, NM(1, 4), MaxQ(decay=0.3), EVERY)
    (0.5 * (net(x) - y).pow(2).sum()).backward()
    handle.step()
    by_hand = (x @ net.weight.detach().T - y).T @ x
    torch.testing.assert_close(net.parametrizations.weight.original.grad, by_hand + 0.3 * w * ~nm_mask(w, 1, 4))  # type: ignore[union-attr]


@pytest.mark.parametrize("ramp", RAMPS)
def test_a_ramp_falls_from_one_to_zero(ramp: str) -> None:
    method = MaxQ(start=2, end=6, ramp=ramp)  # type: ignore[arg-type]
    shares = [method.dense_share(e) for e in np.linspace(0, 8, 81)]
    assert shares[:21] == [1.0] * 21 and shares[60:] == [0.0] * 21
    assert shares == sorted(shares, reverse=True)
    assert all(abs(a - b) < 0.15 for a, b in itertools.pairwise(shares))
    assert method.dense_share(4) == pytest.approx({"linear": 0.5, "cubic": 0.125, "cos": math.sqrt(0.5), "exp": 0.0758582}[ramp])
    assert MaxQ().dense_share(0) == 0


@pytest.mark.parametrize("order", ORDERS)
def test_the_ramp_leaves_the_right_blocks_dense(order: str) -> None:
    net = layer((6, 16, 3, 3), seed=1)
    before = net.weight.detach().clone()
    handle = sparsify_(net, NM(1, 4), MaxQ(end=10, order=order), EVERY)  # type: ignore[arg-type]
    assert (net.weight != 0).all()  # nothing is pruned yet
    w = before.permute(0, 2, 3, 1).numpy()
    norms = np.abs(w).reshape(-1, 4).sum(1)
    for epoch, count in ((2.5, 162), (9.5, 11), (10, 0)):
        handle.advance(epoch)
        dense = (handle.masks()[""].permute(0, 2, 3, 1).reshape(-1, 4).sum(1) == 4).numpy()
        assert dense.sum() == count
        if order != "random" and count:
            lowest_stay = norms[dense].max() <= norms[~dense].min()
            assert lowest_stay if order == "ascending" else norms[dense].min() >= norms[~dense].max()
        expected = reference(w, 1, 4, 0.01, dense)
        torch.testing.assert_close(net.weight, torch.from_numpy(expected).permute(0, 3, 1, 2), atol=1e-12, rtol=1e-12)


def test_selection_counts_exactly_also_on_ties() -> None:
    score = torch.tensor([3.0, 1.0, 2.0, 1.0, 2.0, 2.0])
    assert [lowest(score, count).int().tolist() for count in (1, 3, 4, 6)] == [
        [0, 1, 0, 0, 0, 0],
        [0, 1, 1, 1, 0, 0],
        [0, 1, 1, 1, 1, 0],
        [1, 1, 1, 1, 1, 1],
    ]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_thresholds_are_the_same_on_every_device(dtype: torch.dtype) -> None:
    for values in (torch.randn(3, 4, 50).abs(), torch.randint(0, 3, (3, 4, 50)), torch.zeros(2, 7)):
        rows = values.to(dtype)
        for q in (1, rows.shape[-1] // 2, rows.shape[-1] - 1):
            ascending = rows.sort(-1).values
            for select in (select_numpy, select_torch):
                low, high = select(rows, q)
                assert torch.equal(low, ascending[..., q - 1]) and torch.equal(high, ascending[..., q])


def test_a_ramp_that_is_over_does_not_start_again() -> None:
    """A second stage of training, with int8's rounding for example, counts its epochs from 0."""
    net = layer((6, 16, 3, 3))
    handle = sparsify_(net, NM(1, 4), MaxQ(end=4), EVERY)
    shares = []
    for epoch in (1, 3, 2, 5, 0, 1):
        handle.advance(epoch)
        shares.append(round(1 - handle.sparsity() / 0.75, 2))
    assert shares == [0.75, 0.25, 0.25, 0, 0, 0]


def test_finishing_before_the_ramp_ends_is_refused_and_training_may_go_on() -> None:
    net = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 2))
    handle = sparsify_(net, NM(1, 4), MaxQ(end=2))
    handle.advance(1.0)
    with pytest.raises(FormatError, match=r"0: weights do not satisfy 1:4 yet.*maxq's schedule.*advance"):
        handle.finish()
    assert not handle.finished
    handle.advance(2)
    assert handle.finish() == {"0": NM(1, 4)}


def trained(pattern: NM) -> tuple[nn.Module, dict, torch.Tensor, torch.Tensor]:
    """A network with BatchNorm after some steps; finished, with its output just before."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU(),
        nn.Conv2d(32, 32, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 4),
    )  # fmt: skip
    handle = sparsify_(net, pattern, MaxQ(end=2))
    optimizer = torch.optim.SGD(net.parameters(), 0.05, momentum=0.9)
    x = torch.randn(16, 3, 8, 8)
    for step in range(6):
        handle.advance(step / 2)
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x), torch.arange(16) % 4).backward()
        handle.step()
        optimizer.step()
    handle.advance(3)
    net.eval()
    before = net(x).detach()
    return net, handle.finish(), x, before


@pytest.mark.parametrize("pattern", [NM(2, 4), NM(1, 16)])
def test_the_folded_network_is_the_trained_one(pattern: NM) -> None:
    net, formats, x, before = trained(pattern)
    assert torch.equal(net(x), before)  # Ŵ is a constant now, bit for bit
    session = Session(export(net, x[:1], formats))  # BatchNorm folded on top
    got = np.asarray(session.run(x.numpy()))
    assert np.abs(got - before.numpy()).max() <= 1e-5 * before.abs().max().item()


@pytest.mark.parametrize("pattern", [NM(2, 4), NM(1, 16)])
def test_pruning_folded_weights_again_changes_nothing(pattern: NM) -> None:
    net, formats, x, _ = trained(pattern)
    for name in formats:
        weight = net.get_submodule(name).weight
        assert torch.equal(weight * nm_mask(weight, pattern.n, pattern.m), weight)
    graph = export(net, x[:1], formats)
    sparse = [op for op in graph.ops if op.kind in ("conv", "linear") and op.name in formats]
    assert len(sparse) == len(formats)
    for op in sparse:
        w = graph.weight(op)
        assert np.array_equal(w * pattern.mask(w), w)


def test_settings_that_make_no_sense_are_refused() -> None:
    for settings, word in (
        ({"decay": -1.0}, "decay"), ({"temperature": 0.0}, "temperature"), ({"start": 3, "end": 2}, "start <= end"),
        ({"ramp": "steep"}, "linear, cubic, cos, exp"), ({"order": "up"}, "ascending, descending, random"),
    ):  # fmt: skip
        with pytest.raises(TrainingError, match=word):
            MaxQ(**settings)  # type: ignore[arg-type]
    with pytest.raises(FormatError, match="MaxQ prunes to N:M, not to dense"):
        sparsify_(nn.Linear(4, 4), Dense(), MaxQ(), EVERY)
