"""Learning the trees of one layer from pixels of its input (formats/pixel_lut.py).

    group g stands for v channels of a pixel:  x_S
    what a tree should keep apart:             z = x_S · A,  A Aᵀ = Σ_tap W_tap,S W_tap,Sᵀ: what all taps together make of it

Trees grow level by level as in `tree`, but a question is about one channel, the mean of two or half their difference: of all v² the
`TRIED` that explain most of z linearly within the nodes are tried, each with all thresholds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..formats import PixelLut
from .tree import best, principal, root

TRIED = 8


@dataclass(frozen=True, slots=True)
class PixelTrees:
    """questions int32 (G, L, 2), thresholds u8 (G, K − 1) as in formats/pixel_lut.py."""

    questions: np.ndarray
    thresholds: np.ndarray


def grow(pixels: np.ndarray, weight: np.ndarray, fmt: PixelLut, tell: Callable[[float], None] = lambda done: None) -> PixelTrees:
    """Trees for u8 pixels (n, c) of a layer with float weights (k, r, s, c)."""
    channels = weight.shape[3]
    groups = [np.arange(i, min(i + fmt.v, channels)) for i in range(0, channels, fmt.v)]
    flat = weight.reshape(-1, channels).astype(np.float64)
    questions = np.zeros((len(groups), fmt.levels, 2), np.int32)
    thresholds = np.zeros((len(groups), fmt.prototypes - 1), np.uint8)
    for g, channel in enumerate(groups):
        x = pixels[:, channel]
        z = x.astype(np.float64) @ root(flat[:, channel])
        asked, thresholds[g] = _grow(x, principal(z - z.mean(axis=0)).astype(np.float32), fmt.levels)
        for level, (i, j) in enumerate(asked):
            questions[g, level] = channel[i], channel[j] if j >= 0 else -1 - channel[-1 - j]
        tell((g + 1) / len(groups))
    return PixelTrees(questions, thresholds)


def _grow(x: np.ndarray, z: np.ndarray, levels: int) -> tuple[list[tuple[int, int]], np.ndarray]:
    """Question asked on each level, and all thresholds."""
    node = np.zeros(len(x), np.int64)
    asked: list[tuple[int, int]] = []
    thresholds: list[np.ndarray] = []
    for level in range(levels):
        found = {q: best(_ask(x, *q), z, node, 1 << level) for q in _candidates(x, z, node, 1 << level)}
        question = max(found, key=lambda q: found[q][0])
        asked.append(question)
        thresholds.append(found[question][1])
        node += (_ask(x, *question) > found[question][1][node]).astype(np.int64) << level
    return asked, np.concatenate(thresholds)


def _ask(x: np.ndarray, i: int, j: int) -> np.ndarray:
    other = x[:, j] if j >= 0 else 255 - x[:, -1 - j]
    return (x[:, i].astype(np.int64) + other + 1) >> 1


def _candidates(x: np.ndarray, z: np.ndarray, node: np.ndarray, nodes: int) -> list[tuple[int, int]]:
    """The `TRIED` questions a with the largest ‖cov(a, z)‖² / var(a) within the nodes, from the covariances of single channels."""
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
    return sorted(value, key=lambda q: -value[q])[:TRIED]


def _explained(cov: np.ndarray, var: float) -> float:
    return float((cov**2).sum() / max(var, 1e-9))
