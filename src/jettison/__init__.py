"""Jettison: a trained convolutional network in, one that is measurably faster on this machine out.

Importing the package needs NumPy alone. Names that need PyTorch are loaded on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .errors import JettisonError
from .formats import NM, Block, Dense, Lut, PixelLut

if TYPE_CHECKING:
    from .methods import ASP, CRISP, SRSTE, STE, MaxQ, Sparsifier, sparsify_
    from .runtime import Session

__version__ = "0.1.0"
__all__ = [
    "ASP",
    "CRISP",
    "NM",
    "SRSTE",
    "STE",
    "Block",
    "Dense",
    "JettisonError",
    "Lut",
    "MaxQ",
    "PixelLut",
    "Session",
    "Sparsifier",
    "sparsify_",
]

_LAZY = {
    "Session": "runtime",
    "ASP": "methods",
    "STE": "methods",
    "SRSTE": "methods",
    "MaxQ": "methods",
    "CRISP": "methods",
    "Sparsifier": "methods",
    "sparsify_": "methods",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'jettison' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f".{_LAZY[name]}", __name__), name)
