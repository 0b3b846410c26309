"""Learning the hash trees of one layer from rows of its im2col matrix.

    codebook j stands for the inputs S_j:  v neighbours in the order (channel, kernel row, kernel column)
    what a tree should keep apart:         z = x_S · A,  A Aᵀ = W_S W_Sᵀ, so that ‖z − z'‖ = ‖x_S·W_S − x'_S·W_S‖

A 3×3 kernel with v = 9 has one channel in a codebook: neighbouring pixels are alike, and few prototypes suffice.
Trees grow level by level. On a level all nodes ask the same input, each with its own threshold: the input and the
thresholds with the least squared error of z around the means of the children. All thresholds are tried, of up to 8 inputs; where
there are more, of those that explain most of z linearly within the nodes, and z in the directions along which it varies most: with 32
inputs and directions errors were less than 1% smaller. Inputs are u8, so sums over the values that occur are all that is needed.

Source: Blalock & Guttag 2021 (arXiv 2106.10860), section 4.1 and algorithm 2, which measures the error of x itself and
tries 4 inputs. Measuring it through the weights is ours.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..formats import Lut

VALUES = 256  # of a u8
TRIED = 8  # inputs
DIRECTIONS = 16  # of z


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
    """z (n, v) of zero mean in its `DIRECTIONS` of largest variance, or as it is if there are no more."""
    if z.shape[1] <= DIRECTIONS:
        return z
    return z @ np.linalg.eigh(z.T @ z)[1][:, -DIRECTIONS:]


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
    """The `TRIED` inputs d with the largest ‖cov(x_d, z)‖² / var(x_d) within the nodes, or all if there are no more."""
    if x.shape[1] <= TRIED:
        return list(range(x.shape[1]))
    count = np.bincount(node, minlength=nodes)
    order, starts, filled = np.argsort(node, kind="stable"), np.cumsum(count) - count, count > 0

    def within(a: np.ndarray) -> np.ndarray:
        mean = np.zeros((nodes, a.shape[1]), np.float32)
        mean[filled] = np.add.reduceat(a[order], starts[filled], axis=0) / count[filled, None]
        return a - mean[node]

    inputs, targets = within(x.astype(np.float32)), within(z)
    explained = ((inputs.T @ targets) ** 2).sum(axis=1) / np.maximum((inputs**2).sum(axis=0), 1e-9)
    return sorted(int(d) for d in np.argsort(explained)[-TRIED:])


def best(x: np.ndarray, z: np.ndarray, node: np.ndarray, nodes: int) -> tuple[float, np.ndarray]:
    """For one input: Σ over nodes of the most that a threshold lowers the squared error by, and those thresholds.

    Splitting n rows of sum s into (a, s_a) and (b, s_b) lowers the error by ‖s_a‖²/a + ‖s_b‖²/b − ‖s‖²/n.
    A threshold lies halfway between the value that goes left and the next that occurs: as far from both as can be.
    A node that nothing splits gets the largest: all go left.
    """
    place, count, sums = _summed(node * VALUES + x, z, nodes * VALUES)
    own = place // VALUES
    first = np.flatnonzero(np.diff(own, prepend=-1))  # place of each node
    last = np.append(first[1:], len(own)) - 1
    of = np.repeat(np.arange(len(first)), last - first + 1)
    count, sums = count.cumsum(), sums.cumsum(axis=0)
    before = np.maximum(first - 1, 0)
    count_before, sums_before = np.where(first > 0, count[before], 0), np.where(first[:, None] > 0, sums[before], 0.0)
    left, left_sums = count - count_before[of], sums - sums_before[of]
    right, right_sums = left[last][of] - left, left_sums[last][of] - left_sums
    kept = (left_sums**2).sum(axis=1) / left + (right_sums**2).sum(axis=1) / np.maximum(right, 1)
    gain = np.where(right > 0, kept - kept[last][of], 0.0)
    most = np.maximum.reduceat(gain, first)
    at = np.full(len(first), len(gain))
    np.minimum.at(at, of, np.where(gain == most[of], np.arange(len(gain)), len(gain)))
    value, split = place - own * VALUES, most > 0
    thresholds = np.full(nodes, VALUES - 1, np.uint8)
    thresholds[own[first[split]]] = (value[at[split]] + value[at[split] + 1] - 1) // 2
    return float(most[split].sum()), thresholds


def _summed(at: np.ndarray, z: np.ndarray, bins: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The places that occur, ascending, how often, and the sums of z there, float64."""
    if bins <= 2 * len(at):
        count = np.bincount(at, minlength=bins)
        place = np.flatnonzero(count)
        return place, count[place], np.stack([np.bincount(at, z[:, i], bins)[place] for i in range(z.shape[1])], axis=1)
    order = np.argsort(at, kind="stable")
    starts = np.flatnonzero(np.diff(at[order], prepend=-1))
    return at[order[starts]], np.diff(starts, append=len(at)), np.add.reduceat(z[order].astype(np.float64), starts, axis=0)
