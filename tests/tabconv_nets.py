"""A small convolutional network in int8, smooth images for it, and a single layer: what tables are fitted to in tests."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from torch import nn

from jettison import ptq
from jettison.export import export
from jettison.graph import Graph


class Net(nn.Module):
    """stem → residual block → stride 2 → grouped → classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, padding=1)
        self.a = nn.Conv2d(8, 8, 3, padding=1)
        self.b = nn.Conv2d(8, 8, 3, padding=1)
        self.down = nn.Conv2d(8, 12, 3, stride=2, padding=1)
        self.grouped = nn.Conv2d(12, 12, 3, padding=1, groups=2)
        self.point = nn.Conv2d(12, 16, 1)
        self.linear = nn.Linear(16, 5)

    def forward(self, x):
        x = self.stem(x).relu()
        x = (self.b(self.a(x).relu()) + x).relu()
        x = self.point(self.grouped(self.down(x).relu()).relu()).relu()
        return self.linear(x.mean((2, 3)))


def images(count: int, seed: int = 0) -> np.ndarray:
    """Smooth images: neighbours are alike, as in photographs."""
    coarse = torch.randn(count, 1, 4, 4, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(coarse, size=(10, 10), mode="bilinear").numpy()


@cache
def exact_net() -> Graph:
    torch.manual_seed(0)
    net = Net().eval()
    for layer in net.children():
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    return ptq.quantize(export(net, (1, 10, 10)), images(64))


def conv(weight: np.ndarray) -> Graph:
    """One 3×3 convolution without padding, in int8."""
    net = nn.Sequential(nn.Conv2d(weight.shape[1], weight.shape[0], 3))
    with torch.no_grad():
        net[0].weight.copy_(torch.from_numpy(weight))
    x = np.random.default_rng(5).choice(np.float32([0, 1]), (32, weight.shape[1], 8, 8))
    return ptq.quantize(export(net.eval(), (weight.shape[1], 8, 8)), x, "minmax", bias_correction=False)
