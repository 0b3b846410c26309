"""Block fusion: neighbouring ops run depth-first, a few rows at a time, so that what lies between them stays in the cache.

    unfused   op a writes a whole image · op b reads it, writes another · op c reads that one
    fused     for every few rows of c's result:  the rows of a that they need · of b · of c

A fused group is no op of its own: it runs the kernels of its ops on bands of rows, with the padding that a band
meets, so its result is that of the ops one after the other, to the last bit, whatever their formats and elements.
That also makes any chain a candidate: MBConv (1×1 → depthwise → 1×1 + residual), ConvFirst (grouped → 1×1 → 1×1 +
residual), ConvNeXt's block with its layer norm, depthwise + 1×1, several blocks in a row.

    rows of x for rows [a, b) of y:   [a·stride − pad,  (b − 1)·stride − pad + dilation·(r − 1) + 1)  inside the image

Rows are computed once per job: a buffer keeps those that the next band needs again. Jobs, one or a few per
thread, share the rows of the result; only where two jobs meet are rows in between computed twice.

What may be fused: ops that need no more than a window of rows. Means over the image (squeeze-excitation) end a group.
Whether it is fused is decided at load, where the machine is known (`jettison.planner`).

Source: Lavin 2024, *On the Efficiency of Convolutional Neural Networks* (arXiv 2404.03617), block fusion.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from .graph import Graph, Op

MAX_INPUTS = 2  # of an op in a group (native/fusion.h)


@dataclass(frozen=True, slots=True)
class Window:
    """Output row i reads the `span` input rows from i·stride − pad on."""

    stride: int = 1
    pad: int = 0
    span: int = 1

    def rows(self, first: int, last: int, height: int) -> tuple[int, int]:
        """Input rows [a, b) for output rows [first, last), inside an image of this height."""
        a = max(0, first * self.stride - self.pad)
        b = min(height, (last - 1) * self.stride - self.pad + self.span)
        return a, b

    def padding(self, first: int, last: int, height: int) -> tuple[int, int]:
        """How far those windows reach over the image: rows above, rows below."""
        return max(0, self.pad - first * self.stride), max(0, (last - 1) * self.stride - self.pad + self.span - height)


POINT = Window()
_POINTWISE = ("act", "affine", "layer_norm", "quantize", "dequantize", "channel_shuffle", "linear")


def window(graph: Graph, op: Op) -> Window | None:
    """The rows of its first input that an op needs; None if it cannot run on a band of rows."""
    shapes = [graph.tensors[t].shape for t in (*op.inputs, *op.outputs)]
    if len(op.inputs) > MAX_INPUTS or any(len(s) != 3 for s in shapes):
        return None
    if op.kind in _POINTWISE or (op.kind in ("add", "mul") and shapes[1][0] in (1, shapes[0][0])):
        return POINT
    if op.kind in ("conv", "max_pool"):
        a = op.attrs
        span = a.get("dilation", (1, 1))[0] * (a["kernel"][0] - 1) + 1
        found = Window(a["stride"][0], a["pad"][0], span)
        inside = found.pad < span and (shapes[-1][0] - 1) * found.stride - found.pad < shapes[0][0]  # no window lies on padding alone
        return found if inside else None
    return None


@dataclass(frozen=True, slots=True)
class Call:
    """Rows [first, last) of an op's result. rows: of each input that it reads; pad: above and below."""

    op: Op
    first: int
    last: int
    rows: tuple[tuple[int, int], ...]
    pad: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Move:
    """Rows [first, last) of a tensor, perhaps none, move to the front of its buffer, which from now on starts with row `first`."""

    tensor: str
    first: int
    last: int


Step = Call | Move


@dataclass(frozen=True, slots=True)
class Schedule:
    """How a group runs: the steps of each job, and the rows that each buffer holds. Rows, not bytes: independent of the batch."""

    ops: tuple[Op, ...]
    band: int
    jobs: tuple[tuple[Step, ...], ...]
    buffers: Mapping[str, int] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return group_name([op.name for op in self.ops])

    @property
    def inputs(self) -> tuple[str, ...]:
        """Tensors that the group reads and does not make."""
        made = {op.outputs[0] for op in self.ops}
        return tuple(dict.fromkeys(t for op in self.ops for t in op.inputs if t not in made))

    @property
    def outputs(self) -> tuple[str, ...]:
        return self.ops[-1].outputs

    def recomputed(self) -> dict[str, int]:
        """By op: rows computed more than once, where jobs meet."""
        rows: dict[str, list[tuple[int, int]]] = {}
        for job in self.jobs:
            for step in job:
                if isinstance(step, Call):
                    rows.setdefault(step.op.name, []).append((step.first, step.last))
        return {name: sum(b - a for a, b in r) - len({i for a, b in r for i in range(a, b)}) for name, r in rows.items()}


