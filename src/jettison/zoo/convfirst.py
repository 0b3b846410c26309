"""ConvFirst-style networks: blocks that fuse well, a grouped convolution first and everything else 1×1.

    x + W2 · act(W1 · conv(x))        conv: k×k, groups of 8 channels, BatchNorm, no activation; W1: 1×1, expands; W2: 1×1, projects

Nothing but the first convolution looks beyond a pixel, so a few rows of the hidden channels are all that a fused block
needs at a time, and its workspace does not grow with the expansion. Groups of 8 make the k×k convolution worth its memory
traffic, where a depthwise one (ConvNeXt, MobileNet) mostly waits. Late stages have few pixels and many channels: there a
7×7 depthwise convolution costs little, and groups of 8 would outweigh the 1×1 layers.

After "On the Efficiency of Convolutional Neural Networks", Lavin 2024, https://arxiv.org/abs/2404.03617. The stages of its
ConvFirstNet are not published where we could read them; these tables are our own.
"""

from __future__ import annotations

from torch import Tensor, nn

# (blocks, channels, kernel, group width) of each stage; every stage halves the image but the first, which the stem has quartered
Stage = tuple[int, int, int, int]
XS: tuple[Stage, ...] = ((2, 32, 3, 8), (2, 64, 3, 8), (4, 128, 5, 1), (2, 256, 7, 1))
S: tuple[Stage, ...] = ((2, 48, 3, 8), (2, 96, 3, 8), (6, 192, 5, 1), (2, 384, 7, 1))
M: tuple[Stage, ...] = ((3, 64, 3, 8), (3, 128, 3, 8), (9, 256, 5, 1), (3, 512, 7, 1))
EXPANSION = 3


def convfirst_xs(num_classes: int, in_channels: int, small_image: bool) -> nn.Module:
    return ConvFirstNet(XS, num_classes, in_channels, small_image)


def convfirst_s(num_classes: int, in_channels: int, small_image: bool) -> nn.Module:
    return ConvFirstNet(S, num_classes, in_channels, small_image)


def convfirst_m(num_classes: int, in_channels: int, small_image: bool) -> nn.Module:
    return ConvFirstNet(M, num_classes, in_channels, small_image)


def _norm_conv(c: int, k: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(c, k, kernel, stride, (kernel - 1) // 2, groups=groups, bias=False), nn.BatchNorm2d(k))


class ConvFirst(nn.Module):
    def __init__(self, c: int, kernel: int, width: int) -> None:
        super().__init__()
        self.conv = _norm_conv(c, c, kernel, groups=c // width)
        self.expand = _norm_conv(c, EXPANSION * c, 1)
        self.act = nn.SiLU()
        self.project = _norm_conv(EXPANSION * c, c, 1)
        norm: nn.BatchNorm2d = self.project[1]  # type: ignore[assignment]
        nn.init.zeros_(norm.weight)  # every block begins as an identity

    def forward(self, x: Tensor) -> Tensor:
        return x + self.project(self.act(self.expand(self.conv(x))))


class ConvFirstNet(nn.Module):
    """`small_image`: the stem halves the image once instead of twice."""

    def __init__(self, stages: tuple[Stage, ...], num_classes: int, in_channels: int, small_image: bool) -> None:
        super().__init__()
        c = stages[0][1]
        second = _norm_conv(c, c, 3, 1 if small_image else 2, c // 8)
        self.stem = nn.Sequential(*_norm_conv(in_channels, c, 3, 2), nn.SiLU(), *second, nn.SiLU())
        self.stages = nn.Sequential()
        for depth, k, kernel, width in stages:
            blocks = [ConvFirst(k, kernel, width) for _ in range(depth)]
            self.stages.append(nn.Sequential(*([] if k == c else [_norm_conv(c, k, 2, 2)]), *blocks))
            c = k
        self.head = nn.Linear(c, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.stages(self.stem(x)).mean((2, 3)))
