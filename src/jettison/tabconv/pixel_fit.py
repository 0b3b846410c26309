"""Fitting one layer of `PixelLut`: trees on the pixels of its input (`pixel_tree`), tables by ridge regression on whole images.

The equations are those of `tables`, with far more unknowns, taps·G·K, too many for GᵀG to be written down. They are solved by conjugate
gradients, preconditioned by the diagonal of GᵀG + λ, how often each entry is looked up: G times entries is a look-up, Gᵀ times sums
its transpose (native/pixel_lookup.h). λ is that of `RIDGES` that does best on images held out.

Sources: those of `tables`; Hestenes & Stiefel 1952 (conjugate gradients).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .. import _native
from ..formats import PixelLut, pixel_lut
from ..formats.pixel_lut import seen_by
from ..graph import Graph, Op, problem, weight_shape
from . import tables
from .observe import ROW_BYTES, pixels_of, units_of
from .pixel_tree import PixelTrees, grow

ISA = _native.isas()[0]
RIDGES = (1e-3, 0.03, 0.3)  # λ over the mean of the diagonal of GᵀG
HELD_OUT = 8  # one image in so many
STEPS = 15  # of conjugate gradients; more fit what the held-out images lack
TREE_PIXELS = 1 << 17
TINY = 1e-30


@dataclass(frozen=True, slots=True)
class Layer:
    """Codes (n, G, pixels) of padded images and where they are looked up; entries and sums with all outputs side by side."""

    native: _native.PixelLookUpLayer
    pool: _native.Pool
    threads: int
    codes: np.ndarray
    places: int

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


def fit(
    graph: Graph, made: Graph, op: Op, fmt: PixelLut, images: tuple[np.ndarray, ...], rows: int, seed: int, threads: int,
    tell: Callable[[float], None],
) -> tables.Fitted:  # fmt: skip
    """rows: outputs; the first images that have as many are used."""
    size, shape, source = problem(graph, op), weight_shape(graph, op), graph.tensors[op.inputs[0]]
    outputs = size.p * size.q
    count = max(1, min(rows // outputs, ROW_BYTES // (size.h * size.w * size.c + 4 * outputs * size.k)))
    x, y = pixels_of(graph, made, op, tuple(a[:count] for a in images), threads, lambda d: tell(d * 0.3))
    weight = graph.weight(op) * units_of(graph, op)[:, None, None, None]
    pixels = x.transpose(0, 2, 3, 1).reshape(-1, shape[3])
    some = np.random.default_rng(seed).choice(len(pixels), min(TREE_PIXELS, len(pixels)), replace=False)
    trees = grow(pixels[some], weight, fmt, lambda d: tell(0.3 + 0.3 * d))
    t, l, b, r = op.attrs.get("pad", (0, 0, 0, 0))
    padded = np.pad(x, ((0, 0), (0, 0), (t, b), (l, r)), constant_values=source.zero)
    n, c, h, w = padded.shape
    seen, _ = seen_by(h, w, *(op.attrs.get(name, (1, 1)) for name in ("kernel", "stride", "dilation")))
    native, pool = _native.PixelLookUpLayer(trees.questions, seen, c, h * w), _native.Pool(threads)
    codes = np.empty((n, len(trees.questions), h * w), np.uint16)
    native.encode(pool, ISA, padded.reshape(n, c, h * w), trees.thresholds.astype(np.float32), codes)
    layer = Layer(native, pool, threads, codes, seen.shape[1])
    entries, constant = _solve(layer, y, _start(x, trees, weight, fmt), lambda d: tell(0.6 + 0.4 * d))
    found = entries.reshape(-1, fmt.prototypes, shape[0]).transpose(2, 0, 1)

    def look_up(t: np.ndarray) -> np.ndarray:
        return layer.look_up(t.transpose(1, 2, 0).reshape(-1, shape[0])).reshape(-1, shape[0])

    return tables.Fitted({"questions": trees.questions, "thresholds": trees.thresholds}, found, constant, y.reshape(-1, shape[0]), look_up)


def _start(x: np.ndarray, trees: PixelTrees, weight: np.ndarray, fmt: PixelLut) -> np.ndarray:
    """T₀ (taps·G·K, k): (mean of the pixels in a leaf − mean of all) · weights of the tap. x (n, c, h, w), weight (k, r, s, c)."""
    pixels = x.transpose(0, 2, 3, 1).reshape(-1, x.shape[1])
    code = pixel_lut.codes(pixels, trees.questions, trees.thresholds)
    k, taps, channels = len(weight), weight.shape[1] * weight.shape[2], weight.shape[3]
    start = np.zeros((taps, len(trees.groups), fmt.prototypes, k))
    for g, own in enumerate(trees.groups):
        seen = np.bincount(code[:, g], minlength=fmt.prototypes)
        sums = np.stack([np.bincount(code[:, g], pixels[:, i], fmt.prototypes) for i in own], axis=1)
        centred = np.where(seen[:, None] > 0, sums / np.maximum(seen, 1)[:, None] - pixels[:, own].mean(axis=0), 0.0)
        start[:, g] = np.einsum("lv,ktv->tlk", centred, weight.reshape(k, taps, channels)[:, :, own])
    return start.reshape(-1, k)


def _solve(layer: Layer, wanted: np.ndarray, start: np.ndarray, tell: Callable[[float], None]) -> tuple[np.ndarray, np.ndarray]:
    """Entries (taps·G·K, k) and constant (k,) from wanted (n, places, k) and T₀."""
    constant = wanted.mean(axis=(0, 1), dtype=np.float64)
    held = max(1, len(wanted) // HELD_OUT) if len(wanted) > 1 else 0
    seen, unseen = layer.part(slice(len(wanted) - held)), layer.part(slice(len(wanted) - held, None))
    judge, its = (unseen, wanted[len(seen.codes) :]) if held else (seen, wanted)

    def tried(i: int, ridge: float) -> tuple[float, np.ndarray]:
        found = _descend(seen, wanted[: len(seen.codes)] - constant.astype(np.float32), start, ridge)
        tell((i + 1) / len(RIDGES))
        return float(((judge.look_up(found) + constant - its) ** 2).mean()), found

    return min((tried(i, ridge) for i, ridge in enumerate(RIDGES)), key=lambda t: t[0])[1], constant


def _descend(layer: Layer, wanted: np.ndarray, start: np.ndarray, ridge: float) -> np.ndarray:
    """T₀ + Δ with (GᵀG + λ)Δ ≈ Gᵀ(wanted − G·T₀): every output its own equations, all with the same GᵀG."""
    often = layer.spread(np.ones((*wanted.shape[:2], 1), np.float32), len(start))  # the diagonal
    damping = ridge * float(often.mean())
    inverse = 1 / (often + damping)
    change = np.zeros(start.shape, np.float32)
    residual = layer.spread(np.ascontiguousarray(wanted - layer.look_up(start)), len(start))
    step = direction = residual * inverse
    size = (residual * step).sum(axis=0, dtype=np.float64)
    for _ in range(STEPS):
        through = layer.spread(layer.look_up(direction), len(start)) + damping * direction
        along = (size / np.maximum((direction * through).sum(axis=0, dtype=np.float64), TINY)).astype(np.float32)
        change += along * direction
        residual = residual - along * through
        step = residual * inverse
        before, size = size, (residual * step).sum(axis=0, dtype=np.float64)
        direction = step + (size / np.maximum(before, TINY)).astype(np.float32) * direction
    return start + change
