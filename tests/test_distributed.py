"""Two processes started by torchrun (gloo) against one process at the same global batch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from jettison.errors import TrainingError
from jettison.training import Processes

SCRIPT = """
import sys
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from jettison.formats import NM
from jettison.methods import ASP, SRSTE, MaxQ, sparsify_
from jettison.training import Recipe, fit, processes
from jettison.training.data import Split, load

torch.set_num_threads(1)
out = Path(sys.argv[1])


def net(norm):
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 16, 3, padding=1), norm(16), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), norm(16), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(1024, 16), nn.ReLU(), nn.Linear(16, 10))


def cut(split, n):
    return Split(split.images[:n], split.labels[:n])


data = load("digits")
data = replace(data, train=cut(data.train, 256), test=cut(data.test, 101))
with processes() as group:
    for method in (SRSTE(decay=1e-2), ASP(), MaxQ(decay=1e-2, end=1)):
        for norm in (nn.Identity, nn.BatchNorm2d):
            name = f"{method.kind}-{norm.__name__}"
            model = net(norm)
            handle = sparsify_(model, NM(1, 4), method)
            recipe = Recipe(epochs=2, batch=32, lr=0.05, seed=1)
            history = fit(model, data, recipe, handle, checkpoint=out / f"{name}.checkpoint", processes=group, progress=False)
            curve = [[e.loss, e.accuracy] for e in history]
            result = {"masks": handle.masks(), "model": model.state_dict(), "curve": curve}
            torch.save(result, out / f"{name}-{group.rank}-of-{group.world}.pt")
"""


DRIFT = """
import sys
from dataclasses import replace

import torch
from torch import nn

from jettison.errors import TrainingError
from jettison.formats import NM
from jettison.methods import MaxQ, sparsify_
from jettison.training import Recipe, fit, loop, processes
from jettison.training.data import load

torch.set_num_threads(1)
loop.MASKS_CHECKED_STEPS = 4
with processes() as group:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.Linear(16, 16), nn.Linear(16, 10))
    handle = sparsify_(model, NM(1, 4), MaxQ())
    weight, calls = model[2].parametrizations.weight.original, []

    def drift(*_):
        calls.append(0)
        if group.rank == 1 and len(calls) == 6:
            with torch.no_grad():
                weight.copy_(weight.flip(1))

    model.register_forward_pre_hook(drift)
    try:
        fit(model, load("digits"), Recipe(epochs=1, batch=32), handle, processes=group, progress=False)
    except TrainingError as e:
        sys.stdout.write(f"stopped after {len(calls)} steps: {e}\\n")  # in one piece: print may write the end of its line later
"""


def run(out: Path, world: int, text: str = SCRIPT) -> str:
    script = out / "train.py"
    script.write_text(text)
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(world)] if world > 1 else []
    command = [sys.executable, *launch, str(script), str(out)]
    done = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs")
    for world in (1, 2):
        run(out, world)
    return out


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["Identity", "BatchNorm2d"])
@pytest.mark.parametrize("method", ["srste", "asp", "maxq"])
def test_two_processes_are_one(results: Path, method: str, norm: str) -> None:
    one, first, second = (
        torch.load(results / f"{method}-{norm}-{rank}-of-{world}.pt", weights_only=True) for rank, world in ((0, 1), (0, 2), (1, 2))
    )
    assert first["masks"] and all(torch.equal(first["masks"][k], second["masks"][k]) for k in first["masks"])
    assert all(torch.equal(first["model"][k], second["model"][k]) for k in first["model"])
    assert first["curve"] == second["curve"]
    assert len(torch.load(results / f"{method}-{norm}.checkpoint", weights_only=True)["history"]) == 2
    if norm == "Identity":  # no batch statistics: one process at the same global batch does the same
        for k, v in one["model"].items():
            torch.testing.assert_close(first["model"][k], v, atol=1e-5, rtol=0)
        assert all(torch.equal(one["masks"][k], first["masks"][k]) for k in one["masks"])
        torch.testing.assert_close(torch.tensor(first["curve"]), torch.tensor(one["curve"]), atol=1e-5, rtol=0)


@pytest.mark.slow
def test_masks_that_drift_apart_stop_training_in_every_process(tmp_path: Path) -> None:
    lines = run(tmp_path, 2, DRIFT).splitlines()
    assert len(lines) == 2
    for line in lines:
        assert line.startswith("stopped after 9 steps: the masks of layer 2 differ between the 2 processes")


def test_what_processes_cannot_share_is_refused() -> None:
    with pytest.raises(TrainingError, match="a batch of 10 cannot be shared by 4 processes"):
        Processes(0, 4).shard(10)
    with pytest.raises(TrainingError, match="sync_batchnorm needs GPUs"):
        Processes(0, 2).wrap(torch.nn.Linear(2, 2), torch.device("cpu"), sync_batchnorm=True)
