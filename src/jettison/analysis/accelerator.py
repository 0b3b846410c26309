"""What a network would take on a sparse accelerator: cycles and energy per layer, from a few numbers in a TOML file.

A layer has P = n·p·q pixels, k outputs (of g groups) and D = r·s·c / g inputs to each. The array multiplies, each cycle, `lanes_depth`
weights of each of `lanes_outputs` outputs; what it `skips` decides the depth d that is left of D:

    skips     d, of one output                                       weights stored as
    none      D                                                      dense
    2:4       D / 2 if every four hold at most two, else D           kept values, 2 bits each
    blocks    what the format keeps: N:M and whole blocks            the file's own encoding
    any       its non-zeros · activation density                     non-zeros, 1 bit per weight

    tiles     T = g·⌈(k / g) / lanes_outputs⌉
    compute   P · Σ over tiles of ⌈max d in the tile / lanes_depth⌉             cycles: the fullest output keeps the others waiting
    utilisation  P · Σ d / (compute · lanes);     imbalance  compute over compute with the mean d in place of the max
    buffer    P · T · fetched + weights · ⌈P / pixels_held⌉ + outputs + accumulations · P · Σ d         bytes
              fetched: inputs of one pixel for one tile: D; blocks: those of kept blocks; any: D · activation density
    DRAM      min(weights + inputs · ⌈weights / half⌉, inputs + weights · ⌈inputs / half⌉) + outputs,   half: of the buffer
              (inputs, weights that fit into their half are read once)
    cycles    max(compute, buffer / its bytes per cycle, DRAM / its bytes per cycle)
    energy    P · Σ d · (mac + select + register) + buffer bytes · pJ + DRAM bytes · pJ

Convolutions and linear layers only; the rest of a network runs elsewhere at the same cost everywhere.

Source of the comparison: Aggarwal et al. 2024, "CRISP" (arXiv 2311.14272), section IV; its simulator is not public, so this is a model
of our own, and `sensitivity` says what it hangs on.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from math import ceil, isfinite, prod
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError, MachineError
from ..formats import NM, Block, Format
from ..formats.bits import stream_bytes
from ..graph import DTYPES, Graph, Op, problem, weight_shape
from ..spec import WEIGHTED

FOLDER = Path(__file__).parent / "accelerators"
SKIPS = ("none", "2:4", "blocks", "any")
# "Up to", over earlier pruning methods. 14: abstract of arXiv 2311.14272, of both; 30: quoted from its evaluation, not seen by us
PAPER = {"latency": 14.0, "energy": 30.0}
AT_LEAST_1 = ("lanes_outputs", "lanes_depth", "pixels_held")
FACTORS = (0.5, 2.0)  # of each number in turn, for sensitivity


@dataclass(frozen=True, slots=True)
class Accelerator:
    """Bytes and energies of int8 operands. Energies in pJ: per multiply-add, and per byte of each memory."""

    name: str
    skips: str
    clock_hz: float
    lanes_outputs: float
    lanes_depth: float
    pixels_held: float
    buffer_bytes: float
    buffer_bytes_per_cycle: float
    dram_bytes_per_cycle: float
    mac_pj: float
    select_pj: float
    register_pj: float
    buffer_pj_per_byte: float
    dram_pj_per_byte: float
    accumulate_bytes_per_mac: float
    activation_density: float
    sources: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Work:
    """A layer. kept: non-zeros of each output. input, output: bytes."""

    name: str
    pixels: int
    k: int
    depth: int
    groups: int
    format: Format
    kept: np.ndarray
    weight_bytes: int  # as the file stores them
    element_bytes: int
    input_bytes: int
    output_bytes: int

    @property
    def macs(self) -> int:
        """Of dense weights."""
        return self.pixels * self.k * self.depth


@dataclass(frozen=True, slots=True)
class LayerCost:
    """cycles: of each limit; `bound` names the largest. metadata_bytes: indices and bitmaps among the weights' bytes."""

    name: str
    macs: float
    compute_cycles: float
    buffer_cycles: float
    dram_cycles: float
    utilisation: float
    imbalance: float
    weight_bytes: float
    metadata_bytes: float
    buffer_bytes: float
    dram_bytes: float
    energy_pj: Mapping[str, float]

    @property
    def cycles(self) -> float:
        return max(self.compute_cycles, self.buffer_cycles, self.dram_cycles)

    @property
    def bound(self) -> str:
        limits = {"compute": self.compute_cycles, "buffer": self.buffer_cycles, "DRAM": self.dram_cycles}
        return max(limits, key=limits.__getitem__)

    @property
    def total_pj(self) -> float:
        return sum(self.energy_pj.values())


