"""What a layer gets and gives while a network runs: the rows, or the images, that tables are fitted to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..graph import Graph, Op, TensorSpec, problem
from ..quantized import im2col
from ..runtime import Session

BATCH = 32
ROW_BYTES = 1 << 31  # of rows and of what is wanted of them, at most

Run = Callable[..., Any]  # images → the one output


def zero_of(graph: Graph, op: Op) -> int:
    return graph.tensors[op.inputs[0]].zero


def units_of(graph: Graph, op: Op) -> np.ndarray:
    """(k,): a sum of integer products times this is the real number."""
    y = graph.tensors[op.outputs[0]]
    return graph.constants[op.params["multiplier"]].astype(np.float64) * (y.scale if y.dtype == "u8" else 1.0)


@dataclass(frozen=True, slots=True)
class Observed:
    """What `op` gets in `made`, and what it is to add so that the sum behind it is the exact network's.

    That is its sums in `graph`, without bias, and where it adds a residual also what that one lacks: x_exact − x_made.
    """

    inputs: Run
    sums: Run
    residuals: tuple[Run, Run] | None

    @classmethod
    def of(cls, graph: Graph, made: Graph, op: Op, threads: int | None) -> Observed:
        residual = op.inputs[1:]
        lacks = (tensor_observer(graph, residual[0], threads), tensor_observer(made, residual[0], threads)) if residual else None
        return cls(tensor_observer(made, op.inputs[0], threads), sums_observer(graph, op, threads), lacks)

    def of_batch(self, batch: tuple[np.ndarray, ...], source: TensorSpec) -> tuple[np.ndarray, np.ndarray]:
        """(x u8, y float32)."""
        real, y = stored(self.inputs, batch), stored(self.sums, batch)
        if self.residuals is not None:
            exact, got = (stored(run, batch) for run in self.residuals)
            y = y + (exact - got)
        return (np.rint(real / np.float32(source.scale)).astype(np.int64) + source.zero).astype(np.uint8), y


def samples(
    graph: Graph, made: Graph, op: Op, images: tuple[np.ndarray, ...], rows: int, seed: int, threads: int | None,
    tell: Callable[[float], None],
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """(x u8 (n, D), y float32 (n, k)): im2col rows of `op`'s inputs and what it is to add (`Observed`) at equal places.

    Places are drawn by lot, as many from each image; images are streamed.
    """
    spot = np.random.default_rng(seed)
    seen = Observed.of(graph, made, op, threads)
    size, source = problem(graph, op), graph.tensors[op.inputs[0]]
    each = max(1, min(size.p * size.q, rows // len(images[0])))
    used = images if each * len(images[0]) <= rows else tuple(a[:rows] for a in images)
    xs, ys = [], []
    for at, batch in batches(used):
        x, y = seen.of_batch(batch, source)
        x = im2col(x, source, op.attrs) if "kernel" in op.attrs else x
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
    seen = Observed.of(graph, made, op, threads)
    size, source = problem(graph, op), graph.tensors[op.inputs[0]]
    xs, ys = [], []
    for at, batch in batches(images):
        x, y = seen.of_batch(batch, source)
        xs.append(x.reshape(-1, size.h, size.w, size.c).transpose(0, 3, 1, 2))
        ys.append(y.reshape(len(x), -1, size.k))
        tell(at)
    return np.concatenate(xs), np.concatenate(ys)


def batches(images: tuple[np.ndarray, ...]) -> Iterator[tuple[float, tuple[np.ndarray, ...]]]:
    count = len(images[0])
    for i in range(0, count, BATCH):
        yield min(1.0, (i + BATCH) / count), tuple(a[i : i + BATCH] for a in images)


def stored(run: Run, images: tuple[np.ndarray, ...]) -> np.ndarray:
    """The one output, in storage order."""
    return np.asarray(run(*images))


def tensor_observer(graph: Graph, tensor: str, threads: int | None) -> Run:
    """Runs what a u8 `tensor` needs only, and gives it in float32."""
    seen = TensorSpec("observed", graph.tensors[tensor].shape)
    return _run(graph, tensor, Op("observed", "dequantize", (tensor,), ("observed",)), seen, {}, threads)


def sums_observer(graph: Graph, op: Op, threads: int | None) -> Run:
    """Runs what `op` needs only, and gives its sums in float32, without bias, residual and clamp."""
    source = op.inputs[0]
    bias = -graph.tensors[source].zero * graph.weight(op).sum(axis=(1, 2, 3), dtype=np.int64)
    constants = {"observed.bias": bias.astype(np.int32), "observed.multiplier": units_of(graph, op).astype(np.float32)}
    params = {"weight": op.params["weight"], "bias": "observed.bias", "multiplier": "observed.multiplier"}
    attrs = {**op.attrs, "act": "none", "alpha": 0.0}
    last = replace(op, name="observed", inputs=(source,), outputs=("observed",), attrs=attrs, params=params)
    return _run(graph, source, last, TensorSpec("observed", graph.tensors[op.outputs[0]].shape), constants, threads)


def _run(graph: Graph, source: str, last: Op, seen: TensorSpec, more: dict[str, np.ndarray], threads: int | None) -> Run:
    """What `last` makes of `source`."""
    ops = [*(o for o in graph.ops if o.outputs[0] in _needed(graph, source)), last]
    kept = {o.outputs[0] for o in ops}
    tensors = {n: t for n, t in graph.tensors.items() if n in kept or n in graph.inputs} | {seen.name: seen}
    names = {n for o in ops for n in o.params.values()}
    used = {n: a for n, a in {**graph.constants, **more}.items() if n in names or n.rpartition(".")[0] in names}
    part = Graph(tuple(ops), tensors, graph.inputs, (seen.name,), used, {n: graph.layouts[n] for n in graph.inputs})
    return Session(part, threads=threads).run


def _needed(graph: Graph, tensor: str) -> set[str]:
    """Tensors that `tensor` is computed from, and itself."""
    wanted = {tensor}
    for o in reversed(graph.ops):
        if o.outputs[0] in wanted:
            wanted |= set(o.inputs)
    return wanted
