"""Fitting one layer of `PixelLut`: trees on the pixels of its input (`pixel_tree`), tables by ridge regression on whole images.

The equations are those of `tables`, with taps·G·K entries, and are solved as in `descent`.

Sources: those of `tables` and of formats/pixel_lut.py.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .. import _native
from ..formats import PixelLut, pixel_lut
from ..formats.pixel_lut import seen_by
from ..graph import Graph, Op, problem, weight_shape
from . import tables
from .descent import ISA, Layer, solve
from .observe import ROW_BYTES, pixels_of, units_of
from .pixel_tree import PixelTrees, grow, price_of

TREE_PIXELS, TREE_PIXELS_PER_LEAF = 1 << 17, 32  # for growing trees, which takes long: the larger


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
    enough = max(TREE_PIXELS, TREE_PIXELS_PER_LEAF * fmt.prototypes)
    some = np.random.default_rng(seed).choice(len(pixels), min(enough, len(pixels)), replace=False)
    trees = grow(pixels[some], weight, fmt, price_of(size, fmt, shape), lambda d: tell(0.3 + 0.3 * d))
    t, l, b, r = op.attrs.get("pad", (0, 0, 0, 0))
    padded = np.pad(x, ((0, 0), (0, 0), (t, b), (l, r)), constant_values=source.zero)
    n, c, h, w = padded.shape
    seen, _ = seen_by(h, w, *(op.attrs.get(name, (1, 1)) for name in ("kernel", "stride", "dilation")))
    native, pool = _native.PixelLookUpLayer(trees.questions, seen, c, h * w), _native.Pool(threads)
    codes = np.empty((n, len(trees.questions), h * w), np.uint16)
    native.encode(pool, ISA, padded.reshape(n, c, h * w), trees.thresholds.astype(np.float32), codes)
    layer = Layer(native, pool, threads, codes, seen.shape[1])
    entries, constant = solve(layer, y, _start(x, trees, weight, fmt), lambda d: tell(0.6 + 0.4 * d))
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
