"""Activations written out in elementary operations, recognised as the activation they are.

`SPELLINGS` is the table: an expression of (operation, operands …), "x" the input, numbers as they
are. Before comparing, x / 2 is read as x · 0.5 and x − 3 as x + −3; sums and products match in
either order. To add one: one line.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import fx

Expression = Any

_RELU6 = ("hardtanh", ("add", "x", 3.0), 0.0, 6.0)
_CLAMP = ("clamp", ("add", "x", 3.0), 0.0, 6.0)
_ERF = ("add", ("erf", ("mul", "x", math.sqrt(0.5))), 1.0)
_TANH = ("add", ("tanh", ("mul", ("add", "x", ("mul", ("pow", "x", 3.0), 0.044715)), math.sqrt(2 / math.pi))), 1.0)

SPELLINGS: tuple[tuple[str, Expression], ...] = (
    ("silu", ("mul", "x", ("sigmoid", "x"))),
    *(("hardsigmoid", ("mul", six, 1 / 6)) for six in (_RELU6, _CLAMP, ("relu6", ("add", "x", 3.0)))),
    *(("hardswish", ("mul", "x", ("mul", six, 1 / 6))) for six in (_RELU6, _CLAMP, ("relu6", ("add", "x", 3.0)))),
    *(("hardswish", ("mul", ("mul", "x", six), 1 / 6)) for six in (_RELU6, _CLAMP, ("relu6", ("add", "x", 3.0)))),
    ("hardswish", ("mul", "x", ("hardsigmoid", "x"))),
    *(
        (name, spelling)
        for name, gate in (("gelu", _ERF), ("gelu_tanh", _TANH))
        for spelling in (("mul", ("mul", "x", 0.5), gate), ("mul", ("mul", "x", gate), 0.5), ("mul", "x", ("mul", gate, 0.5)))
    ),
)


def find(nodes: Iterable[fx.Node]) -> dict[fx.Node, tuple[str, fx.Node]]:
    """Last node of each spelling -> (activation, its input)."""
    found = {}
    for node in nodes:
        for name, spelling in SPELLINGS:
            bound: dict[str, fx.Node] = {}
            if _matches(node, spelling, bound):
                found[node] = (name, bound["x"])  # later lines are the longer spellings
    return found


def _matches(given: Any, wanted: Expression, bound: dict[str, fx.Node]) -> bool:
    if wanted == "x":
        return isinstance(given, fx.Node) and bound.setdefault("x", given) is given
    if isinstance(wanted, float):
        return isinstance(given, (int, float)) and math.isclose(given, wanted, rel_tol=1e-4)
    op, args = _read(given)
    if op != wanted[0] or len(args) != len(wanted) - 1:
        return False
    orders = (args, args[::-1]) if op in ("add", "mul") else (args,)
    for order in orders:
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
