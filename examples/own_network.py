"""A network of your own, made faster from the command line:

    jettison compress examples/own_network.py:small_cnn --data digits --size 32 --batch 32 --epochs 5 --pattern 1:8 -o small.jettison
    jettison explain small.jettison

Any function that returns an `nn.Module` will do. If it takes `num_classes` or `in_channels`, it is given those of the data.
"""

from collections import OrderedDict

from torch import nn


def block(c: int, k: int, stride: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(c, k, 3, stride, 1, bias=False), nn.BatchNorm2d(k), nn.ReLU(inplace=True))


def small_cnn(num_classes: int = 10, in_channels: int = 3, width: int = 64) -> nn.Module:
    """Six 3×3 convolutions, three of them with stride 2."""
    w = width
    layers = {
        "stem": block(in_channels, w, 1),
        "down1": block(w, w, 2),
        "conv2": block(w, 2 * w, 1),
        "down2": block(2 * w, 2 * w, 2),
        "conv3": block(2 * w, 4 * w, 1),
        "down3": block(4 * w, 4 * w, 2),
        "pool": nn.AdaptiveAvgPool2d(1),
        "flatten": nn.Flatten(),
        "classifier": nn.Linear(4 * w, num_classes),
    }
    return nn.Sequential(OrderedDict(layers))
