"""VGG-16 with batch normalization: thirteen 3×3 convolutions, five poolings, three linear layers.

"Very Deep Convolutional Networks for Large-Scale Image Recognition", Simonyan, Zisserman, ICLR 2015,
configuration D. https://arxiv.org/abs/1409.1556

The small-image form has linear layers of 512 units on the 1×1 map that is left of a 32×32 image
("Very Deep Convolutional Neural Network Based Image Classification Using Small Training Sample Size",
Liu, Deng, ACPR 2015). Keys `features.N, classifier.N` are torchvision's.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))  # a 2×2 max-pooling ends each


def vgg16_bn(num_classes: int, in_channels: int, small_image: bool) -> nn.Module:
    """138.37 M parameters; 15.25 M in the small-image form with 10 classes."""
    return VGG(num_classes, in_channels, small_image)


class VGG(nn.Module):
    """Images of at least 32×32 pixels: five poolings halve them."""

    def __init__(self, num_classes: int, in_channels: int, small_image: bool) -> None:
        super().__init__()
        side, width = (1, 512) if small_image else (7, 4096)
        self.features = nn.Sequential(*_features(in_channels))
        self.avgpool = nn.AdaptiveAvgPool2d(side)
        self.classifier = nn.Sequential(
            nn.Linear(512 * side * side, width),
            nn.ReLU(),
            nn.Dropout(),
            nn.Linear(width, width),
            nn.ReLU(),
            nn.Dropout(),
            nn.Linear(width, num_classes),
        )
        for m in self.modules():
            if isinstance(m, nn.Conv2d):
                nn.init.kaiming_normal_(m.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(m, nn.Linear):
                nn.init.normal_(m.weight, std=0.01)
                nn.init.zeros_(m.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))


def _features(c: int) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for stage in STAGES:
        for k in stage:
            layers += [nn.Conv2d(c, k, 3, padding=1), nn.BatchNorm2d(k), nn.ReLU()]
            c = k
        layers.append(nn.MaxPool2d(2))
    return layers
