"""What really happens here: times of a session's kernels and of the whole, and a quick look at what the machine permits."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle

from ..bench.machine import describe
from ..peers import Sample
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


def measure(session: Session, samples: Sequence[Sample], runs: int = 20) -> Measured:
    """Runs with and without a clock around every kernel, in turns, each after one that does not count.

    What happens between runs would else be counted as the network's: threads that sleep, caches that hold something else. Each run takes
    the next of `samples`, as `bench.compare`'s do.
    """
    layers, whole, inputs = [], [], cycle(samples)
    for _ in range(runs):
        session.run(*next(inputs))
        layers.append(session.profile(*next(inputs), runs=1, warm=False))
        session.run(*next(inputs))
        sample = next(inputs)
        start = time.perf_counter_ns()
        session.run(*sample)
        whole.append((time.perf_counter_ns() - start) / 1e6)
    rows = (LayerTime(steps[0].name, steps[0].kind, *spread_ms([s.median_ms for s in steps])) for steps in zip(*layers))
    return Measured(tuple(rows), *spread_ms(whole))


def this_machine(threads: int, isa: str) -> Machine:
    """What kernels of one instruction set could reach here with this many threads; takes about two seconds. Errors: MachineError."""
    return probe(describe()["processor"], [threads], [isa], bursts=QUICK_BURSTS).machine
