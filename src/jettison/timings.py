"""Measured kernel times, kept for the next load.

    $XDG_CACHE_HOME/jettison/timings-DIGEST.json     {what was measured: milliseconds}

DIGEST stands for this machine and this build of the kernels: another processor or another build measures afresh. A file that
cannot be read or written costs time, nothing else. Delete it, or pass `Timings.load(again=True)`, to measure again.
"""

from __future__ import annotations

import hashlib
import json
import math
import platform
from collections.abc import Callable
from pathlib import Path

from . import _native
from .errors import FileError
from .file import cache_folder, replace


class Timings:
    """Milliseconds by what was measured. path: where `save` keeps them; None: nowhere."""

    def __init__(self, path: Path | None = None, known: dict[str, float] | None = None) -> None:
        self._path = path
        self._known = dict(known or {})
        self._new: dict[str, float] = {}

    @classmethod
    def load(cls, *, again: bool = False) -> Timings:
        """Those of this machine. again: forget what was measured before."""
        try:
            path = cache_folder() / f"timings-{_digest()}.json"
        except FileError:
            return cls()
        return cls(path, {} if again else _read(path))

    def ms(self, what: object, measure: Callable[[], float]) -> float:
        """The time of `what`, by its repr; measured unless it is known."""
        key = repr(what)
        if key not in self._known:
            self._known[key] = self._new[key] = measure()
        return self._known[key]

    def save(self) -> None:
        """Add what was measured to the file, which others may have added to meanwhile."""
        if self._path is None or not self._new:
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            replace(self._path, json.dumps({**_read(self._path), **self._new}, indent=0).encode())
        except (OSError, FileError):
            return
        self._new = {}


def _read(path: Path) -> dict[str, float]:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    items = found.items() if isinstance(found, dict) else ()
    return {k: v for k, v in items if isinstance(v, float) and math.isfinite(v) and v > 0}


def _digest() -> str:
    about = [platform.node(), platform.machine(), *_native.isas()]
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as f:
            about += [line for line in f if line.startswith(("model name", "cpu family", "model\t", "stepping"))][:4]
    except OSError:
        about.append(platform.processor())
    return hashlib.sha256("\n".join(about).encode() + Path(str(_native.__file__)).read_bytes()).hexdigest()[:16]
