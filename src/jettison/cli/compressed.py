"""What `jettison compress` measures of the networks it made, and shows: a picture, tables, JSON."""

from __future__ import annotations

import tempfile
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import __version__
from ..formats import Block
from ..spec import WEIGHTED
from .budget import show as show_budget
from .lookup import look_ups, show_look_ups
from .tables import Output, byte_count, interval

if TYPE_CHECKING:
    from ..bench.comparison import Comparison
    from ..compression import Compressed
    from ..graph import Graph
    from ..methods import LayerReport
    from ..settings import Settings
    from ..training.data import DataSet

EVAL_BATCH = 100
SLOWEST = 16  # layers in the picture
DENSE = "dense"


@dataclass(frozen=True, slots=True)
class Measured:
    """All networks on this machine, by the names in `Compressed.graphs`. layers_ms: by layer, slowest first. look_up: see `look_ups`."""

    accuracy: dict[str, float]
    file_bytes: dict[str, int]
    timing: Comparison
    layers_ms: dict[str, dict[str, float]]
    look_up: dict[str, dict[str, Any]]


def measured(
    output: Output, result: Compressed, settings: Settings, images: DataSet, out: Path, cpus: list[int], batch: int, runs: int
) -> Measured:
    """Accuracy of all networks as they run, the file written, then the time of all in turns."""
    from .. import file
    from ..bench import Entrant, compare
    from ..bench.target import random_samples
    from ..runtime import Session
    from .eval import session_score

    graphs = result.graphs
    written = list(graphs)[-1]
    with output.progress() as tell, tempfile.TemporaryDirectory(prefix="jettison-compress-") as folder:
        accuracy = {k: session_score(Session(g, threads=len(cpus)), images, EVAL_BATCH, tell).accuracy for k, g in graphs.items()}
        paths = {label: out if label == written else Path(folder) / f"{i}.jettison" for i, label in enumerate(graphs)}
        for label, path in paths.items():
            file.save(graphs[label], path, _meta(settings, images, accuracy, result.kept_float) if path == out else None)
        entrants = [Entrant("jettison", graphs[label].element, label, path, label) for label, path in paths.items()]
        timing = compare(entrants, random_samples(graphs[DENSE], batch, settings.seed), cpus, runs, tell)
        sizes = {label: path.stat().st_size for label, path in paths.items()}
    return Measured(accuracy, sizes, timing, _layer_times(graphs, cpus, batch), look_ups(graphs[written], fits=result.fits))


def _layer_times(graphs: dict[str, Graph], cpus: list[int], batch: int) -> dict[str, dict[str, float]]:
    """Median milliseconds of every convolution and linear layer in all networks, slowest first."""
    from ..analysis.measure import measure
    from ..bench.process import pinned
    from ..bench.target import random_samples
    from ..runtime import Session

    times: dict[str, dict[str, float]] = {}
    with pinned(cpus):
        for label, graph in graphs.items():
            for t in measure(Session(graph, threads=len(cpus)), random_samples(graph, batch, seed=0)).layers:
                if t.kind in WEIGHTED:
                    times.setdefault(t.name, {})[label] = t.median_ms
    shared = {name: ms for name, ms in times.items() if len(ms) == len(graphs)}
    return dict(sorted(shared.items(), key=lambda item: -max(item[1].values())))


def _meta(settings: Settings, images: DataSet, accuracy: dict[str, float], kept_float: list[str]) -> dict[str, Any]:
    """What a user of the file needs to know: what goes in, what comes out, how good it is, how it was made.

    Of paths only the file's name: the folders of this machine are nobody's business.
    """
    paths = {"weights": settings.weights, "teacher": settings.teacher, "model": settings.model, "start": settings.start}
    names = {k: Path(v).name for k, v in paths.items() if v}
    return {
        "made_by": f"jettison {__version__}",
        "classes": list(images.classes),
        "mean": list(images.mean),
        "std": list(images.std),
        "data": Path(images.name).name,
        "accuracy": list(accuracy.values())[-1],
        "dense_accuracy": accuracy[DENSE],
        "kept_float": kept_float,
        "settings": {**asdict(settings), **names},
    }


