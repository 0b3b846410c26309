"""TabConv's ResNets: of ImageNet's form, without its pooling, and with a stride in every stage. 37.7 M multiply-adds at 32×32.

Gupta et al. 2024 (arXiv 2404.05872), as their published code builds them.
"""

from __future__ import annotations

from torch import nn

from jettison.zoo.resnet import BasicBlock, ResNet


def resnet18(num_classes: int, in_channels: int, image_size: int) -> nn.Module:
    return _strided((2, 2, 2, 2), num_classes, in_channels)


def resnet34(num_classes: int, in_channels: int, image_size: int) -> nn.Module:
    return _strided((3, 4, 6, 3), num_classes, in_channels)


def _strided(depths: tuple[int, ...], num_classes: int, in_channels: int) -> nn.Module:
    net = ResNet(BasicBlock, depths, num_classes, in_channels, small_image=False)
    net.maxpool = nn.Identity()
    net.layer1[0] = BasicBlock(64, 64, stride=2)
    return net
