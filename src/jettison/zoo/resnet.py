"""ResNets for photographs: four stages of basic (18, 34) or bottleneck (50) blocks.

"Deep Residual Learning for Image Recognition", He, Zhang, Ren, Sun, CVPR 2016.
https://arxiv.org/abs/1512.03385

As everywhere today, the bottleneck's stride stands in its 3×3 convolution ("v1.5"). Keys
`conv1, bn1, layer1.0.conv1 …, downsample.0, fc` are timm's and torchvision's.

The strided ones are those of "TabConv: Low-Computation CNN Inference via Table Lookups", Gupta et al. 2024,
https://arxiv.org/abs/2404.05872, as its published code builds them: for images of 32×32 and 64×64, with a stride
in the stem and in every stage, and no pooling. Many parameters, little arithmetic.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def resnet18(num_classes: int, in_channels: int, small_image: bool) -> nn.Module:
    """2, 2, 2, 2 basic blocks, 11.69 M parameters."""
    return ResNet(BasicBlock, (2, 2, 2, 2), num_classes, in_channels, small_image)


def resnet34(num_classes: int, in_channels: int, small_image: bool) -> nn.Module:
    """3, 4, 6, 3 basic blocks, 21.80 M parameters."""
    return ResNet(BasicBlock, (3, 4, 6, 3), num_classes, in_channels, small_image)


def resnet50(num_classes: int, in_channels: int, small_image: bool) -> nn.Module:
    """3, 4, 6, 3 bottlenecks, 25.56 M parameters."""
    return ResNet(Bottleneck, (3, 4, 6, 3), num_classes, in_channels, small_image)


def resnet18_strided(num_classes: int, in_channels: int, small_image: bool) -> nn.Module:
    """2, 2, 2, 2 basic blocks, 11.19 M parameters. There is no small-image form: it is one."""
    return _strided((2, 2, 2, 2), num_classes, in_channels)


def resnet34_strided(num_classes: int, in_channels: int, small_image: bool) -> nn.Module:
    """3, 4, 6, 3 basic blocks, 21.29 M parameters."""
    return _strided((3, 4, 6, 3), num_classes, in_channels)


def _strided(depths: tuple[int, ...], num_classes: int, in_channels: int) -> nn.Module:
    net = ResNet(BasicBlock, depths, num_classes, in_channels, small_image=False)
    net.maxpool = nn.Identity()
    net.layer1[0] = BasicBlock(64, 64, stride=2)
    return net


class ResNet(nn.Module):
    """`small_image`: the stem is a 3×3 convolution without stride and without pooling, as is usual on CIFAR."""

    def __init__(
        self, block: type[BasicBlock | Bottleneck], depths: tuple[int, ...], num_classes: int, in_channels: int, small_image: bool
    ) -> None:
        super().__init__()
        if small_image:
            self.conv1 = nn.Conv2d(in_channels, 64, 3, padding=1, bias=False)
            self.maxpool = nn.Identity()
        else:
            self.conv1 = nn.Conv2d(in_channels, 64, 7, stride=2, padding=3, bias=False)
            self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.bn1 = nn.BatchNorm2d(64)
        self.layer1 = _stage(block, 64, 64, depths[0], stride=1)
        self.layer2 = _stage(block, 64 * block.expansion, 128, depths[1], stride=2)
        self.layer3 = _stage(block, 128 * block.expansion, 256, depths[2], stride=2)
        self.layer4 = _stage(block, 256 * block.expansion, 512, depths[3], stride=2)
        self.fc = nn.Linear(512 * block.expansion, num_classes)
        for m in self.modules():
            if isinstance(m, nn.Conv2d):
                nn.init.kaiming_normal_(m.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(F.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        x = torch.flatten(F.adaptive_avg_pool2d(x, 1), 1)
        return self.fc(x)


class BasicBlock(nn.Module):
    """Two 3×3 convolutions of `width` channels, and the shortcut."""

    expansion = 1

    def __init__(self, c: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(c, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = _downsample(c, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return F.relu(y + self.downsample(x))


class Bottleneck(nn.Module):
    """1×1 to `width` channels, 3×3, 1×1 to 4 · `width`, and the shortcut."""

    expansion = 4

    def __init__(self, c: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(c, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.downsample = _downsample(c, 4 * width, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return F.relu(y + self.downsample(x))


def _downsample(c: int, k: int, stride: int) -> nn.Module:
    """The paper's option B: a 1×1 convolution where the shape changes, else the input itself."""
    if stride == 1 and c == k:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(c, k, 1, stride, bias=False), nn.BatchNorm2d(k))


def _stage(block: type[BasicBlock | Bottleneck], c: int, width: int, depth: int, stride: int) -> nn.Sequential:
    rest = (block(width * block.expansion, width, 1) for _ in range(depth - 1))
    return nn.Sequential(block(c, width, stride), *rest)
