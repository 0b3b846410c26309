"""Network in Network: each convolution is followed by two 1×1 convolutions; no linear layer.

"Network In Network", Lin, Chen, Yan, ICLR 2014. https://arxiv.org/abs/1312.4400

The small-image form is the paper's CIFAR-10 network, the other the authors' ImageNet network, both with the
layer names of their published definitions (`conv1, cccp1, cccp2, conv2 …`). Two departures: batch normalization
follows each convolution but the last (the paper is older, and without it the usual training recipes stall;
exporting folds it away), and sizes after a pooling are rounded down (padding 1 in the small-image form).
"""

from __future__ import annotations

from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# per block: channels of the three convolutions; kernel size, stride, padding of the first (the others are 1×1)
# 0 channels: one per class
SMALL = (
    ((192, 160, 96), (5, 1, 2)),
    ((192, 192, 192), (5, 1, 2)),
    ((192, 192, 0), (3, 1, 1)),
)
LARGE = (
    ((96, 96, 96), (11, 4, 0)),
    ((256, 256, 256), (5, 1, 2)),
    ((384, 384, 384), (3, 1, 1)),
    ((1024, 1024, 0), (3, 1, 1)),
)


def nin(num_classes: int, in_channels: int, small_image: bool) -> nn.Module:
    """0.97 M parameters (10 classes, small images); 7.60 M with 1000 classes in the other form."""
    return NIN(num_classes, in_channels, small_image)


class NIN(nn.Sequential):
    """Overlapping poolings between the blocks (max; in the small-image form the second is average), dropout 0.5."""

    def __init__(self, num_classes: int, in_channels: int, small_image: bool) -> None:
        if small_image:
            between = [[nn.MaxPool2d(3, 2, 1), nn.Dropout()], [nn.AvgPool2d(3, 2, 1), nn.Dropout()]]
        else:
            between = [[nn.MaxPool2d(3, 2)], [nn.MaxPool2d(3, 2)], [nn.MaxPool2d(3, 2), nn.Dropout()]]
        layers, c = OrderedDict[str, nn.Module](), in_channels
        for i, (channels, first) in enumerate(SMALL if small_image else LARGE):
            if i:
                layers[f"between{i}"] = nn.Sequential(*between[i - 1])
            names = f"conv{i + 1}", f"cccp{2 * i + 1}", f"cccp{2 * i + 2}"
            for name, k, geometry in zip(names, channels, (first, (1, 1, 0), (1, 1, 0))):
                if k == 0:  # the class scores stay as they are
                    layers[name] = nn.Conv2d(c, num_classes, 1)
                    break
                layers[name] = nn.Conv2d(c, k, *geometry, bias=False)
                layers[f"{name}_bn"] = nn.BatchNorm2d(k)
                layers[f"{name}_relu"] = nn.ReLU()
                c = k
        super().__init__(layers)
        for m in self.modules():
            if isinstance(m, nn.Conv2d):
                nn.init.kaiming_normal_(m.weight, nonlinearity="relu")

    def forward(self, input: Tensor) -> Tensor:
        return torch.flatten(F.adaptive_avg_pool2d(super().forward(input), 1), 1)
