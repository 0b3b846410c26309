"""The tables of one layer: ridge regression of what the exact network gives on the codes, then int8.

    G (n, C·K)    one-hot codes of n rows            Y (n, k)   wanted sums, in the exact network's units, without bias
    T₀[j, i]      (mean of the rows in leaf i − mean of all rows) restricted to codebook j · weights
    T             = T₀ + argmin_Δ ‖G(T₀ + Δ) + ȳ − Y‖² + λ‖Δ‖²,  λ = RIDGE · mean of the diagonal of GᵀG

Refining with the codes of all codebooks at once lets each make up for what the others round away. Y comes from the exact
network while G comes from already approximated inputs, so a layer also takes back errors of those before it.

Source: Blalock & Guttag 2021 (arXiv 2106.10860), section 4.2: ridge regression of prototypes; here of their products.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

RIDGE = 1e-3
LARGEST = 127
CHUNK = 2048  # rows at once
DOUBLE = 4096  # unknowns up to which the equations are solved in double precision


@dataclass(frozen=True, slots=True)
class Fitted:
    """tables (k, C, K) and constant (k,), float, in the exact network's units; parts: the trees' as in the format; wanted (n, k)."""

    parts: dict[str, np.ndarray]
    tables: np.ndarray
    constant: np.ndarray
    wanted: np.ndarray
    look_up: Callable[[np.ndarray], np.ndarray]  # of tables


def refine(code: np.ndarray, prototypes: int, wanted: np.ndarray, start: np.ndarray, ridge: float = RIDGE) -> tuple[np.ndarray, np.ndarray]:
    """(tables (k, C, K), constant (k,)), float64, from codes (n, C), wanted (n, k) and T₀ (C, K, k)."""
    count, outputs = code.shape[1], wanted.shape[1]
    constant = wanted.mean(axis=0, dtype=np.float64)
    flat = start.reshape(count * prototypes, outputs)
    gram = together(code, prototypes)
    cross = -(gram @ flat.astype(np.float32)).astype(np.float64)
    for i in range(0, len(code), CHUNK):
        cross += one_hot(code[i : i + CHUNK], prototypes).T @ (wanted[i : i + CHUNK] - constant).astype(np.float32)
    damped = gram.astype(np.float64) if len(gram) <= DOUBLE else gram
    damped[np.diag_indices_from(damped)] += ridge * gram.diagonal().mean()
    tables = flat + np.linalg.solve(damped, cross.astype(damped.dtype))
    return tables.reshape(count, prototypes, outputs).transpose(2, 0, 1), constant


def prototypes_times(rows: np.ndarray, code: np.ndarray, prototypes: int, inputs: Sequence[np.ndarray], weight: np.ndarray) -> np.ndarray:
    """T₀ (C, K, k). inputs: of each codebook; weight: float (k, D), such that a row's sums are row · weightᵀ."""
    start = np.zeros((len(inputs), prototypes, len(weight)))
    for j, places in enumerate(inputs):
        seen = np.bincount(code[:, j], minlength=prototypes)
        sums = np.stack([np.bincount(code[:, j], rows[:, d], prototypes) for d in places], axis=1)
        centred = sums / np.maximum(seen, 1)[:, None] - rows[:, places].mean(axis=0)
        start[j] = np.where(seen[:, None] > 0, centred, 0.0) @ weight[:, places].T
    return start


def together(code: np.ndarray, prototypes: int) -> np.ndarray:
    """GᵀG, float32 (C·K, C·K): how many rows have both codes. Counted pair by pair of codebooks: K² products less than multiplying."""
    count = code.shape[1]
    gram = np.zeros((count, prototypes, count, prototypes), np.float32)
    for i in range(count):
        for j in range(i + 1):
            pairs = np.bincount(code[:, i] * prototypes + code[:, j], minlength=prototypes**2).reshape(prototypes, prototypes)
            gram[i, :, j], gram[j, :, i] = pairs, pairs.T
    return gram.reshape(count * prototypes, -1)


def one_hot(code: np.ndarray, prototypes: int) -> np.ndarray:
    """float32 (n, C·K)."""
    n, count = code.shape
    hot = np.zeros((n, count * prototypes), np.float32)
    hot[np.arange(n)[:, None], code + np.arange(count) * prototypes] = 1
    return hot


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
