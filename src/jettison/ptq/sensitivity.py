"""How much each layer alone costs in int8.

error(l) = Σ (y − y_l)² / Σ y²       y: the float32 network's outputs, y_l: with only layer l (weights and inputs) in int8
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from .. import spec
from ..graph import Graph
from ..runtime import Session
from .calibrate import Images, observe, whole
from .lower import lower
from .placement import place
from .prepare import prepare
from .ranges import RANGES

MOST_IMAGES = 32


def sensitivity(
    graph: Graph,
    images: Images | Sequence[Images],
    ranges: str = "mse",
    threads: int | None = None,
    progress: Callable[[str, float], None] = lambda what, done: None,
) -> dict[str, float]:
    """Error of every conv and linear layer, the worst first, on at most `MOST_IMAGES` of the images.

    Errors: as `quantize`.
    """
    arrays = tuple(x[:MOST_IMAGES] for x in whole(graph, images))
    prepared = prepare(graph)
    seen = observe(prepared, list(prepared.tensors), arrays, threads, RANGES[ranges].bins, progress)
    truth = _outputs(prepared, arrays, threads)
    names = [op.name for op in prepared.ops]
    layers = [op.name for op in prepared.ops if op.kind in spec.WEIGHTED]
    errors = {}
    for i, layer in enumerate(layers):
        floats = place(prepared, [name for name in names if name != layer])
        alone = lower(prepared, floats, seen, ranges, bias_correction=True)
        errors[layer] = _relative(_outputs(alone, arrays, threads), truth)
        progress(f"sensitivity: {layer}", (i + 1) / len(layers))
    return dict(sorted(errors.items(), key=lambda item: -item[1]))


def _outputs(graph: Graph, images: tuple[np.ndarray, ...], threads: int | None) -> list[np.ndarray]:
    out = Session(graph, threads=threads).run(*images)
    return [y.astype(np.float64) for y in (out if isinstance(out, tuple) else (out,))]


def _relative(got: list[np.ndarray], want: list[np.ndarray]) -> float:
    size = sum(float((y**2).sum()) for y in want)
    error = sum(float(((a - b) ** 2).sum()) for a, b in zip(got, want))
    return error / size if size else error
