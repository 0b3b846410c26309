"""Learning the hash trees of one layer from rows of its im2col matrix.

    codebook j stands for the inputs S_j:  v neighbours in the order (channel, kernel row, kernel column)
    what a tree should keep apart:         z = x_S · A,  A Aᵀ = W_S W_Sᵀ, so that ‖z − z'‖ = ‖x_S·W_S − x'_S·W_S‖

A 3×3 kernel with v = 9 has one channel in a codebook: neighbouring pixels are alike, and few prototypes suffice.
Trees grow level by level. On a level all nodes ask the same input, each with its own threshold: the input and the
thresholds with the least squared error of z around the means of the children. All thresholds are tried, of up to 32 inputs; where
there are more, of those that explain most of z linearly within the nodes, and z in the directions along which it varies most.
Inputs are u8, so sums over their 256 values are all that is needed.

Source: Blalock & Guttag 2021 (arXiv 2106.10860), section 4.1 and algorithm 2, which measures the error of x itself and
tries 4 inputs. Measuring it through the weights is ours.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..formats import Lut

VALUES = 256  # of a u8
MOST = 32  # inputs that are tried, and directions of z


@dataclass(frozen=True, slots=True)
class Trees:
    """splits int32 (C, L), thresholds u8 (C, K − 1) as in formats/lut.py."""

    splits: np.ndarray
    thresholds: np.ndarray


def subspaces(shape: tuple[int, ...], v: int) -> list[np.ndarray]:
    """Inputs of each codebook, as places in a row ordered (r, s, c)."""
    _, r, s, c = shape
    order = np.arange(r * s * c).reshape(r * s, c).T.ravel()
    return [order[i : i + v] for i in range(0, len(order), v)]


def grow(rows: np.ndarray, weight: np.ndarray, fmt: Lut, tell: Callable[[float], None] = lambda done: None) -> Trees:
    """Trees for u8 rows (n, D) of a layer with float weights (k, r, s, c)."""
    parts = subspaces(weight.shape, fmt.v)
    flat = weight.reshape(len(weight), -1).astype(np.float64)
    splits = np.zeros((len(parts), fmt.levels), np.int32)
    thresholds = np.zeros((len(parts), fmt.prototypes - 1), np.uint8)
    for j, inputs in enumerate(parts):
        x = rows[:, inputs]
        z = x.astype(np.float64) @ root(flat[:, inputs])
        asked, thresholds[j] = _grow(x, principal(z - z.mean(axis=0)).astype(np.float32), fmt.levels)
        splits[j] = inputs[asked]
        tell((j + 1) / len(parts))
    return Trees(splits, thresholds)


def root(w: np.ndarray) -> np.ndarray:
    """A (v, v) with A Aᵀ = wᵀw, for w (k, v)."""
    values, vectors = np.linalg.eigh(w.T @ w)
    return vectors * np.sqrt(np.maximum(values, 0))


def principal(z: np.ndarray) -> np.ndarray:
    """z (n, v) of zero mean in its `MOST` directions of largest variance, or as it is if there are no more."""
    if z.shape[1] <= MOST:
        return z
    return z @ np.linalg.eigh(z.T @ z)[1][:, -MOST:]


def _grow(x: np.ndarray, z: np.ndarray, levels: int) -> tuple[list[int], np.ndarray]:
    """Column of x asked on each level, and all thresholds."""
    node = np.zeros(len(x), np.int64)
    asked: list[int] = []
    thresholds: list[np.ndarray] = []
    for level in range(levels):
        found = {d: best(x[:, d], z, node, 1 << level) for d in _candidates(x, z, node, 1 << level)}
        one = max(found, key=lambda d: found[d][0])
        asked.append(one)
        thresholds.append(found[one][1])
        node += (x[:, one] > found[one][1][node]).astype(np.int64) << level
    return asked, np.concatenate(thresholds)


def _candidates(x: np.ndarray, z: np.ndarray, node: np.ndarray, nodes: int) -> list[int]:
    """The `MOST` inputs d with the largest ‖cov(x_d, z)‖² / var(x_d) within the nodes, or all if there are no more."""
    if x.shape[1] <= MOST:
        return list(range(x.shape[1]))
    count = np.bincount(node, minlength=nodes)
    order, starts, filled = np.argsort(node, kind="stable"), np.cumsum(count) - count, count > 0

    def within(a: np.ndarray) -> np.ndarray:
        mean = np.zeros((nodes, a.shape[1]), np.float32)
        mean[filled] = np.add.reduceat(a[order], starts[filled], axis=0) / count[filled, None]
        return a - mean[node]

    inputs, targets = within(x.astype(np.float32)), within(z)
    explained = ((inputs.T @ targets) ** 2).sum(axis=1) / np.maximum((inputs**2).sum(axis=0), 1e-9)
    return sorted(int(d) for d in np.argsort(explained)[-MOST:])


def best(x: np.ndarray, z: np.ndarray, node: np.ndarray, nodes: int) -> tuple[float, np.ndarray]:
    """For one input: Σ over nodes of the most that a threshold lowers the squared error by, and those thresholds.

    Splitting n rows of sum s into (a, s_a) and (b, s_b) lowers the error by ‖s_a‖²/a + ‖s_b‖²/b − ‖s‖²/n.
    A node that nothing splits gets the largest threshold: all go left.
    """
    at = node * VALUES + x
    bins = nodes * VALUES
    count = np.bincount(at, minlength=bins).reshape(nodes, VALUES).cumsum(axis=1).astype(np.float64)
    sums = np.stack([np.bincount(at, z[:, i], bins).reshape(nodes, VALUES) for i in range(z.shape[1])], axis=-1).cumsum(axis=1)
    rest, rest_sums = count[:, -1:] - count, sums[:, -1:] - sums
    kept = (sums**2).sum(axis=-1) / np.maximum(count, 1) + (rest_sums**2).sum(axis=-1) / np.maximum(rest, 1)
    gain = np.where((count > 0) & (rest > 0), kept - kept[:, -1:], 0.0)
    threshold = np.where(gain.max(axis=1) > 0, gain.argmax(axis=1), VALUES - 1)
    return float(gain.max(axis=1).sum()), _between(count, threshold)


def _between(count: np.ndarray, at: np.ndarray) -> np.ndarray:
    """u8 thresholds halfway between the value that goes left and the next that occurs: as far from both as can be."""
    out = at.copy()
    for i, t in enumerate(at):
        more = np.flatnonzero(count[i] > count[i, t])
        if len(more):
            out[i] = (t + more[0] - 1) // 2 if more[0] > t + 1 else t
    return out.astype(np.uint8)
