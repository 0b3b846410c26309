"""Solving the equations of `tables`, whose entries are too many for GᵀG to be written down.

    (GᵀG + λ)Δ = Gᵀ(Y − ȳ − G·T₀),  tables T₀ + Δ

They are solved by conjugate gradients, preconditioned by the diagonal of GᵀG + λ, how often each entry is looked up: G times entries is a
look-up, Gᵀ times sums its transpose (native/pixel_lookup.h). An entry is held back as by λ more look-ups that found T₀ right; kept is the
step that does best on images held out: more of them fit what those lack.

Sources: those of `tables`; Hestenes & Stiefel 1952 (conjugate gradients).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from .. import _native

ISA = _native.isas()[0]
RIDGE = 16.0  # λ
HELD_OUT, MOST_HELD_OUT = 8, 4096  # one image in so many, at most so many
STEPS, PATIENCE = 20, 3  # of conjugate gradients, at most; so many that do not do better end them
TINY = 1e-30


@dataclass(frozen=True, slots=True)
class Layer:
    """Codes (n, G, pixels) of padded images and where they are looked up; entries and sums with all outputs side by side."""

    native: _native.PixelLookUpLayer
    pool: _native.Pool
    threads: int
    codes: np.ndarray
    places: int

    @classmethod
    def of_rows(cls, code: np.ndarray, levels: int, threads: int) -> Layer:
        """Codes (n, C): every row an image of one pixel, seen by one tap."""
        nothing_asked = np.zeros((code.shape[1], levels, 2), np.int32)
        native = _native.PixelLookUpLayer(nothing_asked, np.zeros((1, 1), np.int32), 1, 1)
        return cls(native, _native.Pool(threads), threads, np.ascontiguousarray(code[:, :, None], np.uint16), 1)

    def part(self, images: slice) -> Layer:
        return Layer(self.native, self.pool, self.threads, self.codes[images], self.places)

    def look_up(self, entries: np.ndarray) -> np.ndarray:
        """G · entries: (n, places, k) from (taps·G·K, k)."""
        sums = np.empty((len(self.codes), self.places, entries.shape[1]), np.float32)
        self.native.look_up(self.pool, ISA, self.codes, np.ascontiguousarray(entries, np.float32), sums)
        return sums

    def spread(self, sums: np.ndarray, count: int) -> np.ndarray:
        """Gᵀ · sums: (taps·G·K, k) from (n, places, k)."""
        entries = np.zeros((self.threads, count, sums.shape[2]), np.float32)
        self.native.spread(self.pool, ISA, self.codes, sums, entries)
        return entries.sum(axis=0)


def solve(layer: Layer, wanted: np.ndarray, start: np.ndarray, tell: Callable[[float], None]) -> tuple[np.ndarray, np.ndarray]:
    """Entries (taps·G·K, k) and constant (k,) from wanted (n, places, k) and T₀."""
    constant = wanted.mean(axis=(0, 1), dtype=np.float64)
    held = min(max(1, len(wanted) // HELD_OUT), MOST_HELD_OUT) if len(wanted) > 1 else 0
    seen, unseen = layer.part(slice(len(wanted) - held)), layer.part(slice(len(wanted) - held, None))
    targets = wanted - constant.astype(np.float32)
    judge, its = (unseen, targets[len(seen.codes) :]) if held else (seen, targets)

    def error(entries: np.ndarray) -> float:
        return float(((judge.look_up(entries) - its) ** 2).mean(dtype=np.float64))

    least, kept, since = error(start), start, 0
    for i, entries in enumerate(descend(seen, targets[: len(seen.codes)], start, RIDGE)):
        now = error(entries)
        tell((i + 1) / STEPS)
        if now < least:
            least, kept, since = now, entries, 0
        elif (since := since + 1) == PATIENCE:
            break
    return kept, constant


def descend(layer: Layer, wanted: np.ndarray, start: np.ndarray, ridge: float) -> Iterator[np.ndarray]:
    """T₀ + Δ after each step to (GᵀG + λ)Δ = Gᵀ(wanted − G·T₀): every output its own equations, all with the same GᵀG."""
    often = layer.spread(np.ones((*wanted.shape[:2], 1), np.float32), len(start))  # the diagonal
    inverse = 1 / (often + ridge)
    change = np.zeros(start.shape, np.float32)
    residual = layer.spread(np.ascontiguousarray(wanted - layer.look_up(start)), len(start))
    step = direction = residual * inverse
    size = (residual * step).sum(axis=0, dtype=np.float64)
    for _ in range(STEPS):
        through = layer.spread(layer.look_up(direction), len(start)) + ridge * direction
        along = (size / np.maximum((direction * through).sum(axis=0, dtype=np.float64), TINY)).astype(np.float32)
        change += along * direction
        yield start + change
        residual = residual - along * through
        step = residual * inverse
        before, size = size, (residual * step).sum(axis=0, dtype=np.float64)
        direction = step + (size / np.maximum(before, TINY)).astype(np.float32) * direction
