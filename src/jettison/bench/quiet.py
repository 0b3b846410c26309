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

SLOWER = 1.1  # a processor is disturbed that takes this many times as long as it did in its best moment
BYTES, SWEEPS, REPEATS = 192 * 1024, 30, 5  # read from the second-level cache: 1 to 2 ms in all
PAUSE_S = 0.05  # between two looks while waiting


class Probe:
    """`wait` before each turn and `look` after it; `quiet` then says which turns were undisturbed."""

    def __init__(self, cpus: Sequence[int]) -> None:
        self._cpus = list(cpus)
        self._data = np.ones(BYTES // 4, np.float32)
        self._best = [float("inf")] * len(self._cpus)

    def look(self) -> list[float]:
        """Milliseconds on each processor, the median of REPEATS."""
        times = [self._time(cpu) for cpu in self._cpus]
        self._best = [min(pair) for pair in zip(self._best, times)]
        return times

    def wait(self, seconds: float, seen: list[float] | None = None) -> list[float]:
        """Look until no processor is disturbed, or so many seconds have passed; the last look. seen: the one just made, if any."""
        end = time.perf_counter() + seconds
        times = seen or self.look()
        while not self.undisturbed(times) and time.perf_counter() < end:
            time.sleep(PAUSE_S)
            times = self.look()
        return times

    def undisturbed(self, times: Sequence[float]) -> bool:
        """None is slower than in its best moment so far."""
        return all(ms <= SLOWER * best for ms, best in zip(times, self._best))

    def quiet(self, before: Sequence[Sequence[float]], after: Sequence[Sequence[float]]) -> list[bool]:
        """Of looks before and after each turn: was it undisturbed?"""
        return [self.undisturbed(a) and self.undisturbed(b) for a, b in zip(before, after)]

    def _time(self, cpu: int) -> float:
        with pinned([cpu]):
            times = []
            for _ in range(REPEATS):
                start = time.perf_counter_ns()
                for _ in range(SWEEPS):
                    self._data.sum()
                times.append((time.perf_counter_ns() - start) / 1e6)
        return float(np.median(times))
