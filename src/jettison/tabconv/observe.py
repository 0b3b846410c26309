"""What a layer gets and gives while a network runs: the rows, or the images, that tables are fitted to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from .. import reference
from ..formats import Lut
from ..formats.lut import NATIVE_PROTOTYPES
from ..graph import Graph, Op, TensorSpec, problem
from ..quantized import im2col
from ..runtime import Session

BATCH = 32

Run = Callable[..., Any]  # images → the one output


def zero_of(graph: Graph, op: Op) -> int:
    return graph.tensors[op.inputs[0]].zero


def units_of(graph: Graph, op: Op) -> np.ndarray:
    """(k,): a sum of integer products times this is the real number."""
    y = graph.tensors[op.outputs[0]]
    return graph.constants[op.params["multiplier"]].astype(np.float64) * (y.scale if y.dtype == "u8" else 1.0)


def samples(
    graph: Graph, made: Graph, op: Op, images: tuple[np.ndarray, ...], rows: int, seed: int, threads: int | None,
    tell: Callable[[float], None],
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """(x u8 (n, D), y float32 (n, k)): inputs of `op` in `made` and its sums in `graph`, without bias, at equal places.

    Places are drawn by lot, as many from each image; images are streamed.
    """
    spot = np.random.default_rng(seed)
    inner, outer = observer(made, op, sums=False, threads=threads), observer(graph, op, sums=True, threads=threads)
    size, source = problem(graph, op), graph.tensors[op.inputs[0]]
    each = max(1, min(size.p * size.q, rows // len(images[0])))
    used = images if each * len(images[0]) <= rows else tuple(a[:rows] for a in images)
    xs, ys = [], []
    for at, batch in batches(used):
        x = as_bytes(stored(inner, batch), source)
        x = im2col(x, source, op.attrs) if "kernel" in op.attrs else x
        y = stored(outer, batch)
        x, y = x.reshape(len(x), -1, x.shape[-1]), y.reshape(len(y), -1, y.shape[-1])
        for one, two in zip(x, y):
            places = spot.choice(len(one), each, replace=False)
            xs.append(one[places])
            ys.append(two[places])
        tell(at)
    mixed = spot.permutation(sum(map(len, xs)))
    return np.concatenate(xs)[mixed], np.concatenate(ys)[mixed]


def pixels_of(
    graph: Graph, made: Graph, op: Op, images: tuple[np.ndarray, ...], threads: int | None, tell: Callable[[float], None]
) -> tuple[np.ndarray, np.ndarray]:
    """(x u8 (n, c, h, w), y float32 (n, p·q, k)): the same of whole images."""
    inner, outer = observer(made, op, sums=False, threads=threads), observer(graph, op, sums=True, threads=threads)
    size, source = problem(graph, op), graph.tensors[op.inputs[0]]
    xs, ys = [], []
    for at, batch in batches(images):
        x = as_bytes(stored(inner, batch), source).reshape(-1, size.h, size.w, size.c)
        xs.append(x.transpose(0, 3, 1, 2))
        ys.append(stored(outer, batch).reshape(len(x), -1, size.k))
        tell(at)
    return np.concatenate(xs), np.concatenate(ys)


def as_bytes(real: np.ndarray, of: TensorSpec) -> np.ndarray:
    """u8 that `real` stands for."""
    return (np.rint(real / np.float32(of.scale)).astype(np.int64) + of.zero).astype(np.uint8)


def batches(images: tuple[np.ndarray, ...]) -> Iterator[tuple[float, tuple[np.ndarray, ...]]]:
    count = len(images[0])
    for i in range(0, count, BATCH):
        yield min(1.0, (i + BATCH) / count), tuple(a[i : i + BATCH] for a in images)


def stored(run: Run, images: tuple[np.ndarray, ...]) -> np.ndarray:
    """The one output, in storage order."""
    return np.asarray(run(*images))


def observer(graph: Graph, op: Op, sums: bool, threads: int | None) -> Run:
    """Runs what `op` needs only: it gives op's input in float32, or its sums without bias, residual and clamp.

    The kernels do it, or for numbers of prototypes that those do not take the reference, slowly.
    """
    ops = [o for o in graph.ops if o.outputs[0] in _needed(graph, op.inputs[0])]
    source, shape = op.inputs[0], graph.tensors[op.outputs[0]].shape
    seen = "observed"
    constants = dict(graph.constants)
    if sums:
        attrs = {**op.attrs, "act": "none", "alpha": 0.0}
        weight = graph.weight(op)
        bias = -graph.tensors[source].zero * weight.sum(axis=(1, 2, 3), dtype=np.int64)
        params = {"weight": op.params["weight"], "bias": "observed.bias", "multiplier": "observed.multiplier"}
        constants |= {"observed.bias": bias.astype(np.int32), "observed.multiplier": units_of(graph, op).astype(np.float32)}
        ops.append(replace(op, name=seen, inputs=(source,), outputs=(seen,), attrs=attrs, params=params))
        spec_seen = TensorSpec(seen, shape)
    else:
        ops.append(Op(seen, "dequantize", (source,), (seen,)))
        spec_seen = TensorSpec(seen, graph.tensors[source].shape)
    kept = {o.outputs[0] for o in ops}
    tensors = {n: t for n, t in graph.tensors.items() if n in kept or n in graph.inputs} | {seen: spec_seen}
    names = {n for o in ops for n in o.params.values()}
    used = {n: a for n, a in constants.items() if n in names or n.rpartition(".")[0] in names}
    part = Graph(tuple(ops), tensors, graph.inputs, (seen,), used, {n: graph.layouts[n] for n in graph.inputs})
    if all(o.format.prototypes in NATIVE_PROTOTYPES for o in ops if isinstance(o.format, Lut)):
        return Session(part, threads=threads).run
    return lambda *images: reference.run(part, *images)[0]


def _needed(graph: Graph, tensor: str) -> set[str]:
    """Tensors that `tensor` is computed from, and itself."""
    wanted = {tensor}
    for o in reversed(graph.ops):
        if o.outputs[0] in wanted:
            wanted |= set(o.inputs)
    return wanted
