"""Is a processor disturbed? A fixed piece of work on each, timed between the turns of a comparison.

What disturbs need not show in this system's load: a virtual machine's processor is often one of two threads of a core whose other
thread is somebody else's, and a busy neighbour takes a part of the arithmetic and of the caches for seconds. That slows engines down
by different factors, so a ratio of two of them is that of the engines only where neither was disturbed.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from .process import pinned

SLOWER = 1.1  # a processor is disturbed that takes this many times as long as it did in its best moments
BEST = 10  # percentile of all times: the best moments
BYTES, SWEEPS, REPEATS = 192 * 1024, 30, 5  # read from the second-level cache: 1 to 2 ms in all


class Probe:
    """times_ms() before the first turn, and after each one; `quiet` then says which turns were undisturbed."""

    def __init__(self, cpus: Sequence[int]) -> None:
        self._cpus = list(cpus)
        self._data = np.ones(BYTES // 4, np.float32)

    def times_ms(self) -> list[float]:
        """One time for each processor: the median of REPEATS."""
        return [self._time(cpu) for cpu in self._cpus]

    def _time(self, cpu: int) -> float:
        with pinned([cpu]):
            times = []
            for _ in range(REPEATS):
                start = time.perf_counter_ns()
                for _ in range(SWEEPS):
                    self._data.sum()
                times.append((time.perf_counter_ns() - start) / 1e6)
        return float(np.median(times))


def quiet(probes: Sequence[Sequence[float]]) -> list[bool]:
    """Of T + 1 probes (times of every processor) around T turns: was turn t quiet, on all processors, before and after it?"""
    times = np.asarray(probes)
    still = (times <= SLOWER * np.percentile(times, BEST, axis=0)).all(axis=1)
    return [bool(b) for b in still[:-1] & still[1:]]
