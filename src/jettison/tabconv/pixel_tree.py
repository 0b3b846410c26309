"""Learning the trees of one layer from pixels of its input (formats/pixel_lut.py).

    group g stands for v channels of a pixel:  x_S
    what a tree should keep apart:             z = x_S · A,  A Aᵀ = Σ_tap W_tap,S W_tap,Sᵀ: what all taps together make of it

Trees grow level by level as in `tree`, but a question is about one channel, the mean of two or half their difference: of all v² the
`TRIED` that explain most of z linearly within the nodes are tried, each with all thresholds. One of two channels is one operation more
for every pixel, which would also buy codebooks: it is asked where it makes the error smaller by a larger share than that.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations, product

import numpy as np

from ..formats import PixelLut
from ..graph import Problem
from .tree import best, principal, root

TRIED, TRIED_ALONE = 8, 2
WORTH = 3.0  # percent of the error that one percent of the operations takes away as codebooks: 2 to 3 (bench/table_sensitivity.py)
SMOOTHED = 1e-3  # of a mean variance, added to each
LEAST_GAIN = 0.999  # of two groups' error, for a change


@dataclass(frozen=True, slots=True)
class PixelTrees:
    """questions int32 (G, L, 2), thresholds u8 (G, K − 1) as in formats/pixel_lut.py; groups: the channels of each."""

    questions: np.ndarray
    thresholds: np.ndarray
    groups: list[np.ndarray]


def grow(
    pixels: np.ndarray, weight: np.ndarray, fmt: PixelLut, price: float = 0.0, tell: Callable[[float], None] = lambda done: None
) -> PixelTrees:
    """Trees for u8 pixels (n, c) of a layer with float weights (k, r, s, c).

    price: share of a group's error that a question must take away for each operation that it takes (`price_of`).
    """
    channels = weight.shape[3]
    flat = weight.reshape(-1, channels).astype(np.float64)
    groups = groups_of(pixels, flat, fmt.v)
    questions = np.zeros((len(groups), fmt.levels, 2), np.int32)
    thresholds = np.zeros((len(groups), fmt.prototypes - 1), np.uint8)
    for g, channel in enumerate(groups):
        x = pixels[:, channel]
        z = x.astype(np.float64) @ root(flat[:, channel])
        asked, thresholds[g] = _grow(x, principal(z - z.mean(axis=0)).astype(np.float32), fmt.levels, price)
        for level, (i, j) in enumerate(asked):
            questions[g, level] = channel[i], channel[j] if j >= 0 else -1 - channel[-1 - j]
        tell((g + 1) / len(groups))
    return PixelTrees(questions, thresholds, groups)


def price_of(size: Problem, fmt: PixelLut, shape: tuple[int, ...]) -> float:
    """What an operation for every pixel of the input is worth if spent on codebooks instead."""
    look_ups = size.p * size.q * (fmt.codebooks(shape) - 1) * size.k
    return WORTH * fmt.groups(shape) * size.padded_pixels / max(look_ups, 1)


def groups_of(pixels: np.ndarray, weight: np.ndarray, v: int) -> list[np.ndarray]:
    """Channels of each group, for u8 pixels (n, c) and weights (outputs, c): those together that one code can stand for best.

    The best code of b bits for Gaussian z of v dimensions has an error in proportion to v·det(cov(z))^(1/v); with z = x_S·A this is
    v·(det cov(x_S) · det A Aᵀ)^(1/v). Two channels change places as long as that lowers the sum over all groups.
    """
    channels = weight.shape[1]
    spread = np.cov(pixels.T.astype(np.float64)).reshape(channels, channels)
    metric = weight.T @ weight
    for matrix in (spread, metric):
        matrix[np.diag_indices(channels)] += SMOOTHED * max(float(matrix.trace()) / channels, 1e-12)
    group = [np.arange(i, min(i + v, channels)) for i in range(0, channels, v)]

    def error(own: np.ndarray) -> float:
        at = np.ix_(own, own)
        return len(own) * float(np.exp((np.linalg.slogdet(spread[at])[1] + np.linalg.slogdet(metric[at])[1]) / len(own)))

    errors = [error(own) for own in group]
    better = True
    while better:
        better = False
        for g, h in combinations(range(len(group)), 2):
            for i, j in product(range(len(group[g])), range(len(group[h]))):
                one, two = group[g].copy(), group[h].copy()
                one[i], two[j] = group[h][j], group[g][i]
                found = error(one), error(two)
                if sum(found) < (errors[g] + errors[h]) * LEAST_GAIN:
                    group[g], group[h], (errors[g], errors[h]), better = one, two, found, True
    return [np.sort(own) for own in group]


def _grow(x: np.ndarray, z: np.ndarray, levels: int, price: float) -> tuple[list[tuple[int, int]], np.ndarray]:
    """Question asked on each level, and all thresholds."""
    node, error = np.zeros(len(x), np.int64), float((z.astype(np.float64) ** 2).sum())
    asked: list[tuple[int, int]] = []
    thresholds: list[np.ndarray] = []
    for level in range(levels):
        found = {q: best(_ask(x, *q), z, node, 1 << level) for q in _candidates(x, z, node, 1 << level)}
        error -= max(gain for gain, _ in found.values())
        question = max(found, key=lambda q: found[q][0] - price * (1 + (q[0] != q[1])) * error)
        asked.append(question)
        thresholds.append(found[question][1])
        node += (_ask(x, *question) > found[question][1][node]).astype(np.int64) << level
    return asked, np.concatenate(thresholds)


def _ask(x: np.ndarray, i: int, j: int) -> np.ndarray:
    other = x[:, j] if j >= 0 else 255 - x[:, -1 - j]
    return (x[:, i].astype(np.int64) + other + 1) >> 1


def _candidates(x: np.ndarray, z: np.ndarray, node: np.ndarray, nodes: int) -> list[tuple[int, int]]:
    """The `TRIED` questions a with the largest ‖cov(a, z)‖² / var(a) within the nodes, and as many channels alone as are `TRIED_ALONE`.

    From the covariances of single channels.
    """
    count = np.maximum(np.bincount(node, minlength=nodes), 1)

    def within(a: np.ndarray) -> np.ndarray:
        means = np.stack([np.bincount(node, a[:, i], nodes) for i in range(a.shape[1])], axis=1) / count[:, None]
        return a - means[node].astype(np.float32)

    inputs, targets = within(x.astype(np.float32)), within(z)
    var, cov = inputs.T @ inputs, inputs.T @ targets
    v = x.shape[1]
    value: dict[tuple[int, int], float] = {}
    for i in range(v):
        value[i, i] = _explained(cov[i], var[i, i])
        for j in range(i):
            value[i, j] = _explained(cov[i] + cov[j], var[i, i] + var[j, j] + 2 * var[i, j])
            value[i, -1 - j] = _explained(cov[i] - cov[j], var[i, i] + var[j, j] - 2 * var[i, j])
    ranked = sorted(value, key=lambda q: -value[q])
    return list(dict.fromkeys([*ranked[:TRIED], *[(i, j) for i, j in ranked if i == j][:TRIED_ALONE]]))


def _explained(cov: np.ndarray, var: float) -> float:
    return float((cov**2).sum() / max(var, 1e-9))
