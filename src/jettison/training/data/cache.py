"""Images decoded once: arrays kept in the user's cache folder, found again by the digest of their source files."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from ...file import atomic, cache_folder


def digest(files: Iterable[Path], algorithm: str = "sha256") -> str:
    """Hex digest of the contents of `files`, one after the other."""
    h = hashlib.new(algorithm, usedforsecurity=False)
    for path in files:
        with open(path, "rb") as f:
            while block := f.read(1 << 20):
                h.update(block)
    return h.hexdigest()


def cached_array(key: str, make: Callable[[], np.ndarray]) -> np.ndarray:
    """The array stored under `key`, memory-mapped (copy on write); made and stored first when it is not there.

    A cache that cannot be written or read (full or read-only disk, damaged file) costs time, not the run.
    """
    path = cache_folder() / f"{key}.npy"
    try:
        return np.load(path, mmap_mode="c", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        pass
    array = make()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic(path) as temporary, open(temporary, "wb") as f:
            np.save(f, array, allow_pickle=False)
    except OSError:
        pass
    return array
