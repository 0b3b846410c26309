"""What each kernel of a network has to do: operations, and the bytes that it touches. No machine yet.

    operations = 2 · multiply-adds of the kept weights + look-ups + elementary steps of everything else (`STEPS`)

The epilogue of a convolution (bias, residual, activation) happens in registers and counts as nothing; that of the
residual is in its bytes. The changes of layout at the network's ends are kernels too: they take time. Ops that run as
one group, band by band, are one kernel: what passes between them is in no memory.

A table look-up layer multiplies nothing. Of each output pixel it asks C trees L questions, a comparison and an addition
each, and adds C entries for every output channel; it reads splits, thresholds and tables as the file stores them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from ..formats import NM, Block, Format, PixelLut
from ..formats.lut import LookUp
from ..fusion import group_name
from ..graph import Graph, Op, Problem, problem, weight_shape
from ..intake import quantize_first, quantizers
from ..plan import roots
from ..spec import WEIGHTED

BYTES = {"f32": 4, "bf16": 2, "i8": 1}  # of an element
DTYPE_ELEMENT = {"f32": "f32", "u8": "i8"}


@dataclass(frozen=True, slots=True)
class Access:
    """A tensor or a constant, once from end to end."""

    name: str
    bytes: int


@dataclass(frozen=True, slots=True)
class Work:
    """One kernel on a whole batch. reads: constants first, then inputs in order. element: of its arithmetic.

    ways: how its multiply-adds or look-ups can be done: (format of the machine's peak, how many then).
    parts: the ops of a group, as they would be alone.
    """

    name: str
    kind: str
    format: str
    element: str
    macs_dense: int
    macs_kept: int
    steps: int
    reads: tuple[Access, ...]
    writes: tuple[Access, ...]
    ways: tuple[tuple[str, int], ...] = ()
    look_ups: int = 0
    parts: tuple[Work, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Of its ops."""
        return tuple(part.name for part in self.parts) or (self.name,)

    @property
    def operations(self) -> int:
        return 2 * self.macs_kept + self.look_ups + self.steps

    @property
    def bytes(self) -> int:
        """Cold traffic: every tensor once, from and to memory."""
        return sum({a.name: a.bytes for a in self.reads}.values()) + sum(a.bytes for a in self.writes)


def _window(op: Op, x: int, y: int) -> int:
    return y * prod(op.attrs["kernel"])


# elementary steps of a kernel without weights, from elements in and out; kinds not named only move numbers
STEPS: dict[str, Callable[[Op, int, int], int]] = {
    "max_pool": _window,
    "avg_pool": _window,
    "adaptive_avg_pool": lambda op, x, y: x,
    "mean": lambda op, x, y: x,
    "add": lambda op, x, y: y,
    "mul": lambda op, x, y: y,
    "act": lambda op, x, y: y,
    "affine": lambda op, x, y: 2 * y,
    "quantize": lambda op, x, y: 2 * y,
    "dequantize": lambda op, x, y: 2 * y,
    "softmax": lambda op, x, y: 4 * y,  # maximum, difference and exponential, sum, quotient
    "layer_norm": lambda op, x, y: 7 * y,  # mean, difference, square and sum, scale, weight, bias
    "upsample": lambda op, x, y: 6 * y if op.attrs["mode"] == "bilinear" else 0,
}


def works(graph: Graph, batch: int = 1, element: str | None = None, groups: Collection[Sequence[str]] = ()) -> tuple[Work, ...]:
    """A Work per step that runs, named as `Session.profile` names them: layout in, ops (a reshape is none), layout out.

    Inputs are taken as a program takes them (`jettison.intake`).

    element: count as if every number had this type ("f32", "bf16", "i8"), whatever the graph holds.
    groups: ops that run as one kernel (`Session.groups`), named by `fusion.group_name`.
    """
    together = {name for names in groups for name in names}
    graph = quantize_first(graph, together)
    direct = quantizers(graph, together)
    root = roots(graph)
    sizes = {t: batch * spec.size * BYTES[element or DTYPE_ELEMENT[spec.dtype]] for t, spec in graph.tensors.items()}

    def access(tensor: str) -> Access:
        return Access(root[tensor], sizes[tensor])

    rows = [_layout("input:" + t, Access("caller:" + t, sizes[t]), access(t), element) for t in graph.inputs if t not in direct]
    rows += [_work(graph, op, batch, element, access) for op in graph.ops if op.kind != "reshape"]
    rows += [_layout("output:" + t, access(t), Access("caller:" + t, sizes[t]), element) for t in graph.outputs]
    return _grouped(rows, groups)


def _grouped(rows: Sequence[Work], groups: Collection[Sequence[str]]) -> tuple[Work, ...]:
    """`rows` with each group as one kernel, in the place of its last op."""
    found = {row.name: row for row in rows}
    last = {names[-1]: fused([found[name] for name in names]) for names in groups}
    inside = {name for names in groups for name in names}
    return tuple(last.get(row.name, row) for row in rows if row.name in last or row.name not in inside)


def fused(rows: Sequence[Work]) -> Work:
    """One kernel for all: only the last result leaves it, and what they write for each other is in no memory.

    Its accesses are theirs in the same order less those, so no traffic model can see more bytes. A tensor that several
    read (the residual) is touched as often and costs once.
    """
    inner = {a.name for row in rows[:-1] for a in row.writes}
    fmt = "+".join(dict.fromkeys(row.format for row in rows if row.format))
    most = max(rows, key=lambda row: row.macs_dense)
    return Work(
        group_name([row.name for row in rows]), "fused", fmt, most.element, sum(r.macs_dense for r in rows),
        sum(r.macs_kept for r in rows), sum(r.steps for r in rows), tuple(a for r in rows for a in r.reads if a.name not in inner),
        rows[-1].writes, look_ups=sum(r.look_ups for r in rows), parts=tuple(rows),
    )  # fmt: skip


def _layout(name: str, source: Access, target: Access, element: str | None) -> Work:
    return Work(name, "layout", "", element or "f32", 0, 0, 0, (source,), (target,))


def _work(graph: Graph, op: Op, batch: int, element: str | None, access: Callable[[str], Access]) -> Work:
    own = element or DTYPE_ELEMENT[graph.tensors[op.inputs[0]].dtype]
    reads = (*_constants(graph, op, element), *(access(t) for t in op.inputs))
    writes = (access(op.outputs[0]),)
    if op.kind in WEIGHTED:
        size = problem(graph, op, batch)
        kept = size.cost(op.format, 0).macs
        if isinstance(op.format, LookUp):
            steps, ways = batch * _questions(op.format, size, weight_shape(graph, op)), (("lut", kept),)
            return Work(op.name, op.kind, str(op.format), own, size.macs, 0, steps, reads, writes, ways, look_ups=kept)
        return Work(op.name, op.kind, str(op.format), own, size.macs, kept, 0, reads, writes, _ways(op.format, size.macs, kept))
    x, y = (batch * graph.tensors[t].size for t in (op.inputs[0], op.outputs[0]))
    return Work(op.name, op.kind, "", own, 0, 0, STEPS[op.kind](op, x, y) if op.kind in STEPS else 0, reads, writes)


def _questions(fmt: LookUp, size: Problem, shape: tuple[int, ...]) -> int:
    """Elementary steps of an image's trees: two a level, three where a question may be about two channels."""
    if isinstance(fmt, PixelLut):
        return 3 * size.padded_pixels * fmt.groups(shape) * fmt.levels
    return 2 * size.p * size.q * fmt.codebooks(shape) * fmt.levels


def _ways(fmt: Format, dense: int, kept: int) -> tuple[tuple[str, int], ...]:
    """N:M weights: all of them as if dense, or the kept ones gathered. In kept blocks alike. Others compute what is kept."""
    if isinstance(fmt, NM):
        return ("dense", dense), ("nm", kept), (str(fmt), kept)
    if isinstance(fmt, Block) and isinstance(fmt.inner, NM):
        return ("dense", kept * fmt.inner.m // fmt.inner.n), ("nm", kept)
    return (("dense", kept),)


def _constants(graph: Graph, op: Op, element: str | None) -> list[Access]:
    """As the file stores them; as another element the values of weights change their size, indices and tables do not."""

    def size(part: np.ndarray) -> int:
        return part.nbytes if element is None or not op.format.linear or part.dtype == np.uint8 else part.size * BYTES[element]

    found: list[Access] = []
    for role, name in op.params.items():
        if role == "weight" and op.kind in WEIGHTED:
            found.append(Access("weight:" + name, sum(map(size, graph.weight_parts(op).values()))))
        else:
            found.append(Access("weight:" + name, graph.constants[name].nbytes))
    return found
