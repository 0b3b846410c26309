"""MNIST and Fashion-MNIST: four gzip-compressed IDX files.

IDX: two zero bytes, type 0x08 (uint8), number of dimensions, each dimension as big-endian uint32, then the values.
Source: LeCun, Cortes, Burges, "The MNIST database"; Xiao, Rasul, Vollgraf 2017 (arXiv 1708.07747).
"""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

import numpy as np

from ...errors import DataError
from .dataset import Raw, Split

MNIST_CLASSES = [str(i) for i in range(10)]
FASHION_CLASSES = ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"]


def read_mnist(folder: Path) -> Raw:
    return Raw(_split(folder, "train"), _split(folder, "t10k"), MNIST_CLASSES)


def read_fashion_mnist(folder: Path) -> Raw:
    return Raw(_split(folder, "train"), _split(folder, "t10k"), FASHION_CLASSES)


def _split(folder: Path, prefix: str) -> Split:
    images = read_idx(folder / f"{prefix}-images-idx3-ubyte.gz", 3)
    labels = read_idx(folder / f"{prefix}-labels-idx1-ubyte.gz", 1)
    if len(images) != len(labels):
        raise DataError(f"{folder}: {len(images)} {prefix} images but {len(labels)} labels; fetch the files again")
    return Split(images[..., None], labels.astype(np.int64))


def read_idx(path: Path, dimensions: int) -> np.ndarray:
    """uint8 array of a gzip-compressed IDX file. Errors: DataError."""
    try:
        content = gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error) as e:
        raise DataError(f"{path}: not a complete gzip file ({e}); fetch it again") from e
    header = 4 + 4 * dimensions
    if len(content) < header or content[:4] != bytes((0, 0, 8, dimensions)):
        raise DataError(f"{path}: not an IDX file of bytes with {dimensions} dimensions; fetch it again")
    shape = np.frombuffer(content, ">u4", dimensions, 4).astype(np.int64)
    if len(content) - header != int(np.prod(shape)):
        raise DataError(f"{path}: holds {len(content) - header} values, its header says {tuple(shape.tolist())}; fetch it again")
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)
