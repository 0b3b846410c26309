"""Run one op on one native kernel, in the harshest surroundings.

The input is followed by NaN (a kernel may read there, but must not use it), the output is NaN before
the run (every element must be written) and fenced by values that must survive it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jettison import _native
from jettison.errors import FormatError
from jettison.formats import NM, Block, Dense, Format
from jettison.graph import TensorSpec
from jettison.spec import output_shape

FENCE = 214  # as a byte; floats get its negative
FENCE_LENGTH = 64
POISON = {"f32": np.nan, "u8": 0xA5}
DTYPES = {"f32": np.float32, "u8": np.uint8}


def kernels(op: str, dtype: str = "f32") -> list[tuple[str, str, str]]:
    """(name, format, isa) of every kernel for this op kind and input type that the machine can run."""
    rows = [row for row in _native.kernels() if row[1] == op and row[4] == dtype]
    return [(name, fmt, isa) for name, _, fmt, isa, _ in rows if isa in _native.isas()]


def constants(fmt: str, params: Mapping[str, np.ndarray], pattern: Format | None) -> tuple[dict[str, np.ndarray], tuple[int, int]]:
    """The op's constants as a kernel of format `fmt` takes them; `params["weight"]` is (k, r, s, c)."""
    parts = {role: np.ascontiguousarray(a) for role, a in params.items()}
    if fmt == "dense" or pattern is None:
        return parts, (0, 0)
    weight = parts.pop("weight")
    encoded = pattern.encode(weight, "test")
    if isinstance(pattern, NM):
        positions = pattern.positions(encoded, weight.shape, "test")
        return {**parts, "values": encoded["values"], "positions": positions}, (pattern.n, pattern.m)
    assert isinstance(pattern, Block)
    values, positions = pattern.positions(encoded, weight.shape, "test")
    return {**parts, "values": values, "positions": positions, "blocks": pattern.columns(encoded, weight.shape, "test")}, pattern.groups


# a pattern for each format that kernels know
EXAMPLES: dict[str, Format] = {"dense": Dense(), "nm": NM(1, 4), "block": Block(16, 16, NM(2, 4), 0.5)}


def fits(pattern: Format, shape: tuple[int, ...]) -> bool:
    """True if weights of this (k, r, s, c) can have the pattern."""
    try:
        pattern.check(shape, "test")
    except FormatError:
        return False
    return True


def pruned(weight: np.ndarray, pattern: Format, score: np.ndarray | None = None) -> np.ndarray:
    """`weight` in the pattern; what has the largest |score| stays."""
    if isinstance(pattern, Dense):
        return weight
    return weight * pattern.mask(weight if score is None else score)  # type: ignore[attr-defined]


def accepts(
    kernel: str, isa: str, kind: str, inputs: list[np.ndarray], attrs: Mapping[str, Any], parts: Any, types: Sequence[TensorSpec] = ()
) -> bool:
    return _native.accepts(kernel, isa, _problem(kind, inputs, attrs, types), *parts)


def run(
    kernel: str,
    isa: str,
    kind: str,
    inputs: list[np.ndarray],
    attrs: Mapping[str, Any],
    parts: Any,
    threads: int = 1,
    types: Sequence[TensorSpec] = (),
) -> np.ndarray:
    """The op's output (n, …) in storage order; fails if a fence was touched. types: of the inputs and the output, if not all f32."""
    problem = _problem(kind, inputs, attrs, types)
    packed = _native.Packed(kernel, isa, problem, *parts)
    shape = (inputs[0].shape[0], *output_shape(kind, [x.shape[1:] for x in inputs], attrs, "test"))
    size = int(np.prod(shape))
    dtype = types[-1].dtype if types else "f32"
    fence = FENCE if dtype == "u8" else -FENCE
    block = np.full(size + 2 * FENCE_LENGTH, fence, DTYPES[dtype])
    block[FENCE_LENGTH : FENCE_LENGTH + size] = POISON[dtype]
    out = block[FENCE_LENGTH : FENCE_LENGTH + size].reshape(shape)
    step = (packed, problem, [(1, i) for i in range(len(inputs))], (2, 0))
    _native.Program(_native.Pool(threads), [step], 0).run([_fenced(x) for x in inputs], [out])
    np.testing.assert_array_equal(block[:FENCE_LENGTH], fence, err_msg="written before the output")
    np.testing.assert_array_equal(block[FENCE_LENGTH + size :], fence, err_msg="written past the output")
    return out


def _problem(kind: str, inputs: list[np.ndarray], attrs: Mapping[str, Any], types: Sequence[TensorSpec]) -> Any:
    shapes = [x.shape[1:] for x in inputs]
    out = output_shape(kind, shapes, attrs, "test")
    kinds = [(t.dtype, t.scale, t.zero) for t in types]
    return _native.Problem(kind, inputs[0].shape[0], [list(s) for s in shapes], list(out), dict(attrs), kinds)


def _fenced(x: np.ndarray) -> np.ndarray:
    name = "u8" if x.dtype == np.uint8 else "f32"
    block = np.full(x.size + _native.SLACK_BYTES, POISON[name], DTYPES[name])
    block[: x.size] = x.ravel()
    return block[: x.size].reshape(x.shape)
