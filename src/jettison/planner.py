"""Which ops run as one fused group on this machine, and why.

    one by one   Σ over ops  (cycles + way of the result) / threads + meeting / images
    as a group   the slowest job's Σ over ops  cycles · rows computed / rows + calls · CALL,
                 + bands · far bytes of the weights / FAR,  + way of the result / threads + meeting / images

Way of a result: 2 · (bytes / NEAR + far bytes / FAR), since it is written and read. Far bytes are those past the second-level
caches: of a result, what the caches of all threads do not hold; of a group's weights, what one thread's cache does not hold
beside the rows between the ops. Threads meet after every op, but once per group; all is of one image, so many images
share a meeting.

`choose` splits the ops into groups with the least sum (dynamic programming in running order). It is a model of
bytes and operations, like the waterline; measuring (`Session(tune=True)`) confirms or drops what it proposes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from .errors import KernelError
from .fusion import Rows, Schedule, group_name, groupable, rows_of, schedule, window
from .graph import Graph, Op
from .plan import system_cache_bytes

MOST_OPS = 12  # in a group: a few blocks
BANDS = (2, 4, 8, 16)  # rows of the result at a time; depthwise kernels take two together
CLOSE = 1.03  # of two bands whose cycles are this close the smaller is taken: it needs less memory
MEETING_CYCLES = 16000.0  # 4 µs, mostly waiting for the slower thread
EAGER = 2.0  # how much more than modelled a meeting may cost before measuring decides
CALL_CYCLES = 500.0  # a kernel starts on a band
NEAR_BYTES_PER_CYCLE = 32.0  # of one core, to and from its second-level cache; so small results are where groups end
FAR_BYTES_PER_CYCLE = 4.0  # of one core, from past its second-level cache; neighbours on the same chip share it


@dataclass(frozen=True, slots=True)
class Machine:
    """l2_bytes: of one core. images: between two meetings of the threads."""

    threads: int
    l2_bytes: int
    meeting_cycles: float = MEETING_CYCLES
    images: int = 1

    @property
    def buffer_bytes(self) -> int:
        """What the rows between the ops of a group may take of a core's cache: weights and results need the rest."""
        return self.l2_bytes // 3

    @property
    def jobs(self) -> int:
        """Shares of an image's rows: none if the threads can share the images."""
        return 1 if self.images % self.threads == 0 else self.threads


def machine(threads: int, images: int = 1) -> Machine:
    return Machine(threads, system_cache_bytes(2, 1 << 20), images=images)


@dataclass(frozen=True, slots=True)
class Work:
    """Of one op: modelled cycles of one core, and bytes of its weights."""

    cycles: float
    weight_bytes: int


@dataclass(frozen=True, slots=True)
class Proposal:
    """Neighbouring ops as a group of this many rows at a time, modelled both ways (cycles of the slowest thread)."""

    ops: tuple[Op, ...]
    band: int
    fused: float
    unfused: float

    @property
    def ratio(self) -> float:
        return self.fused / self.unfused


@dataclass(frozen=True, slots=True)
class Fusion:
    """What was decided: the groups in running order, and by op why it is in one or not."""

    groups: tuple[Schedule, ...] = ()
    reasons: Mapping[str, str] = field(default_factory=dict)


Time = Callable[[Sequence[Op | Schedule]], float]  # milliseconds of these steps, one after the other


def fuse(graph: Graph, work: Mapping[str, Work], on: Machine, time: Time | None = None) -> Fusion:
    """Decide by the model; with `time`, propose more and keep what is measured faster. work: of every op that runs."""
    chosen, declined = choose(graph, work, replace(on, meeting_cycles=EAGER * on.meeting_cycles) if time else on)
    groups: list[Schedule] = []
    reasons = {op.name: _unfused_reason(graph, op, [*chosen, *declined]) for op in graph.ops if op.name in work}
    for p in chosen:
        group = schedule(graph, p.ops, p.band, on.jobs)
        text, keep = f"{p.ratio:.2f} of the modelled cycles", True
        if time:
            fused, alone = time([group]), time(p.ops)
            text, keep = f"measured {fused:.3g} ms instead of {alone:.3g} ms", fused < alone
        groups += [group] if keep else []
        verdict = f"fused, {p.band} rows at a time" if keep else f"not fused with {len(p.ops) - 1} neighbours"
        reasons.update({op.name: f"{verdict}: {text}" for op in p.ops})
    return Fusion(tuple(groups), reasons)


def asked(graph: Graph, groups: Sequence[Schedule | Sequence[str]], work: Mapping[str, Work], on: Machine) -> Fusion:
    """These groups, whatever they cost: schedules as they are, names of ops with the band that is modelled fastest. Errors: KernelError."""
    found = [g if isinstance(g, Schedule) else _asked(graph, g, work, on) for g in groups]
    names = [op.name for group in found for op in group.ops]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise KernelError(f"fuse= names layer {twice!r} twice; a layer runs once, so it is in one group")
    return Fusion(tuple(found), {op.name: "fused as asked for" for group in found for op in group.ops})


def _asked(graph: Graph, names: Sequence[str], work: Mapping[str, Work], on: Machine) -> Schedule:
    known = {op.name: op for op in graph.ops}
    if isinstance(names, str) or not names:
        raise KernelError(f"fuse= takes groups, each a sequence of layer names; got {names!r}")
    unknown = next((name for name in names if name not in known), None)
    if unknown is not None:
        raise KernelError(f"fuse= names the unknown layer {unknown!r}; `jettison explain` lists the layers")
    ops = [known[name] for name in names]
    if not groupable(graph, ops):
        raise KernelError(f"layers {group_name(names)} cannot run as one group; leave them apart")
    return schedule(graph, ops, _propose(graph, ops, work, on).band, on.jobs)


