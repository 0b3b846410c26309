"""Trace -> Graph: calls the function of each ATen node, in order (`aten.OPS` is the table)."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any

import torch
from torch import fx

from ..errors import ExportError
from ..graph import Graph
from . import spellings
from .aten import OPS, SKIPPED, Call
from .builder import Builder, Value
from .trace import Trace


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


def _needed(trace: Trace, rewrites: Mapping[fx.Node, tuple[str, fx.Node]]) -> set[fx.Node]:
    """Nodes that the outputs depend on."""
    needed, todo = set(), list(trace.outputs)
    while todo:
        node = todo.pop()
        if node not in needed:
            needed.add(node)
            todo += [rewrites[node][1]] if node in rewrites else node.all_input_nodes
    return needed


def _convert(
    trace: Trace, b: Builder, node: fx.Node, rewrites: Mapping[fx.Node, tuple[str, fx.Node]], values: Mapping[fx.Node, Any]
) -> Any:
    """Value(s) of a node; a tensor where it is constant; the number itself where it is no tensor."""
    if node.op == "get_attr":
        return getattr(node.graph.owning_module, str(node.target))
    target, result = node.target, node.meta.get("val")
    if node in rewrites:
        name, source = rewrites[node]
        if isinstance(values[source], Value):
            return Value(b.add("act", [values[source].name], {"act": name, "alpha": 0.0}), values[source].axes)
    args, kwargs = fx.map_arg((node.args, node.kwargs), lambda n: values.get(n, n.meta.get("val")))
    if target is operator.getitem:
        return args[0][args[1]]
    if isinstance(result, (torch.SymInt, int, float, bool)) or result is None:
        return result
    if not _computed((args, kwargs)):
        return target(*args, **kwargs)
    op = target._opname if isinstance(target, torch._ops.OpOverload) and target.namespace == "aten" else str(target)
    if op in SKIPPED:
        return None
    if op not in OPS:
        raise b.fail(
            f"operation {op} has no place in the graph; write this part of the model with operations that have "
            "(the table is jettison.export.aten.OPS), or leave it out of the exported model"
        )
    results = list(result) if isinstance(result, (tuple, list)) else [result]
    shapes = tuple(trace.sample_shape(r, f"{b.where}: {op}") for r in results if isinstance(r, torch.Tensor) and _is_main(op, r, results))
    return OPS[op](b, Call(op, _by_name(target, args, kwargs), shapes, b))


def _is_main(op: str, result: torch.Tensor, results: list[Any]) -> bool:
    """Batch norm and max pooling give further results (statistics, positions) that nobody may use."""
    return result is results[0] or op not in ("_native_batch_norm_legit_no_training", "adaptive_max_pool2d")


def _computed(args: Any) -> bool:
    """True if any argument depends on the input or on the batch size."""
    found = []
    fx.node.map_aggregate(args, lambda a: found.append(isinstance(a, (Value, torch.SymInt))))
    return any(found)


def _by_name(target: Any, args: tuple, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    schema = target._schema.arguments
    given = {a.name: a.default_value for a in schema if a.has_default_value()}
    return given | {a.name: v for a, v in zip(schema, args)} | dict(kwargs)
