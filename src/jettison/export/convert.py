"""Trace -> Graph: calls the function of each ATen node, in order (`aten.OPS` is the table)."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any

import torch
from torch import fx
from torch.fx.node import map_aggregate

from ..errors import ExportError
from ..graph import Graph
from . import spellings
from .aten import HINTS, OPS, Call, movement
from .builder import Builder, Value
from .trace import Trace

Rewrites = Mapping[fx.Node, tuple[spellings.Build, spellings.Bound]]

# These take sizes, the batch's among them, and look only at the shape that results.
SIZED = {movement.view, movement.expand}


def convert(trace: Trace) -> Graph:
    """The graph of a trace, op by op, nothing fused. Errors: ExportError."""
    rewrites = spellings.find(trace.nodes)
    needed = _needed(trace, rewrites)
    b = Builder()
    values: dict[fx.Node, Any] = dict(trace.constants)
    for node in trace.inputs:
        values[node] = b.input(node.name, trace.sample_shape(node.meta["val"], f"input {node.name}"))
    for node in trace.nodes:
        if node in needed and node.op in ("call_function", "get_attr") and node not in values:
            b.path, b.where = trace.module(node), trace.where(node)
            b.is_leaf = b.path in trace.leaves
            values[node] = _convert(trace, b, node, rewrites, values)
    outputs = [values[n] for n in trace.outputs]
    if not outputs or not all(isinstance(v, Value) for v in outputs):
        raise ExportError("the model must return tensors, each computed from the input")
    return b.graph([values[n] for n in trace.inputs], outputs)


def _needed(trace: Trace, rewrites: Rewrites) -> set[fx.Node]:
    """Nodes that the outputs depend on."""
    needed, todo = set(), list(trace.outputs)
    while todo:
        node = todo.pop()
        if node not in needed:
            needed.add(node)
            todo += [rewrites[node][1]["x"]] if node in rewrites else node.all_input_nodes
    return needed


def _convert(trace: Trace, b: Builder, node: fx.Node, rewrites: Rewrites, values: Mapping[fx.Node, Any]) -> Any:
    """Value(s) of a node; a tensor where it is constant; the number itself where it is no tensor."""
    if node.op == "get_attr":
        return getattr(node.graph.owning_module, str(node.target))
    target: Any = node.target
    result = node.meta.get("val")
    if node in rewrites:
        build, bound = rewrites[node]
        return build(b, values[bound["x"]], bound)
    given: Any = fx.map_arg((node.args, node.kwargs), values.get)
    args, kwargs = given
    if target is operator.getitem:
        return args[0][args[1]]
    if not isinstance(result, (torch.Tensor, tuple, list)):
        return result  # a number, perhaps the batch size
    if not _any((args, kwargs), (Value, torch.SymInt)):
        return target(*args, **kwargs)
    op = target._opname if isinstance(target, torch._ops.OpOverload) and target.namespace == "aten" else str(target)
    if op not in OPS:
        hint = HINTS.get(op, "write this part of the model with operations that have (the table is jettison.export.aten.OPS)")
        raise b.fail(f"operation {op} has no place in the graph; {hint}, or leave it out of the exported model")
    if OPS[op] not in SIZED and _any((args, kwargs), (torch.SymInt, torch.SymFloat)):
        raise b.fail(f"{op}: computes with the number of images in the batch")
    results = list(result) if isinstance(result, (tuple, list)) else [result]
    shapes = tuple(trace.sample_shape(r, f"{b.where}: {op}") for r in results if isinstance(r, torch.Tensor) and _is_main(op, r, results))
    return OPS[op](b, Call(op, _by_name(target, args, kwargs), shapes, b))


def _is_main(op: str, result: torch.Tensor, results: list[Any]) -> bool:
    """Batch norm and max pooling give further results (statistics, positions) that nobody may use."""
    return result is results[0] or op not in ("_native_batch_norm_legit_no_training", "adaptive_max_pool2d")


def _any(args: Any, types: tuple[type, ...]) -> bool:
    """True if an argument, however nested, is of one of these types."""
    found: list[bool] = []
    map_aggregate(args, lambda a: found.append(isinstance(a, types)))
    return any(found)


def _by_name(target: Any, args: tuple, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    schema = target._schema.arguments
    given = {a.name: a.default_value for a in schema if a.has_default_value()}
    return given | {a.name: v for a, v in zip(schema, args)} | dict(kwargs)