def show(output: Output, result: Compressed, settings: Settings, images: DataSet, m: Measured, title: str) -> None:
    labels = list(m.accuracy)
    slowest = list(m.layers_ms)[:SLOWEST]
    series = {label: [m.layers_ms[name][label] for name in slowest] for label in labels}
    output.bars("Time per layer" if len(slowest) == len(m.layers_ms) else f"The {SLOWEST} slowest layers", slowest, series, "ms")
    if result.report:
        left = "; ".join(f"{r.name} ({r.reason})" for r in result.report if str(r.format) == DENSE)
        sparse = sum(str(r.format) != DENSE for r in result.report)
        output.say(f"{sparse} of {len(result.report)} layers are {settings.label}; dense: {left or 'none'}")
        if result.budget is not None:
            show_budget(output, result.budget)
        if settings.method == "crisp":
            _show_blocks(output, result)
    show_look_ups(output, m.look_up)
    if result.moved:
        before, after = (sum(getattr(p, k) for p in result.moved) / len(result.moved) for k in ("kept_before", "kept_after"))
        output.say(f"channels moved in {len(result.moved)} places: N:M keeps {after:.1%} of the magnitude there, not {before:.1%}")
    if result.kept_float:
        output.say(f"in f32, the most sensitive: {', '.join(result.kept_float)}")
    dense, *_, last = m.timing.rows
    times = [interval(r.median_ms, r.p10_ms, r.p90_ms) for r in m.timing.rows]
    end = labels[-1]
    rows = [
        ("accuracy", *(f"{m.accuracy[k]:.2%}" for k in labels), f"{100 * (m.accuracy[end] - m.accuracy[DENSE]):+.2f} points"),
        ("median ms (p10 – p90)", *times, _gain(dense.median_ms / last.median_ms, "as fast", "as slow")),
        ("file", *(byte_count(m.file_bytes[k]) for k in labels), _gain(m.file_bytes[DENSE] / m.file_bytes[end], "smaller", "larger")),
    ]
    note = f"accuracy on all {len(images.test)} test images of {images.name}; all run by Jettison; f32 equals PyTorch to {result.error:.0e}"
    output.table(title, ("", *(f">{label}" for label in labels), ">gain"), rows, note)


def _gain(ratio: float, gained: str, lost: str) -> str:
    return f"{ratio:.2f}× {gained}" if ratio >= 1 else f"{1 / ratio:.2f}× {lost}"


def _show_blocks(output: Output, result: Compressed) -> None:
    """What each layer kept; one block per block-row always stays."""
    rows = [(r.name, "×".join(map(str, r.shape)), str(r.format), *_kept(r), r.reason) for r in result.report]
    total = sum(prod(r.shape) for r in result.report if str(r.format) != DENSE)
    left = sum(prod(r.shape) * r.format.density(r.shape) for r in result.report if str(r.format) != DENSE)
    note = f"sparsity of the sparse layers {1 - left / total:.2%}"
    output.table("What is left of each layer", ("layer", "weight (k, r, s, c)", "format", ">blocks kept", ">weights kept", ""), rows, note)


def _kept(r: LayerReport) -> tuple[str, str]:
    blocks = f"{r.format.kept(r.shape)} of {r.format.total(r.shape)}" if isinstance(r.format, Block) else ""
    return blocks, f"{r.format.density(r.shape):.1%}"


def as_json(result: Compressed, settings: Settings, images: DataSet, m: Measured) -> dict[str, Any]:
    from ..bench.machine import provenance

    return {
        "settings": asdict(settings),
        "data": images.name,
        "test_images": len(images.test),
        "accuracy": m.accuracy,
        "file_bytes": m.file_bytes,
        "latency": [asdict(r) for r in m.timing.rows],
        "layers_ms": m.layers_ms,
        "kept_float": result.kept_float,
        "permuted": [asdict(p) for p in result.moved],
        "budget": asdict(result.budget) if result.budget is not None else None,
        "look_up": m.look_up.get(""),
        "layers": [
            {"name": r.name, "format": str(r.format), "density": r.format.density(r.shape), "reason": r.reason}
            | ({"look_up": m.look_up[r.name]} if r.name in m.look_up else {})
            for r in result.report
        ],
        "history": {stage: [asdict(e) for e in epochs] for stage, epochs in result.history.items()},
        "error_against_pytorch": result.error,
        **provenance(),
    }
