"""What really happens here: times of a session's kernels and of the whole, and a quick look at what the machine permits."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..bench.machine import describe
from ..runtime import LayerTime, Session, spread_ms
from .machine import Machine
from .probe import probe

QUICK_BURSTS = 12


@dataclass(frozen=True, slots=True)
class Measured:
    """layers: of every kernel; the other three: of the whole network, from end to end, milliseconds."""

    layers: tuple[LayerTime, ...]
    median_ms: float
    p10_ms: float
    p90_ms: float

    @property
    def times_ms(self) -> dict[str, float]:
        """Median by kernel."""
        return {t.name: t.median_ms for t in self.layers}


def measure(session: Session, inputs: Sequence[np.ndarray], runs: int) -> Measured:
    """Runs with and without a clock around every kernel, in turns, each after one that does not count.

    What happens between runs would else be counted as the network's: threads that sleep, caches that hold something else.
    """
    layers, whole = [], []
    for _ in range(runs):
        layers.append(session.profile(*inputs, runs=1))  # runs once before
        session.run(*inputs)
        start = time.perf_counter_ns()
        session.run(*inputs)
        whole.append((time.perf_counter_ns() - start) / 1e6)
    rows = (LayerTime(steps[0].name, steps[0].kind, *spread_ms([s.median_ms for s in steps])) for steps in zip(*layers))
    return Measured(tuple(rows), *spread_ms(whole))


def this_machine(threads: int, isa: str) -> Machine:
    """What kernels of one instruction set could reach here with this many threads; takes about two seconds. Errors: MachineError."""
    return probe(describe()["processor"], [threads], [isa], bursts=QUICK_BURSTS).machine
