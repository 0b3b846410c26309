"""Images decoded once: arrays kept in the user's cache folder, found again by the digest of their source files."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from ...file import cache_folder


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
        with atomic(path) as temporary, open(temporary, "wb") as f:
            np.save(f, array, allow_pickle=False)
    except OSError:
        pass
    return array


class atomic:
    """`with atomic(path) as temporary`: write `temporary`; it replaces `path` at the end, and vanishes on an error."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> Path:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{self.path.name}.", dir=self.path.parent)
        os.close(handle)
        self.temporary = Path(name)
        return self.temporary

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                with open(self.temporary, "rb") as f:
                    os.fsync(f.fileno())
                os.chmod(self.temporary, 0o666 & ~_umask())
                os.replace(self.temporary, self.path)
        finally:
            self.temporary.unlink(missing_ok=True)


def _umask() -> int:
    value = os.umask(0)
    os.umask(value)
    return value
