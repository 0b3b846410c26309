"""(…, c) -> (…, g, c/g) -> (…, c/g, g) -> (…, c) is a channel shuffle (Zhang et al. 2018, arXiv 1707.01083)."""

from __future__ import annotations

from dataclasses import replace

from ...graph import Graph, Op
from .rewrite import rebuilt


def fuse_shuffle(graph: Graph) -> Graph:
    made = {op.outputs[0]: op for op in graph.ops}
    return rebuilt(graph, [_fused(graph, made, op) or op for op in graph.ops], graph.constants)


def _fused(graph: Graph, made: dict[str, Op], merge: Op) -> Op | None:
    swap = made.get(merge.inputs[0])
    split = made.get(swap.inputs[0]) if swap else None
    if swap is None or split is None or (split.kind, swap.kind, merge.kind) != ("reshape", "transpose", "reshape"):
        return None
    before, parts = graph.tensors[split.inputs[0]].shape, split.attrs["shape"]
    rank = len(parts)
    swaps_last = tuple(swap.attrs["perm"]) == (*range(rank - 2), rank - 1, rank - 2)
    if not swaps_last or tuple(parts[:-2]) != before[:-1] or graph.tensors[merge.outputs[0]].shape != before:
        return None
    name = swap.name.removesuffix(".transpose") + ".channel_shuffle" if swap.name.endswith(".transpose") else swap.name
    return replace(merge, name=name, kind="channel_shuffle", inputs=split.inputs, attrs={"groups": parts[-2]})