def _unfused_reason(graph: Graph, op: Op, proposals: Sequence[Proposal]) -> str:
    if window(graph, op) is None:
        return f"not fused: {op.kind} needs more than a few rows of an image"
    best = min((p for p in proposals if op in p.ops), key=lambda p: p.ratio, default=None)
    if best is None:
        return "not fused: its neighbours need whole images, or its result is needed elsewhere"
    return f"not fused: with {len(best.ops) - 1} neighbours {best.ratio:.2f} of the modelled cycles"


def choose(graph: Graph, work: Mapping[str, Work], on: Machine) -> tuple[list[Proposal], list[Proposal]]:
    """The groups that together make the network cheapest, in running order; and all other proposals. work: of every op that runs."""
    ops = graph.ops
    found = {(i, j): _propose(graph, ops[i:j], work, on) for i, j in stretches(graph)}
    alone = [unfused_cycles(graph, op, work[op.name], on) if op.name in work else 0.0 for op in ops]
    taken = cheapest(alone, {s: p.fused for s, p in found.items()})
    return [found[s] for s in taken], [p for s, p in found.items() if s not in taken]


def cheapest(alone: Sequence[float], together: Mapping[tuple[int, int], float]) -> list[tuple[int, int]]:
    """Slices [i, j) whose costs, with those of the ops outside, have the least sum; in order. alone: of ops; together: of slices."""
    best: list[tuple[float, int]] = [(0.0, 0)]  # of the first j ops: least sum, where the last slice starts
    for j in range(1, len(alone) + 1):
        options = [(best[i][0] + together[i, j], i) for i in range(max(0, j - MOST_OPS), j - 1) if (i, j) in together]
        best.append(min([(best[j - 1][0] + alone[j - 1], j - 1), *options]))
    taken, j = [], len(alone)
    while j:
        i = best[j][1]
        if (i, j) in together:
            taken.append((i, j))
        j = i
    return taken[::-1]


def stretches(graph: Graph) -> list[tuple[int, int]]:
    """(i, j) of every groupable stretch of ops i … j − 1."""
    ops, found = graph.ops, []
    fits = [window(graph, op) is not None for op in ops]
    for i in range(len(ops)):
        for j in range(i + 1, min(len(ops), i + MOST_OPS) + 1):
            if not fits[j - 1]:
                break
            if j > i + 1 and groupable(graph, ops[i:j]):
                found.append((i, j))
    return found


def unfused_cycles(graph: Graph, op: Op, work: Work, on: Machine) -> float:
    """Of an image."""
    return (work.cycles + _way(graph, op, on)) / on.threads + on.meeting_cycles / on.images


def _way(graph: Graph, op: Op, on: Machine) -> float:
    """Cycles of one core to write an op's result and read it again; what the caches of all threads do not hold comes from afar."""
    size = graph.tensors[op.outputs[0]].bytes
    far = max(0, size - on.threads * on.l2_bytes // 2 // on.images)
    return 2 * (size / NEAR_BYTES_PER_CYCLE + far / FAR_BYTES_PER_CYCLE)


def _propose(graph: Graph, ops: Sequence[Op], work: Mapping[str, Work], on: Machine) -> Proposal:
    rows = rows_of(graph, ops)
    sizes = {band: _buffer_bytes(graph, rows, band) for band in BANDS}
    cycles = {b: _fused_cycles(rows, b, sizes[b], work, on) for b in BANDS if b == BANDS[0] or sizes[b] <= on.buffer_bytes}
    band = next(b for b in BANDS if cycles[b] <= CLOSE * min(cycles.values()))
    unfused = sum(unfused_cycles(graph, op, work[op.name], on) for op in ops)
    return Proposal(tuple(ops), band, cycles[band] + _way(graph, ops[-1], on) / on.threads, unfused)


def _buffer_bytes(graph: Graph, rows: Rows, band: int) -> int:
    """Of the rows that `band` rows in the middle of the result need."""
    middle = max(0, (rows.height - band) // 2)
    starts = rows.starts(middle)
    ends = rows.ends(min(rows.height, middle + band), starts)
    return sum((ends[t] - starts[t]) * graph.tensors[t].row_bytes for t in rows.inner)


def _fused_cycles(rows: Rows, band: int, buffer_bytes: int, work: Mapping[str, Work], on: Machine) -> float:
    """One share of the rows for each job; the slowest counts."""
    weights = sum(work[op.name].weight_bytes for op in rows.ops)
    far = min(weights, max(0, weights + buffer_bytes - on.l2_bytes))
    slowest = 0.0
    jobs = min(on.jobs, rows.height)
    for i in range(jobs):
        first, last = rows.height * i // jobs, rows.height * (i + 1) // jobs
        starts = rows.starts(first)
        ends = rows.ends(last, starts)
        bands = -(-(last - first) // band)
        cycles = sum(work[op.name].cycles * (ends[t] - starts[t]) / rows.heights[t] for op in rows.ops for t in op.outputs)
        slowest = max(slowest, cycles + bands * (CALL_CYCLES * len(rows.ops) + far / FAR_BYTES_PER_CYCLE))
    return slowest * on.jobs / on.threads + on.meeting_cycles / on.images
