"""`jettison train`: what it writes, how it resumes, how it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from jettison.cli import main
from jettison.formats import NM
from jettison.methods.mask import to_krsc

torch.set_num_threads(1)

NET = """
from torch import nn

def net(num_classes, in_channels):
    return nn.Sequential(
        nn.Conv2d(in_channels, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 16, 3, stride=2, padding=1), nn.ReLU(),
        nn.Flatten(), nn.Linear(256, num_classes),
    )

def normed(num_classes, in_channels):
    return nn.Sequential(
        nn.Conv2d(in_channels, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(128, num_classes)
    )
"""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("net.py").write_text(NET)


def train(*words: str, net: str = "net") -> int:
    with pytest.raises(SystemExit) as e:
        main(["train", f"net.py:{net}", "--threads", "1", *words])
    return int(e.value.code or 0)


def test_dense_then_sparse_with_a_teacher() -> None:
    assert train("--epochs", "3", "-o", "dense.safetensors", "--json", "dense.json") == 0
    dense = json.loads(Path("dense.json").read_text())
    assert dense["accuracy"] > 0.6
    assert dense["test_images"] == 359
    words = ("--weights", "dense.safetensors", "--teacher", "dense.safetensors", "--pattern", "1:4", "--epochs", "2", "--decay", "1e-3")
    assert train(*words, "-o", "sparse.safetensors", "--json", "sparse.json") == 0
    sparse = json.loads(Path("sparse.json").read_text())
    assert sparse["method"] == {"kind": "srste", "decay": 1e-3}
    assert sparse["accuracy"] > 0.6
    assert [(layer["name"], layer["format"], layer["reason"]) for layer in sparse["layers"]] == [
        ("0", "dense", "stem"),
        ("2", "1:4", ""),
        ("5", "dense", "final classifier"),
    ]
    state = load_file("sparse.safetensors")
    assert set(state) == set(load_file("dense.safetensors"))
    assert NM(1, 4).satisfied(to_krsc(state["2.weight"]))


def test_training_for_other_classes_starts_from_a_backbone(capsys: pytest.CaptureFixture[str]) -> None:
    net = {"0.weight": torch.full((8, 1, 3, 3), 0.25), "0.bias": torch.zeros(8)}
    net |= {"2.weight": torch.zeros(16, 8, 3, 3), "2.bias": torch.ones(16), "5.weight": torch.zeros(3, 256), "5.bias": torch.zeros(3)}
    save_file(net, "three.safetensors")
    assert train("--weights", "three.safetensors", "-o", "out.safetensors") == 2
    assert "misshapen: 5.weight (3, 256)" in capsys.readouterr().err
    assert train("--backbone", "three.safetensors", "--epochs", "1", "--lr", "1e-9", "-o", "out.safetensors") == 0
    assert "from three.safetensors: all but 5.weight, 5.bias" in capsys.readouterr().out
    state = load_file("out.safetensors")
    assert torch.allclose(state["0.weight"], net["0.weight"]) and torch.allclose(state["2.bias"], net["2.bias"])
    assert state["5.weight"].shape == (10, 256) and state["5.weight"].abs().max() > 0


def test_training_from_weights_with_folded_statistics_starts_where_they_left_off() -> None:
    assert train("--epochs", "4", "-o", "whole.safetensors", "--json", "whole.json", net="normed") == 0
    state = load_file("whole.safetensors")
    scale = state["1.weight"] / (state["1.running_var"] + 1e-5).sqrt()
    folded = {"1.weight": 100 * scale, "1.bias": state["1.bias"] + (state["0.bias"] - state["1.running_mean"]) * scale}
    folded |= {"0.weight": state["0.weight"] / 100, "0.bias": torch.zeros(8)}
    folded |= {"1.running_mean": torch.zeros(8), "1.running_var": torch.ones(8)}
    save_file(state | folded, "folded.safetensors")
    still = ("--epochs", "1", "--lr", "1e-9", "--json", "again.json", "-o", "again.safetensors")
    assert train("--weights", "folded.safetensors", *still, net="normed") == 0
    before, after = (json.loads(Path(f"{name}.json").read_text())["epochs"][-1]["loss"] for name in ("whole", "again"))
    assert after < 1.2 * before


def test_the_same_seed_gives_the_same_file_also_resumed() -> None:
    words = ("--pattern", "2:4", "--epochs", "2", "--seed", "3")
    for name in ("a", "b"):
        assert train(*words, "-o", f"{name}.safetensors") == 0
    assert Path("a.safetensors").read_bytes() == Path("b.safetensors").read_bytes()
    Path("b.safetensors").unlink()
    assert train(*words, "-o", "b.safetensors", "--resume") == 0
    assert Path("a.safetensors").read_bytes() == Path("b.safetensors").read_bytes()
    assert train("--pattern", "2:4", "--epochs", "2", "--seed", "4", "-o", "c.safetensors") == 0
    assert Path("a.safetensors").read_bytes() != Path("c.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--pattern", "3:2"), "pattern 3:2"),
        (("--pattern", "0:4"), "pattern 0:4"),
        (("--pattern", "1:3"), "2: NM(1, 3) needs input channels divisible by 3, got 8"),
        (("--pattern", "1:4", "--method", "magic"), "method 'magic' is not known; known: asp, ste, srste"),
        (("--pattern", "1:4", "--method", "ste", "--decay", "1"), "method ste has no decay"),
        (("--data", "cifar11"), "did you mean cifar10"),
        (("--weights", "nosuch.pt"), "nosuch.pt"),
        (("--weights", "a.pt", "--backbone", "b.pt"), "--weights and --backbone: both say where training starts"),
        (("--optimizer", "lion"), "optimizer must be one of sgd, adamw"),
        (("--lr", "1e30"), "the loss is nan"),
        (("--device", "nowhere"), "device 'nowhere' cannot be used"),
        (("--epochs", "many"), "epochs"),
    ],
)
def test_bad_input_is_one_line_exit_2_and_no_file(words: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert train("-o", "out.safetensors", *words) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1
    assert message in error[0]
    assert not Path("out.safetensors").exists()


def test_an_output_folder_that_is_missing_is_noticed_before_training(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (("-o", "nowhere/out.safetensors"), ("-o", "out.safetensors", "--checkpoint", "nowhere/c")):
        assert train(*words) == 2
        assert "nowhere" in capsys.readouterr().err