def names() -> list[str]:
    """Accelerators described here, the sparsest first."""
    order = {"crisp-stc": 0, "dstc": 1, "nvidia-stc": 2, "dense": 3}
    return sorted((p.stem for p in FOLDER.glob("*.toml")), key=lambda n: (order.get(n, 9), n))


def load(name: str) -> Accelerator:
    """One of `names()`, or the path of a file like them. Errors: MachineError naming the file and the field."""
    path = FOLDER / f"{name.lower()}.toml" if name.lower() in names() else Path(name)
    try:
        data = tomllib.loads(path.read_text())
    except (FileNotFoundError, IsADirectoryError):
        raise MachineError(f"accelerator {name!r} is not known; known: {', '.join(names())}; or give a .toml file like theirs") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as e:
        raise MachineError(f"{path}: cannot be read: {e}") from e
    sources = data.pop("sources", {})
    wanted = {f.name for f in fields(Accelerator)} - {"sources"}
    if set(data) != wanted or not isinstance(sources, dict):
        missing, extra = sorted(wanted - set(data)), sorted(set(data) - wanted)
        raise MachineError(f"{path}: missing {', '.join(missing) or 'nothing'}; not known: {', '.join(extra) or 'nothing'}")
    if data["skips"] not in SKIPS or not isinstance(data["name"], str):
        raise MachineError(f"{path}: skips must be one of {', '.join(SKIPS)} and name a text, got {data['skips']!r}, {data['name']!r}")
    for field in wanted - {"name", "skips"}:
        value, free = data[field], field in ("select_pj", "accumulate_bytes_per_mac")
        legal = isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value) and (value > 0 or (free and value == 0))
        if not legal or (field == "activation_density" and value > 1) or (field in AT_LEAST_1 and value < 1):
            limit = ", at most 1" * (field == "activation_density") + ", at least 1" * (field in AT_LEAST_1)
            raise MachineError(f"{path}: {field} must be a positive number{limit}, got {value!r}")
        if not isinstance(sources.get(field), str):
            raise MachineError(f"{path}: {field} has no source; say under [sources] where the number comes from")
    return Accelerator(**data, sources=sources)


def work(graph: Graph, n: int = 1) -> list[Work]:
    """Every convolution and linear layer, with the non-zeros of its weights. Errors: InputError for layers of tables, which have none."""
    layers = [op for op in graph.ops if op.kind in WEIGHTED]
    tables = [op.name for op in layers if not op.format.linear]
    if tables:
        raise InputError(f"{', '.join(tables[:3])} and {len(tables)} layers in all are table look-ups, which these machines cannot run")
    return [_work(graph, op, n) for op in layers]


def _work(graph: Graph, op: Op, n: int) -> Work:
    size, shape = problem(graph, op, n), weight_shape(graph, op)
    source, target = graph.tensors[op.inputs[0]], graph.tensors[op.outputs[0]]
    parts = graph.weight_parts(op)
    w = graph.weight(op)
    return Work(
        name=op.name, pixels=n * size.p * size.q, k=size.k, depth=prod(shape[1:]), groups=size.groups, format=op.format,
        kept=np.count_nonzero(w.reshape(len(w), -1), axis=1), weight_bytes=sum(a.nbytes for a in parts.values()),
        element_bytes=w.itemsize, input_bytes=n * source.size * DTYPES[source.dtype].itemsize,
        output_bytes=n * target.size * DTYPES[target.dtype].itemsize,
    )  # fmt: skip


def layer_cost(w: Work, a: Accelerator) -> LayerCost:
    """The formulas of this page for one layer."""
    depth, fetched = _depths(w, a)
    lanes = int(a.lanes_outputs)
    tiles = [group[i : i + lanes] for group in np.split(depth, w.groups) for i in range(0, len(group), lanes)]
    compute = w.pixels * sum(ceil(t.max() / a.lanes_depth - 1e-9) for t in tiles)
    even = w.pixels * sum(ceil(t.mean() / a.lanes_depth - 1e-9) for t in tiles)
    macs = float(w.pixels * depth.sum())
    stored, metadata = _weight_bytes(w, a)
    buffer = w.pixels * len(tiles) * fetched * w.element_bytes + stored * ceil(w.pixels / a.pixels_held) + w.output_bytes
    buffer += a.accumulate_bytes_per_mac * macs
    dram = _dram_bytes(stored, w.input_bytes, a.buffer_bytes / 2) + w.output_bytes
    energy = {
        "mac": macs * (a.mac_pj + a.select_pj),
        "register": macs * a.register_pj,
        "buffer": buffer * a.buffer_pj_per_byte,
        "DRAM": dram * a.dram_pj_per_byte,
    }
    return LayerCost(
        name=w.name, macs=macs, compute_cycles=float(compute), buffer_cycles=buffer / a.buffer_bytes_per_cycle,
        dram_cycles=dram / a.dram_bytes_per_cycle, utilisation=macs / (compute * a.lanes_outputs * a.lanes_depth) if compute else 0.0,
        imbalance=compute / even if even else 1.0, weight_bytes=stored, metadata_bytes=metadata, buffer_bytes=buffer, dram_bytes=dram,
        energy_pj=energy,
    )  # fmt: skip


