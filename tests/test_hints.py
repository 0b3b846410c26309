"""Hints: a student is told how much of the teacher's features it misses, and learns from it."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from jettison import zoo
from jettison.errors import TrainingError
from jettison.formats import NM
from jettison.methods import SRSTE, sparsify_
from jettison.training import Recipe, fit
from jettison.training.data import load, normalise
from jettison.training.data import test_batches as batches_of
from jettison.training.hints import Hints, points

torch.set_num_threads(1)


@pytest.mark.parametrize(
    ("name", "first", "count"),
    [("resnet20_cifar", "layer1.0", 9), ("vgg16_bn", "features.6", 5), ("mobilenetv2_100", "blocks.0.0", 17)],
)
def test_blocks_or_pooling_are_compared(name: str, first: str, count: int) -> None:
    found = points(zoo.build(name, num_classes=4, image_size=32))
    assert (found[0], len(found)) == (first, count)


def test_networks_without_blocks_have_points_too() -> None:
    assert points(nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3))) == ["1"]
    assert points(nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU())) == ["0"]
    with pytest.raises(TrainingError, match="leave --hints out"):
        points(nn.Linear(3, 3))


def test_what_is_missed_is_a_share_of_the_teachers_variance() -> None:
    torch.manual_seed(0)
    teacher = nn.Sequential(nn.Conv2d(3, 8, 3), nn.MaxPool2d(2), nn.Conv2d(8, 5, 3), nn.MaxPool2d(2)).eval()
    student = copy.deepcopy(teacher)
    nn.init.normal_(student[2].weight)
    x = torch.randn(6, 3, 20, 20)
    hints = Hints(student, teacher)
    student(x), teacher(x)
    shares = []
    for until in (2, 4):
        s, t = (net[:until](x).detach().double().numpy() for net in (student, teacher))
        shares.append(((s - t) ** 2).mean() / ((t - t.mean((0, 2, 3), keepdims=True)) ** 2).mean())
    assert shares[0] == 0 and shares[1] > 0.1
    student(x), teacher(x)
    assert hints.loss().item() == pytest.approx(np.mean(shares), rel=1e-4)
    hints.close()
    assert not any(m._forward_hooks for net in (student, teacher) for m in net.modules())
    other = Hints(nn.Sequential(nn.Conv2d(3, 9, 3), nn.MaxPool2d(2)), teacher)
    with pytest.raises(TrainingError, match="both must be the same network"):
        other.loss()


def test_a_pruned_network_comes_nearer_to_the_features_that_it_is_told(tmp_path) -> None:
    data = load("digits", size=16)
    torch.manual_seed(0)
    dense = nn.Sequential(
        nn.Conv2d(1, 16, 3, 1, 1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 16, 3, 1, 1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(256, 10),
    )  # fmt: skip
    fit(dense, data, Recipe(epochs=1, lr=0.05), progress=False)
    missed, models = {}, {}
    recipe = Recipe(epochs=1, lr=0.05, distill=0.5)
    for weight in (0.0, 1.0):
        model = copy.deepcopy(dense)
        handle = sparsify_(model, NM(1, 8), SRSTE())
        fit(model, data, replace(recipe, hints=weight), handle, dense, tmp_path / f"{weight}.pt", progress=False)
        hints = Hints(model.eval(), dense.eval())
        with torch.no_grad():
            x = normalise(next(iter(batches_of(data, 64)))[0], data)
            model(x), dense(x)
        missed[weight], models[weight] = hints.loss().item(), model
        hints.close()
        assert not any(m._forward_hooks for net in (model, dense) for m in net.modules())
    assert missed[1.0] < 0.8 * missed[0.0]
    again = copy.deepcopy(dense)
    handle = sparsify_(again, NM(1, 8), SRSTE())
    fit(again, data, replace(recipe, hints=1.0), handle, dense, tmp_path / "1.0.pt", resume=True, progress=False)
    assert all(torch.equal(t, again.state_dict()[n]) for n, t in models[1.0].state_dict().items())
    with pytest.raises(TrainingError, match="recipe: hints needs a teacher network"):
        fit(again, data, Recipe(hints=1.0), progress=False)
