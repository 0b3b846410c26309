"""Fitting table look-up to a trained int8 network, layer after layer, on unlabelled images. Needs no PyTorch.

For each chosen layer, in the order in which they run: its inputs in the network approximated so far, and what the exact
network gives at the same places of the same images → trees (`tree`) → tables (`tables`) → the layer is replaced.

Source: Gupta et al. 2024 (TabConv, arXiv 2404.05872), section III; trees and refinement: `tree`, `tables`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from types import MappingProxyType
from typing import Any

import numpy as np

from .. import spec
from ..errors import TabConvError
from ..formats import Dense, Lut, PixelLut, lut
from ..formats.lut import LookUp
from ..graph import Graph, Op, problem, weight_shape
from ..ptq.calibrate import whole
from ..runtime import thread_count
from ..spec import IMAGE_CHANNELS
from . import pixel_fit, tables
from .descent import Layer, solve
from .observe import ROW_BYTES, samples, units_of, zero_of
from .tree import grow, subspaces

ROWS, ROWS_PER_ENTRY = 32768, 32  # of the im2col matrix that a layer is fitted to, if there are as many: the larger
TREE_ROWS, TREE_SHARE = 8192, 4  # of them for growing trees, which takes longest: the larger of so many and one in four
LEAST_PIXELS_WORTH = 16  # a tile of the kernel holds up to 64 pixels: fewer leave most of it idle

Progress = Callable[[str, float], None]
Formats = Mapping[str, LookUp]  # by layer, of those that have another than the rest
SAME: Formats = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class LayerFit:
    """One conv or linear layer: made a table (`reason` empty), or left exact and why.

    error: Σ(y − ŷ)² / Σ(y − ȳ)² of its sums on the rows it was fitted to. padded: inputs that the last codebook lacks.
    """

    name: str
    reason: str
    error: float | None = None
    padded: int = 0


def choose(
    graph: Graph, fmt: LookUp, exact: Collection[str] = (), include: Collection[str] = (), formats: Formats = SAME
) -> dict[str, str]:
    """Every conv and linear layer in order → "" if it may become a table, else why not.

    exact: names that stay; include: names that are tabulated although stem or classifier; formats: of layers for which it is not `fmt`.
    Errors: TabConvError (unknown names).
    """
    layers = [op for op in graph.ops if op.kind in spec.WEIGHTED]
    unknown = sorted({*exact, *include, *formats} - {op.name for op in layers})
    if unknown:
        raise TabConvError(f"there is no conv or linear layer {unknown[0]!r}; the layers are {', '.join(op.name for op in layers)}")
    return {op.name: _why_exact(graph, op, formats.get(op.name, fmt), exact, op.name in include, op is layers[-1]) for op in layers}


def _why_exact(graph: Graph, op: Op, fmt: LookUp, exact: Collection[str], included: bool, last: bool) -> str:
    size = problem(graph, op)
    if op.name in exact:
        return "asked for"
    if op.element != "i8" or op.format != Dense():
        return f"not dense int8 but {op.format} {op.element}"
    if size.groups != 1:
        return "grouped"
    if included:
        return ""
    if last:
        return "final classifier"
    if size.c <= IMAGE_CHANNELS:
        return "stem"
    if size.p * size.q < LEAST_PIXELS_WORTH:
        return f"too small to gain: {size.p * size.q} pixels"
    if size.c * size.r * size.s < 2 * fmt.v:
        return f"too small to gain: {size.c * size.r * size.s} inputs for codebooks of {fmt.v}"
    return ""


def fit(
    graph: Graph,
    images: Any,
    fmt: LookUp,
    exact: Collection[str] = (),
    include: Collection[str] = (),
    rows: int | None = None,
    seed: int = 0,
    threads: int | None = None,
    progress: Progress = lambda what, done: None,
    formats: Formats = SAME,
) -> tuple[Graph, list[LayerFit]]:
    """The network with every layer that `choose` allows replaced by tables, and what became of each layer.

    graph: int8, from `ptq.quantize`; it is not changed. images: as the network is fed, float32 (n, c, h, w), a few thousand.
    rows: of the im2col matrix per layer; by default 32,768, or 32 for each entry of the tables if that is more. exact, include, formats: as
    `choose`'s.
    Errors: TabConvError (network not int8, no layer left, too few images), InputError.
    """
    found = stages(graph, images, fmt, exact, include, rows, seed, threads, progress, formats)
    return found[-1].made, fits_of(choose(graph, fmt, exact, include, formats), found)


@dataclass(frozen=True, slots=True)
class Stage:
    """The network with tables up to one layer, and how that one was fitted."""

    made: Graph
    fit: LayerFit


def fits_of(chosen: dict[str, str], found: Sequence[Stage]) -> list[LayerFit]:
    """Of all layers that `choose` answered for."""
    fits = {stage.fit.name: stage.fit for stage in found}
    return [fits.get(name) or LayerFit(name, reason) for name, reason in chosen.items()]


def stages(
    graph: Graph, images: Any, fmt: LookUp, exact: Collection[str], include: Collection[str], rows: int | None, seed: int,
    threads: int | None, progress: Progress, formats: Formats, known: Sequence[Stage] = (),
) -> list[Stage]:  # fmt: skip
    """`fit`, layer after layer. known: of a run that differed only in what it left exact; its stages before that are taken over."""
    arrays, chosen = whole(graph, images), choose(graph, fmt, exact, include, formats)
    its = {op.name: formats.get(op.name, fmt) for op in graph.ops}
    todo = [op for op in graph.ops if chosen.get(op.name) == ""]
    need_images(graph, chosen, fmt, formats, len(arrays[0]))
    if rows is not None and rows < 1:
        raise TabConvError(f"rows must be at least 1, got {rows}")
    found = [stage for op, stage in takewhile(lambda pair: pair[0].name == pair[1].fit.name, zip(todo, known))]
    for i, op in enumerate(todo[len(found) :], len(found)):
        tell = _part(progress, f"fitting {op.name}", i / len(todo), 1 / len(todo))
        some = rows or max(ROWS, ROWS_PER_ENTRY * _entries(graph, op, its[op.name]))
        made = found[-1].made if found else graph
        found.append(_fit_layer(graph, made, op, its[op.name], arrays, some, seed + i, thread_count(threads), tell))
    spec.check(found[-1].made)
    return found


def _part(progress: Progress, what: str, start: float, share: float) -> Callable[[float], None]:
    return lambda done: progress(what, start + share * done)


def _entries(graph: Graph, op: Op, fmt: LookUp) -> int:
    """Of the tables, for each output."""
    return fmt.codebooks(weight_shape(graph, op)) * fmt.prototypes


def need_images(graph: Graph, chosen: Mapping[str, str], fmt: LookUp, formats: Formats, images: int, judges: int = 0) -> None:
    """Each image gives p·q rows; a table entry that no row speaks for cannot be fitted.

    chosen: of `choose`. judges: images beside those.
    Errors: TabConvError: no layer is left, or the one that needs most images needs more.
    """
    todo = [op for op in graph.ops if chosen.get(op.name) == ""]
    if not todo:
        why = "; ".join(f"{name}: {reason}" for name, reason in chosen.items())
        raise TabConvError(f"no layer is left to make {fmt}: {why}")

    def needed(op: Op) -> int:
        size = problem(graph, op)
        return -(-_entries(graph, op, formats.get(op.name, fmt)) // (size.p * size.q))

    op = max(todo, key=needed)
    its, size = formats.get(op.name, fmt), problem(graph, op)
    if needed(op) > images:
        raise TabConvError(
            f"layer {op.name}: {_entries(graph, op, its)} prototypes of {its} need at least {needed(op)} images to be fitted to"
            f"{f' beside the {judges} that judge' if judges else ''} ({size.p * size.q} rows each), got {images}; "
            "give more images (--fit-images), a larger v, fewer prototypes, or leave the layer exact"
        )


def _fit_layer(
    graph: Graph, made: Graph, op: Op, fmt: LookUp, images: tuple[np.ndarray, ...], rows: int, seed: int, threads: int,
    tell: Callable[[float], None],
) -> Stage:  # fmt: skip
    shape, units = weight_shape(graph, op), units_of(graph, op)
    found = FITS[type(fmt)](graph, made, op, fmt, images, rows, seed, threads, tell)
    bias = graph.constants[op.params["bias"]] + zero_of(graph, op) * graph.weight(op).sum(axis=(1, 2, 3), dtype=np.int64)
    n = tables.integers(found.tables, found.constant + bias * units)
    got = found.look_up(n.tables) * n.scale + (n.bias * n.scale - bias * units)
    wanted = found.wanted
    error = float(((got - wanted) ** 2).sum() / max(float(((wanted - wanted.mean(axis=0)) ** 2).sum()), 1e-30))
    tell(1.0)
    return Stage(tabulated(made, op, fmt, {**found.parts, "tables": n.tables}, n), LayerFit(op.name, "", error, fmt.padded(shape)))


def _by_rows(
    graph: Graph, made: Graph, op: Op, fmt: Lut, images: tuple[np.ndarray, ...], rows: int, seed: int, threads: int,
    tell: Callable[[float], None],
) -> tables.Fitted:  # fmt: skip
    shape = weight_shape(graph, op)
    depth = int(np.prod(shape[1:]))
    x, wanted = samples(graph, made, op, images, min(rows, ROW_BYTES // (depth + 4 * shape[0])), seed, threads, lambda d: tell(d / 2))
    weight = graph.weight(op).reshape(shape[0], depth) * units_of(graph, op)[:, None]
    trees = grow(x[: max(TREE_ROWS, len(x) // TREE_SHARE)], weight.reshape(shape), fmt, lambda d: tell(0.5 + 0.3 * d))
    code = lut.codes(x, trees.splits, trees.thresholds)
    start = tables.prototypes_times(x, code, fmt.prototypes, subspaces(shape, fmt.v), weight)
    layer = Layer.of_rows(code, fmt.levels, threads)
    entries, constant = solve(layer, wanted[:, None], start.reshape(-1, shape[0]), lambda d: tell(0.8 + 0.2 * d))
    parts = {"splits": trees.splits, "thresholds": trees.thresholds}
    return tables.Fitted(parts, entries.reshape(start.shape).transpose(2, 0, 1), constant, wanted, lambda t: lut.look_up(code, t))


# How a layer of each format is fitted.
FITS: dict[type, Callable[..., tables.Fitted]] = {Lut: _by_rows, PixelLut: pixel_fit.fit}


def tabulated(graph: Graph, op: Op, fmt: LookUp, parts: dict[str, np.ndarray], n: tables.Integers) -> Graph:
    """`graph` with `op` looking up `parts`."""
    y = graph.tensors[op.outputs[0]]
    base = op.params["weight"]
    constants = {name: a for name, a in graph.constants.items() if name != base and not name.startswith(f"{base}.")}
    constants |= {f"{base}.{part}": np.ascontiguousarray(array) for part, array in parts.items()}
    constants[op.params["bias"]] = n.bias
    constants[op.params["multiplier"]] = (n.scale / (y.scale if y.dtype == "u8" else 1.0)).astype(np.float32)
    ops = tuple(replace(o, format=fmt) if o.name == op.name else o for o in graph.ops)
    return replace(graph, ops=ops, constants=constants)
