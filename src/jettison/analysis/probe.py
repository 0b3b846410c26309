"""Measuring what this machine permits: streams of single instructions, and reading from every memory level.

A rate is the best of many short bursts, in turns with those of the other rates, since whatever disturbs a burst only
makes it slower. With several threads all run at once, each on memory of its own. Caches are read at half their size,
main memory at four times the last cache. The clock, cycles of dependent additions, is taken before, between and after.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from .. import _native
from ..errors import MachineError
from .load import Load
from .machine import Machine, Memory, Peak, check

KINDS = (("f32", "dense"), ("f32", "nm"), ("i8", "dense"), ("i8", "nm"), ("i8", "lut"))  # element, format
GUESSES = 4  # bursts before the length is right
BURST_NS = 2_000_000
TURNS = 4  # each rate is looked for so many times, half a second apart: a disturbance may end meanwhile
MAIN_BYTES = 256 << 20  # read at least, for main memory
MAX_MAIN_BYTES = 2 << 30
CLOCK_DRIFT = 0.03  # of the highest clock seen
SHORT_BURSTS = 6
SHARED_CORE = 0.75  # of what so many cores should compute
_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")


@dataclass(frozen=True, slots=True)
class Probe:
    """The machine as measured, what to think of it, and the clock that was seen."""

    machine: Machine
    warnings: tuple[str, ...]
    clock_hz: float
    seconds: float


def probe(
    name: str,
    threads: Sequence[int],
    isas: Sequence[str],
    bursts: int = 40,
    tell: Callable[[str, float], None] = lambda what, done: None,
) -> Probe:
    """Measure with each number in `threads`, on the processors this process is pinned to.

    Errors: MachineError (the system does not say how large its caches are; figures contradict each other).
    """
    start, before = time.perf_counter(), Load.now()
    caches = _caches()
    kinds = [(*kind, isa) for isa in isas for kind in KINDS]
    rates: dict[Any, list[float]] = {}
    clocks = []
    for step, count in enumerate(threads):
        pool = _native.Pool(count)
        clock = _native.Probe(pool, "", "clock", isas[0])
        streams: dict[Any, Any] = {kind: _native.Probe(pool, *kind) for kind in kinds}
        for level, size, shared in [*caches, ("memory", 0, True)]:
            share = size // 2 // (count if shared else 1) if size else _main_bytes(caches) // count
            streams[level] = _native.Probe(pool, "", "read", isas[0], share)
        best = dict.fromkeys(streams, 0.0)
        for turn in range(TURNS):
            for i, (what, stream) in enumerate(streams.items()):
                done = (step + (turn + i / len(streams)) / TURNS) / len(threads)
                tell(f"{what if isinstance(what, str) else ' '.join(what)}, {count} threads", done)
                if i % TURNS == turn:  # once by every stream, all along the way
                    clocks.append(_rate(clock, 1, 3))
                best[what] = _rate(stream, count, bursts // TURNS, best[what])
        clocks.append(_rate(clock, 1, 3))
        for element, _, isa in kinds:  # where gathering costs nothing, noise must not make it a gain
            best[element, "nm", isa] = min(best[element, "nm", isa], best[element, "dense", isa])
        for what, rate in best.items():
            rates.setdefault(what, []).append(rate)
    levels = [level for level, _, _ in caches]
    for near, far in zip(reversed(levels), reversed([*levels[1:], "memory"])):  # what serves the far one passes through the near one
        rates[near] = [max(pair) for pair in zip(rates[near], rates[far])]
    machine = Machine(
        name=name,
        source=f"jettison probe, {datetime.now(UTC).date()}",
        threads=tuple(threads),
        peaks=tuple(Peak(*kind, _rising(rates[kind])) for kind in kinds),
        memories=(
            *(Memory(level, size, shared, _rising(rates[level])) for level, size, shared in caches),
            Memory("memory", 0, False, _rising(rates["memory"])),
        ),
    )
    warnings = (*_drift(clocks), *sharing(threads, rates["f32", "dense", isas[0]]), *before.complaints())
    return Probe(check(machine), warnings, max(clocks), time.perf_counter() - start)


def _rate(stream: Any, threads: int, bursts: int, known: float = 0.0) -> float:
    """Units per second of all threads together: the best burst, each of at least one pass over the memory, or what is `known`.

    A burst is as long as takes `BURST_NS` at the best rate so far: one that another program interrupts cannot shorten the next.
    """
    iterations = stream.pass_iterations or 1000
    units = stream.unit * iterations * threads  # of a pass
    best = known / units / 1e9  # passes a nanosecond
    for _ in range(bursts if known else bursts + GUESSES):
        passes = max(1, round(BURST_NS * best))
        best = max(best, passes / max(stream.run(passes, iterations), 1))
    return units * best * 1e9


def _rising(rates: list[float]) -> tuple[float, ...]:
    """More threads can always leave some idle: no rate is below that of fewer."""
    return tuple(max(rates[: i + 1]) for i in range(len(rates)))


def _main_bytes(caches: Sequence[tuple[str, int, bool]]) -> int:
    return min(max(MAIN_BYTES, 4 * caches[-1][1]), MAX_MAIN_BYTES) if caches else MAIN_BYTES


def _caches() -> list[tuple[str, int, bool]]:
    """(name, bytes, shared by several cores) of the data caches, nearest first."""
    found = []
    for folder in sorted(_CACHES.glob("index*")):
        try:
            kind, level, size = ((folder / f).read_text().strip() for f in ("type", "level", "size"))
            siblings = (folder / "shared_cpu_list").read_text().strip()
        except OSError:
            continue
        if kind != "Instruction":
            found.append((f"L{level}", _bytes(size), siblings != _siblings()))
    if not found:
        raise MachineError("this system does not say how large its caches are (/sys/devices/system/cpu); write a machine file by hand")
    return sorted(found, key=lambda row: row[1])


def _siblings() -> str:
    """Processors on the core of processor 0: what they share is the core's own."""
    try:
        return (_CACHES.parent / "topology/thread_siblings_list").read_text().strip()
    except OSError:
        return "0"


def _bytes(size: str) -> int:
    return int(size[:-1]) << {"K": 10, "M": 20, "G": 30}[size[-1]] if size[-1] in "KMG" else int(size)


def _drift(clocks: Sequence[float]) -> list[str]:
    low, high = min(clocks), max(clocks)
    if high - low <= CLOCK_DRIFT * high:
        return []
    return [f"the clock drifted between {low / 1e9:.2f} and {high / 1e9:.2f} GHz; rates are of the fastest moments"]


def sharing_now(threads: int, isa: str) -> list[str]:
    """`sharing`, measured in 20 ms with one thread and with all."""
    counts = sorted({1, threads})
    return sharing(counts, [_rate(_native.Probe(_native.Pool(n), "f32", "dense", isa), n, SHORT_BURSTS) for n in counts])


def sharing(threads: Sequence[int], rates: Sequence[float]) -> list[str]:
    """What to warn of if more threads do not compute as much more, by what so many computed.

    A virtual machine's processors may be two threads of one core, at times or always; the system in it cannot know.
    """
    return [
        f"{count} threads computed {rate / rates[0]:.1f} times what {threads[0]} did: some of them shared a core; measure again"
        for count, rate in zip(threads, rates)
        if rate < SHARED_CORE * rates[0] * count / threads[0]
    ]
