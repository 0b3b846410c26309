"""Network in Network: each convolution is followed by two 1×1 convolutions; no linear layer, no normalization.

"Network In Network", Lin, Chen, Yan, ICLR 2014. https://arxiv.org/abs/1312.4400

The small-image form is the paper's CIFAR-10 network, the other its ImageNet network, both with the names
of the authors' published definitions (`conv1, cccp1, cccp2, conv2 …`). Poolings have padding 1 in the
small-image form and none in the other; the authors' framework rounded sizes up instead.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# per block: channels of the three convolutions; kernel size, stride, padding of the first (the others are 1×1); 0 = classes
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
    """0.97 M parameters (10 classes, small images); 7.6 M with 1000 classes in the other form."""
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
            a, b, k = (n or num_classes for n in channels)
            layers[f"conv{i + 1}"] = nn.Conv2d(c, a, *first)
            layers[f"relu{i + 1}"] = nn.ReLU()
            layers[f"cccp{2 * i + 1}"] = nn.Conv2d(a, b, 1)
            layers[f"relu_cccp{2 * i + 1}"] = nn.ReLU()
            layers[f"cccp{2 * i + 2}"] = nn.Conv2d(b, k, 1)
            layers[f"relu_cccp{2 * i + 2}"] = nn.ReLU()
            c = k
        layers.popitem()  # the class scores stay as they are
        super().__init__(layers)
        for m in self.modules():
            if isinstance(m, nn.Conv2d) and m.bias is not None:
                nn.init.kaiming_normal_(m.weight, nonlinearity="relu")
                nn.init.zeros_(m.bias)

    def forward(self, input: Tensor) -> Tensor:
        return torch.flatten(F.adaptive_avg_pool2d(super().forward(input), 1), 1)
