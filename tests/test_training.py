"""The loop as a user relies on it: it learns, resumes bit for bit, survives kills, stops on NaN, follows its recipe."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from jettison.errors import CheckpointError, DataError, TrainingError
from jettison.formats import NM
from jettison.methods import ASP, SRSTE, Sparsifier, sparsify_
from jettison.methods.mask import to_krsc
from jettison.training import Epoch, Recipe, evaluate, fit, load_checkpoint, make_optimizer, save_checkpoint
from jettison.training.data import DataSet, Split, load, normalise, train_batches
from jettison.training.dropout import scaled_dropout

torch.set_num_threads(1)
RECIPE = Recipe(epochs=3, batch=32, lr=0.05, weight_decay=1e-4, seed=5)


def digits(n: int = 192) -> DataSet:
    data = load("digits")
    assert data.train is not None
    return replace(data, train=cut(data.train, n), test=cut(data.test, 100))


def cut(split: Split, n: int) -> Split:
    return Split(np.asarray(split.images)[:n], split.labels[:n])


def net(dropout: float = 0.2) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 16, 3, stride=2, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Flatten(), nn.Dropout(dropout), nn.Linear(256, 10),
    )  # fmt: skip


def start(sparse: bool) -> tuple[nn.Sequential, Sparsifier | None]:
    model = net()
    return model, sparsify_(model, NM(1, 4), SRSTE()) if sparse else None


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_it_learns_and_reports_what_evaluate_finds() -> None:
    model, handle = start(sparse=True)
    assert handle is not None
    data, seen = digits(1200), []
    history = fit(model, data, replace(RECIPE, epochs=6, augment=False), handle, on_epoch=seen.append, progress=False)
    assert history == seen
    assert [e.epoch for e in history] == [1, 2, 3, 4, 5, 6]
    assert history[-1].accuracy > 0.85
    assert history[-1].loss < history[0].loss
    assert history[-1].accuracy == evaluate(model, data)
    handle.finish()
    assert history[-1].accuracy == evaluate(model, data)
    assert NM(1, 4).satisfied(to_krsc(model[3].weight))
    sads = [e.sad for e in history]
    assert all(s is not None and 0 <= s < 0.5 for s in sads)
    assert sads[-1] < sads[0]  # type: ignore[operator]
    assert all(e.images_per_s > 0 and e.seconds > 0 for e in history)


class Killed(Exception):
    pass


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("stop", [1, 2])
def test_a_resumed_run_is_bit_identical(tmp_path: Path, sparse: bool, stop: int) -> None:
    def kill(e: Epoch) -> None:
        if e.epoch == stop:
            raise Killed

    recipe = replace(RECIPE, mixup=0.4 if sparse else 0.0)
    whole, handle = start(sparse)
    expected = fit(whole, digits(), recipe, handle, progress=False)
    model, handle = start(sparse)
    with pytest.raises(Killed):
        fit(model, digits(), recipe, handle, checkpoint=tmp_path / "c", on_epoch=kill, progress=False)
    torch.rand(7)  # what the user's program draws in between must not matter
    model, handle = start(sparse)
    history = fit(model, digits(), recipe, handle, checkpoint=tmp_path / "c", resume=True, progress=False)
    assert same(model, whole)
    assert [(e.loss, e.accuracy, e.sad) for e in history] == [(e.loss, e.accuracy, e.sad) for e in expected]
    model, handle = start(sparse)  # a finished run is only read back
    assert fit(model, digits(), recipe, handle, checkpoint=tmp_path / "c", resume=True, progress=False) == history
    assert same(model, whole)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["c"]


def test_what_changes_while_it_lasts_is_told_how_far_it_is(tmp_path: Path) -> None:
    def kill(e: Epoch) -> None:
        raise Killed

    told: list[float] = []
    for on_epoch in (kill, None):  # cut off after an epoch, then gone on with
        with suppress(Killed):
            fit(net(), digits(), RECIPE, None, None, tmp_path / "c", True, on_epoch, progress=False, advance=told.append)
    assert told == pytest.approx([i / len(told) for i in range(len(told))])
    assert len(told) > RECIPE.epochs


SCRIPT = """
import sys; sys.path.insert(0, {tests!r})
from test_training import *
model, handle = start(sparse=True)
recipe, tell = replace(RECIPE, epochs=40), lambda e: print(e.epoch, flush=True)
fit(model, digits(64), recipe, handle, checkpoint=Path({path!r}), on_epoch=tell, progress=False)
"""


def test_kill_minus_nine_at_any_moment_leaves_a_checkpoint_that_continues(tmp_path: Path) -> None:
    path = tmp_path / "c"
    script = SCRIPT.format(tests=str(Path(__file__).parent), path=str(path))
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert process.stdout is not None
    assert process.stdout.readline().strip() == b"1"
    time.sleep(0.07)
    process.send_signal(signal.SIGKILL)
    process.wait()
    recipe = replace(RECIPE, epochs=40)
    done = len(load_checkpoint(path, recipe)["history"])
    assert 1 <= done <= 40
    whole, handle = start(sparse=True)
    fit(whole, digits(64), recipe, handle, progress=False)
    model, handle = start(sparse=True)
    fit(model, digits(64), recipe, handle, checkpoint=path, resume=True, progress=False)
    assert same(model, whole)


def test_a_checkpoint_that_cannot_be_written_keeps_the_former(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "c"
    save_checkpoint(path, {"history": [1]}, RECIPE)

    def disk_full(state: object, target: Path) -> None:
        target.write_bytes(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("torch.save", disk_full)
    with pytest.raises(CheckpointError, match=r"No space left on device.*free the disk"):
        save_checkpoint(path, {"history": [2]}, RECIPE)
    monkeypatch.undo()
    assert load_checkpoint(path, RECIPE)["history"] == [1]
    assert [p.name for p in tmp_path.iterdir()] == ["c"]


class Nasty:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch " + os.environ["JETTISON_TEST_TARGET"],)


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "ran"
    monkeypatch.setenv("JETTISON_TEST_TARGET", str(target))
    torch.save({"version": 1, "recipe": {}, "model": Nasty()}, tmp_path / "zip")
    (tmp_path / "bare").write_bytes(pickle.dumps(Nasty()))
    for name in ("zip", "bare"):
        with pytest.raises(CheckpointError, match=f"{name}: not a checkpoint"):
            load_checkpoint(tmp_path / name, RECIPE)
    assert not target.exists()


def test_checkpoints_of_something_else_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "c"
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        load_checkpoint(path, RECIPE)
    path.write_bytes(b"PK\x03\x04 damaged")
    with pytest.raises(CheckpointError, match="damaged"):
        load_checkpoint(path, RECIPE)
    torch.save({"some": "dict"}, path)
    with pytest.raises(CheckpointError, match="not a checkpoint of this version"):
        load_checkpoint(path, RECIPE)
    model, handle = start(sparse=True)
    fit(model, digits(64), RECIPE, handle, checkpoint=path, progress=False)
    with pytest.raises(CheckpointError, match=r"another recipe: epochs 3 \(now 9\), lr 0\.05 \(now 0\.1\)"):
        load_checkpoint(path, replace(RECIPE, epochs=9, lr=0.1))
    assert load_checkpoint(path, replace(RECIPE, workers=7))["history"]
    for other, origin, words in (
        (replace(digits(64), name="letters"), {}, r"data digits \(now letters\)"),
        (digits(64), {"teacher": "t"}, r"teacher None \(now t\)"),
    ):
        with pytest.raises(CheckpointError, match=f"another run: {words}"):
            fit(model, other, RECIPE, handle, checkpoint=path, resume=True, progress=False, origin=origin)
    model, _ = start(sparse=False)
    with pytest.raises(CheckpointError, match="is of a sparse run"):
        fit(model, digits(64), RECIPE, checkpoint=path, resume=True, progress=False)
    model, _ = start(sparse=False)
    handle = sparsify_(model, NM(2, 4))
    with pytest.raises(CheckpointError, match="format"):
        fit(model, digits(64), RECIPE, handle, checkpoint=path, resume=True, progress=False)


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_checkpoint(tmp_path: Path) -> None:
    path, model = tmp_path / "c", net()

    def poison(e: Epoch) -> None:
        if e.epoch == 2:
            with torch.no_grad():
                model[0].weight.fill_(float("nan"))

    with pytest.raises(TrainingError, match=rf"loss is nan in epoch 3, step 1; the last good checkpoint is {path} \(epoch 2\)"):
        fit(model, digits(64), RECIPE, checkpoint=path, on_epoch=poison, progress=False)
    state = load_checkpoint(path, RECIPE)
    assert len(state["history"]) == 2
    assert all(torch.isfinite(v).all() for v in state["model"].values())
    with pytest.raises(TrainingError, match="no checkpoint was written yet"):
        fit(net(), digits(64), replace(RECIPE, lr=1e30), checkpoint=tmp_path / "d", progress=False)


def test_warm_up_then_cosine_per_step() -> None:
    recipe = Recipe(epochs=4, lr=1.0, warmup_epochs=1)
    rates = [recipe.lr_at(s, 10) for s in range(40)]
    np.testing.assert_allclose(rates[:10], np.arange(1, 11) / 10)
    np.testing.assert_allclose(rates[10:], (1 + np.cos(np.pi * np.arange(30) / 30)) / 2)
    assert Recipe(schedule="constant", lr=0.3).lr_at(77, 10) == 0.3


def test_the_last_steps_rate_reaches_the_optimizer() -> None:
    history = fit(net(), digits(96), replace(RECIPE, epochs=2, lr=0.4), progress=False)
    assert [e.lr for e in history] == [pytest.approx(0.4 * (1 + np.cos(np.pi * s / 6)) / 2) for s in (2, 5)]


def test_optimizers_follow_the_recipe() -> None:
    model = net()
    sgd = make_optimizer(model, Recipe(weight_decay=0.1, decay_1d=False))
    decays = {id(p): g["weight_decay"] for g in sgd.param_groups for p in g["params"]}
    assert {p.ndim: decays[id(p)] for p in model.parameters()} == {1: 0.0, 2: 0.1, 4: 0.1}
    assert {g["weight_decay"] for g in make_optimizer(model, Recipe(weight_decay=0.1)).param_groups} == {0.1}
    assert isinstance(make_optimizer(model, Recipe(optimizer="adamw")), torch.optim.AdamW)


@pytest.mark.parametrize(
    "change",
    [
        {"batch": 0},
        {"lr": float("nan")},
        {"lr": -1.0},
        {"epochs": -1},
        {"momentum": 1.5},
        {"distill": 2.0},
        {"temperature": 0.0},
        {"mixup": -0.1},
        {"dropout": 1.5},
        {"seed": -1},
    ],
)
def test_recipes_that_make_no_sense_are_refused(change: dict) -> None:
    (name,) = change
    with pytest.raises(TrainingError, match=name):
        replace(Recipe(), **change)
    with pytest.raises(TrainingError, match="optimizer must be one of sgd, adamw"):
        Recipe(optimizer="lion")  # type: ignore[arg-type]


def test_distillation_pulls_towards_the_teacher() -> None:
    data, teacher = digits(512), net(0)
    fit(teacher, data, replace(RECIPE, epochs=4), progress=False)
    shuffled = replace(data, train=Split(data.train.images, np.roll(data.train.labels, 1)))  # type: ignore[union-attr]
    student = net(0)
    fit(student, shuffled, replace(RECIPE, epochs=4, distill=1.0), teacher=teacher, progress=False)  # labels are of no use
    assert evaluate(student, data) > 0.5
    with pytest.raises(TrainingError, match="distill needs a teacher"):
        fit(student, data, replace(RECIPE, distill=0.5), progress=False)


class Watch(nn.Module):
    """A network of one weight that remembers what it is shown."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.shown = nn.Parameter(torch.tensor(0.3)), []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.shown.append(x.detach().clone())
        return self.weight * x.flatten(1)[:, ::6][:, :10]


