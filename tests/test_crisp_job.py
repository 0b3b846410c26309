"""CRISP as a whole job: from classes to a file, after a kill, a change of mind, the command."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from jettison import compression, file, personal
from jettison.errors import CheckpointError, ModelError, PatternError
from jettison.formats import Dense
from jettison.runtime import Session
from jettison.training.data import load

torch.set_num_threads(1)

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
    for change, what in (
        ({"exclude": ("3",)}, "only there 3; use --pattern 16x16/2:4, and --include"),
        ({"model": "resnet20_cifar"}, "another network"),
    ):
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


def test_a_damaged_checkpoint_is_never_a_bug_of_ours(job, tmp_path) -> None:
    """Any byte may have changed: it loads, or it says what is wrong."""
    path = tmp_path / "old.jettison-checkpoint"
    old = job[3].personal
    few = {"a": torch.ones(3)}
    personal.save(replace(old, dense=few, weights=few, masks={"a": few["a"] > 0}), path)
    whole = path.read_bytes()
    refused = 0
    for i in range(0, len(whole), 2):
        data = bytearray(whole)
        data[i] ^= (1, 8, 4, 16)[i // 2 % 4]
        path.write_bytes(data if i % 9 else data[:i])
        try:
            personal.load(path)
        except CheckpointError as e:
            refused += str(path) in str(e)
    assert refused > len(whole) / 8


def test_the_command_says_what_is_left_and_changes_its_mind_without_being_told_all_again(call, tmp_path) -> None:
    (tmp_path / "own.py").write_text(NET)
    command = ("compress", f"{tmp_path}/own.py:net", "--data", "digits", "--size", 16, "--epochs", 2, "--threads", 1, "--runs", 1)
    old, new, found = tmp_path / "old.jettison", tmp_path / "new.jettison", tmp_path / "found.json"
    options = ("--method", "crisp", "--pattern", "16x16/2:4", "--sparsity", 0.8, "--head", "shrink", "--dense-epochs", 1)
    result = call(*command, *options, "--teacher", "none", "--dropout", 0.5, "--classes", "2,7", "-o", old, "--json", found)
    assert result.code == 0, result.err
    made = json.loads(found.read_text())["settings"]
    assert (made["teacher"], made["dropout"]) == (None, 0.5)
    assert all(words in result.out for words in ("What is left of each layer", "old.jettison-checkpoint: to change the classes later"))
    start = (*command, "--from", tmp_path / "old.jettison-checkpoint")
    result = call(*start, "--classes", "2,5", "--hints", 1, "--others", 0.5, "-o", new, "--json", found)
    assert result.code == 0, result.err
    made = json.loads(found.read_text())["settings"]
    assert (made["method"], made["pattern"], made["head"]) == ("crisp", "16x16/2:4", "shrink")
    assert (made["teacher"], made["dropout"]) == ("dense", 0.0)
    assert made["sparsity"] == personal.sparsity_of(personal.load(tmp_path / "old.jettison-checkpoint")) >= 0.8
    assert Session(new).outputs[0].shape == (2,)
    again = tmp_path / "again.2"
    result = call(*start, "--pattern", "16x16/2:4@25%", "-o", again, "--json", found)
    assert result.code == 0, result.err
    made = json.loads(found.read_text())["settings"]
    assert (made["head"], made["sparsity"]) == ("keep", None)  # of all classes, no head is left to shrink
    assert file.load_meta(again)["settings"]["start"] == "old.jettison-checkpoint"  # no folder of this machine
    result = call(*command, "--from", f"{again}.jettison-checkpoint", "--sparsity", 0.7, "--classes", "2,5", "-o", new, "--json", found)
    assert result.code == 0, result.err
    made = json.loads(found.read_text())["settings"]
    assert (made["pattern"], made["sparsity"]) == ("16x16/2:4", 0.7)  # the share of blocks was said anew
    result = call(*command, "--from", f"{again}.jettison-checkpoint", "-o", tmp_path / "x.jettison-checkpoint")
    assert result.code == 2 and "write -o x.jettison" in result.err
