"""`jettison explain`: every layer of a file, what runs for it and why, what it costs and how long it takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import InputError
from .lookup import look_ups, show_look_ups
from .tables import Json, Output, byte_count, units

if TYPE_CHECKING:
    from ..analysis import Box, Waterline, Work
    from ..runtime import Layer


def explain(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A .jettison file.")],
    batch: Annotated[int, typer.Option(help="Images per run.", min=1)] = 1,
    threads: Annotated[int | None, typer.Option(help="Threads, each on a core of its own. Default: every core.")] = None,
    runs: Annotated[int, typer.Option(help="Measured runs.", min=1)] = 20,
    machine: Annotated[
        str | None, typer.Option(help="What the limits come from: a file of `jettison probe`. Default: a quick probe, now.")
    ] = None,
    tune: Annotated[bool, typer.Option("--tune", help="Choose kernels by measuring them instead of by their modelled cost.")] = False,
    again: Annotated[bool, typer.Option("--again", help="With --tune: measure even what was measured on this machine before.")] = False,
    json: Json = None,
) -> None:
    """Show every layer of a file: format, kernel and why it was chosen, work, bytes, measured time, and how far from the limit.

    MACs are multiply-adds: "dense" for all weights, "kept" for those that are stored; 1 MAC = 2 operations.
    The limit is the time that no kernel could beat here: arithmetic at its peak (for pruned weights: gathered ones),
    or bytes at the bandwidth of the memory that holds them; "of limit" is that time over the measured one.
    JETTISON_ISA=avx2 (or scalar) in the environment shows another instruction set.

    Examples:

        jettison explain model.jettison --threads 1

        jettison explain model.jettison --tune --json layers.json
    """
    from ..analysis import advice, waterline, works
    from ..analysis.machine import load, only
    from ..analysis.measure import measure, this_machine
    from ..bench import processors
    from ..bench.machine import provenance
    from ..bench.process import pinned
    from ..bench.target import random_samples
    from ..runtime import Session
    from ..timings import Timings

    output = Output(json)
    if again and not tune:
        raise InputError("--again measures kernels anew, which --tune asks for; write both")
    given = load(machine) if machine else None
    cpus = processors(threads)
    with pinned(cpus):
        session = Session(file, threads=len(cpus), tune=Timings.load(again=again) if tune else False)
        limits = only(given, session.isa) if given else this_machine(session.threads, session.isa)
        measured = measure(session, random_samples(session.graph, batch, seed=0), runs)
    todo = works(session.graph, batch, groups=session.groups(batch))
    analysis = waterline(todo, limits, session.threads, measured.times_ms, measured.median_ms)
    layers = _rows(session.layers(batch), analysis.boxes, measured.times_ms)
    total = _total(layers, analysis)
    memory = {"arena": session.arena_bytes(batch), "workspace": session.workspace_bytes(batch), "weights": session.packed_bytes}
    memory["arena_layer_by_layer"] = session.arena_bytes(batch, fused=False)
    for row in layers:
        row["share"] = row["median_ms"] / total["median_ms"] if total["median_ms"] else 0.0
    hints = advice(analysis)
    look_up = look_ups(session.graph, {layer.name: layer.kernel for layer in session.layers(batch)}, session.isa)
    for row in layers:
        if row["name"] in look_up:
            row["look_up"] = look_up[row["name"]]
    _show(output, layers, total, f"{file}: {session.isa}, batch {batch}, {session.threads} threads, {runs} runs")
    show_look_ups(output, look_up)
    output.say(
        f"memory of the activations: {byte_count(memory['arena'])} between the steps and {byte_count(memory['workspace'])} inside them; "
        f"between the steps layer by layer: {byte_count(memory['arena_layer_by_layer'])}; weights as kernels read them: "
        f"{byte_count(memory['weights'])}"
    )
    for line in (*(f"{name}: {text}" for name, text in hints.items()), *analysis.warnings()):
        output.say(line)
    data = {"layers": layers, "total": total, "advice": hints, "warnings": analysis.warnings(), "limits": limits.source}
    data |= {"memory_bytes": memory} | ({"look_up": look_up.get("")} if look_up else {})
    data |= {"isa": session.isa, "batch": batch, "threads": session.threads, "runs": runs, "file": str(file)}
    output.save({**data, **provenance()})


def _rows(layers: list[Layer], boxes: Sequence[Box], times_ms: Mapping[str, float]) -> list[dict[str, Any]]:
    """In the order in which they run. A group has one limit, which stands beside its first op."""
    works = {work.name: work for box in boxes for work in box.work.parts or (box.work,)}
    limits = {box.work.names[0]: box for box in boxes}

    def row(name: str, layer: Layer | None) -> dict[str, Any]:
        return _row(name, layer, works.get(name), limits.get(name), times_ms.get(name, 0.0))

    ends = {prefix: [row(name, None) for name in works if name.startswith(prefix)] for prefix in ("input:", "output:")}
    return [*ends["input:"], *(row(layer.name, layer) for layer in layers), *ends["output:"]]


def _row(name: str, layer: Layer | None, work: Work | None, box: Box | None, ms: float) -> dict[str, Any]:
    """A layer, a change of layout at the network's ends (no layer), or a reshape (no work: nothing runs)."""
    return {
        "name": name,
        "kind": work.kind if work else layer.kind if layer else "",
        "format": layer.format if layer else "",
        "kernel": layer.kernel if layer else "",
        "reason": layer.reason if layer else "change of layout",
        "group": list(layer.group) if layer else [],
        "fusion": layer.fusion if layer else "",
        "candidates": [asdict(c) for c in layer.candidates] if layer else [],
        "macs_dense": work.macs_dense if work else 0,
        "macs_kept": work.macs_kept if work else 0,
        "operations": work.operations if work else 0,
        "weight_bytes": layer.cost.weight_bytes if layer and layer.cost else 0,
        "median_ms": ms,
        "arithmetic_ms": box.arithmetic_ms if box else 0.0,
        "limit_ms": box.bound_ms("cached") if box else 0.0,
        "limited_by": box.bound_by("cached") if box else "",
        "share_of_limit": box.share_of_limit("cached") if box else None,
    }


