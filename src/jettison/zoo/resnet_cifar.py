"""CIFAR ResNets: 6n + 2 layers in three stages of 16, 32 and 64 channels.

"Deep Residual Learning for Image Recognition", He, Zhang, Ren, Sun, CVPR 2016, section 4.2.
https://arxiv.org/abs/1512.03385

The shortcut is the paper's option A, without parameters: every second pixel, and zeros for the
new channels (half before, half after). Keys `conv1, bn1, layer1.0.conv1 …, linear` are those of the
public checkpoints of https://github.com/akamaster/pytorch_resnet_cifar10.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def resnet20_cifar(num_classes: int, in_channels: int, small_image: bool) -> nn.Module:
    """n = 3, 0.27 M parameters."""
    return ResNetCifar(3, num_classes, in_channels)


def resnet32_cifar(num_classes: int, in_channels: int, small_image: bool) -> nn.Module:
    """n = 5, 0.46 M parameters."""
    return ResNetCifar(5, num_classes, in_channels)


def resnet56_cifar(num_classes: int, in_channels: int, small_image: bool) -> nn.Module:
    """n = 9, 0.85 M parameters."""
    return ResNetCifar(9, num_classes, in_channels)


class ResNetCifar(nn.Module):
    """`n` blocks per stage; width: channels of the first. It keeps the image's size, so there is no other small-image form."""

    def __init__(self, n: int, num_classes: int, in_channels: int, width: int = 16) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = _stage(width, width, n, stride=1)
        self.layer2 = _stage(width, 2 * width, n, stride=2)
        self.layer3 = _stage(2 * width, 4 * width, n, stride=2)
        self.linear = nn.Linear(4 * width, num_classes)
        for m in self.modules():
            if isinstance(m, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(m.weight)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        x = torch.flatten(F.adaptive_avg_pool2d(x, 1), 1)
        return self.linear(x)


class Block(nn.Module):
    """relu(bn(conv(relu(bn(conv(x))))) + shortcut(x)), two 3×3 convolutions."""

    def __init__(self, c: int, k: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(c, k, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(k)
        self.conv2 = nn.Conv2d(k, k, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(k)
        self.stride = stride
        self.new_channels = k - c

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return F.relu(y + self.shortcut(x))

    def shortcut(self, x: Tensor) -> Tensor:
        if self.stride == 1 and not self.new_channels:
            return x
        before = self.new_channels // 2
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, before, self.new_channels - before))


def _stage(c: int, k: int, n: int, stride: int) -> nn.Sequential:
    return nn.Sequential(Block(c, k, stride), *(Block(k, k, 1) for _ in range(n - 1)))