def group_name(ops: Sequence[str]) -> str:
    """What a group is called where it stands as one kernel: its first and its last op."""
    return f"{ops[0]} … {ops[-1]}"


def groupable(graph: Graph, ops: Sequence[Op]) -> bool:
    """Whether consecutive ops can be a group: all on bands of rows, and nothing but the last result leaves it."""
    inner = {op.outputs[0] for op in ops[:-1]}
    names = {op.name for op in ops}
    read_outside = {t for op in graph.ops if op.name not in names for t in op.inputs} | set(graph.outputs)
    used = {t for op in ops for t in op.inputs}
    return all(window(graph, op) for op in ops) and not inner & read_outside and inner <= used


def schedule(graph: Graph, ops: Sequence[Op], band: int, jobs: int) -> Schedule:
    """Run `ops` with `band` rows of the last result at a time, in `jobs` nearly equal shares of its rows."""
    rows = rows_of(graph, ops)
    jobs = min(jobs, rows.height)
    buffers: dict[str, int] = {op.outputs[0]: 0 for op in ops[:-1]}
    shares = [(rows.height * i // jobs, rows.height * (i + 1) // jobs) for i in range(jobs)]
    steps = tuple(tuple(_job(rows, share, band, buffers)) for share in shares)
    return Schedule(tuple(ops), band, steps, buffers)


@dataclass(frozen=True, slots=True)
class Rows:
    """Which rows the ops of a group need of each other."""

    ops: tuple[Op, ...]
    windows: Mapping[str, Window]  # by op
    heights: Mapping[str, int]  # by tensor
    inner: frozenset[str]  # results that stay inside the group

    @property
    def height(self) -> int:
        """Rows of the group's result."""
        return self.heights[self.ops[-1].outputs[0]]

    def read(self, op: Op, i: int, first: int, last: int) -> tuple[int, int]:
        """Rows of input i for rows [first, last) of the result: its window; what is added or multiplied lies row by row."""
        height = self.heights[op.inputs[i]]
        if i == 0:
            return self.windows[op.name].rows(first, last, height)
        return (0, 1) if height == 1 else (first, last)

    def readers(self, tensor: str) -> list[tuple[Op, int]]:
        return [(op, i) for op in self.ops for i, t in enumerate(op.inputs) if t == tensor]

    def starts(self, first: int) -> dict[str, int]:
        """By result: its first row that matters for the group's rows from `first` on."""
        rows = {self.ops[-1].outputs[0]: first}
        for op in reversed(self.ops[:-1]):
            out = op.outputs[0]
            rows[out] = min(self.read(r, i, rows[r.outputs[0]], rows[r.outputs[0]] + 1)[0] for r, i in self.readers(out))
        return rows

    def ends(self, last: int, done: Mapping[str, int]) -> dict[str, int]:
        """By result: the row before which it must be computed for the group's rows up to `last`."""
        rows = {self.ops[-1].outputs[0]: last}
        for op in reversed(self.ops[:-1]):
            out = op.outputs[0]
            rows[out] = done[out]
            for r, i in self.readers(out):
                if rows[r.outputs[0]] > done[r.outputs[0]]:
                    rows[out] = max(rows[out], self.read(r, i, done[r.outputs[0]], rows[r.outputs[0]])[1])
        return rows


def rows_of(graph: Graph, ops: Sequence[Op]) -> Rows:
    tensors = {t for op in ops for t in (*op.inputs, *op.outputs)}
    return Rows(
        tuple(ops),
        {op.name: window(graph, op) or POINT for op in ops},
        {t: graph.tensors[t].shape[0] for t in tensors},
        frozenset(op.outputs[0] for op in ops[:-1]),
    )


def _job(rows: Rows, share: tuple[int, int], band: int, buffers: dict[str, int]) -> Iterator[Step]:
    """The steps of one job; raises `buffers` to the rows that each must hold."""
    done = rows.starts(share[0])  # by result: the rows below are computed, or do not matter
    front = dict(done)  # … and the first row that its buffer holds
    for end in (*range(share[0] + band, share[1], band), share[1]):
        need = rows.ends(end, done)
        for op in rows.ops:
            out = op.outputs[0]
            first, last = done[out], need[out]
            if first == last:
                continue
            if out in rows.inner:
                low = min(rows.read(r, i, done[r.outputs[0]], done[r.outputs[0]] + 1)[0] for r, i in rows.readers(out))
                low = min(low, first)
                if front[out] < low:
                    yield Move(out, low, first)
                    front[out] = low
                buffers[out] = max(buffers[out], last - front[out])
            reads = tuple(rows.read(op, i, first, last) for i in range(len(op.inputs)))
            yield Call(op, first, last, reads, rows.windows[op.name].padding(first, last, rows.heights[op.inputs[0]]))
            done[out] = last
