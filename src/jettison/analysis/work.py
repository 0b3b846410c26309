"""What each kernel of a network has to do: operations, and the bytes that it touches. No machine yet.

    operations = 2 · multiply-adds of the kept weights + elementary steps of everything else (`STEPS`)

The epilogue of a convolution (bias, residual, activation) happens in registers and counts as nothing; that of the
residual is in its bytes. The changes of layout at the network's ends are kernels too: they take time.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from math import prod

import numpy as np

from ..formats import NM, Block, Format
from ..graph import Graph, Op, problem
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

    ways: how its multiply-adds can be done: (format of the machine's peak, how many then).
    parts: what a fused kernel computes, one after the other.
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
    parts: tuple[Work, ...] = ()

    @property
    def operations(self) -> int:
        return 2 * self.macs_kept + self.steps

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

    element: count as if every number had this type ("f32", "bf16", "i8"), whatever the graph holds.
    groups: ops that run band by band (`Session.groups`); what passes between them is in no memory.
    """
    root = roots(graph)
    sizes = {t: batch * spec.size * BYTES[element or DTYPE_ELEMENT[spec.dtype]] for t, spec in graph.tensors.items()}

    def access(tensor: str) -> Access:
        return Access(root[tensor], sizes[tensor])

    rows = [_layout("input:" + t, Access("caller:" + t, sizes[t]), access(t), element) for t in graph.inputs]
    rows += [_work(graph, op, batch, element, access) for op in graph.ops if op.kind != "reshape"]
    rows += [_layout("output:" + t, access(t), Access("caller:" + t, sizes[t]), element) for t in graph.outputs]
    return _without_inner(rows, groups)


def _without_inner(rows: Sequence[Work], groups: Collection[Sequence[str]]) -> tuple[Work, ...]:
    """`rows` without the accesses to tensors that only one group writes and reads."""
    group = {name: i for i, names in enumerate(groups) for name in names}
    users: dict[str, set[int | str]] = {}
    for row in rows:
        for a in (*row.reads, *row.writes):
            users.setdefault(a.name, set()).add(group.get(row.name, row.name))
    written = {a.name for row in rows for a in row.writes}
    inner = {name for name in written if len(users[name]) == 1 and all(isinstance(g, int) for g in users[name])}

    def outer(accesses: tuple[Access, ...]) -> tuple[Access, ...]:
        return tuple(a for a in accesses if a.name not in inner)

    return tuple(replace(row, reads=outer(row.reads), writes=outer(row.writes)) for row in rows)


def _layout(name: str, source: Access, target: Access, element: str | None) -> Work:
    return Work(name, "layout", "", element or "f32", 0, 0, 0, (source,), (target,))


def _work(graph: Graph, op: Op, batch: int, element: str | None, access: Callable[[str], Access]) -> Work:
    own = element or DTYPE_ELEMENT[graph.tensors[op.inputs[0]].dtype]
    reads = (*_constants(graph, op, element), *(access(t) for t in op.inputs))
    writes = (access(op.outputs[0]),)
    if op.kind in WEIGHTED:
        size = problem(graph, op, batch)
        kept = size.cost(op.format, 0).macs
        return Work(op.name, op.kind, str(op.format), own, size.macs, kept, 0, reads, writes, _ways(op.format, size.macs, kept))
    x, y = (batch * graph.tensors[t].size for t in (op.inputs[0], op.outputs[0]))
    return Work(op.name, op.kind, "", own, 0, 0, STEPS[op.kind](op, x, y) if op.kind in STEPS else 0, reads, writes)


def _ways(fmt: Format, dense: int, kept: int) -> tuple[tuple[str, int], ...]:
    """N:M weights: all of them as if dense, or the kept ones gathered. In kept blocks alike. Others compute what is kept."""
    if isinstance(fmt, NM):
        return ("dense", dense), ("nm", kept), (str(fmt), kept)
    if isinstance(fmt, Block) and isinstance(fmt.inner, NM):
        return ("dense", kept * fmt.inner.m // fmt.inner.n), ("nm", kept)
    return (("dense", kept),)


def _constants(graph: Graph, op: Op, element: str | None) -> list[Access]:
    """As the file stores them; as another element the values change their size, indices do not."""
    found: dict[str, int] = {}
    for role, name in op.params.items():
        if role == "weight" and op.kind in WEIGHTED:
            parts = graph.weight_parts(op).values()
            found["weight:" + name] = sum(a.nbytes if element is None or a.dtype == np.uint8 else a.size * BYTES[element] for a in parts)
        else:
            found["weight:" + name] = graph.constants[name].nbytes
    return [Access(name, b) for name, b in found.items()]


def fused(first: Work, second: Work) -> Work:
    """Both in one kernel: what `first` wrote for `second` alone never leaves the registers or the nearest cache.

    Its accesses are those of both in the same order less that tensor, so no traffic model can see more bytes. A tensor
    that both read (the residual) is touched twice and costs once.
    """
    inner = {a.name for a in first.writes}
    reads = (*first.reads, *(a for a in second.reads if a.name not in inner))
    name = f"{first.name}+{second.name}"
    fmt = "+".join(dict.fromkeys(f for f in (first.format, second.format) if f))
    return replace(
        first, name=name, kind="fused", format=fmt, macs_dense=first.macs_dense + second.macs_dense,
        macs_kept=first.macs_kept + second.macs_kept, steps=first.steps + second.steps, reads=reads, writes=second.writes,
        parts=(*(first.parts or (first,)), *(second.parts or (second,))),
    )  # fmt: skip
