"""Run one op on one native kernel, in the harshest surroundings.

The input is followed by NaN (a kernel may read there, but must not use it), the output is NaN before
the run (every element must be written) and fenced by values that must survive it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from jettison import _native
from jettison.formats import NM, Format
from jettison.spec import output_shape

FENCE = np.float32(-42.0)
FENCE_FLOATS = 64


def kernels(op: str) -> list[tuple[str, str, str]]:
    """(name, format, isa) of every kernel for this op kind that the machine can run."""
    return [(name, fmt, isa) for name, kind, fmt, isa in _native.kernels() if kind == op and isa in _native.isas()]


def constants(fmt: str, params: Mapping[str, np.ndarray], pattern: Format | None) -> tuple[dict[str, np.ndarray], tuple[int, int]]:
    """The op's constants as a kernel of format `fmt` takes them; `params["weight"]` is (k, r, s, c)."""
    parts = {role: np.ascontiguousarray(a, np.float32) for role, a in params.items()}
    if fmt != "nm":
        return parts, (0, 0)
    weight = parts.pop("weight")
    assert isinstance(pattern, NM)
    encoded = pattern.encode(weight, "test")
    positions = pattern.positions(encoded, weight.shape, "test")
    return {**parts, "values": encoded["values"], "positions": positions}, (pattern.n, pattern.m)


def accepts(kernel: str, isa: str, kind: str, inputs: list[np.ndarray], attrs: Mapping[str, Any], parts: Any) -> bool:
    return _native.accepts(kernel, isa, _problem(kind, inputs, attrs), *parts)


def run(kernel: str, isa: str, kind: str, inputs: list[np.ndarray], attrs: Mapping[str, Any], parts: Any, threads: int = 1) -> np.ndarray:
    """The op's output (n, …) in storage order; fails if a fence was touched."""
    problem = _problem(kind, inputs, attrs)
    packed = _native.Packed(kernel, isa, problem, *parts)
    shape = (inputs[0].shape[0], *output_shape(kind, [x.shape[1:] for x in inputs], attrs, "test"))
    size = int(np.prod(shape))
    block = np.full(size + 2 * FENCE_FLOATS, FENCE, np.float32)
    block[FENCE_FLOATS : FENCE_FLOATS + size] = np.nan
    out = block[FENCE_FLOATS : FENCE_FLOATS + size].reshape(shape)
    step = (packed, problem, [(1, i) for i in range(len(inputs))], (2, 0))
    _native.Program(_native.Pool(threads), [step], 0).run([_fenced(x) for x in inputs], [out])
    np.testing.assert_array_equal(block[:FENCE_FLOATS], FENCE, err_msg="written before the output")
    np.testing.assert_array_equal(block[FENCE_FLOATS + size :], FENCE, err_msg="written past the output")
    return out


def _problem(kind: str, inputs: list[np.ndarray], attrs: Mapping[str, Any]) -> Any:
    shapes = [x.shape[1:] for x in inputs]
    out = output_shape(kind, shapes, attrs, "test")
    return _native.Problem(kind, inputs[0].shape[0], [list(s) for s in shapes], list(out), dict(attrs))


def _fenced(x: np.ndarray) -> np.ndarray:
    block = np.full(x.size + _native.SLACK_BYTES // 4, np.nan, np.float32)
    block[: x.size] = x.ravel()
    return block[: x.size].reshape(x.shape)
