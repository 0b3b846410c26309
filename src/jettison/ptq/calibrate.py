"""What the tensors of a float32 network hold when it sees images: bounds, histogram, mean.

Two passes over the images, in batches that fit into a fixed amount of memory: the first finds bounds and
means, the second counts values between the bounds.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import gcd
from typing import Any

import numpy as np

from ..errors import InputError, QuantizationError
from ..graph import Graph, TensorSpec
from ..runtime import Session

Images = Any  # float32 (n, …), NumPy or anything with __dlpack__
Progress = Callable[[str, float], None]

BATCH_BYTES = 256 << 20  # of all observed tensors of one batch
MOST_AT_ONCE = 32  # images in a batch
COUNTED = 1 << 13  # values of one image that enter a histogram; of larger tensors an even sample


@dataclass(frozen=True, slots=True)
class Observed:
    """low, high: of all values. counts: of values in equal bins from low to high. mean: per sample, over the images."""

    low: float
    high: float
    counts: np.ndarray
    mean: np.ndarray


def whole(graph: Graph, images: Images | Sequence[Images]) -> tuple[np.ndarray, ...]:
    """The images as one array per graph input. Errors: QuantizationError (none), InputError (another shape)."""
    given = images if isinstance(images, (list, tuple)) else (images,)
    arrays = tuple(np.asarray(x) for x in given)
    if len(arrays) != len(graph.inputs):
        raise InputError(f"calibration needs images for {len(graph.inputs)} input(s) ({', '.join(graph.inputs)}), got {len(arrays)}")
    for name, x in zip(graph.inputs, arrays):
        want = graph.user_shape(name)
        if x.ndim != len(want) + 1 or x.shape[1:] != want or len(x) != len(arrays[0]):
            shown = ", ".join(map(str, want))
            raise InputError(f"calibration images for {name!r} must have shape (n, {shown}), got {x.shape}")
        if len(x) == 0:
            raise QuantizationError("the calibration set is empty; give some images of the kind the network will see, for example 512")
        if x.dtype != np.float32:
            raise InputError(f"calibration images for {name!r} must be float32, as the network is fed, got {x.dtype}")
        if not np.isfinite(x).all():
            raise QuantizationError(f"calibration images for {name!r} hold NaN or infinity")
    return arrays


def observe(
    graph: Graph, names: Sequence[str], images: tuple[np.ndarray, ...], threads: int | None, bins: int, progress: Progress
) -> dict[str, Observed]:
    """What each tensor in `names` holds. bins: of the histograms, 0 for none. Errors: QuantizationError (values not finite).

    Warns of tensors that hold one value only.
    """
    if not names:
        return {}
    specs = [graph.tensors[name] for name in names]
    session = Session(replace(graph, outputs=tuple(names)), threads=threads)
    count = len(images[0])
    low, high = np.full(len(names), np.inf), np.full(len(names), -np.inf)
    means = [np.zeros(s.shape) for s in specs]
    for values, done in _batches(session, images):
        for i, v in enumerate(values):
            low[i], high[i] = min(low[i], v.min()), max(high[i], v.max())
            means[i] += v.sum(axis=0, dtype=np.float64) / count
        progress("calibrating: bounds", done / 2)
    _report(names, low, high)
    counts = [np.zeros(bins) for _ in names]
    for values, done in _batches(session, images) if bins else ():
        for i, v in enumerate(values):
            counts[i] += _histogram(v, specs[i], low[i], high[i], bins)
        progress("calibrating: histograms", 0.5 + done / 2)
    return {name: Observed(float(low[i]), float(high[i]), counts[i], means[i]) for i, name in enumerate(names)}


def _batches(session: Session, images: tuple[np.ndarray, ...]) -> Iterator[tuple[list[np.ndarray], float]]:
    """Values of all outputs in storage order, batch by batch, and the finished share."""
    graph, count = session.graph, len(images[0])
    bytes_each = sum(graph.tensors[name].bytes for name in graph.outputs)
    batch = max(1, min(MOST_AT_ONCE, count, BATCH_BYTES // bytes_each))
    for start in range(0, count, batch):
        out = session.run(*(x[start : start + batch] for x in images))
        values = out if isinstance(out, tuple) else (out,)
        stored = [v.transpose(0, 2, 3, 1) if graph.layouts.get(t) == "nchw" else v for t, v in zip(graph.outputs, values)]
        yield stored, min(1.0, (start + batch) / count)


def _report(names: Sequence[str], low: np.ndarray, high: np.ndarray) -> None:
    for name, a, b in zip(names, low, high):
        if not np.isfinite([a, b]).all():
            raise QuantizationError(f"tensor {name}: holds NaN or infinity on the calibration images; the network is broken")
        if a == b:
            what = "zero" if a == 0 else f"{a:.6g}"
            warnings.warn(f"tensor {name} is {what} everywhere on the calibration images; are they of the right kind?", stacklevel=4)


def _histogram(values: np.ndarray, spec: TensorSpec, low: float, high: float, bins: int) -> np.ndarray:
    flat = values.reshape(-1)
    step = max(1, spec.size // COUNTED)
    while gcd(step, spec.shape[-1]) > 1:  # so that every channel is met
        step += 1
    width = (high - low) / bins or 1.0
    index = ((flat[::step] - low) / width).astype(np.int64)
    return np.bincount(np.minimum(index, bins - 1), minlength=bins)
