"""Bytes that kernels exchange with a memory level, under two models.

    cold     every tensor and every weight, once per kernel that reads or writes it
    cached   only what a cache of that size cannot have kept: LRU on whole tensors, over runs that repeat

Reuse distance of an access: bytes of all different tensors touched since that tensor was touched last, itself
included. A read misses if its distance exceeds the capacity. A write costs if the tensor's next read misses: it was
evicted in between. So a tensor that passes from producer to consumer inside the cache costs nothing. A tensor that
nobody will read again leaves its place to the next one, as it does in the arena (`jettison.plan`).
(Mattson et al. 1970, *Evaluation techniques for storage hierarchies*, section 3: stack distances.)
"""

from __future__ import annotations

from collections.abc import Sequence

from .work import Access, Work


def cold(rows: Sequence[Work]) -> list[int]:
    """Bytes of each kernel when nothing is reused: Σ reads + Σ writes."""
    return [row.bytes for row in rows]


def cached(rows: Sequence[Work], capacities: Sequence[int]) -> list[list[int]]:
    """For each capacity, the bytes of each kernel that such a cache misses, in a run after an equal one. Never above `cold`."""
    once = [(place, access, is_write) for place, row in enumerate(rows) for is_write, access in _accesses(row)]
    trace = once * 3  # before, counted, and after: who reads the results of the counted one
    following = _next_touch([access.name for _, access, _ in trace])
    dies = [trace[then][2] for then in following]
    distances = _distances([access for _, access, _ in trace], dies)
    missed: list[dict[tuple[int, str, bool], int]] = [{} for _ in capacities]
    for at in range(len(once), 2 * len(once)):
        place, access, is_write = trace[at]
        then = following[at] if is_write else at
        if trace[then][2]:
            continue  # written again before anyone read it: it dies in the cache
        for level, capacity in enumerate(capacities):
            if distances[then] > capacity:
                missed[level][place, access.name, is_write] = access.bytes
    return [[sum(b for (at, _, _), b in level.items() if at == place) for place in range(len(rows))] for level in missed]


def _accesses(row: Work) -> list[tuple[bool, Access]]:
    return [*((False, a) for a in row.reads), *((True, a) for a in row.writes)]


def _distances(trace: Sequence[Access], dies: Sequence[bool]) -> list[int]:
    """Reuse distance of every access; the first of a tensor has its own size, as nobody asks for it."""
    stack: list[Access] = []  # most recently used last
    out = []
    for access, is_last in zip(trace, dies):
        distance = access.bytes
        for i in range(len(stack) - 1, -1, -1):
            if stack[i].name == access.name:
                del stack[i]
                break
            distance += stack[i].bytes
        if not is_last:
            stack.append(access)
        out.append(distance)
    return out


def _next_touch(names: Sequence[str]) -> list[int]:
    """Where each name comes next; the last ones point to themselves."""
    following, seen = list(range(len(names))), {}
    for i in range(len(names) - 1, -1, -1):
        following[i] = seen.get(names[i], i)
        seen[names[i]] = i
    return following
