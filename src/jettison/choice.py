"""Which kernel computes an op: of all that accept it, dense among them, the one of least modelled cost or least measured time."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from . import _native
from .bands import make_problem
from .errors import KernelError
from .formats import NM, Block
from .graph import DTYPES, Graph, Op, TensorSpec, weight_shape
from .spec import WEIGHTED

if TYPE_CHECKING:
    from .timings import Timings

ARENA, INPUT, OUTPUT = 0, 1, 2  # where an operand of a step lies


@dataclass(frozen=True, slots=True)
class Candidate:
    """One kernel that accepts a layer: modelled cycles of one core, measured time if it was tuned."""

    kernel: str
    format: str
    cycles: float
    measured_ms: float | None = None


@dataclass(frozen=True, slots=True)
class Choice:
    """A kernel for one op, its constants packed for it, and why."""

    kernel: str
    packed: Any
    cycles: float
    reason: str
    candidates: tuple[Candidate, ...]


@dataclass(frozen=True, slots=True)
class _Fit:
    """A kernel that accepts an op with these constants."""

    kernel: str
    format: str
    constants: tuple[dict[str, np.ndarray], tuple[int, int]]
    cycles: float


@dataclass(frozen=True, slots=True)
class Chooser:
    """Kernels of one instruction set for the ops of one graph. timings: None chooses by the model, else by measurement."""

    graph: Graph
    isa: str
    pool: Any
    timings: Timings | None = None

    def choose(self, op: Op, wanted: str | None = None) -> Choice:
        """wanted: a kernel by name. Errors: KernelError."""
        if len(op.inputs) > _native.MAX_INPUTS:
            raise KernelError(f"layer {op.name}: {op.kind} of {len(op.inputs)} tensors; split it: {_native.MAX_INPUTS} is the most")
        size = op_problem(self.graph, op, 1)
        found = self._fits(op, size)
        if wanted is not None:
            kept = [f for f in found if f.kernel == wanted]
            if not kept:
                raise KernelError(f"layer {op.name}: kernel {wanted!r} does not accept it; these do: {', '.join(f.kernel for f in found)}")
            return self._pack(size, kept[0], "asked for", found, {})
        if not found:
            raise KernelError(
                f"layer {op.name}: no {self.isa} kernel computes {op.kind} with {len(op.inputs)} inputs; please report the model"
            )
        if len(found) == 1:
            return self._pack(size, found[0], "the only kernel for it", found, {})
        if self.timings is None:
            return self._pack(size, min(found, key=lambda f: f.cycles), "lowest modelled cost", found, {})
        times = {f.kernel: self._measured_ms(op, size, f, self.timings) for f in found}
        return self._pack(size, min(found, key=lambda f: times[f.kernel]), "measured fastest", found, times)

    def _trial(self, op: Op, size: Any, packed: Any) -> tuple[Any, list[np.ndarray], list[np.ndarray]]:
        """A program of one kernel, a sample of random numbers for it, and room for the result."""
        inputs = [_random(self.graph.tensors[t]) for t in op.inputs]
        target = self.graph.tensors[op.outputs[0]]
        step = (packed, size, [(INPUT, i) for i in range(len(inputs))], (OUTPUT, 0))
        return _native.Program(self.pool, [step], 0), inputs, [np.empty((1, *target.shape), DTYPES[target.dtype])]

    def _fits(self, op: Op, size: Any) -> list[_Fit]:
        found, computed = [], "conv" if op.kind == "linear" else op.kind
        for name, kind, fmt, isa, dtype in _native.kernels():
            if isa != self.isa or kind != computed or dtype != self.graph.tensors[op.inputs[0]].dtype:
                continue
            constants = self._constants(op, fmt)
            if constants is not None and _native.accepts(name, isa, size, *constants):
                found.append(_Fit(name, fmt or "", constants, _native.cost(name, isa, size, *constants)))
        return found

    def _pack(self, size: Any, fit: _Fit, reason: str, found: Sequence[_Fit], times: Mapping[str, float]) -> Choice:
        candidates = tuple(Candidate(f.kernel, f.format, f.cycles, times.get(f.kernel)) for f in found)
        return Choice(fit.kernel, _native.Packed(fit.kernel, self.isa, size, *fit.constants), fit.cycles, reason, candidates)

    def _constants(self, op: Op, fmt: str) -> tuple[dict[str, np.ndarray], tuple[int, int]] | None:
        """Constants by role for a kernel of format `fmt`, and (n, m); None if the op cannot be given in that format."""
        graph = self.graph
        parts = {role: graph.constants[name] for role, name in op.params.items() if not (role == "weight" and op.kind in WEIGHTED)}
        if op.kind not in WEIGHTED:
            return parts, (0, 0)
        if fmt == "dense" and op.format.linear:
            return {**parts, "weight": np.ascontiguousarray(graph.weight(op))}, (0, 0)
        if not op.format.linear:
            return ({**parts, **graph.weight_parts(op)}, (0, 0)) if fmt == op.format.kind else None
        shape, encoded = weight_shape(graph, op), graph.weight_parts(op)
        if isinstance(op.format, NM) and fmt == "nm":
            positions = op.format.positions(encoded, shape, op.name)
            return {**parts, "values": encoded["values"], "positions": positions}, (op.format.n, op.format.m)
        if isinstance(op.format, Block) and fmt == "block":
            values, positions = op.format.positions(encoded, shape, op.name)
            columns = op.format.columns(encoded, shape, op.name)
            return {**parts, "values": values, "positions": positions, "blocks": columns}, op.format.groups
        return None

    def _measured_ms(self, op: Op, size: Any, fit: _Fit, timings: Timings) -> float:
        """Of one candidate alone, on random numbers."""
        threads = f"{self.pool.threads} threads"
        return timings.ms(
            (fit.kernel, self.isa, threads, signature(self.graph, op)),
            lambda: median_ms(*self._trial(op, size, _native.Packed(fit.kernel, self.isa, size, *fit.constants))),
        )


def op_problem(graph: Graph, op: Op, n: int) -> Any:
    """The op on n whole images."""
    shapes = [graph.tensors[t].shape for t in (*op.inputs, *op.outputs)]
    return make_problem(graph, op, n, shapes[:-1], shapes[-1], op.attrs)


def signature(graph: Graph, op: Op) -> tuple:
    """All that the time of a kernel depends on: no names, no numbers."""
    tensors = tuple((graph.tensors[t].shape, graph.tensors[t].dtype) for t in (*op.inputs, *op.outputs))
    return op.kind, tuple(sorted(op.attrs.items())), tuple(sorted(op.params)), str(op.format), tensors


def median_ms(program: Any, inputs: list[np.ndarray], outputs: list[np.ndarray]) -> float:
    """Of at least 5 runs, of as many as 20 ms allow."""
    return float(np.median(times_ms(program, inputs, outputs, 0.02).sum(axis=1)))


def times_ms(program: Any, inputs: list[np.ndarray], outputs: list[np.ndarray], seconds: float) -> np.ndarray:
    """(runs, steps): of at least 5 runs, of as many as `seconds` allow."""
    runs = []
    start = time.perf_counter()
    while len(runs) < 5 or (time.perf_counter() - start < seconds and len(runs) < 200):
        runs.append(program.run(inputs, outputs, profile=True))
    return np.array(runs, np.float64) / 1e6


def noise(f32_bytes: int, u8_bytes: int) -> np.ndarray:
    """Normally distributed numbers, then random bytes, all as float32. Both sizes are multiples of 4."""
    rng = np.random.default_rng(0)
    return np.concatenate([rng.standard_normal(f32_bytes // 4, np.float32), rng.integers(0, 256, u8_bytes, np.uint8).view(np.float32)])


def _random(spec: TensorSpec) -> np.ndarray:
    """A sample of noise, followed by the bytes that a kernel may read past its end."""
    room = -(-(spec.bytes + _native.SLACK_BYTES) // 4) * 4
    numbers = noise(room, 0) if spec.dtype == "f32" else noise(0, room)
    return numbers.view(DTYPES[spec.dtype])[: spec.size].reshape(1, *spec.shape)
