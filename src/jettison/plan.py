"""How a batch runs, and where every tensor lies in the arena.

The activations of many images do not fit into the cache; those of a few do. So the first steps run portion after
portion, and only the last ones on the whole batch: their weights are large, and would come once for every portion.

Placing: lifetimes first, then the largest tensors. Two tensors may share bytes only if no step needs both. A reshape is
the same bytes under another shape, so its output shares its input's place and costs nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import gcd

from .graph import Graph

ALIGN_BYTES = 64
CACHE_BYTES = 32 << 20  # of the last level, where the system does not tell


@dataclass(frozen=True, slots=True)
class Plan:
    """Byte offset of every tensor of the graph, for one batch size.

    The first `head` ops run on `portion` images at a time, the others on the whole batch. image_bytes: of tensors that
    hold the whole batch, from one image to the next; 0 for those that hold a portion.
    """

    batch: int
    head: int
    portion: int
    places: Mapping[str, int]
    image_bytes: Mapping[str, int]
    arena_bytes: int

    def portions(self) -> Iterator[tuple[int, int]]:
        """(first image, images) of every portion; none if there is no head."""
        for first in range(0, self.batch if self.head else 0, self.portion):
            yield first, min(self.portion, self.batch - first)

    def places_at(self, image: int) -> dict[str, int]:
        """Byte offsets for the portion that begins with `image`."""
        return {t: place + image * self.image_bytes[t] for t, place in self.places.items()}


def portion(graph: Graph, n: int, threads: int) -> int:
    """Images of batch n to run at a time: as many as have room in the last cache, and as keep all threads busy."""
    images = _room_bytes() // max(1, _place(graph, 1, 0, 1, 0).arena_bytes)
    most = max(1, images // threads) * threads
    if most >= n:
        return n
    parts = -(-n // most)
    return -(-n // (parts * threads)) * threads  # nearly equal ones


def plan(graph: Graph, n: int, slack_bytes: int, images: int | None = None, weight_bytes: Mapping[str, int] | None = None) -> Plan:
    """The plan of batch n. images: what `portion` says, default n. weight_bytes: by op."""
    images = min(n, images or n)
    head = _head(graph, n, images, weight_bytes or {}) if images < n else 0
    image_bytes = _place(graph, n, head, images, slack_bytes).image_bytes
    steps = [image_bytes[t] for op in graph.ops[:head] for t in (*op.inputs, *op.outputs)]
    unit = ALIGN_BYTES // gcd(ALIGN_BYTES, *steps)  # images: each portion begins where a kernel may read
    images = -(-images // unit) * unit
    return _place(graph, n, head, images, slack_bytes) if images < n else _place(graph, n, 0, n, slack_bytes)


def system_cache_bytes(level: int, otherwise: int) -> int:
    """Size of the cache of this level; `otherwise` where the system does not tell."""
    try:
        return max(os.sysconf(f"SC_LEVEL{level}_CACHE_SIZE"), 0) or otherwise
    except (AttributeError, OSError, ValueError):
        return otherwise


def _room_bytes() -> int:
    """What activations may take of the last cache: a quarter, for weights pass through it, and other programs."""
    return system_cache_bytes(3, CACHE_BYTES) // 4


def _head(graph: Graph, n: int, images: int, weight_bytes: Mapping[str, int]) -> int:
    """How many ops to run in portions, so that the fewest bytes come from beyond the cache.

    In portions an op's weights come ⌈n / images⌉ times. On the whole batch they come once, and so do its activations
    unless they fit.
    """
    cache = _room_bytes()
    saved, most, head = 0, 0, 0
    for i, op in enumerate(graph.ops):
        activations = n * sum(graph.tensors[t].bytes for t in (*op.inputs, *op.outputs))
        saved += (activations if activations > cache else 0) - (-(-n // images) - 1) * weight_bytes.get(op.name, 0)
        if saved > most:
            most, head = saved, i + 1
    return head


def _place(graph: Graph, n: int, head: int, images: int, slack_bytes: int) -> Plan:
    """Greedy by size: each tensor goes to the lowest gap among those already placed that live when it does."""
    root = roots(graph)
    life = _lifetimes(graph, root)
    whole = {t for t, (born, dies) in life.items() if born < 0 or dies >= head}
    for t in whole:
        born, dies = life[t]
        if born < head:  # every portion reads from it or adds to it
            life[t] = (-1, max(dies, head - 1))
    count = {t: n if t in whole else images for t in life}
    need = {t: _room(graph, t, count[t], slack_bytes) for t in life}
    placed: list[tuple[int, int, tuple[int, int]]] = []  # (start, end, lifetime)
    places: dict[str, int] = {}
    for t in sorted(life, key=lambda t: (-need[t], life[t])):
        start = 0
        for s, e, (born, dies) in sorted(placed):
            if born <= life[t][1] and life[t][0] <= dies and start + need[t] > s:
                start = max(start, e)
        places[t] = start
        placed.append((start, start + need[t], life[t]))
    total = max((e for _, e, _ in placed), default=0)
    image_bytes = {t: graph.tensors[r].bytes if r in whole else 0 for t, r in root.items()}
    return Plan(n, head, images, {t: places[r] for t, r in root.items()}, image_bytes, total)


def roots(graph: Graph) -> dict[str, str]:
    """The tensor whose bytes each tensor shares: itself, unless a reshape made it."""
    root = {t: t for t in graph.inputs}
    for op in graph.ops:
        root[op.outputs[0]] = root[op.inputs[0]] if op.kind == "reshape" else op.outputs[0]
    return root


def _lifetimes(graph: Graph, root: Mapping[str, str]) -> dict[str, tuple[int, int]]:
    """First and last step that touches each root; inputs exist from −1, outputs until the end."""
    life: dict[str, tuple[int, int]] = dict.fromkeys(graph.inputs, (-1, -1))
    for i, op in enumerate(graph.ops):
        for t in (*op.inputs, *op.outputs):
            born, _ = life.get(root[t], (i, i))
            life[root[t]] = (born, i)
    for t in graph.outputs:
        life[root[t]] = (life[root[t]][0], len(graph.ops))
    return life


@dataclass(frozen=True, slots=True)
class Apart:
    """One arena for steps that have nothing to do with each other: what they read starts at byte 0, f32 first, then u8.

    places: of each step's tensors.
    """

    places: tuple[Mapping[str, int], ...]
    f32_bytes: int
    u8_bytes: int
    arena_bytes: int


def apart(graph: Graph, steps: Sequence[tuple[int, Sequence[str], Sequence[str]]], slack_bytes: int) -> Apart:
    """steps: (images, inputs, outputs) of each. All inputs of a type share their places, and so do all results."""

    def rooms(n: int, tensors: Iterable[str], dtype: str) -> dict[str, int]:
        return {t: _room(graph, t, n, slack_bytes) for t in dict.fromkeys(tensors) if graph.tensors[t].dtype == dtype}

    f32, u8 = (max((sum(rooms(n, reads, dtype).values()) for n, reads, _ in steps), default=0) for dtype in ("f32", "u8"))
    places = []
    for n, reads, results in steps:
        at = dict.fromkeys(results, f32 + u8)
        for dtype, start in (("f32", 0), ("u8", f32)):
            sizes = rooms(n, reads, dtype)
            at |= zip(sizes, accumulate(sizes.values(), initial=start))
        places.append(at)
    most = max((_room(graph, t, n, slack_bytes) for n, _, results in steps for t in results), default=0)
    return Apart(tuple(places), f32, u8, f32 + u8 + most)


def _room(graph: Graph, tensor: str, n: int, slack_bytes: int) -> int:
    """Bytes that n images of a tensor take in an arena."""
    return -(-(n * graph.tensors[tensor].bytes + slack_bytes) // ALIGN_BYTES) * ALIGN_BYTES
