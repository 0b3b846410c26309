"""CIFAR-10 and CIFAR-100, the binary version: the python version is a pickle, which could run code.

A record is the label (CIFAR-100: coarse label, fine label) and 3 × 32 × 32 bytes: red, green, blue planes.
Source: Krizhevsky 2009, "Learning multiple layers of features from tiny images".
"""

from __future__ import annotations

import tarfile
import zlib
from pathlib import Path

import numpy as np

from ...errors import DataError
from .dataset import Raw, Split

PIXELS = 3 * 32 * 32


def read_cifar10(folder: Path) -> Raw:
    train = [f"data_batch_{i}.bin" for i in range(1, 6)]
    return _read(folder / "cifar-10-binary.tar.gz", "cifar-10-batches-bin", train, "test_batch.bin", "batches.meta.txt", 1)


def read_cifar100(folder: Path) -> Raw:
    """With the 100 fine labels."""
    return _read(folder / "cifar-100-binary.tar.gz", "cifar-100-binary", ["train.bin"], "test.bin", "fine_label_names.txt", 2)


def _read(path: Path, inside: str, train: list[str], test: str, names: str, label_bytes: int) -> Raw:
    wanted = [f"{inside}/{f}" for f in (*train, test, names)]
    try:
        with tarfile.open(path, "r:gz") as archive:
            content = {m.name: archive.extractfile(m).read() for m in archive if m.isfile() and m.name in wanted}  # type: ignore[union-attr]
    except (tarfile.TarError, EOFError, OSError, zlib.error) as e:
        raise DataError(f"{path}: truncated or corrupt archive ({e}); fetch it again") from e
    if missing := [f for f in wanted if f not in content]:
        raise DataError(f"{path}: {', '.join(missing)} not in the archive; is it the binary version? fetch it again")
    classes = content[wanted[-1]].decode("ascii", "replace").split()
    splits = [_split(path, b"".join(content[f"{inside}/{f}"] for f in files), label_bytes, len(classes)) for files in (train, [test])]
    return Raw(splits[0], splits[1], classes)


def _split(path: Path, content: bytes, label_bytes: int, classes: int) -> Split:
    record = label_bytes + PIXELS
    if not content or len(content) % record:
        raise DataError(f"{path}: {len(content)} bytes are no whole number of records of {record} bytes; fetch it again")
    records = np.frombuffer(content, np.uint8).reshape(-1, record)
    labels = records[:, label_bytes - 1].astype(np.int64)
    if labels.max() >= classes:
        raise DataError(f"{path}: label {labels.max()} but only {classes} class names; fetch it again")
    return Split(np.ascontiguousarray(records[:, label_bytes:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)), labels)
