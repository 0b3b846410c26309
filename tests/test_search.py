"""Searches: trials add up over processes, never see the test images, and each keeps the budget."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from jettison.errors import CheckpointError, PatternError, TrainingError
from jettison.formats import parse
from jettison.search import Search, held_out, open_study, options, result, run
from jettison.training.data import DataSet
from jettison.training.data.dataset import Split

torch.set_num_threads(1)
SEARCH = Search("net", "stripes", "1:4", "srste", ("lr", "decay"), epochs=2, batch=32)


def stripes() -> DataSet:
    """Horizontal or vertical stripes. There is no test image, so nobody can look at one."""
    rng = np.random.default_rng(0)
    labels = np.arange(160) % 2
    lines = np.where(np.arange(8) % 2, 200, 50).astype(np.uint8)
    images = np.stack([np.broadcast_to(lines[:, None] if y else lines, (8, 8)) for y in labels])[..., None]
    noisy = np.clip(images.astype(int) + rng.integers(-40, 40, images.shape), 0, 255).astype(np.uint8)
    nothing = Split(np.zeros((0, 8, 8, 1), np.uint8), np.zeros(0, np.int64))
    return DataSet("stripes", Split(noisy, labels.astype(np.int64)), nothing, ("h", "v"), 8, (0.5,), (0.25,), flip=False)


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 2),
    )  # fmt: skip


def test_a_study_goes_on_where_any_process_left_it(tmp_path: Path) -> None:
    storage = str(tmp_path / "study.log")
    run(SEARCH, open_study(SEARCH, storage, "s"), net(), stripes(), 2, progress=False)
    run(SEARCH, open_study(SEARCH, storage, "s"), net(), stripes(), 2, progress=False)  # has them already
    assert len(result(open_study(SEARCH, storage, "s"))["trials"]) == 2
    run(SEARCH, open_study(SEARCH, storage, "s"), net(), stripes(), 4, progress=False)
    trials = result(open_study(SEARCH, storage, "s"))["trials"]
    assert sorted(t["number"] for t in trials) == [0, 1, 2, 3]
    assert len({t["values"]["lr"] for t in trials}) == 4  # a process that comes later draws other values
    done = [t["accuracy"] for t in trials if t["state"] == "complete"]
    assert done == sorted(done, reverse=True) and all(0 <= a <= 1 for a in done)
    with pytest.raises(CheckpointError, match="epochs 2 \\(now 3\\); use the same settings, or another --study"):
        open_study(dataclasses.replace(SEARCH, epochs=3), storage, "s")
    for place in (tmp_path / "none" / "study.log", f"sqlite:///{tmp_path}/none/study.db", "nobase://here"):
        with pytest.raises(CheckpointError, match="cannot be used"):
            open_study(SEARCH, str(place), "s")


def test_every_spread_keeps_the_budget(tmp_path: Path) -> None:
    search = dataclasses.replace(SEARCH, pattern="4:16", kept=0.25, tune=("width", "depth"), epochs=1)
    study = open_study(search, f"sqlite:///{tmp_path / 'study.db'}", "s")
    run(search, study, net(), stripes(), 2, progress=False)
    macs = {"2": 16 * 16 * 9 * 16, "4": 16 * 16 * 16}  # 4×4 outputs
    for t in result(study)["trials"]:
        spent = sum(macs[name] * parse(f).density(()) for name, f in t["formats"].items())
        assert set(t["formats"]) == set(macs) and spent <= sum(macs.values()) / 4


def test_the_best_trial_is_said_in_options_of_compress() -> None:
    search = dataclasses.replace(SEARCH, method="maxq", epochs=10, tune=("ramp", "weight_decay"))
    said = "--pattern 1:4 --method maxq --epochs 10 --batch 32 --ramp-epochs 2.5 --weight-decay 1e-05"
    assert options(search, {"ramp": 0.25, "weight_decay": 1e-5}, "best.json") == said
    search = dataclasses.replace(SEARCH, kept=0.25, tune=("width", "lr"))
    said = "--formats best.json --method srste --epochs 2 --batch 32 --lr 0.1"
    assert options(search, {"width": 0.5, "lr": 0.1}, "best.json") == said


def test_held_out_images_are_not_trained_on() -> None:
    data = stripes()
    parts = held_out(data, 0)
    assert parts.train is not None and data.train is not None
    assert (len(parts.train), len(parts.test)) == (144, 16)
    every = np.concatenate([np.asarray(parts.train.images), np.asarray(parts.test.images)]).reshape(160, -1)
    assert sorted(map(bytes, every)) == sorted(map(bytes, np.asarray(data.train.images).reshape(160, -1)))
    assert np.array_equal(np.asarray(held_out(data, 0).test.images), np.asarray(parts.test.images))


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"tune": ("speed",)}, TrainingError, "'speed' is not known"),
        ({"tune": ("width",)}, TrainingError, "give one with --kept"),
        ({"tune": ("ramp",)}, TrainingError, "srste has no ramp"),
        ({"tune": ()}, TrainingError, "needs --tune"),
        ({"kept": 0.01, "pattern": "1:16"}, PatternError, "share kept"),
    ],
)
def test_searches_that_cannot_be(changes: dict, error: type, words: str) -> None:
    with pytest.raises(error, match=words):
        dataclasses.replace(SEARCH, **changes)


def test_the_command_searches_and_says_what_it_found(tmp_path: Path, capfd) -> None:
    from jettison import zoo
    from jettison.cli import main

    (tmp_path / "net.py").write_text(
        "from torch import nn\ndef net(num_classes, in_channels):\n    return nn.Sequential(nn.Conv2d(in_channels, 16, 3, 2), nn.ReLU(), "
        "nn.Conv2d(16, 16, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, num_classes))\n"
    )
    model = f"{tmp_path / 'net.py'}:net"
    torch.save(zoo.build(model, num_classes=10, in_channels=1).state_dict(), tmp_path / "w.pt")
    command = ["search", model, "--weights", str(tmp_path / "w.pt"), "--data", "digits", "--tune", "lr", "--method", "asp"]
    with pytest.raises(SystemExit) as e:
        main([*command, "--epochs", "1", "--trials", "1", "--storage", str(tmp_path / "s.log"), "--json", str(tmp_path / "r.json")])
    out, err = capfd.readouterr()
    assert e.value.code == 0, err
    data = json.loads((tmp_path / "r.json").read_text())
    assert (len(data["trials"]), data["search"]["tune"], data["trials"][0]["formats"]) == (1, ["lr"], "1:4")
    assert "trial 0, epoch 1" in out and "held out" in out
    best = f"--pattern 1:4 --method asp --epochs 1 --batch 128 --lr {data['trials'][0]['values']['lr']:.4g}"
    assert f"The best as options of jettison compress: {best}" in " ".join(out.split())
