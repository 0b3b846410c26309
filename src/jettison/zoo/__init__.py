"""The zoo: convolutional networks by name, each with the keys of its public checkpoints.

`build("resnet20_cifar")` makes a network with random weights, `load_weights(model, path)` fills it, `load_backbone` all but its classifier.
A name is one of `MODELS`, `timm:NAME` (any model of timm, if that is installed), or
`path/to/file.py:function` (your own: a function without required arguments, or one that takes
any of `num_classes`, `in_channels`, `small_image`, `image_size`).

To add a network: one file here, one line in `MODELS`.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass

from ..errors import MissingExtra, ModelError

try:
    from torch import nn
except ImportError as e:
    raise MissingExtra("building a network needs PyTorch; install it with: pip install 'jettison[train]'") from e

from .convfirst import convfirst_m, convfirst_s, convfirst_xs
from .convnext import convnext_atto
from .external import from_file, from_timm, timm_input
from .mobilenet import mobilenetv1_100, mobilenetv2_100
from .nin import nin
from .resnet import resnet18, resnet18_strided, resnet34, resnet34_strided, resnet50
from .resnet_cifar import resnet20_cifar, resnet32_cifar, resnet56_cifar
from .vgg import vgg16_bn
from .weights import load_backbone, load_weights

__all__ = ["MODELS", "Entry", "build", "default_input", "load_backbone", "load_weights"]

SMALL_IMAGE = 64  # networks for images up to this size keep their resolution in the first layers


@dataclass(frozen=True)
class Entry:
    """A network of the zoo and what it was published for."""

    builder: Callable[[int, int, bool], nn.Module]  # (num_classes, in_channels, small_image)
    input: tuple[int, int, int]  # (c, h, w)
    num_classes: int
    min_size: int = 1  # smallest height and width that leaves a pixel at the end


MODELS: dict[str, Entry] = {
    "resnet20_cifar": Entry(resnet20_cifar, (3, 32, 32), 10),
    "resnet32_cifar": Entry(resnet32_cifar, (3, 32, 32), 10),
    "resnet56_cifar": Entry(resnet56_cifar, (3, 32, 32), 10),
    "resnet18": Entry(resnet18, (3, 224, 224), 1000),
    "resnet34": Entry(resnet34, (3, 224, 224), 1000),
    "resnet50": Entry(resnet50, (3, 224, 224), 1000),
    "resnet18_strided": Entry(resnet18_strided, (3, 32, 32), 10),
    "resnet34_strided": Entry(resnet34_strided, (3, 32, 32), 10),
    "vgg16_bn": Entry(vgg16_bn, (3, 224, 224), 1000, min_size=32),
    "mobilenetv1_100": Entry(mobilenetv1_100, (3, 224, 224), 1000),
    "mobilenetv2_100": Entry(mobilenetv2_100, (3, 224, 224), 1000),
    "convnext_atto": Entry(convnext_atto, (3, 224, 224), 1000, min_size=32),
    "convfirst_xs": Entry(convfirst_xs, (3, 224, 224), 1000, min_size=16),
    "convfirst_s": Entry(convfirst_s, (3, 224, 224), 1000, min_size=16),
    "convfirst_m": Entry(convfirst_m, (3, 224, 224), 1000, min_size=16),
    "nin": Entry(nin, (3, 32, 32), 10),
}


def build(
    name: str,
    num_classes: int | None = None,
    in_channels: int = 3,
    small_image: bool | None = None,
    image_size: int | None = None,
) -> nn.Module:
    """The network `name` with fresh random weights, in training mode, float32, on the CPU.

    num_classes: outputs of the classifier; None: what the network was published for.
    in_channels: channels of the image.
    small_image: True keeps the resolution in the first layers, for images of about 32×32; keys do
        not change. None: by `image_size`, True up to 64 pixels. Has no effect on `timm:` names.
    image_size: height = width of the images, in pixels; None: what the network was published for.

    Errors: ModelError (unknown name, bad file or function), MissingExtra (`timm:` without timm).
    """
    for what, value in (("num_classes", num_classes), ("in_channels", in_channels), ("image_size", image_size)):
        if value is not None and value < 1:
            raise ModelError(f"{name}: {what} must be at least 1, got {value}")
    if name.startswith("timm:"):
        return from_timm(name.removeprefix("timm:"), num_classes, in_channels)
    if _is_file(name):
        options = {"num_classes": num_classes, "in_channels": in_channels, "small_image": small_image, "image_size": image_size}
        return from_file(name, options)
    entry = _entry(name)
    size = image_size or entry.input[1]
    if size < entry.min_size:
        raise ModelError(f"{name} needs images of at least {entry.min_size}×{entry.min_size} pixels, got {size}; enlarge or pad them")
    if small_image is None:
        small_image = size <= SMALL_IMAGE
    return entry.builder(num_classes or entry.num_classes, in_channels, small_image)


def default_input(name: str) -> tuple[int, int, int]:
    """(c, h, w) of the images `name` was published for; (3, 224, 224) for a network of your own."""
    if name.startswith("timm:"):
        return timm_input(name.removeprefix("timm:"))
    if _is_file(name):
        return (3, 224, 224)
    return _entry(name).input


def _is_file(name: str) -> bool:
    return ".py:" in name


def _entry(name: str) -> Entry:
    if name in MODELS:
        return MODELS[name]
    near = [n for n in MODELS if name and n.startswith(name)] or difflib.get_close_matches(name, MODELS, n=3)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    raise ModelError(
        f"model {name!r} is not known; {hint}the zoo has: {', '.join(MODELS)}; or write timm:NAME, or path/to/file.py:function"
    )
