"""CRISP: selection against a brute-force reference, what training keeps, the whole job, a change of mind."""

from __future__ import annotations

import itertools
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from jettison import compression, file, personal
from jettison.errors import CheckpointError, FormatError, ModelError, PatternError, TrainingError
from jettison.formats import NM, Block, Dense
from jettison.methods import CRISP, Hybrid, Select, Sparsifier, mean_gradients, sparsify_
from jettison.methods.mask import to_krsc
from jettison.runtime import Session
from jettison.training.data import load

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
        with pytest.raises(FormatError, match=f"cannot be reached with this pattern, only 50.00% to {high:.2%}"):
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


# ---- the whole job

NET = """
from torch import nn
def net(num_classes=10, in_channels=1):
    return nn.Sequential(
        nn.Conv2d(in_channels, 32, 3, 2, 1), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 64, 3, 2, 1), nn.BatchNorm2d(64), nn.ReLU(),
        nn.Conv2d(64, 48, 1), nn.BatchNorm2d(48), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(48, num_classes),
    )
"""


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("crisp")
    (folder / "own.py").write_text(NET)
    data = load("digits", size=16)
    settings = compression.Settings(
        f"{folder}/own.py:net", "16x16/2:4", "crisp", dense_epochs=3, epochs=6, lr=0.1, batch=32,
        classes=("2", "7"), head="shrink", sparsity=0.85,
    )  # fmt: skip
    return settings, data, folder, compression.compress(settings, data, folder / "state", progress=False)


def test_a_network_for_two_classes_from_start_to_file(job, tmp_path) -> None:
    settings, _, _, result = job
    assert result.data.classes == ("2", "7")
    assert sorted(result.history) == ["dense", *(f"sparse-{i}" for i in range(1, 4))]
    assert result.history["sparse-3"][-1].accuracy > 0.9
    density = sum(np.prod(r.shape) * r.format.density(r.shape) for r in result.report if r.format != Dense())
    total = sum(np.prod(r.shape) for r in result.report if r.format != Dense())
    assert settings.sparsity <= 1 - density / total < settings.sparsity + 0.06
    file.save(result.graphs[settings.pattern], tmp_path / "x.jettison")
    assert {op.format.kind for op in file.load(tmp_path / "x.jettison").ops} == {"dense", "block"}
    session = Session(tmp_path / "x.jettison")
    assert session.outputs[0].shape == (2,)
    assert "block" in {c.kernel for layer in session.layers() for c in layer.candidates}


def test_a_classifier_that_shrinks_has_no_whole_blocks(job, tmp_path) -> None:
    settings, data, _, _ = job
    more = replace(data, classes=(*data.classes, *"abcdef"))  # 16 outputs
    with pytest.raises(PatternError, match="11: its outputs shrink and are no whole blocks then; leave it out of --include"):
        compression.compress(replace(settings, include=("11",)), more, tmp_path / "state", progress=False)


def test_a_head_that_cannot_shrink_is_refused_before_training(job, tmp_path) -> None:
    settings, data, _, _ = job
    (tmp_path / "own.py").write_text(NET.replace("nn.Linear(48, num_classes)", "nn.Linear(48, 12)"))
    told: list[str] = []
    with pytest.raises(ModelError, match="has 12 outputs for 10 classes, so its head cannot be shrunk; use head keep"):
        other = replace(settings, model=f"{tmp_path}/own.py:net")
        compression.compress(other, data, tmp_path / "state", tell=lambda stage, epoch: told.append(stage), progress=False)
    assert not told


def test_the_same_again_and_after_a_kill(job, tmp_path) -> None:
    settings, data, folder, result = job
    for file_name in ("sparse-2.pt", "sparse-3.pt"):
        (folder / "state" / file_name).unlink()
    again = compression.compress(settings, data, folder / "state", resume=True, progress=False)
    assert all(torch.equal(result.weights[n], again.weights[n]) for n in result.weights)


def test_a_run_begun_anew_leaves_nothing_of_an_earlier_one(job, tmp_path) -> None:
    """Killed in its first stage, it must not go on with the earlier run's later ones."""
    settings, data, folder, _ = job
    state = tmp_path / "state"
    shutil.copytree(folder / "state", state)
    (state / "mine.pt").write_text("not of ours")

    def kill(*_: object) -> None:
        raise KeyboardInterrupt

    other = replace(settings, classes=("1", "3"))  # the same recipe: nothing else tells the checkpoints apart
    with pytest.raises(KeyboardInterrupt):
        compression.compress(other, data, state, tell=kill, progress=False)
    assert sorted(p.name for p in state.iterdir()) == ["dense.pt", "mine.pt", "settings.json"]


