"""Data sets by name, from official files or parquet, or any folder of yours.

To add a data set: a reader Path → Raw in a file of its own, and one line in `DATASETS`.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from ...errors import DataError
from ...file import cache_folder
from .batches import Batch, Shard, mixed_seed, normalise, steps_per_epoch, test_batches, train_batches
from .cifar import read_cifar10, read_cifar100
from .classes import HEADS, class_indices, classifier, only_classes, shrink_head, with_others
from .dataset import IMAGENET_MEAN, IMAGENET_STD, DataSet, Raw, Split, StoredImages
from .digits import read_digits
from .fetch import fetch
from .folder import read_folder
from .idx import read_fashion_mnist, read_mnist
from .parquet import has_parquet, read_parquet
from .resize import resize
from .tiny_imagenet import read_tiny_imagenet

__all__ = [
    "DATASETS", "HEADS", "Batch", "DataSet", "Entry", "Shard", "Split", "class_indices", "classifier", "load", "mixed_seed",
    "normalise", "only_classes", "shrink_head", "steps_per_epoch", "test_batches", "train_batches", "with_others",
]  # fmt: skip

LARGE_SIZE = 224  # pixels the network sees of images that are decoded one at a time


@dataclass(frozen=True, slots=True)
class Entry:
    """A published data set: its reader, its official files with their MD5, its number of classes, its pixels' mean and deviation."""

    read: Callable[[Path], Raw]
    classes: int
    url: str = ""
    md5: Mapping[str, str] = field(default_factory=dict)
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    flip: bool = True


_KRIZ = "https://www.cs.toronto.edu/~kriz/"
_MNIST_MD5 = {
    "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
    "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
    "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
    "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
}
_FASHION_MD5 = {
    "train-images-idx3-ubyte.gz": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
    "train-labels-idx1-ubyte.gz": "25c81989df183df01b3e8a0aad5dffbe",
    "t10k-images-idx3-ubyte.gz": "bef4ecab320f06d8554ea6380940ec79",
    "t10k-labels-idx1-ubyte.gz": "bb300cfdad3c16e7a12a480ee83cd310",
}
_FASHION = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"

# CIFAR takes ImageNet's mean and deviation because its public checkpoints do
DATASETS: dict[str, Entry] = {
    "digits": Entry(read_digits, 10, mean=(0.305,), std=(0.376,), flip=False),
    "mnist": Entry(read_mnist, 10, "https://ossci-datasets.s3.amazonaws.com/mnist/", _MNIST_MD5, (0.1307,), (0.3081,), False),
    "fashion-mnist": Entry(read_fashion_mnist, 10, _FASHION, _FASHION_MD5, (0.286,), (0.353,)),
    "cifar10": Entry(read_cifar10, 10, _KRIZ, {"cifar-10-binary.tar.gz": "c32a1d4ab5d03f1284b67883e8d87530"}),
    "cifar100": Entry(read_cifar100, 100, _KRIZ, {"cifar-100-binary.tar.gz": "03b5dce01913d631647c71ecec9e9cb8"}),
    "tiny-imagenet": Entry(
        read_tiny_imagenet, 200, "http://cs231n.stanford.edu/", {"tiny-imagenet-200.zip": "90528d7ca1a48142e341f4ef8d21d0de"}
    ),
}


def load(name: str, data_dir: Path | str | None = None, size: int | None = None) -> DataSet:
    """The data set `name` of `DATASETS`, or the folder called `name`: class folders, or Hugging Face-style parquet.

    data_dir: where a named data set lies, as DIR/NAME/ or DIR itself, as official files or parquet; by default
    `$JETTISON_DATA`, else a folder in the user's cache. Missing official files are downloaded there.
    size: height and width for the network; by default the stored size of small images, 224 for large ones.

    Errors: DataError (unknown, missing, incomplete or corrupt; says which file and the command that fetches it).
    """
    if size is not None and size < 1:
        raise DataError(f"{name}: image size must be at least 1 pixel, got {size}")
    if name in DATASETS:
        entry = DATASETS[name]
        raw = _read_named(name, entry, Path(data_dir or os.environ.get("JETTISON_DATA") or cache_folder() / "data"))
        if len(raw.classes) != entry.classes:
            raise DataError(f"{name}: the files have {len(raw.classes)} classes instead of {entry.classes}; is it another data set?")
    else:
        entry, raw = _read_path(name)
    splits = [s for s in (raw.test, raw.train) if s is not None]
    if all(s.in_memory for s in splits):
        side = size = size or min(splits[0].images.shape[1:3])  # type: ignore[union-attr]
        splits = [_sized(s, side, len(entry.mean)) for s in splits]
    else:
        splits = [replace(s, images=StoredImages(s.images)) if isinstance(s.images, np.ndarray) else s for s in splits]
    train = splits[1] if raw.train is not None else None
    return DataSet(name, train, splits[0], tuple(raw.classes), size or LARGE_SIZE, entry.mean, entry.std, entry.flip)


def _read_named(name: str, entry: Entry, data_dir: Path) -> Raw:
    folders = [data_dir / name, data_dir]
    if not entry.md5:
        return entry.read(data_dir)
    if not any((d / f).is_file() for d in folders for f in entry.md5):
        for d in folders:
            if has_parquet(d):
                return read_parquet(d)
    return entry.read(fetch(name, folders, entry.url, entry.md5))


def _read_path(name: str) -> tuple[Entry, Raw]:
    path = Path(name)
    if not path.is_dir():
        near = difflib.get_close_matches(name, DATASETS, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise DataError(f"data set {name!r} is not known and no such folder exists; {hint}known: {', '.join(DATASETS)}; or give a folder")
    read = read_parquet if has_parquet(path) else read_folder
    raw = read(path)
    return Entry(read, len(raw.classes)), raw


def _sized(split: Split, size: int, channels: int) -> Split:
    """Images in memory as (n, size, size, channels)."""
    images = np.asarray(split.images)[..., :channels]  # grey images from parquet come with three equal channels
    return Split(images if images.shape[1:3] == (size, size) else resize(images, size), split.labels)
