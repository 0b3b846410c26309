"""MobileNets: a depthwise 3×3 convolution mixes pixels, 1×1 convolutions mix channels.

V1: "MobileNets: Efficient Convolutional Neural Networks for Mobile Vision Applications", Howard, Zhu, Chen,
Kalenichenko, Wang, Weyand, Andreetto, Adam, 2017. https://arxiv.org/abs/1704.04861
V2: "MobileNetV2: Inverted Residuals and Linear Bottlenecks", Sandler, Howard, Zhu, Zhmoginov, Chen, CVPR 2018.
https://arxiv.org/abs/1801.04381

Both at width multiplier 1.0, with ReLU6. Keys `conv_stem, bn1, blocks.0.0.conv_dw …, classifier` are timm's.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# (blocks, output channels, stride of the first block), and for V2 the expansion of the middle channels
V1_STAGES = ((1, 64, 1), (2, 128, 2), (2, 256, 2), (6, 512, 2), (2, 1024, 2))  # table 1
V2_STAGES = ((2, 24, 2, 6), (3, 32, 2, 6), (4, 64, 2, 6), (3, 96, 1, 6), (3, 160, 2, 6), (1, 320, 1, 6))  # table 2, from row 3


def mobilenetv1_100(num_classes: int, in_channels: int, small_image: bool) -> nn.Module:
    """4.23 M parameters."""
    return MobileNetV1(num_classes, in_channels, small_image)


def mobilenetv2_100(num_classes: int, in_channels: int, small_image: bool) -> nn.Module:
    """3.50 M parameters."""
    return MobileNetV2(num_classes, in_channels, small_image)


class MobileNetV1(nn.Module):
    """`small_image`: the stem has no stride, so a 32×32 image ends as 2×2."""

    def __init__(self, num_classes: int, in_channels: int, small_image: bool) -> None:
        super().__init__()
        self.conv_stem = nn.Conv2d(in_channels, 32, 3, 1 if small_image else 2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(32)
        stages, c = [], 32
        for depth, k, stride in V1_STAGES:
            rest = (DepthwiseSeparable(k, k, 1, linear=False) for _ in range(depth - 1))
            stages.append(nn.Sequential(DepthwiseSeparable(c, k, stride, linear=False), *rest))
            c = k
        self.blocks = nn.Sequential(*stages)
        self.classifier = nn.Linear(c, num_classes)
        _init(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(F.relu6(self.bn1(self.conv_stem(x))))
        x = torch.flatten(F.adaptive_avg_pool2d(x, 1), 1)
        return self.classifier(x)


class MobileNetV2(nn.Module):
    """`small_image`: neither the stem nor the first inverted residual has a stride, so a 32×32 image ends as 4×4."""

    def __init__(self, num_classes: int, in_channels: int, small_image: bool) -> None:
        super().__init__()
        self.conv_stem = nn.Conv2d(in_channels, 32, 3, 1 if small_image else 2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(32)
        stages, c = [nn.Sequential(DepthwiseSeparable(32, 16, 1, linear=True))], 16
        for i, (depth, k, stride, expansion) in enumerate(V2_STAGES):
            first = InvertedResidual(c, k, 1 if small_image and i == 0 else stride, expansion)
            stages.append(nn.Sequential(first, *(InvertedResidual(k, k, 1, expansion) for _ in range(depth - 1))))
            c = k
        self.blocks = nn.Sequential(*stages)
        self.conv_head = nn.Conv2d(c, 1280, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(1280)
        self.classifier = nn.Linear(1280, num_classes)
        _init(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(F.relu6(self.bn1(self.conv_stem(x))))
        x = F.relu6(self.bn2(self.conv_head(x)))
        x = torch.flatten(F.adaptive_avg_pool2d(x, 1), 1)
        return self.classifier(x)


class DepthwiseSeparable(nn.Module):
    """Depthwise 3×3, then 1×1 to `k` channels; `linear`: no activation after the latter."""

    def __init__(self, c: int, k: int, stride: int, linear: bool) -> None:
        super().__init__()
        self.conv_dw = nn.Conv2d(c, c, 3, stride, padding=1, groups=c, bias=False)
        self.bn1 = nn.BatchNorm2d(c)
        self.conv_pw = nn.Conv2d(c, k, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(k)
        self.linear = linear

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu6(self.bn1(self.conv_dw(x)))
        x = self.bn2(self.conv_pw(x))
        return x if self.linear else F.relu6(x)


class InvertedResidual(nn.Module):
    """1×1 to `expansion` · c channels, depthwise 3×3, linear 1×1 to `k`; the input is added where the shape is kept."""

    def __init__(self, c: int, k: int, stride: int, expansion: int) -> None:
        super().__init__()
        middle = expansion * c
        self.conv_pw = nn.Conv2d(c, middle, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(middle)
        self.conv_dw = nn.Conv2d(middle, middle, 3, stride, padding=1, groups=middle, bias=False)
        self.bn2 = nn.BatchNorm2d(middle)
        self.conv_pwl = nn.Conv2d(middle, k, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(k)
        self.residual = stride == 1 and c == k

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu6(self.bn1(self.conv_pw(x)))
        y = F.relu6(self.bn2(self.conv_dw(y)))
        y = self.bn3(self.conv_pwl(y))
        return y + x if self.residual else y


def _init(model: nn.Module) -> None:
    for m in model.modules():
        if isinstance(m, nn.Conv2d):
            nn.init.kaiming_normal_(m.weight, mode="fan_out")
        elif isinstance(m, nn.Linear):
            nn.init.normal_(m.weight, std=0.01)
            nn.init.zeros_(m.bias)
