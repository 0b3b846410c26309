"""Whole networks by name, for tests that loop over all of them: `NETS`.

Each is in evaluation mode with random but sane numbers: BatchNorm has the statistics of random images,
so activations neither vanish nor explode, and no layer is an identity (as fresh residual branches are).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn

from jettison import zoo


@dataclass(frozen=True)
class Net:
    """builder: fresh weights. size, odd: (h, w) of the usual image and of an awkward one."""

    builder: Callable[[], nn.Module]
    size: tuple[int, int] = (224, 224)
    odd: tuple[int, int] = (97, 131)

    def build(self) -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return settled(self.builder())

    @property
    def shapes(self) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
        """(c, h, w) of both images."""
        return (3, *self.size), (3, *self.odd)


def settled(model: nn.Module, image: tuple[int, ...] = (3, 128, 128)) -> nn.Module:
    """Random scales and shifts, then BatchNorm statistics from random images of that shape.

    Of images half as large, deep layers have a few pixels whose variance may be tiny: outputs of 10⁴, and rounding grown by as much.
    """
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.ndim == 1:
                p.uniform_(-0.3, 0.3) if name.endswith("bias") else p.uniform_(0.5, 1.5)
        norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # a plain average, so that one batch sets it
        if norms:
            model.train()(torch.randn(4, *image))
    return model.eval()


def shuffled(x: torch.Tensor, groups: int) -> torch.Tensor:
    n, c, h, w = x.shape
    return x.view(n, groups, c // groups, h, w).transpose(1, 2).reshape(n, c, h, w)


class ShuffleUnit(nn.Module):
    """ShuffleNet V2 unit (Ma et al. 2018, arXiv 1807.11164, figure 3 c and d)."""

    def __init__(self, c_in: int, c_out: int, stride: int) -> None:
        super().__init__()
        self.stride, half, c = stride, c_out // 2, c_in if stride > 1 else c_in // 2
        self.branch = nn.Sequential(
            nn.Conv2d(c, half, 1, bias=False), nn.BatchNorm2d(half), nn.ReLU(inplace=True),
            nn.Conv2d(half, half, 3, stride, 1, groups=half, bias=False), nn.BatchNorm2d(half),
            nn.Conv2d(half, half, 1, bias=False), nn.BatchNorm2d(half), nn.ReLU(inplace=True),
        )  # fmt: skip
        self.shortcut = nn.Sequential(
            nn.Conv2d(c, c, 3, stride, 1, groups=c, bias=False), nn.BatchNorm2d(c),
            nn.Conv2d(c, half, 1, bias=False), nn.BatchNorm2d(half), nn.ReLU(inplace=True),
        ) if stride > 1 else nn.Identity()  # fmt: skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        kept, used = (x, x) if self.stride > 1 else x.chunk(2, dim=1)
        return shuffled(torch.cat((self.shortcut(kept), self.branch(used)), dim=1), 2)


def shufflenet() -> nn.Module:
    """A small ShuffleNet V2 with channel shuffles as everybody writes them."""
    units = [ShuffleUnit(24, 48, 2), ShuffleUnit(48, 48, 1), ShuffleUnit(48, 96, 2), ShuffleUnit(96, 96, 1), ShuffleUnit(96, 96, 1)]
    stem = [nn.Conv2d(3, 24, 3, 2, 1, bias=False), nn.BatchNorm2d(24), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)]
    return nn.Sequential(*stem, *units, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(96, 10))


def _double(c: int, k: int) -> nn.Sequential:
    """Two 3×3 convolutions with BatchNorm and ReLU."""
    layers = [
        (nn.Conv2d(c if i == 0 else k, k, 3, padding=1, bias=False), nn.BatchNorm2d(k), nn.ReLU(inplace=True)) for i in (0, 1)
    ]  # fmt: skip
    return nn.Sequential(*layers[0], *layers[1])


class UNet(nn.Module):
    """U-Net with bilinear upsampling, padded to the skip's size (Ronneberger et al. 2015, arXiv 1505.04597)."""

    def __init__(self, width: int = 8, depth: int = 3, align_corners: bool = True) -> None:
        super().__init__()
        widths = [width << i for i in range(depth + 1)]
        self.stem, self.pool = _double(3, width), nn.MaxPool2d(2)
        self.down = nn.ModuleList(_double(a, b) for a, b in pairwise(widths))
        self.upsample = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=align_corners)
        self.up = nn.ModuleList(_double(a + b, a) for a, b in zip(widths[-2::-1], widths[:0:-1]))
        self.head = nn.Conv2d(width, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        skips = [self.stem(x)]
        for down in self.down:
            skips.append(down(self.pool(skips[-1])))
        x = skips.pop()
        for up in self.up:
            skip = skips.pop()
            x = self.upsample(x)
            dh, dw = skip.shape[2] - x.shape[2], skip.shape[3] - x.shape[3]
            x = F.pad(x, [dw // 2, dw - dw // 2, dh // 2, dh - dh // 2])
            x = up(torch.cat([skip, x], dim=1))
        return self.head(x)


SMALL = {"size": (32, 32), "odd": (29, 37)}
TIMM = ("resnet50", "mobilenetv2_100", "efficientnet_b0", "convnext_atto", "regnety_004", "densenet121")

NETS: dict[str, Net] = {
    **{
        name: Net(lambda name=name: zoo.build(name), **(SMALL if entry.input[1] == 32 else {}))
        for name, entry in zoo.MODELS.items()
    },
    **{f"timm:{name}": Net(lambda name=name: zoo.build(f"timm:{name}")) for name in TIMM},
    "shufflenet": Net(shufflenet),
    "unet": Net(UNet),
}  # fmt: skip
