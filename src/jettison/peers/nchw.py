"""Channels-first: what the lowerings to ONNX and to PyTorch share.

Both hold a value that is (h, w, c) per sample as (n, c, h, w), and every other value as it is, n in front.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..graph import Graph, Op
from ..reference import compute

STORED = (0, 2, 3, 1)  # (n, c, h, w) → (n, h, w, c)
HELD = (0, 3, 1, 2)  # and back


def held_axis(axis: int, rank: int) -> int:
    """Where a per-sample axis of a value of this rank stands in its held form."""
    return (2, 3, 1)[axis] if rank == 3 else axis + 1


def counts_evenly(attrs: Mapping[str, Any]) -> bool:
    """True for the average poolings that every engine has: padding counts everywhere or nowhere."""
    return tuple(attrs["count_pad"]) in {(0, 0, 0, 0), tuple(attrs["pad"])}


def count_correction(shape: tuple[int, ...], attrs: Mapping[str, Any]) -> np.ndarray:
    """(1, 1, p, q): what turns an average with all padding counted into the one that `attrs` means."""
    ones = np.ones((1, *shape[:2], 1), np.float32)
    counted = {**attrs, "count_pad": attrs["pad"]}
    return (compute("avg_pool", [ones], attrs, {}) / compute("avg_pool", [ones], counted, {})).transpose(HELD)


def natural_scale(shape: tuple[int, ...], attrs: Mapping[str, Any]) -> bool:
    """True when an upsampling's scale follows from its sizes, so that giving the sizes is enough."""
    return attrs["align_corners"] or all(abs(s * p / h - 1) < 1e-6 for s, p, h in zip(attrs["scale"], attrs["size"], shape))


def weight_scale(graph: Graph, op: Op) -> np.ndarray:
    """s_w of each output channel of an int8 layer, from its multiplier s_x·s_w/s_y."""
    x, y = graph.tensors[op.inputs[0]], graph.tensors[op.outputs[0]]
    return graph.constants[op.params["multiplier"]].astype(np.float64) * y.scale / x.scale
