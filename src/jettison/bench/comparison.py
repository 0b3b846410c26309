"""Engines timed against each other: all of them in turns, within one run, on the same inputs.

Every run takes the next of several samples: on one alone, look-ups would find what they need in the caches that their tables do not fit.

Each entrant has a process of its own. They take turns of a few runs with a pause before each, so that
threads which spin after their last run have gone to sleep; the order shifts by one every round.
Whatever changes over time (clock, neighbours) then meets all alike, and a probe between the turns tells which
of them neighbours disturbed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np

from .. import file, reference
from ..errors import KernelError, MissingExtra, VerificationError
from ..graph import Graph
from ..peers import ENGINES, Sample
from ..runtime import spread_ms
from .process import Worker, WorkerFailed
from .quiet import Probe

TURN = 5  # runs of one entrant before the next has its turn
PAUSE_S = 0.2
# Largest error / largest output. Other engines round int8 at other places, which deep networks of random weights amplify;
# unrelated outputs would differ by more than 1.
TOLERANCE = {"f32": 1e-4, "bf16": 5e-2, "int8": 5e-1}
MIXED_TOLERANCE = 5e-2  # of our own int8 behind float32 layers, whose last bits may move a value to the next step


@dataclass(frozen=True, slots=True)
class Entrant:
    """An engine with a network. Entrants with equal `weights` compute the same function and must agree."""

    engine: str
    element: str
    pattern: str
    graph: Path
    weights: str


@dataclass(frozen=True, slots=True)
class Timing:
    """One measured entrant.

    of_best: (median, p10, p90) over the rounds of this entrant's time over that of the fastest other engine in the same
    round, its turn being seconds away: what slows the machine down for longer leaves the ratio as it is. None without another.
    """

    engine: str
    element: str
    pattern: str
    median_ms: float
    p10_ms: float
    p90_ms: float
    runs: int
    of_best: tuple[float, float, float] | None = None


@dataclass(frozen=True, slots=True)
class Absent:
    """An entrant that could not be measured, and why."""

    engine: str
    element: str
    pattern: str
    reason: str


@dataclass(frozen=True, slots=True)
class Comparison:
    """All by the entrant's place in `rows`, but `absent`.

    errors: largest difference to the reference over its largest output.
    quiet: the same from undisturbed turns alone (bench/quiet.py; of_best from rounds in which that engine was undisturbed too);
    None of an entrant without any.
    """

    rows: tuple[Timing, ...]
    absent: tuple[Absent, ...]
    errors: tuple[float, ...]
    quiet: tuple[Timing | None, ...]


def compare(
    entrants: Sequence[Entrant],
    samples: Sequence[Sample],
    cpus: Sequence[int],
    runs: int = 60,
    tell: Callable[[str, float], None] = lambda what, done: None,
    isa: str | None = None,
    patience_s: float = 0.0,
) -> Comparison:
    """Time every entrant `runs` times with one thread per processor in `cpus`. samples: the inputs of a run, each.

    tell: called with what is being done and the finished share, 0 … 1.
    isa: limit all to this instruction set; engines that have no such switch are absent.
    patience_s: wait up to so long before each turn for processors that no neighbour disturbs.
    Errors: VerificationError (outputs disagree), KernelError (Jettison itself fails),
    MissingExtra (no entrant can run).
    """
    with ExitStack() as stack:
        racing: list[tuple[Entrant, Worker]] = []
        absent: list[Absent] = []
        for entrant in entrants:
            tell(f"loading {entrant.engine} ({entrant.pattern})", 0.0)
            try:
                racing.append((entrant, stack.enter_context(_start(entrant, samples, cpus, isa))))
            except WorkerFailed as e:
                absent.append(Absent(entrant.engine, entrant.element, entrant.pattern, str(e)))
        if not racing:
            raise MissingExtra("; ".join(f"{a.engine}: {a.reason}" for a in absent) or "there is nothing to measure")
        tell("checking the outputs", 0.0)
        errors = _check(racing, samples)
        times, still, failed = _turns(racing, Probe(cpus), runs, tell, patience_s)
    absent += [Absent(e.engine, e.element, e.pattern, failed[i]) for i, (e, _) in enumerate(racing) if i in failed]
    left = [i for i in range(len(racing)) if i not in failed]
    named, measured = [racing[i][0] for i in left], [times[i] for i in left]
    rows = timings(named, measured)
    return Comparison(rows, tuple(absent), tuple(errors[i] for i in left), quiet_timings(named, measured, [still[i] for i in left]))


def _start(entrant: Entrant, samples: Sequence[Sample], cpus: Sequence[int], isa: str | None) -> Worker:
    engine = ENGINES[entrant.engine]
    refusal = engine.refusal(entrant.element, isa)
    if refusal:
        raise WorkerFailed(refusal)
    try:
        return Worker(entrant.engine, entrant.element, entrant.graph, samples, cpus, engine.limits.get(isa, {}) if isa else {})
    except WorkerFailed as e:
        if entrant.engine != "jettison":
            raise
        raise _ours(entrant, e) from e


def _ours(entrant: Entrant, e: WorkerFailed) -> Exception:
    return (KernelError if e.expected else RuntimeError)(f"jettison ({entrant.pattern}): {e}")


def _check(racing: Sequence[tuple[Entrant, Worker]], samples: Sequence[Sample]) -> list[float]:
    """The first image against the reference, the first sample, of ours all, against the first entrant with the same weights."""
    truth: dict[str, tuple[np.ndarray, ...]] = {}
    whole: dict[str, list[tuple[np.ndarray, ...]]] = {}
    errors = []
    for entrant, worker in racing:
        graph = file.load(entrant.graph)
        if entrant.weights not in truth:
            truth[entrant.weights] = reference.run(graph, *(x[:1] for x in samples[0]))
            whole[entrant.weights] = worker.outputs
        error = relative_error([y[:1] for y in worker.outputs[0]], truth[entrant.weights])
        ours = entrant.engine == "jettison"
        both = zip(worker.outputs if ours else worker.outputs[:1], whole[entrant.weights])
        error = max(error, *(relative_error(got, want) for got, want in both))
        allowed = tolerance(graph) if ours else TOLERANCE[entrant.element]
        if error > allowed:
            raise VerificationError(
                f"{entrant.engine} ({entrant.element}, {entrant.pattern}) gives other outputs than the reference: "
                f"relative error {error:.2g}, allowed {allowed:.0e}; its timing would mean nothing"
            )
        errors.append(error)
    return errors


def tolerance(graph: Graph) -> float:
    """Of our own outputs against the reference: int8 is exact unless values are rounded that float32 layers computed."""
    mixed = any(op.kind == "quantize" and op.inputs[0] not in graph.inputs for op in graph.ops)
    return MIXED_TOLERANCE if mixed else TOLERANCE["f32"]


def relative_error(got: Sequence[np.ndarray], want: Sequence[np.ndarray]) -> float:
    """Largest |got − want| over the largest |want|, of all outputs; infinite for other shapes and for NaN."""
    if [g.shape for g in got] != [w.shape for w in want]:
        return float("inf")
    errors = [float(np.abs(g - w).max() / max(np.abs(w).max(), 1e-30)) for g, w in zip(got, want)]
    return float("inf") if np.isnan(errors).any() else max(errors)


def _turns(
    racing: Sequence[tuple[Entrant, Worker]], probe: Probe, runs: int, tell: Callable[[str, float], None], patience_s: float
) -> tuple[list[list[float]], list[list[bool]], dict[int, str]]:
    """Milliseconds of every run; which turns were quiet; and of entrants that failed on the way, by place, why."""
    times: list[list[float]] = [[] for _ in racing]
    failed: dict[int, str] = {}
    before, after, whose = [], [], []
    rounds = -(-runs // TURN)
    for turn in range(rounds * len(racing)):
        number, place = divmod(turn, len(racing))
        i = (place + number) % len(racing)
        if i in failed:
            continue
        entrant, worker = racing[i]
        tell(f"{entrant.engine} ({entrant.pattern})", turn / (rounds * len(racing)))
        time.sleep(PAUSE_S)  # threads of the former turn have gone to sleep
        after.append(probe.look())
        before.append(probe.wait(patience_s, after[-1]))
        whose.append(i)
        try:
            times[i] += worker.times_ms(min(TURN, runs - number * TURN))
        except WorkerFailed as e:
            if entrant.engine == "jettison":
                raise _ours(entrant, e) from e
            failed[i] = str(e)
    time.sleep(PAUSE_S)
    after.append(probe.look())
    still: list[list[bool]] = [[] for _ in racing]
    for i, undisturbed in zip(whose, probe.quiet(before, after[1:])):
        still[i].append(undisturbed)
    return times, still, failed


def timings(entrants: Sequence[Entrant], times: Sequence[Sequence[float]]) -> tuple[Timing, ...]:
    """times: milliseconds of every run of every entrant, TURN of them from each round."""
    every = [[True] * len(ms) for ms in times]
    return tuple(row for row in quiet_timings(entrants, times, every) if row is not None)


def quiet_timings(
    entrants: Sequence[Entrant], times: Sequence[Sequence[float]], still: Sequence[Sequence[bool]]
) -> tuple[Timing | None, ...]:
    """Of the turns alone that were undisturbed; still: by entrant and round, was it? None for an entrant without any."""
    turns = [[ms[i : i + TURN] for i in range(0, len(ms), TURN)] for ms in times]
    others = [i for i, e in enumerate(entrants) if e.engine != "jettison"]
    best = min(others, key=lambda i: median(times[i])) if others else None
    rows: list[Timing | None] = []
    for i, entrant in enumerate(entrants):
        ms = [t for turn, undisturbed in zip(turns[i], still[i]) if undisturbed for t in turn]
        ratios = []
        if best is not None:
            both = zip(turns[i], still[i], turns[best], still[best])
            ratios = [median(mine) / median(other) for mine, a, other, b in both if a and b]
        ratio = spread_of(ratios) if ratios else None
        rows.append(Timing(entrant.engine, entrant.element, entrant.pattern, *spread_of(ms), len(ms), ratio) if ms else None)
    return tuple(rows)


def spread_of(values: Sequence[float]) -> tuple[float, float, float]:
    mid, p10, p90 = spread_ms(values)
    return round(mid, 4), round(p10, 4), round(p90, 4)