def test_mixup_shows_pairs_and_asks_for_both_labels() -> None:
    data, recipe = digits(31), replace(RECIPE, epochs=1, mixup=0.8, augment=False, lr=0.0, distill=0.5)
    model, teacher = Watch(), Watch()
    (epoch,) = fit(model, data, recipe, teacher=teacher, progress=False)
    ((images, y),) = list(train_batches(data, recipe.batch, recipe.seed, 0, augment=False))
    x, share = normalise(images, data), recipe.mix_at(0, 0)
    mixed = share * x + (1 - share) * x.flip(0)
    torch.testing.assert_close(model.shown[0], mixed)
    torch.testing.assert_close(teacher.shown[0], mixed)
    scores = model(mixed)
    hard = share * nn.functional.cross_entropy(scores, y) + (1 - share) * nn.functional.cross_entropy(scores, y.flip(0))
    assert epoch.loss == pytest.approx(0.5 * hard.item(), rel=1e-6)  # of the same scores the teacher's part is 0
    shares = [recipe.mix_at(e, i) for e in range(3) for i in range(3)]
    assert len(set(shares)) == 9 and all(0 < s < 1 for s in shares)


@pytest.mark.parametrize("factor", [0.0, 0.5])
def test_dropout_at_a_part_of_the_networks_rates(factor: float) -> None:
    model, other = net(0.6), net(0.6 * factor)
    fit(model, digits(), replace(RECIPE, epochs=1, dropout=factor), progress=False)
    fit(other, digits(), replace(RECIPE, epochs=1), progress=False)
    assert same(model, other)
    assert {m.p for m in model.modules() if isinstance(m, nn.Dropout)} == {0.6}


