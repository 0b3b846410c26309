"""A whole study of a network: the analysis, and what would become of it if it were changed. Here, or on another machine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ..bench.target import random_inputs
from ..graph import Graph
from ..runtime import Session
from .load import Load
from .machine import Machine, only
from .measure import measure, this_machine
from .waterline import Waterline, waterline
from .whatif import Baseline, Change, changed, changed_works, predicted_ms, row
from .work import works


@dataclass(frozen=True, slots=True)
class Study:
    """what_if: a row (`whatif.row`) for the network as it is, then one for each change; empty without changes."""

    analysis: Waterline
    what_if: list[dict[str, Any]]
    warnings: tuple[str, ...] = ()


def limits_only(
    graph: Graph, machine: Machine, threads: int | None, batch: int, element: str | None = None, changes: Sequence[Change] = ()
) -> Study:
    """Nothing is measured. element: count as if every number had this type. Errors: MachineError, InputError."""
    analysis = waterline(works(graph, batch, element), machine, threads)
    rows = [row("as it is", analysis, None, None)] if changes else []
    for change in changes:
        counted = changed_works(changed(graph, change), change, batch, None if change.int8 else element)
        rows.append(row(str(change), waterline(counted, machine, threads), None, None))
    return Study(analysis, rows)


def measured(
    graph: Graph,
    machine: Machine | None,
    threads: int,
    batch: int,
    runs: int,
    changes: Sequence[Change] = (),
    check: bool = False,
    tell: Callable[[str, float], None] = lambda what, done: None,
) -> Study:
    """Times of this machine, which is probed if none is given. check: measure the changed networks too, where kernels exist.

    Call it pinned to `threads` processors. Errors: MachineError, InputError, KernelError.
    """
    before = Load.now()
    session = Session(graph, threads=threads)
    limits = only(machine, session.isa) if machine else this_machine(threads, session.isa)
    tell("measuring", 0.2)
    found = measure(session, random_inputs(graph, batch, seed=0), runs)
    counted = works(graph, batch, groups=session.groups(batch))
    analysis = waterline(counted, limits, threads, found.times_ms, found.median_ms)
    if not changes:
        return Study(analysis, [], tuple(before.complaints()))
    baseline = Baseline(found, session.profile_apart(batch), counted)
    rows = [row("as it is", analysis, None, found.median_ms)]
    for i, change in enumerate(changes):
        tell(f"what if {change}", 0.3 + 0.7 * i / len(changes))
        rows.append(_changed(graph, change, limits, threads, batch, runs, baseline, check))
    return Study(analysis, rows, tuple(before.complaints()))


def _changed(
    graph: Graph, change: Change, limits: Machine, threads: int, batch: int, runs: int, baseline: Baseline, check: bool
) -> dict[str, Any]:
    new, n = changed(graph, change), change.batch or batch
    session = Session(new, threads=threads)
    counted = changed_works(new, change, batch, groups=session.groups(n))
    same = new is graph and n == batch  # only fused: no kernel changes
    times = predicted_ms(baseline, counted, baseline.apart_ms if same else session.profile_apart(n))
    total = sum(times.values()) + baseline.idle_ms
    found = measure(session, random_inputs(new, n, seed=0), runs) if check and not change.fuse else None
    analysis = waterline(counted, limits, threads, found.times_ms if found else None, found.median_ms if found else None)
    kernels = [
        {"name": box.work.name, "bound_ms": box.bound_ms("cached"), "predicted_ms": times[box.work.name], "measured_ms": box.measured_ms}
        for box in analysis.boxes
    ]
    return row(str(change), analysis, total, analysis.measured_ms, kernels)
