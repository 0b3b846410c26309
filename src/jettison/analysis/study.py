"""A whole study of a network: the analysis, and what would become of it if it were changed. Here, or on another machine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ..bench.target import random_samples
from ..graph import Graph
from ..runtime import Session
from .load import Load
from .machine import Machine, only
from .measure import measure, this_machine
from .probe import sharing_now
from .waterline import Waterline, waterline
from .whatif import Baseline, Change, blocks, predicted_ms, row
from .work import works


@dataclass(frozen=True, slots=True)
class Study:
    """what_if: a row (`whatif.row`) for the network as it is, then one for each change; empty without changes."""

    analysis: Waterline
    what_if: list[dict[str, Any]]
    warnings: tuple[str, ...] = ()


Changes = Sequence[tuple[Change, Graph]]  # and the network that each makes (`whatif.changed`)


def limits_only(
    graph: Graph, machine: Machine, threads: int | None, batch: int, element: str | None = None, changes: Changes = ()
) -> Study:
    """Nothing is measured. element: count as if every number had this type. Errors: MachineError, InputError."""
    analysis = waterline(works(graph, batch, element), machine, threads)
    rows = [row("as it is", analysis, None, None)] if changes else []
    for change, new in changes:
        counted = works(new, change.batch or batch, None if change.int8 else element, blocks(new) if change.fuse else ())
        rows.append(row(str(change), waterline(counted, machine, threads), None, None))
    return Study(analysis, rows)


def measured(
    graph: Graph,
    machine: Machine | None,
    threads: int,
    batch: int,
    runs: int,
    changes: Changes = (),
    check: bool = False,
    tell: Callable[[str, float], None] = lambda what, done: None,
) -> Study:
    """Times of this machine, which is probed if none is given. check: measure the changed networks too.

    Call it pinned to `threads` processors. Errors: MachineError, InputError, KernelError.
    """
    before = Load.now()
    session = Session(graph, threads=threads)
    limits = only(machine, session.isa) if machine else this_machine(threads, session.isa)
    shared = [sharing_now(threads, session.isa)]
    tell("measuring", 0.2)
    found = measure(session, random_samples(graph, batch, seed=0), runs)
    counted = works(graph, batch, groups=session.groups(batch))
    analysis = waterline(counted, limits, threads, found.times_ms, found.median_ms)
    rows: list[dict[str, Any]] = []
    if changes:
        rows.append(row("as it is", analysis, None, found.median_ms))
        baseline = Baseline(found, session.profile_apart(batch), counted)
        for i, (change, new) in enumerate(changes):
            tell(f"what if {change}", 0.3 + 0.7 * i / len(changes))
            changed_session = Session(new, threads=threads, fuse=blocks(new) if change.fuse else True)
            shared.append(sharing_now(threads, session.isa))
            rows.append(_changed(changed_session, change, limits, change.batch or batch, runs, baseline, check))
    shared.append(sharing_now(threads, session.isa))
    return Study(analysis, rows, (*next(filter(None, shared), ()), *before.complaints()))


def _changed(session: Session, change: Change, limits: Machine, n: int, runs: int, baseline: Baseline, check: bool) -> dict[str, Any]:
    counted = works(session.graph, n, groups=session.groups(n))
    times = predicted_ms(baseline, counted, session.profile_apart(n))
    found = measure(session, random_samples(session.graph, n, seed=0), runs) if check else None
    analysis = waterline(counted, limits, session.threads, found.times_ms if found else None, found.median_ms if found else None)
    kernels = [
        {"name": box.work.name, "bound_ms": box.bound_ms("cached"), "predicted_ms": times[box.work.name], "measured_ms": box.measured_ms}
        for box in analysis.boxes
    ]
    return row(str(change), analysis, sum(times.values()) * baseline.whole_over_parts, analysis.measured_ms, kernels)