def _total(layers: list[dict[str, Any]], analysis: Waterline) -> dict[str, Any]:
    keys = ("macs_dense", "macs_kept", "operations", "weight_bytes", "median_ms", "arithmetic_ms", "limit_ms")
    total: dict[str, Any] = {key: sum(row[key] for row in layers) for key in keys}
    return total | {"end_to_end_ms": analysis.measured_ms, "efficiency": analysis.efficiency}


def _why(row: dict[str, Any]) -> str:
    """The reason, and what the candidates cost where there was a choice."""
    if len(row["candidates"]) < 2:
        return row["reason"]
    costs = (
        f"{c['kernel']} {c['measured_ms']:.3g} ms" if c["measured_ms"] is not None else f"{c['kernel']} {units(c['cycles'])} cycles"
        for c in row["candidates"]
    )
    return f"{row['reason']} ({', '.join(costs)})"


def _fusion(row: dict[str, Any]) -> str:
    """A bracket around each group, with the reason at its first op."""
    group = row["group"]
    if not group:
        return row["fusion"]
    at = group.index(row["name"])
    return f"┌ {row['fusion']}" if at == 0 else "└" if at == len(group) - 1 else "│"


def _show(output: Output, layers: list[dict[str, Any]], total: dict[str, Any], title: str) -> None:
    columns = (
        "layer",
        "kind",
        "format",
        "kernel",
        "why",
        "fusion",
        ">MACs dense",
        ">MACs kept",
        ">operations",
        ">weights",
        ">ms",
        ">share",
        ">limit",
        "by",
        ">of limit",
    )
    rows: list[Any] = [
        (
            r["name"], r["kind"], r["format"], r["kernel"], _why(r), _fusion(r), _or_blank(r["macs_dense"], units),
            _or_blank(r["macs_kept"], units), _or_blank(r["operations"], units), _or_blank(r["weight_bytes"], byte_count),
            f"{r['median_ms']:.3f}", f"{r['share']:.1%}", _or_blank(r["limit_ms"], "{:.3f}".format), r["limited_by"],
            f"{r['share_of_limit']:.0%}" if r["share_of_limit"] is not None else "",
        )
        for r in layers
    ]  # fmt: skip
    counts = (units(total[key]) for key in ("macs_dense", "macs_kept", "operations"))
    sums = (*counts, byte_count(total["weight_bytes"]), f"{total['median_ms']:.3f}")
    of_limit = f"{total['limit_ms'] / max(total['median_ms'], 1e-9):.0%}"
    rows += [None, ("total", "", "", "", "", "", *sums, "100%", f"{total['limit_ms']:.3f}", "", of_limit)]
    speed = total["operations"] / max(total["median_ms"], 1e-9) / 1e6
    note = (
        f"1 MAC = 2 operations; {speed:.3g} G operations/s; ms: median of each layer; limit: of a group, beside its first layer; "
        f"end to end {total['end_to_end_ms']:.3f} ms, {total['efficiency']:.0%} of the peak"
    )
    output.table(title, columns, rows, note)


def _or_blank(value: float, text: Any) -> str:
    return text(value) if value else ""
