"""The central types: a data set is two splits, the names of its classes and how its images are presented."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Images(Protocol):
    """Encoded images that are decoded one at a time: `images[i]` is uint8 (h, w, 3), any size."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> np.ndarray: ...


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """images: uint8 (n, h, w, c) in memory, or `Images`. labels: int64 (n,).

    drawn: how many of the images after the first `always` an epoch has, by lot; all of them unless given.
    """

    images: np.ndarray | Images = field(repr=False)
    labels: np.ndarray = field(repr=False)
    always: int = 0
    drawn: int | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def epoch(self) -> int:
        """Images of one epoch of training."""
        return len(self) if self.drawn is None else self.always + self.drawn

    def order(self, generator: torch.Generator) -> torch.Tensor:
        """Indices of one epoch, shuffled."""
        if self.drawn is None:
            return torch.randperm(len(self), generator=generator)
        others = self.always + torch.randperm(len(self) - self.always, generator=generator)[: self.drawn]
        both = torch.cat([torch.arange(self.always), others])
        return both[torch.randperm(len(both), generator=generator)]

    @property
    def in_memory(self) -> bool:
        return isinstance(self.images, np.ndarray)


@dataclass(frozen=True, slots=True, eq=False)
class DataSet:
    """size: height and width, in pixels, of what the network sees. mean, std: per channel, of pixels in 0 … 1.

    flip: mirrored images are still of their class (photographs yes, digits no).
    train is None when only a test split is at hand.
    """

    name: str
    train: Split | None
    test: Split
    classes: tuple[str, ...] = field(repr=False)
    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    flip: bool

    @property
    def channels(self) -> int:
        return len(self.mean)


@dataclass(frozen=True, slots=True)
class StoredImages:
    """An array's images one at a time: of a small split whose other split is large or of mixed sizes."""

    array: np.ndarray

    def __len__(self) -> int:
        return len(self.array)

    def __getitem__(self, index: int, /) -> np.ndarray:
        return np.asarray(self.array[index])


@dataclass(frozen=True, slots=True)
class Raw:
    """What a reader returns: the splits as stored, before resizing."""

    train: Split | None
    test: Split
    classes: Sequence[str]