def _depths(w: Work, a: Accelerator) -> tuple[np.ndarray, float]:
    """(d of each output, inputs fetched per pixel and tile)."""
    whole = np.full(w.k, float(w.depth))
    if a.skips == "any":
        return w.kept * a.activation_density, w.depth * a.activation_density
    if a.skips == "2:4" and _fits_2_4(w.format):
        return whole / 2, w.depth
    if a.skips == "blocks":
        share = w.format.kept(_shape(w)) / w.format.total(_shape(w)) if isinstance(w.format, Block) else 1.0
        return whole * w.format.density(_shape(w)), w.depth * share
    return whole, w.depth


def _shape(w: Work) -> tuple[int, int, int, int]:
    """(k, 1, 1, D): densities depend on the number of blocks alone."""
    return w.k, 1, 1, w.depth


def _fits_2_4(fmt: Format) -> bool:
    """Every four consecutive inputs hold at most two."""
    inner = fmt.inner if isinstance(fmt, Block) else fmt
    return isinstance(inner, NM) and (inner.n == 1 < inner.m or (inner.n <= 2 and inner.m % 4 == 0))


def _weight_bytes(w: Work, a: Accelerator) -> tuple[float, float]:
    """(bytes of the weights as the accelerator stores them, those of indices among them)."""
    dense = w.k * w.depth * w.element_bytes
    if a.skips == "any":
        bitmap, values = stream_bytes(w.k * w.depth, 1), int(w.kept.sum()) * w.element_bytes
        return (values + bitmap, bitmap) if values + bitmap < dense else (dense, 0)
    if a.skips == "2:4" and _fits_2_4(w.format):
        return dense / 2 + stream_bytes(w.k * w.depth // 2, 2), stream_bytes(w.k * w.depth // 2, 2)
    if a.skips == "blocks":
        values = round(w.k * w.depth * w.format.density(_shape(w))) * w.element_bytes
        return w.weight_bytes, w.weight_bytes - values
    return dense, 0


def _dram_bytes(weights: float, inputs: float, half: float) -> float:
    """What fits into its half of the buffer is read once; else the other side is read again for every half of it."""
    return min(
        weights + inputs * (1 if inputs <= half else ceil(weights / half)),
        inputs + weights * (1 if weights <= half else ceil(inputs / half)),
    )


@dataclass(frozen=True, slots=True)
class Total:
    """Of all layers: seconds at the accelerator's clock, joules."""

    seconds: float
    joules: float


def total(layers: Sequence[LayerCost], a: Accelerator) -> Total:
    return Total(sum(c.cycles for c in layers) / a.clock_hz, sum(c.total_pj for c in layers) * 1e-12)


def sensitivity(layers: Sequence[Work], a: Accelerator, baseline: Accelerator) -> list[dict[str, Any]]:
    """What each number moves: latency and energy of `baseline` over those of `a`, with the number halved and doubled in both.

    The largest movement first. A share stays at most 1.
    """

    def gains(factor: float, field: str | None) -> tuple[float, float]:
        both = [_scaled(x, field, factor) if field else x for x in (a, baseline)]
        mine, theirs = (total([layer_cost(w, x) for w in layers], x) for x in both)
        return theirs.seconds / mine.seconds, theirs.joules / mine.joules

    rows = []
    for f in fields(Accelerator):
        if f.name in ("name", "skips", "sources", "clock_hz"):
            continue
        low, high = (gains(factor, f.name) for factor in FACTORS)
        rows.append({"parameter": f.name, "latency": [low[0], high[0]], "energy": [low[1], high[1]]})
    base = gains(1.0, None)

    def moved(row: dict[str, Any]) -> float:
        return max(abs(np.log(v / b)) for what, b in zip(("latency", "energy"), base) for v in row[what])

    return sorted(rows, key=moved, reverse=True)


def _scaled(a: Accelerator, field: str, factor: float) -> Accelerator:
    value = getattr(a, field) * factor
    if field in AT_LEAST_1:
        value = max(1, round(value))
    return replace(a, **{field: min(value, 1.0) if field == "activation_density" else value})
