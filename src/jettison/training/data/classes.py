"""The classes a user has: a data set with only their images, a network with only their outputs."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from torch import nn

from ...errors import DataError, ModelError
from .dataset import DataSet, Images, Split

HEADS = ("keep", "shrink")  # what happens to the outputs of the other classes
SHOWN = 10  # names in a message
WORDNET = re.compile(r"n\d{8}")


@dataclass(frozen=True, slots=True)
class ChosenImages:
    """Some of the images of a split that is decoded one at a time."""

    images: Images
    indices: np.ndarray

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> np.ndarray:
        return self.images[int(self.indices[index])]


def class_indices(data: DataSet, names: Sequence[str]) -> list[int]:
    """The label of each name, ascending. ImageNet's "n01440764 tench, Tinca tinca" is also "tench" and "n01440764"; case
    does not matter.

    Errors: DataError for a name that is not known (with the nearest one) or fits several, twice the same, or fewer than two.
    """
    known: dict[str, list[int]] = {}
    for i, name in enumerate(data.classes):
        for alias in dict.fromkeys(a.casefold() for a in _aliases(name)):
            known.setdefault(alias, []).append(i)
    found: list[int] = []
    for name in names:
        labels = [data.classes.index(name)] if name in data.classes else known.get(name.casefold(), [])
        if len(labels) > 1:
            meant = " or ".join(repr(data.classes[i]) for i in labels)
            raise DataError(f"class {name!r} of {data.name} may be {meant}; write one in full, if it has commas in a file: --classes @FILE")
        if not labels:
            raise DataError(f"class {name!r} is not in {data.name}; {_hint(name, data.classes)}")
        if labels[0] in found:
            raise DataError(f"class {name!r} is named twice")
        found.append(labels[0])
    if len(found) < 2:
        raise DataError(f"a classifier needs at least two classes, got {len(found)}; {data.name} has {len(data.classes)}")
    return sorted(found)


def _aliases(name: str) -> list[str]:
    """A class name, its WordNet number, what follows it, and the first synonym."""
    number, _, rest = name.partition(" ")
    if not (WORDNET.fullmatch(number) and rest):
        number, rest = name, name
    return [name, number, rest, rest.partition(",")[0]]


def _hint(name: str, classes: Sequence[str]) -> str:
    aliases = {alias.casefold(): alias for c in classes for alias in _aliases(c)}
    near = [aliases[a] for a in difflib.get_close_matches(name.casefold(), aliases, n=1, cutoff=0.5)]
    more = f" and {len(classes) - SHOWN} more" if len(classes) > SHOWN else ""
    return (f"did you mean {near[0]!r}? " if near else "") + f"it has {', '.join(classes[:SHOWN])}{more}"


def only_classes(data: DataSet, indices: Sequence[int], head: str) -> DataSet:
    """`data` with the images of these classes alone. head "shrink": labels count the chosen classes; "keep": as they were.

    Errors: DataError when a class has no image in a split.
    """
    label = {old: new if head == "shrink" else old for new, old in enumerate(indices)}
    splits = [None if s is None else _only(data, s, which, label) for s, which in ((data.train, "training"), (data.test, "test"))]
    classes = tuple(data.classes[i] for i in indices) if head == "shrink" else data.classes
    return replace(data, train=splits[0], test=splits[1], classes=classes)


def _only(data: DataSet, split: Split, which: str, label: dict[int, int]) -> Split:
    for old in label:
        if not (split.labels == old).any():
            raise DataError(f"class {data.classes[old]!r} has no {which} images in {data.name}; leave it out or add some")
    chosen = np.flatnonzero(np.isin(split.labels, list(label)))
    labels = np.array([label[int(i)] for i in split.labels[chosen]], np.int64)
    return Split(_picked(split.images, chosen), labels)


def _picked(images: np.ndarray | Images, indices: np.ndarray) -> np.ndarray | Images:
    return images[indices] if isinstance(images, np.ndarray) else ChosenImages(images, indices)


def with_others(few: DataSet, data: DataSet, share: float) -> DataSet:
    """`few`, some classes of `data` with its labels, and in each epoch of training as many other images, by lot, as make up `share`.

    share: 0 … below 1. Test images stay those of `few`. There may be fewer others than that; then all are seen.
    """
    if few.train is None or data.train is None or share <= 0:
        return few
    own, labels = np.unique(few.train.labels), data.train.labels
    mine, others = np.flatnonzero(np.isin(labels, own)), np.flatnonzero(~np.isin(labels, own))
    order = np.concatenate([mine, others])
    drawn = min(round(len(mine) * share / (1 - share)), len(others))
    return replace(few, train=Split(_picked(data.train.images, order), labels[order], len(mine), drawn))


def classifier(model: nn.Module) -> tuple[str, nn.Conv2d | nn.Linear]:
    """Name and layer whose outputs are the scores: the last Conv2d or Linear. Errors: ModelError."""
    layers = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    if not layers:
        raise ModelError("the model has no convolution and no linear layer, so none that gives the scores of classes")
    return layers[-1]


def shrink_head(model: nn.Module, indices: Sequence[int], classes: int) -> None:
    """Keep only these outputs of the classifier in place. Errors: ModelError."""
    name, last = classifier(model)
    if len(last.weight) != classes:
        raise ModelError(
            f"the last layer {name!r} has {len(last.weight)} outputs for {classes} classes, so its head cannot be shrunk; use head keep"
        )
    last.weight = nn.Parameter(last.weight.detach()[list(indices)].clone())
    if last.bias is not None:
        last.bias = nn.Parameter(last.bias.detach()[list(indices)].clone())
    if isinstance(last, nn.Linear):
        last.out_features = len(indices)
    else:
        last.out_channels = len(indices)
