"""Waterline analysis: what a machine permits for each kernel of a network, and where the measured time goes.

Kernel i does n_i operations at a peak of P_i operations/s. Its time at the peak is a_i = n_i / P_i; with b_i bytes
over a bandwidth of β bytes/s its bound, and with it that of the network, is

    t_i* = max(a_i, b_i / β)        E* = Σ a_i / Σ t_i*        roofline of the totals = Σ a_i / max(Σ a_i, Σ b_i / β) ≥ E*

E* is the operation-weighted harmonic mean of the E_i* = min(1, (n_i/b_i) / ρ), ρ = P/β, where all kernels have one P.
Measured: E = Σ a_i / T. The efficiency gap 1/E = T / Σ a_i splits without a rest into

    1 + memory limit (Σ t_i* − Σ a_i) + kernel inefficiency (Σ t_i − Σ t_i*) + idle and dispatch (T − Σ t_i)      each over Σ a_i

Plot: a box per kernel, width a_i, height max(1, t_i*/a_i), waterline at 1. Its area is its bound; measured, its time.

P_i follows the way the arithmetic is done: kept weights that must be gathered have a lower peak than dense ones, and a
layer is as fast as the better of the two. b_i is counted by both models of `traffic`: "cold" from main memory;
"cached" at every cache level, what it misses over the bandwidth of the next one, and the slowest level counts.

Source: Lavin 2024, *On the Efficiency of Convolutional Neural Networks* (arXiv 2404.03617); roofline: Williams et al. 2009.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..errors import MachineError
from . import traffic
from .machine import Machine, Memory
from .work import Work

MODELS = ("cold", "cached")
ARITHMETIC = "arithmetic"


@dataclass(frozen=True, slots=True)
class Limit:
    """Bytes of one kernel from one memory (the next beyond the cache that missed them), and their time."""

    memory: str
    bytes: int
    ms: float


@dataclass(frozen=True, slots=True)
class Box:
    """One kernel: its work and its limits. arithmetic_ms: a_i; measured_ms: t_i, if it was measured."""

    work: Work
    arithmetic_ms: float
    cold: Limit
    cached: tuple[Limit, ...]
    measured_ms: float | None

    def memory(self, model: str) -> Limit:
        """The memory that takes longest."""
        return self.cold if model == "cold" else max(self.cached, key=lambda limit: limit.ms)

    def bound_ms(self, model: str) -> float:
        """t_i*."""
        return max(self.arithmetic_ms, self.memory(model).ms)

    def bound_by(self, model: str) -> str:
        """ "arithmetic", or the name of the memory."""
        limit = self.memory(model)
        return limit.memory if limit.ms > self.arithmetic_ms else ARITHMETIC

    def intensity(self, model: str) -> float:
        """Operations per byte of main memory; infinite if all stays in the caches."""
        limit = self.cold if model == "cold" else self.cached[-1]
        return self.work.operations / limit.bytes if limit.bytes else float("inf")

    def attainable(self, model: str) -> float:
        """E_i* = a_i / t_i*."""
        bound = self.bound_ms(model)
        return self.arithmetic_ms / bound if bound else 1.0

    def share_of_limit(self, model: str) -> float | None:
        """t_i* / measured: 1 is as fast as this machine can."""
        return self.bound_ms(model) / self.measured_ms if self.measured_ms else None


@dataclass(frozen=True, slots=True)
class Gap:
    """Where the measured time goes, milliseconds; the four add up to it."""

    ideal_ms: float
    memory_ms: float
    kernel_ms: float
    idle_ms: float

    @property
    def total_ms(self) -> float:
        return self.ideal_ms + self.memory_ms + self.kernel_ms + self.idle_ms


@dataclass(frozen=True, slots=True)
class Waterline:
    """A network on a machine. measured_ms: T, of the whole network from end to end."""

    boxes: tuple[Box, ...]
    machine: Machine
    threads: int
    measured_ms: float | None = None

    @property
    def ideal_ms(self) -> float:
        """t₀ = Σ a_i."""
        return sum(b.arithmetic_ms for b in self.boxes)

    @property
    def operations(self) -> int:
        return sum(b.work.operations for b in self.boxes)

    @property
    def macs_kept(self) -> int:
        return sum(b.work.macs_kept for b in self.boxes)

    @property
    def macs_dense(self) -> int:
        return sum(b.work.macs_dense for b in self.boxes)

    def bound_ms(self, model: str) -> float:
        return sum(b.bound_ms(model) for b in self.boxes)

    def attainable(self, model: str) -> float:
        """E*; 1 for a network without any operation."""
        bound = self.bound_ms(model)
        return self.ideal_ms / bound if bound else 1.0

    def roofline(self, model: str) -> float:
        """Of the totals, as if all bytes could flow during all arithmetic."""
        levels = [[b.cold] for b in self.boxes] if model == "cold" else [b.cached for b in self.boxes]
        bound = max([self.ideal_ms, *(sum(limit.ms for limit in level) for level in zip(*levels))])
        return self.ideal_ms / bound if bound else 1.0

    @property
    def efficiency(self) -> float | None:
        """E = t₀ / T."""
        return self.ideal_ms / self.measured_ms if self.measured_ms else None

    def gap(self, model: str) -> Gap | None:
        if self.measured_ms is None:
            return None
        bound, layers = self.bound_ms(model), sum(b.measured_ms or 0.0 for b in self.boxes)
        return Gap(self.ideal_ms, bound - self.ideal_ms, layers - bound, self.measured_ms - layers)

    def warnings(self) -> list[str]:
        """What cannot be true of the figures, or needs an explanation."""
        found = []
        if self.efficiency is not None and self.efficiency > 1:
            found.append(
                f"measured efficiency {self.efficiency:.2f} exceeds 1: the peaks of {self.machine.name} are too low for this run; "
                "probe the machine again while it is idle"
            )
        faster = [b for b in self.boxes if (b.share_of_limit("cached") or 0) > 1]
        if faster:
            names = ", ".join(b.work.name for b in faster[:3]) + (" …" if len(faster) > 3 else "")
            found.append(f"faster than their cached bound: {names}; the machine's figures are too low, or a cache kept more than LRU would")
        over = [b for b in self.boxes if (b.share_of_limit("cold") or 0) > 1 >= (b.share_of_limit("cached") or 0)]
        if over:
            kernels = f"{len(over)} kernel{'s' if len(over) > 1 else ''}"
            found.append(f"faster than the cold bound: {kernels}; what was read was still in a cache, as the cached model says")
        return found


def waterline(
    works: Sequence[Work],
    machine: Machine,
    threads: int | None = None,
    times_ms: Mapping[str, float] | None = None,
    measured_ms: float | None = None,
) -> Waterline:
    """Every kernel of `works` on `machine`. threads: default all. times_ms: measured, by op; measured_ms: of the whole.

    Errors: MachineError (no peak for an element type, threads that the machine's rates do not cover).
    """
    threads = machine.check_threads(machine.most_threads if threads is None else threads)
    caches, main = machine.memories[:-1], machine.memories[-1]
    missed = traffic.cached(works, [machine.capacity_bytes(c, threads) for c in caches])
    boxes = []
    for i, (row, cold_bytes) in enumerate(zip(works, traffic.cold(works))):
        levels = tuple(_limit(machine, to, level[i], threads) for to, level in zip(machine.memories[1:], missed))
        arithmetic_ms = _arithmetic_ms(row, machine, threads)
        cold = _limit(machine, main, cold_bytes, threads)
        boxes.append(Box(row, arithmetic_ms, cold, levels or (cold,), None if times_ms is None else _measured(row, times_ms)))
    return Waterline(tuple(boxes), machine, threads, measured_ms)


def _measured(row: Work, times_ms: Mapping[str, float]) -> float | None:
    """Of a group: the sum of its ops, among which `Session.profile` shares its time out."""
    times = [times_ms[name] for name in row.names if name in times_ms]
    return sum(times) if times else None


def _limit(machine: Machine, memory: Memory, count: int, threads: int) -> Limit:
    rate = machine.bytes_per_s(memory, threads)
    return Limit(memory.name, count, count / rate * 1e3 if rate else 0.0)


def _arithmetic_ms(row: Work, machine: Machine, threads: int) -> float:
    """Of the best way. Look-ups without a peak count as multiply-adds."""
    if row.parts:
        return sum(_arithmetic_ms(part, machine, threads) for part in row.parts)
    dense = machine.macs_per_s(row.element, "dense", threads)
    if dense is None:
        have = ", ".join(dict.fromkeys(p.element for p in machine.peaks))
        raise MachineError(
            f"{machine.name} has no peak for {row.element} (it has {have}), which {row.name} computes in; choose another --element"
        )
    steps_s = row.steps / (2 * dense)
    ways = [(macs, machine.macs_per_s(row.element, fmt, threads)) for fmt, macs in row.ways or (("dense", row.macs_kept),)]
    seconds = min([macs / peak for macs, peak in ways if peak] or [row.look_ups / dense])
    return (seconds + steps_s) * 1e3
