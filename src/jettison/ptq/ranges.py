"""How the range of an activation is chosen, and what scale and zero point follow from it.

`RANGES` is the one table. Each function takes an `Observed` and returns (low, high), which `scale_zero` widens to
contain 0, so that 0 (of ReLU, of padding) is exact.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .calibrate import Observed

KEPT = 0.9999  # share of the values between the bounds of "percentile"
SHRINK = np.linspace(0.1, 1.0, 91)  # candidates of "mse", as shares of the observed bounds
ROUNDS = 2
NARROWEST = 1e-20  # a range below this is a tensor of zeros


@dataclass(frozen=True, slots=True)
class Range:
    """choose: Observed → (low, high). bins: of the histogram it needs, 0 for none."""

    choose: Callable[[Observed], tuple[float, float]]
    bins: int


def minmax(seen: Observed) -> tuple[float, float]:
    """Everything that was seen."""
    return seen.low, seen.high


def percentile(seen: Observed) -> tuple[float, float]:
    """All but the (1 − KEPT)/2 of the values on either side."""
    share = np.cumsum(seen.counts) / max(1, seen.counts.sum())
    edges = np.linspace(seen.low, seen.high, len(seen.counts) + 1)
    first = int(np.searchsorted(share, (1 - KEPT) / 2, side="right"))
    last = int(np.searchsorted(share, (1 + KEPT) / 2))
    return float(edges[first]), float(edges[min(last + 1, len(seen.counts))])


def mse(seen: Observed) -> tuple[float, float]:
    """The bounds with the least Σ (x − x̂)² over the values seen, x̂ what int8 makes of x.

    Both bounds are shrunk together, then each alone in turn. Source: arXiv 2106.08295, section 3.1, equation 9.
    """
    low, high = min(seen.low, 0.0), max(seen.high, 0.0)
    best = _best(seen, [(low * t, high * t) for t in SHRINK])
    for _ in range(ROUNDS if low < 0 < high else 0):
        best = _best(seen, [(low * t, best[1]) for t in SHRINK] + [best])
        best = _best(seen, [(best[0], high * t) for t in SHRINK] + [best])
    return best


def _best(seen: Observed, candidates: list[tuple[float, float]]) -> tuple[float, float]:
    x = seen.low + (np.arange(len(seen.counts)) + 0.5) * ((seen.high - seen.low) / len(seen.counts))
    scale, zero = (np.array(v)[:, None] for v in zip(*(scale_zero(*c) for c in candidates)))
    rounded = (np.clip(np.rint(x / scale) + zero, 0, 255) - zero) * scale
    errors = ((rounded - x) ** 2) @ seen.counts
    return candidates[int(errors.argmin())]


def scale_zero(low: float, high: float) -> tuple[float, int]:
    """s = (high − low)/255 and z = rint(−low/s) for the range widened to contain 0; s = 1 if nothing but 0 is in it."""
    low, high = min(low, 0.0), max(high, 0.0)
    if high - low < NARROWEST:
        return 1.0, 0
    scale = float(high - low) / 255
    return scale, int(np.clip(np.rint(-low / scale), 0, 255))


RANGES: dict[str, Range] = {
    "minmax": Range(minmax, 0),
    "percentile": Range(percentile, 2048),
    "mse": Range(mse, 2048),
}
