"""The tables of one layer: ridge regression of what the exact network gives on the codes, then int8.

    G (n, C·K)    one-hot codes of n rows            Y (n, k)   wanted sums, in the exact network's units, without bias
    T₀[j, i]      (mean of the rows in leaf i − mean of all rows) restricted to codebook j · weights
    T             = T₀ + argmin_Δ ‖G(T₀ + Δ) + ȳ − Y‖² + λ‖Δ‖²,  as in `descent`

Refining with the codes of all codebooks at once lets each make up for what the others round away. Y comes from the exact
network while G comes from already approximated inputs, so a layer also takes back errors of those before it.

Source: Blalock & Guttag 2021 (arXiv 2106.10860), section 4.2: ridge regression of prototypes; here of their products.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

LARGEST = 127


@dataclass(frozen=True, slots=True)
class Fitted:
    """tables (k, C, K) and constant (k,), float, in the exact network's units; parts: the trees' as in the format; wanted (n, k)."""

    parts: dict[str, np.ndarray]
    tables: np.ndarray
    constant: np.ndarray
    wanted: np.ndarray
    look_up: Callable[[np.ndarray], np.ndarray]  # of tables


def prototypes_times(rows: np.ndarray, code: np.ndarray, prototypes: int, inputs: Sequence[np.ndarray], weight: np.ndarray) -> np.ndarray:
    """T₀ (C, K, k). inputs: of each codebook; weight: float (k, D), such that a row's sums are row · weightᵀ."""
    start = np.zeros((len(inputs), prototypes, len(weight)))
    for j, places in enumerate(inputs):
        seen = np.bincount(code[:, j], minlength=prototypes)
        sums = np.stack([np.bincount(code[:, j], rows[:, d], prototypes) for d in places], axis=1)
        centred = sums / np.maximum(seen, 1)[:, None] - rows[:, places].mean(axis=0)
        start[j] = np.where(seen[:, None] > 0, centred, 0.0) @ weight[:, places].T
    return start


@dataclass(frozen=True, slots=True)
class Integers:
    """tables int8 (k, C, K), bias int32 (k,), scale float64 (k,): a sum times its scale is in the exact network's units."""

    tables: np.ndarray
    bias: np.ndarray
    scale: np.ndarray


def integers(tables: np.ndarray, bias: np.ndarray) -> Integers:
    """From float tables (k, C, K) and a float bias (k,). The middle of each table moves to the bias, so that int8 reaches further."""
    middle = (tables.max(axis=2) + tables.min(axis=2)) / 2
    centred = tables - middle[:, :, None]
    bias = bias + middle.sum(axis=1)
    scale = np.maximum(np.abs(centred).max(axis=(1, 2)) / LARGEST, np.abs(bias) / (1 << 24))
    scale = np.where(scale > 0, scale, 1.0)
    return Integers(np.rint(centred / scale[:, None, None]).astype(np.int8), np.rint(bias / scale).astype(np.int32), scale)
