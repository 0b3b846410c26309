"""Activations and norms written out in elementary operations, recognised as what they are.

`SPELLINGS` is the table: an expression of (operation, operands …) and the function that adds its op to
a graph. "x" is the input, "eps" any number, each the same wherever it stands.
Before comparing, a / 2 is read as a · 0.5 and a − 3 as a + −3; sums and products match in either
order. To add one: one line.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import fx

from .aten.elementwise import activate
from .aten.layers import normalised
from .builder import Builder, Value

Expression = Any
Bound = dict[str, Any]
Build = Callable[[Builder, Value, Bound], Value]


def _act(name: str) -> Build:
    return lambda b, x, bound: activate(b, x, name)


def _channel_norm(b: Builder, x: Value, bound: Bound) -> Value:
    return normalised(b, x, 0, bound["eps"])


_SIX = [(clamp, ("add", "x", 3.0), 0.0, 6.0) for clamp in ("hardtanh", "clamp")] + [("relu6", ("add", "x", 3.0))]
_ERF = ("add", ("erf", ("mul", "x", math.sqrt(0.5))), 1.0)
_TANH = ("add", ("tanh", ("mul", ("add", "x", ("mul", ("pow", "x", 3.0), 0.044715)), math.sqrt(2 / math.pi))), 1.0)
_CENTRED = ("sub", "x", ("mean", "x", 1, True))

# (function, expression); where several match, the last one counts
SPELLINGS: tuple[tuple[Build, Expression], ...] = (
    (_act("silu"), ("mul", "x", ("sigmoid", "x"))),
    *((_act("hardsigmoid"), ("mul", six, 1 / 6)) for six in _SIX),
    *((_act("hardswish"), ("mul", "x", ("mul", six, 1 / 6))) for six in _SIX),
    *((_act("hardswish"), ("mul", ("mul", "x", six), 1 / 6)) for six in _SIX),
    (_act("hardswish"), ("mul", "x", ("hardsigmoid", "x"))),
    *(
        (_act(name), spelling)
        for name, gate in (("gelu", _ERF), ("gelu_tanh", _TANH))
        for spelling in (("mul", ("mul", "x", 0.5), gate), ("mul", ("mul", "x", gate), 0.5), ("mul", "x", ("mul", gate, 0.5)))
    ),
    # ConvNeXt's LayerNorm over channels: (x − u) / √(mean((x − u)²) + eps)
    (_channel_norm, ("div", _CENTRED, ("sqrt", ("add", ("mean", ("pow", _CENTRED, 2.0), 1, True), "eps")))),
)


def find(nodes: Iterable[fx.Node]) -> dict[fx.Node, tuple[Build, Bound]]:
    """Last node of each spelling -> its function and what the names stand for ("x": the input's node)."""
    found = {}
    for node in nodes:
        for build, spelling in SPELLINGS:
            bound: Bound = {}
            if _matches(node, spelling, bound) and _is_computed(bound["x"]):
                found[node] = (build, bound)
    return found


def _is_computed(node: fx.Node) -> bool:
    """Constants have no free axis."""
    value = node.meta.get("val")
    return isinstance(value, torch.Tensor) and any(isinstance(d, torch.SymInt) for d in value.shape)


def _matches(given: Any, wanted: Expression, bound: Bound) -> bool:
    given = given[0] if isinstance(given, (list, tuple)) and len(given) == 1 else given
    if wanted == "x":
        return isinstance(given, fx.Node) and bound.setdefault("x", given) is given
    if wanted == "eps":
        return isinstance(given, float) and bound.setdefault("eps", given) == given
    if not isinstance(wanted, tuple):
        return isinstance(given, (int, float)) and math.isclose(given, wanted, rel_tol=1e-4)
    op, args = _read(given)
    if op != wanted[0] or len(args) != len(wanted) - 1:
        return False
    for order in (args, args[::-1]) if op in ("add", "mul") else (args,):
        trial = dict(bound)
        if all(_matches(a, w, trial) for a, w in zip(order, wanted[1:])):
            bound.update(trial)
            return True
    return False


def _read(node: Any) -> tuple[str, tuple]:
    """Operation and operands, division and subtraction by numbers turned into product and sum."""
    if not isinstance(node, fx.Node) or not isinstance(node.target, torch._ops.OpOverload) or node.kwargs:
        return "", ()
    op, args = node.target._opname, node.args
    if op == "div" and isinstance(args[1], (int, float)) and args[1]:
        return "mul", (args[0], 1 / args[1])
    if op == "sub" and isinstance(args[1], (int, float)):
        return "add", (args[0], -args[1])
    return op, args
