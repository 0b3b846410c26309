"""`jettison explain`: every layer of a file, what runs for it and why, what it costs and how long it takes."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .tables import Json, Output, byte_count, units

if TYPE_CHECKING:
    from ..runtime import Layer, LayerTime


def explain(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A .jettison file.")],
    batch: Annotated[int, typer.Option(help="Images per run.", min=1)] = 1,
    threads: Annotated[int | None, typer.Option(help="Threads, each on a core of its own. Default: every core.")] = None,
    runs: Annotated[int, typer.Option(help="Measured runs.", min=1)] = 20,
    tune: Annotated[bool, typer.Option("--tune", help="Choose kernels by measuring them instead of by their modelled cost.")] = False,
    json: Json = None,
) -> None:
    """Show every layer of a file: format, kernel and why it was chosen, work, bytes, measured time and share.

    MACs are multiply-adds: "dense" for all weights, "kept" for those that are stored; 1 MAC = 2 operations.
    JETTISON_ISA=avx2 (or scalar) in the environment shows another instruction set.

    Examples:

        jettison explain model.jettison --threads 1

        jettison explain model.jettison --tune --json layers.json
    """
    from ..bench import processors
    from ..bench.machine import provenance
    from ..bench.process import pinned
    from ..bench.target import random_inputs
    from ..runtime import Session

    output = Output(json)
    cpus = processors(threads)
    with pinned(cpus):
        session = Session(file, threads=len(cpus), tune=tune)
        times = session.profile(*random_inputs(session.graph, batch, seed=0), runs=runs)
    layers = [_row(layer, times) for layer in session.layers(batch)]
    layers = [*_steps(times, "input:"), *layers, *_steps(times, "output:")]
    total = {key: sum(row[key] for row in layers) for key in ("macs_dense", "macs_kept", "weight_bytes", "median_ms")}
    total |= {"operations_dense": 2 * total["macs_dense"], "operations_kept": 2 * total["macs_kept"]}
    for row in layers:
        row["share"] = row["median_ms"] / total["median_ms"] if total["median_ms"] else 0.0
    _show(output, layers, total, f"{file}: {session.isa}, batch {batch}, {session.threads} threads, {runs} runs")
    data = {"layers": layers, "total": total, "isa": session.isa, "batch": batch, "threads": session.threads, "runs": runs}
    output.save({**data, "file": str(file), **provenance()})


def _row(layer: Layer, times: list[LayerTime]) -> dict[str, Any]:
    time = next((t for t in times if t.name == layer.name), None)
    return {
        "name": layer.name,
        "kind": layer.kind,
        "format": layer.format,
        "kernel": layer.kernel,
        "reason": layer.reason,
        "candidates": [asdict(c) for c in layer.candidates],
        "macs_dense": layer.problem.macs if layer.problem else 0,
        "macs_kept": layer.cost.macs if layer.cost else 0,
        "weight_bytes": layer.cost.weight_bytes if layer.cost else 0,
        "median_ms": time.median_ms if time else 0.0,
    }


def _steps(times: list[LayerTime], prefix: str) -> list[dict[str, Any]]:
    """Changes of layout at the network's ends: time, but no layer."""
    blank = {"format": "", "kernel": "", "reason": "change of layout", "candidates": [], "macs_dense": 0, "macs_kept": 0, "weight_bytes": 0}
    return [{"name": t.name, "kind": t.kind, **blank, "median_ms": t.median_ms} for t in times if t.name.startswith(prefix)]


def _why(row: dict[str, Any]) -> str:
    """The reason, and what the candidates cost where there was a choice."""
    if len(row["candidates"]) < 2:
        return row["reason"]
    costs = (
        f"{c['kernel']} {c['measured_ms']:.3g} ms" if c["measured_ms"] is not None else f"{c['kernel']} {units(c['cycles'])} cycles"
        for c in row["candidates"]
    )
    return f"{row['reason']} ({', '.join(costs)})"


def _show(output: Output, layers: list[dict[str, Any]], total: dict[str, Any], title: str) -> None:
    columns = ("layer", "kind", "format", "kernel", "why", ">MACs dense", ">MACs kept", ">weights", ">ms", ">share")
    rows: list[Any] = [
        (
            r["name"], r["kind"], r["format"], r["kernel"], _why(r), _or_blank(r["macs_dense"], units), _or_blank(r["macs_kept"], units),
            _or_blank(r["weight_bytes"], byte_count), f"{r['median_ms']:.3f}", f"{r['share']:.1%}",
        )
        for r in layers
    ]  # fmt: skip
    sums = (units(total["macs_dense"]), units(total["macs_kept"]), byte_count(total["weight_bytes"]), f"{total['median_ms']:.3f}")
    rows += [None, ("total", "", "", "", "", *sums, "100%")]
    speed = total["operations_dense"] / max(total["median_ms"], 1e-9) / 1e6
    note = (
        f"{units(total['operations_dense'])} operations dense, {units(total['operations_kept'])} operations kept (1 MAC = 2 operations); "
        f"{speed:.3g} G dense operations/s; ms: median of each layer"
    )
    output.table(title, columns, rows, note)


def _or_blank(value: float, text: Any) -> str:
    return text(value) if value else ""