def test_a_change_of_mind_starts_from_the_old_network(job, tmp_path) -> None:
    settings, data, _, result = job
    path = tmp_path / "old.jettison-checkpoint"
    personal.save(result.personal, path)
    old = personal.load(path)
    assert old.chosen == [2, 7]
    assert old.weights["11.weight"].shape == (10, 48)  # outputs shrink after training
    state = personal.resumed(old, [2, 5], "11")
    kept = old.masks["3"]
    assert torch.equal(state["3.weight"][kept], old.weights["3.weight"][kept])
    assert torch.equal(state["3.weight"][~kept], old.dense["3.weight"][~kept])
    assert torch.equal(state["11.weight"][2], old.weights["11.weight"][2])  # still chosen
    assert torch.equal(state["11.weight"][5], old.dense["11.weight"][5])  # new
    assert torch.equal(state["11.weight"][7], old.dense["11.weight"][7])  # no longer chosen
    fresh = replace(settings, classes=("2", "5"), start=str(path), dense_epochs=0, epochs=6)
    new = compression.compress(fresh, data, tmp_path / "state", progress=False)
    assert new.data.classes == ("2", "5") and list(new.history) == ["dense", "sparse"]
    assert new.history["sparse"][-1].accuracy > 0.8
    assert new.personal is not None and torch.equal(new.personal.dense["3.weight"], old.dense["3.weight"])


def test_checkpoints_of_other_networks_are_refused(job, tmp_path) -> None:
    settings, data, _, result = job
    path = tmp_path / "old.jettison-checkpoint"
    personal.save(result.personal, path)
    fresh = replace(settings, start=str(path), dense_epochs=0)
    for change, what in (({"exclude": ("3",)}, "other sparse layers"), ({"model": "resnet20_cifar"}, "another network")):
        with pytest.raises(CheckpointError, match=what):
            compression.compress(replace(fresh, **change), data, tmp_path / "state", progress=False)
    for classes, what in ((tuple("0123456789")[::-1], "another order"), ((*"012345678", "nine"), "only the file has '9'")):
        with pytest.raises(CheckpointError, match=f"another data set's classes: .*{what}"):
            personal.check_fits(result.personal, settings.model, classes, result.personal.masks, path)
    state = torch.load(path, weights_only=True)
    for damage in ({"chosen": [2, 99]}, {"masks": []}, {"version": 9}, {"dense": {"a": 1}}):
        torch.save({**state, **damage}, path)
        with pytest.raises(CheckpointError, match=r"old\.jettison-checkpoint"):
            personal.load(path)


def test_the_command_says_what_is_left_and_changes_its_mind_without_being_told_all_again(call, tmp_path) -> None:
    (tmp_path / "own.py").write_text(NET)
    command = ("compress", f"{tmp_path}/own.py:net", "--data", "digits", "--size", 16, "--epochs", 2, "--threads", 1, "--runs", 1)
    old, new, found = tmp_path / "old.jettison", tmp_path / "new.jettison", tmp_path / "found.json"
    options = ("--method", "crisp", "--pattern", "16x16/2:4", "--sparsity", 0.8, "--head", "shrink", "--dense-epochs", 1)
    result = call(*command, *options, "--teacher", "none", "--classes", "2,7", "-o", old, "--json", found)
    assert result.code == 0, result.err
    assert json.loads(found.read_text())["settings"]["teacher"] is None
    assert all(words in result.out for words in ("What is left of each layer", "old.jettison-checkpoint: to change the classes later"))
    result = call(*command, "--from", tmp_path / "old.jettison-checkpoint", "--classes", "2,5", "-o", new, "--json", found)
    assert result.code == 0, result.err
    made = json.loads(found.read_text())["settings"]
    assert (made["method"], made["pattern"], made["head"], made["teacher"]) == ("crisp", "16x16/2:4", "shrink", "dense")
    assert made["sparsity"] == personal.sparsity_of(personal.load(tmp_path / "old.jettison-checkpoint")) >= 0.8
    assert Session(new).outputs[0].shape == (2,)
