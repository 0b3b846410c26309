"""One sentence for every kernel that matters: what it is limited by, and what would make it faster.

A kernel matters if it takes at least `MATTERS` of the measured time (of the bound, where nothing was measured).
"""

from __future__ import annotations

from ..formats import NM
from ..spec import WEIGHTED
from .waterline import ARITHMETIC, Box, Waterline
from .work import BYTES, Work

MATTERS = 0.025
MOST = 10  # sentences
NEAR = 0.75  # of its limit: no kernel will gain much any more
SHALLOW = 32  # products in a sum
PRUNED = NM(1, 4)  # what is offered for dense layers


def advice(analysis: Waterline, model: str = "cached") -> dict[str, str]:
    """{kernel: sentence}, the slowest first."""
    times = {b.work.name: b.measured_ms if b.measured_ms is not None else b.bound_ms(model) for b in analysis.boxes}
    total = sum(times.values())
    boxes = sorted(analysis.boxes, key=lambda b: -times[b.work.name])
    return {b.work.name: _sentence(analysis, b, model) for b in boxes[:MOST] if total and times[b.work.name] >= MATTERS * total}


def _sentence(analysis: Waterline, box: Box, model: str) -> str:
    share = box.share_of_limit(model)
    by = box.bound_by(model)
    reached = f"runs at {share:.0%} of its limit, " if share is not None else "is limited by "
    if by != ARITHMETIC:
        limit = box.memory(model)
        return f"{reached}{limit.bytes / 1e6:.2f} MB through {limit.memory}: {_less_traffic(box)}"
    if share is not None and share < NEAR:
        return f"{reached}arithmetic: {_better_kernel(box)}"
    return f"{reached}arithmetic: only less work makes it faster{_less_work(analysis, box)}"


def _less_traffic(box: Box) -> str:
    weights = sum(a.bytes for a in box.work.reads if a.name.startswith("weight:"))
    if weights > box.work.bytes / 2:
        return "mostly weights, so pruning, int8 or a larger batch helps"
    if box.work.parts:
        return "mostly the activations before and after its layers, which are fused already, so int8 helps"
    if box.work.kind in WEIGHTED:
        return "mostly activations, so fusing it with its neighbours or int8 helps, fewer multiply-adds do not"
    return "it only passes numbers on; fusing it into its neighbour or int8 helps"


def _better_kernel(box: Box) -> str:
    work = box.work
    shallow = [part for part in work.parts or (work,) if 0 < _depth(part) <= SHALLOW]
    if work.parts:
        inside = f"; {shallow[0].name} sums only {_depth(shallow[0])} products for each output" if shallow else ""
        return f"its layers are fused already, so only better kernels or int8 help{inside}"
    if work.kind not in WEIGHTED:
        return "little arithmetic on much data; fusing it into its neighbour helps more than a faster kernel"
    if shallow:
        return f"each output sums only {_depth(work)} products, so loads and stores outweigh them; fusing it with its neighbours helps"
    return "there is room for a better kernel; `jettison explain --tune` tries the others; or a larger batch if its image is small"


def _depth(work: Work) -> int:
    """Products in a sum."""
    return work.macs_dense * BYTES[work.element] // max(sum(a.bytes for a in work.writes), 1)


def _less_work(analysis: Waterline, box: Box) -> str:
    """What the limits of pruning and of int8 would be."""
    machine, threads = analysis.machine, analysis.threads
    parts = box.work.parts or (box.work,)
    offers = []
    if all(part.macs_kept == part.macs_dense for part in parts):
        pruned = sum(_limit_ms(analysis, part, part.element, _depth(part) > SHALLOW) for part in parts)
        if pruned < box.arithmetic_ms:
            offers.append(f"{PRUNED} would lower its limit to {pruned:.3g} ms")
    if any(part.element != "i8" for part in parts) and machine.macs_per_s("i8", "dense", threads):
        int8 = sum(_limit_ms(analysis, part, "i8", False) for part in parts)
        offers.append(f"int8{'' if offers else ' would lower its limit'} to {int8:.3g} ms")
    return f"; {', '.join(offers)}" if offers else ""


def _limit_ms(analysis: Waterline, work: Work, element: str, pruned: bool) -> float:
    """Of the multiply-adds alone. pruned: with `PRUNED`, if the machine has a peak for it."""
    machine, threads = analysis.machine, analysis.threads
    gathered = machine.macs_per_s(element, "nm", threads)
    if pruned and gathered:
        return work.macs_dense * PRUNED.n / PRUNED.m / gathered * 1e3
    fmt = "nm" if work.macs_kept < work.macs_dense and gathered else "dense"
    return work.macs_kept / (machine.macs_per_s(element, fmt, threads) or float("inf")) * 1e3
