"""Where every tensor lies in the arena: lifetimes first, then the largest tensors are placed first.

Two tensors may share bytes only if no step needs both. A reshape is the same bytes under another
shape, so its output shares its input's place and costs nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .graph import Graph

ALIGN_BYTES = 64


@dataclass(frozen=True, slots=True)
class Plan:
    """Byte offset of every tensor of the graph, for one batch size."""

    places: Mapping[str, int]
    arena_bytes: int


def plan(graph: Graph, n: int, slack_bytes: int) -> Plan:
    """Greedy by size: each tensor goes to the lowest gap among those already placed that live when it does."""
    root = roots(graph)
    life = _lifetimes(graph, root)
    need = {t: -(-(n * graph.tensors[t].bytes + slack_bytes) // ALIGN_BYTES) * ALIGN_BYTES for t in life}
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
    return Plan({t: places[r] for t, r in root.items()}, total)


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
