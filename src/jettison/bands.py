"""A schedule of rows (`jettison.fusion`) as what the native program runs: kernel calls on bands, and places in bytes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from . import _native
from .fusion import Call, Move, Schedule
from .graph import Graph, Op, TensorSpec
from .plan import ALIGN_BYTES

Place = tuple[bool, int, int]  # in the workspace?, bytes, bytes from one image to the next
Band = tuple[int, int, list[Place], Place, int]  # op of the group, problem, inputs, output, bytes to move
_MOVE = -1


def native_group(graph: Graph, plan: Schedule, n: int, places: Mapping[str, int], packed: Mapping[str, Any]) -> Any:
    """places: byte in the arena of what the group reads and writes. packed: by op name."""
    writer = _Writer(graph, plan, places)
    jobs = [writer.job(job) for job in plan.jobs]
    return _native.Group([packed[op.name] for op in plan.ops], writer.problems, jobs, n, writer.buffer_bytes)


def problem(graph: Graph, op: Op, call: Call) -> Any:
    """The op on these rows alone. Padding stays what it is beside the band, and above and below it as far as the band meets it."""
    inputs = [(b - a, *graph.tensors[t].shape[1:]) for t, (a, b) in zip(op.inputs, call.rows)]
    out = (call.last - call.first, *graph.tensors[op.outputs[0]].shape[1:])
    attrs = dict(op.attrs)
    if "pad" in attrs:
        attrs["pad"] = (call.pad[0], attrs["pad"][1], call.pad[1], attrs["pad"][3])
    return make_problem(graph, op, 1, inputs, out, attrs)


def make_problem(graph: Graph, op: Op, n: int, inputs: list[tuple[int, ...]], out: tuple[int, ...], attrs: Mapping[str, Any]) -> Any:
    specs = [graph.tensors[t] for t in (*op.inputs, *op.outputs)]
    types = [(spec.dtype, spec.scale, spec.zero) for spec in specs]
    return _native.Problem(op.kind, n, [list(s) for s in inputs], list(out), dict(attrs), types)


def _buffer_bytes(spec: TensorSpec, rows: int) -> int:
    return -(-(rows * spec.row_bytes + _native.SLACK_BYTES) // ALIGN_BYTES) * ALIGN_BYTES


class _Writer:
    """problems: each distinct one once."""

    def __init__(self, graph: Graph, plan: Schedule, places: Mapping[str, int]) -> None:
        self.graph, self.plan, self.places = graph, plan, places
        self.problems: list[Any] = []
        self.numbers: dict[tuple, int] = {}  # places in `problems`
        self.members = {op.name: i for i, op in enumerate(plan.ops)}
        self.buffers: dict[str, int] = {}
        self.buffer_bytes = 0
        for tensor, rows in plan.buffers.items():
            self.buffers[tensor] = self.buffer_bytes
            self.buffer_bytes += _buffer_bytes(graph.tensors[tensor], rows)

    def job(self, steps: tuple[Call | Move, ...]) -> list[Band]:
        front: dict[str, int] = {}  # row at the front of each buffer
        bands: list[Band] = []
        for step in steps:
            if isinstance(step, Move):
                source = self._place(step.tensor, step.first, front)
                front[step.tensor] = step.first
                size = (step.last - step.first) * self.graph.tensors[step.tensor].row_bytes
                bands += [(_MOVE, 0, [source], self._place(step.tensor, step.first, front), size)] if size else []
                continue
            out = step.op.outputs[0]
            front.setdefault(out, step.first)
            inputs = [self._place(t, a, front) for t, (a, _) in zip(step.op.inputs, step.rows)]
            bands.append((self.members[step.op.name], self._problem(step), inputs, self._place(out, step.first, front), 0))
        return bands

    def _place(self, tensor: str, row: int, front: Mapping[str, int]) -> Place:
        spec = self.graph.tensors[tensor]
        if tensor in self.buffers:
            return True, self.buffers[tensor] + (row - front[tensor]) * spec.row_bytes, 0
        return False, self.places[tensor] + row * spec.row_bytes, spec.bytes

    def _problem(self, call: Call) -> int:
        key = (call.op.name, call.last - call.first, tuple(b - a for a, b in call.rows), call.pad)
        if key not in self.numbers:
            self.numbers[key] = len(self.problems)
            self.problems.append(problem(self.graph, call.op, call))
        return self.numbers[key]
