"""How a program takes its inputs, and in which layout: u8 as early as possible.

A quantized network reads float32 images as users have them, (c, h, w), and computes on u8 ones, (h, w, c). Changing type
first and layout then moves a quarter of the bytes, and no float32 image lies in the arena:

    as stored   x f32 (c, h, w) → layout → f32 (h, w, c) → quantize → u8 (h, w, c)
    as run      x f32 (c, h, w) → quantize → u8 (c, h, w) → transpose → u8 (h, w, c)

Quantizing is element by element, so both give the same bytes.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

from . import _native
from .graph import Graph, Op, TensorSpec

HWC, CHW = (1, 2, 0), (2, 0, 1)  # axes of (c, h, w), of (h, w, c)


def quantizers(graph: Graph, others: Collection[str] = ()) -> dict[str, Op]:
    """The op that quantizes a graph input, where nothing else reads the input; not one of the `others`."""
    readers = {t: [op for op in graph.ops if t in op.inputs] for t in graph.inputs if t not in graph.outputs}
    return {t: ops[0] for t, ops in readers.items() if len(ops) == 1 and ops[0].kind == "quantize" and ops[0].name not in others}


def quantize_first(graph: Graph, others: Collection[str] = ()) -> Graph:
    """The same network, its quantized images taken as (c, h, w) and moved to (h, w, c) as u8; `others` stay as they are."""
    for name, op in quantizers(graph, others).items():
        if graph.layouts.get(name) == "nchw":
            graph = _quantize_first(graph, name, op)
    return graph


def without(graph: Graph, first: Mapping[str, Op]) -> Graph:
    """What runs after these ops have read the inputs: it takes their results instead."""
    return replace(
        graph,
        ops=tuple(op for op in graph.ops if op not in first.values()),
        inputs=tuple(first[t].outputs[0] if t in first else t for t in graph.inputs),
    )


def _quantize_first(graph: Graph, name: str, op: Op) -> Graph:
    result = graph.tensors[op.outputs[0]]
    h, w, c = result.shape
    early = replace(result, name=_free(graph, f"{name}/chw"), shape=(c, h, w))
    move = Op(_free(graph, f"{name}/layout"), "transpose", (early.name,), op.outputs, {"perm": HWC})
    ops = [o for old in graph.ops for o in ((replace(op, outputs=(early.name,)), move) if old is op else (old,))]
    tensors = {**graph.tensors, name: TensorSpec(name, (c, h, w)), early.name: early}
    return replace(graph, ops=tuple(ops), tensors=tensors, layouts={**graph.layouts, name: "plain"})


def _free(graph: Graph, name: str) -> str:
    """A name that no tensor and no op has."""
    taken = graph.tensors.keys() | {op.name for op in graph.ops}
    while name in taken:
        name += "_"
    return name


def layout_step(graph: Graph, isa: str, tensor: str, n: int, source: tuple[int, int], target: tuple[int, int], *, to_user: bool) -> tuple:
    """The step of a program that changes (c, h, w) to (h, w, c) or back for images, and copies the rest."""
    stored = list(graph.tensors[tensor].shape)
    if graph.layouts.get(tensor) != "nchw":
        size = _native.Problem("reshape", n, [stored], stored, {"shape": stored})
        return _native.Packed("reshape", isa, size, {}), size, [source], target
    user = list(graph.user_shape(tensor))
    shapes, perm = ((stored, user), CHW) if to_user else ((user, stored), HWC)
    size = _native.Problem("transpose", n, [shapes[0]], shapes[1], {"perm": list(perm)})
    return _native.Packed("transpose", isa, size, {}), size, [source], target
