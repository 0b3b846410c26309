"""CRISP: selection against a brute-force reference, what training keeps, a change of mind."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn

from jettison import personal
from jettison.errors import FormatError, TrainingError
from jettison.formats import NM, Block, Dense
from jettison.methods import CRISP, Hybrid, Select, Sparsifier, mean_gradients, sparsify_
from jettison.methods.mask import to_krsc

torch.set_num_threads(1)
FMT = Block(16, 16, NM(2, 4))


def net(classes: int = 10, channels: int = 1, width: int = 32) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, 2, 1), nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, 64, 3, 2, 1), nn.BatchNorm2d(64), nn.ReLU(),
        nn.Conv2d(64, 48, 1), nn.BatchNorm2d(48), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(48, classes),
    )  # fmt: skip


def batches(count: int = 3) -> list[tuple[torch.Tensor, torch.Tensor]]:
    g = torch.Generator().manual_seed(1)
    return [(torch.randn(6, 1, 8, 8, generator=g), torch.randint(0, 10, (6,), generator=g)) for _ in range(count)]


def made(fmt: Block = FMT, method: CRISP | None = None, **how) -> tuple[nn.Sequential, Sparsifier, Hybrid]:
    model, method = net(), method or CRISP()
    handle = sparsify_(model, fmt, method, **how)
    return model, handle, Hybrid(handle, method)


def reference(weights: dict, gradients: dict, before: dict, fmt: Block, sparsity: float, method: CRISP) -> dict[str, np.ndarray]:
    """The masks by the text of the method, one block at a time, with the threshold found by trying every value.

    before: kept weights, all True at first.
    """
    score = {n: np.abs(weights[n] * gradients[n]).astype(np.float64) for n in weights}
    ranked = {}
    for n, s in score.items():
        k, r, width, c = s.shape
        rows = []
        for top in range(0, k, fmt.rows):
            blocks = []
            for column, (i, j, left) in enumerate(itertools.product(range(r), range(width), range(0, c, fmt.cols))):
                at = (slice(top, top + fmt.rows), i, j, slice(left, left + fmt.cols))
                gone = not before[n][at].any()
                blocks.append((-1.0 if gone else float((s[at] * before[n][at]).sum()), -column, at))
            rows.append(sorted(blocks, key=lambda b: b[:2]))
        ranked[n] = rows
    sizes = {n: w.size for n, w in weights.items()}
    each = {n: sizes[n] / len(rows[0]) * 0.5 if method.rank == "mean" else 1.0 for n, rows in ranked.items()}  # 2:4
    q = {n: [sum(row[j][0] for row in rows) / each[n] for j in range(len(rows[0]))] for n, rows in ranked.items()}
    best = None
    for threshold in sorted({-1.0, *itertools.chain(*q.values())}):
        dropped = {n: min(sum(x <= threshold for x in q[n]), len(q[n]) - method.least) for n in q}
        kept = sum(sizes[n] * (1 - dropped[n] / len(q[n])) * fmt.inner.density((1, 1, 1, 4)) for n in q)
        if 1 - kept / sum(sizes.values()) >= sparsity - 1e-9:
            best = dropped
            break
    assert best is not None
    masks = {}
    for n, rows in ranked.items():
        masks[n] = np.zeros(weights[n].shape, bool)
        for row in rows:
            for _, _, at in row[best[n] :]:
                masks[n][at] = True
        masks[n] &= NM(2, 4).mask(score[n])
    return masks


def by_name(tensors: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    return {n: to_krsc(t) for n, t in tensors.items()}


@pytest.mark.parametrize("method", [CRISP(), CRISP(least=3), CRISP(rank="sum")], ids=("mean", "least", "sum"))
def test_selection_equals_brute_force_in_every_iteration(method: CRISP) -> None:
    model, handle, hybrid = made(method=method)
    weights = by_name({n: w for n, (w, _) in handle.weights().items()})
    before = {n: np.ones(w.shape, bool) for n, w in weights.items()}
    for sparsity in (0.6, 0.75, 0.85):
        gradients = mean_gradients(handle, model, batches())
        want = reference(weights, by_name(gradients), before, FMT, sparsity, method)
        hybrid.select(gradients, sparsity)
        before = {n: m > 0 for n, m in by_name({n: m.float() for n, m in handle.masks().items()}).items()}
        for n in want:
            np.testing.assert_array_equal(before[n], want[n], err_msg=f"{n} at {sparsity}")
        size = max(w.size / f.total(w.shape) for w, f in zip(weights.values(), handle.formats().values()))  # of the largest rank
        assert sparsity <= handle.sparsity() < sparsity + size / sum(w.size for w in weights.values())


def test_blocks_only_go_and_every_row_keeps_as_many() -> None:
    model, handle, hybrid = made()
    optimizer, before = torch.optim.SGD(model.parameters(), 0.5), None
    for sparsity in (0.6, 0.7, 0.8, 0.9):
        hybrid.select(mean_gradients(handle, model, batches()), sparsity)
        blocks = {n: FMT.block_sums(to_krsc(m.float())) > 0 for n, m in handle.masks().items()}
        for n, b in blocks.items():
            fmt = handle.formats()[n]
            assert (b.sum(axis=1) == fmt.kept(to_krsc(handle.weights()[n][0]).shape)).all()
            assert before is None or (b <= before[n]).all()
        before = blocks
        for x, y in batches():  # weights move, also the pruned ones
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            handle.step()
            optimizer.step()
    formats = handle.finish()
    assert {type(f) for f in formats.values()} == {Block}
    assert formats == {r.name: r.format for r in handle.report() if r.format != Dense()}


def test_pruned_weights_learn_and_come_back_inside_kept_blocks() -> None:
    model, handle, hybrid = made()
    hybrid.select(mean_gradients(handle, model, batches()), 0.6)
    weight, p = handle.weights()["3"]
    nn.functional.cross_entropy(model(batches()[0][0]), batches()[0][1]).backward()
    assert weight.grad is not None and (weight.grad[~p.mask(weight)] != 0).any()
    kept = p.mask(weight).clone()
    with torch.no_grad():
        weight[~kept] *= 100
    hybrid.select(mean_gradients(handle, model, batches()), 0.6)
    assert (p.mask(weight) & ~kept).any()


def test_gradients_are_the_mean_of_the_minibatches() -> None:
    model, handle, _ = made()
    found = mean_gradients(handle, model, batches())
    by_hand = torch.zeros_like(model[6].weight)
    plain = net().eval()
    for x, y in batches():
        plain.zero_grad()
        nn.functional.cross_entropy(plain(x), y).backward()
        by_hand += plain[6].weight.grad.abs() / 3  # type: ignore[union-attr]
    torch.testing.assert_close(found["6"], by_hand)
    assert model.training and all(p.grad is None for p in model.parameters())
    with pytest.raises(TrainingError, match="no images"):
        mean_gradients(handle, model, [])


def test_what_cannot_be_reached_is_said_and_no_layer_is_emptied() -> None:
    model, handle, hybrid = made()
    low, high = hybrid.sparsities()
    assert low == 0.5
    sizes = {"3": (64 * 288, 18), "6": (48 * 64, 4)}  # weights, blocks of a row
    kept = sum(n / t / 2 for n, t in sizes.values())
    assert high == pytest.approx(1 - kept / sum(n for n, _ in sizes.values()))
    gradients = mean_gradients(handle, model, batches())
    for wrong in (0.49, high + 0.001, 1.0):
        with pytest.raises(FormatError, match=f"cannot be reached with this pattern, only 50.00% to {math.floor(1e4 * high) / 100:.2f}%"):
            hybrid.select(gradients, wrong)
    hybrid.select(gradients, high)
    assert [f.kept(s) for f, s in zip(handle.formats().values(), ((64, 3, 3, 32), (48, 1, 1, 64)))] == [1, 1]
    assert handle.sparsity() == pytest.approx(high)
    assert all(bool((m.weight != 0).any()) for m in (model[3], model[6]))


def test_layers_with_few_outputs_compete_by_what_a_weight_is_worth() -> None:
    """Layers of equal saliency per weight, one with 16 times the outputs: sums empty the small one, means take from both alike."""
    shares = {}
    for rank in ("mean", "sum"):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(64, 16, 3), nn.Conv2d(16, 256, 1), nn.Conv2d(256, 256, 3))
        method = CRISP(rank=rank)
        handle = sparsify_(model, FMT, method, Select(classifier=True))
        hybrid = Hybrid(handle, method)
        hybrid.select({n: torch.rand_like(w) / w.abs() for n, (w, _) in handle.weights().items()}, 0.75)
        shares[rank] = {n: f.keep for n, f in handle.formats().items() if isinstance(f, Block)}
    assert shares["sum"]["0"] < 0.1 and abs(shares["mean"]["0"] - shares["mean"]["2"]) < 0.15


def test_masks_of_a_checkpoint_are_gone_on_with() -> None:
    """Where a selection done again after --resume ended differently, what the checkpoint holds counts."""
    (model, handle, hybrid), (other, theirs, chosen) = made(), made()
    gradients = mean_gradients(handle, model, batches())
    hybrid.select(gradients, 0.7)
    chosen.select({n: g.flip(0) for n, g in gradients.items()}, 0.8)
    model.load_state_dict(other.state_dict())
    hybrid.follow()
    assert handle.formats() == theirs.formats()
    again = {n: torch.ones_like(g) for n, g in gradients.items()}
    for each in (hybrid, chosen):
        each.select(again, 0.85)
    assert all(torch.equal(m, theirs.masks()[n]) for n, m in handle.masks().items())
    handle.finish()


def test_schedule_takes_a_tenth_of_the_blocks_at_a_time_and_ends_at_the_target() -> None:
    _, _, hybrid = made(method=CRISP(settle=0))
    steps = hybrid.schedule(0.9, 20)
    assert [e for _, e in steps] == [2] * 7 + [6] and sum(e for _, e in steps) == 20
    shares = [(1 - s) / 0.5 for s, _ in steps]
    assert shares[-1] == pytest.approx(0.2) and all(a - b <= 0.1 + 1e-9 for a, b in itertools.pairwise([1.0, *shares]))
    assert hybrid.schedule(0.9, 3)[-1] == (0.9, 1) and len(hybrid.schedule(0.9, 3)) == 3
    assert hybrid.schedule(0.5, 4) == [(0.5, 4)]
    _, _, hybrid = made(method=CRISP(settle=0.6))
    assert [e for _, e in hybrid.schedule(0.9, 20)] == [1] * 7 + [13] and hybrid.schedule(0.9, 1) == [(0.9, 1)]


def test_remainder_inner_makes_nm_where_blocks_do_not_fit() -> None:
    model, handle, hybrid = made(Block(32, 32, NM(2, 4)), remainder="inner", select=Select(classifier=True))
    assert handle.formats() == {"3": Block(32, 32, NM(2, 4)), "6": NM(2, 4), "11": NM(2, 4)}
    hybrid.select(mean_gradients(handle, model, batches()), 0.8)
    assert handle.sparsity() >= 0.8
    reasons = {r.name: r.reason for r in handle.report()}
    assert reasons["6"] == "48 output and 64 input channels do not fit 32x32/2:4"
    assert handle.finish()["6"] == NM(2, 4)


def test_magnitude_knows_nothing_of_gradients() -> None:
    masks = []
    for scale in (1.0, 7.0):
        model, handle, hybrid = made(method=CRISP(use="magnitude"))
        gradients = {n: g * torch.rand_like(g) * scale for n, g in mean_gradients(handle, model, batches()).items()}
        hybrid.select(gradients, 0.8)
        masks.append(handle.masks())
    assert all(torch.equal(masks[0][n], masks[1][n]) for n in masks[0])
    for wrong in ({"use": "luck"}, {"rank": "first"}, {"step": 0}, {"settle": 1}, {"least": 0}, {"least": True}):
        with pytest.raises(TrainingError, match="CRISP"):
            CRISP(**wrong)


def test_plain_nm_is_no_network_for_it() -> None:
    handle = sparsify_(net(), NM(2, 4), CRISP())
    with pytest.raises(FormatError, match="CRISP needs layers with whole blocks"):
        Hybrid(handle, CRISP())


def test_a_change_of_mind_chooses_among_all_blocks() -> None:
    """The old network is what saliency is measured on; what it kept has no advantage."""
    old, handle, hybrid = made()
    gradients = mean_gradients(handle, old, batches())
    hybrid.select(gradients, 0.85)
    others = {n: g.flip(0, 1) for n, g in gradients.items()}
    chosen = []
    for masks in (None, handle.masks()):
        again = sparsify_(net(), FMT, CRISP())
        mind = Hybrid(again, again.method, masks)  # type: ignore[arg-type]
        mind.select(others, 0.85)
        chosen.append(again.masks())
    assert all(torch.equal(chosen[0][n], chosen[1][n]) for n in others)
    assert not all(torch.equal(chosen[1][n], m) for n, m in handle.masks().items())


def test_a_share_of_the_blocks_is_of_blocks_alone() -> None:
    """Layers of N:M alone lose nothing for it, and take nothing of what the others may keep."""
    model = nn.Sequential(nn.Conv2d(8, 128, 3), nn.Conv2d(128, 128, 3), nn.Conv2d(128, 24, 3))
    method = CRISP()
    handle = sparsify_(model, FMT, method, Select(stem=True, classifier=True), remainder="inner")
    hybrid = Hybrid(handle, method)
    hybrid.select({n: torch.rand_like(w) for n, (w, _) in handle.weights().items()}, hybrid.sparsity_at(0.25))
    formats = handle.formats()
    assert [str(f) for f in formats.values() if not isinstance(f, Block)] == ["2:4", "2:4"]
    assert [f.keep for f in formats.values() if isinstance(f, Block)] == [0.25]


def test_layers_that_share_a_weight_change_their_mind_alike() -> None:
    model = nn.Sequential(nn.Conv2d(32, 32, 1), nn.Conv2d(32, 32, 1), nn.Conv2d(32, 32, 1))
    model[2].weight = model[1].weight
    dense = {n: t.clone() for n, t in model.state_dict().items()}
    handle = sparsify_(model, FMT, CRISP(), Select(classifier=True))
    hybrid = Hybrid(handle, CRISP())
    hybrid.select({n: torch.rand_like(w) for n, (w, _) in handle.weights().items()}, 0.7)
    with torch.no_grad():
        for weight, _ in handle.weights().values():
            weight += 1
    state, masks = personal.trained_state(handle, model)
    assert set(masks) == {"1", "2"} | ({"0"} & set(handle.masks())) and torch.equal(masks["1"], masks["2"])
    start = personal.resumed(personal.Personal("m", ["a", "b"], [0, 1], "keep", str(FMT), dense, state, masks), [0, 1], "none")
    assert torch.equal(start["1.weight"], start["2.weight"])
    assert torch.equal(start["2.weight"][~masks["2"]], dense["2.weight"][~masks["2"]])