def test_rates_of_dropout_are_back_after_an_error() -> None:
    model = nn.Sequential(nn.Dropout2d(0.2), nn.Sequential(nn.AlphaDropout(0.4)))
    with pytest.raises(ZeroDivisionError), scaled_dropout(model, 0.5):
        assert (model[0].p, model[1][0].p) == (0.1, 0.2)
        raise ZeroDivisionError
    assert (model[0].p, model[1][0].p) == (0.2, 0.4)


def test_bf16_adamw_smoothing_clipping_and_asp_run() -> None:
    model = net()
    handle = sparsify_(model, NM(2, 4), ASP())
    recipe = replace(RECIPE, epochs=2, optimizer="adamw", lr=2e-3, label_smoothing=0.1, clip_norm=1.0, bf16=True, warmup_epochs=0.5)
    history = fit(model, digits(), recipe, handle, progress=False)
    assert [e.sad for e in history] == [0.0, 0.0]
    assert history[-1].loss < history[0].loss


def test_a_test_only_set_cannot_train() -> None:
    with pytest.raises(DataError, match="digits has no training split"):
        fit(net(), replace(digits(), train=None), RECIPE, progress=False)


def test_a_batch_larger_than_the_data_is_the_whole_data() -> None:
    assert len(fit(net(), digits(20), replace(RECIPE, batch=64), progress=False)) == 3
