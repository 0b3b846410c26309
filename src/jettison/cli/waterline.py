"""`jettison waterline`: where each millisecond of a network goes, on this machine or on another one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import InputError
from .tables import Json, Output, byte_count, check_writable, units

if TYPE_CHECKING:
    from ..analysis import Machine
    from ..graph import Graph

ELEMENTS = {"f32": "f32", "bf16": "bf16", "int8": "i8"}  # as typed → as the analysis calls it


def waterline(
    target: Annotated[
        str, typer.Argument(help="A .jettison file, or a network by name (no weights needed): resnet50, timm:NAME, file.py:function.")
    ],
    machine: Annotated[
        str | None, typer.Option(help="Machine file, or one of those that come with Jettison. Default: a quick probe of this machine.")
    ] = None,
    element: Annotated[
        str | None, typer.Option(help="Arithmetic: f32, int8, or (limits only) bf16. Default: what the file holds, f32 for names.")
    ] = None,
    pattern: Annotated[str, typer.Option(help="For a network by name: 'dense' or N:M.")] = "dense",
    times: Annotated[
        bool | None, typer.Option("--times/--no-times", help="Measure here too. Default: yes without --machine, no with it.")
    ] = None,
    batch: Annotated[int, typer.Option(help="Images per run.", min=1)] = 1,
    threads: Annotated[int | None, typer.Option(help="Threads, each on a core of its own. Default: every core of the machine.")] = None,
    runs: Annotated[int, typer.Option(help="Measured runs.", min=1)] = 20,
    image_size: Annotated[int | None, typer.Option("--size", help="Height and width for a network by name.", min=1)] = None,
    what_if: Annotated[
        list[str] | None,
        typer.Option(
            "--what-if", metavar="CHANGE", help="Limits and predicted times after a change: N:M, int8, fuse, batch=N, joined by '+'."
        ),
    ] = None,
    check: Annotated[
        bool, typer.Option("--measure", help="Measure the changed networks too, and say how wrong the predictions were.")
    ] = False,
    accuracy: Annotated[
        float | None,
        typer.Option(help="Percent, to note in the result for `jettison gap`. Default: what the file says.", min=0, max=100),
    ] = None,
    out: Annotated[Path | None, typer.Option("-o", "--out", metavar="FILE", help="Report to write, HTML.")] = None,
    json: Json = None,
) -> None:
    """Show what the machine permits each layer of a network, what would be possible in all, and where the measured time goes.

    Every layer has a limit: its multiply-adds at the machine's peak, or its bytes at the bandwidth of the memory they
    come from. Bytes are counted twice: "cold", every tensor from memory, and "cached", only what no cache can have kept.
    What was measured above the limits is the kernels' inefficiency, and the rest is idle time and dispatch.

    Examples:

        jettison waterline model.jettison -o report.html

        jettison waterline resnet50 --what-if 1:4 --what-if 1:4+int8 --measure

        jettison waterline timm:convnext_atto --machine a100-sxm-40gb --element bf16 --batch 64
    """
    from ..analysis import summary
    from ..analysis.machine import load
    from ..analysis.study import limits_only, measured
    from ..analysis.whatif import Change, changed
    from ..bench import processors
    from ..bench.machine import provenance
    from ..bench.process import pinned
    from ..bench.target import check_options, pattern_of

    output = Output(json)
    check_options(target, pattern, image_size)
    if out is not None:
        check_writable(out)
    limits = load(machine) if machine else None
    timed = times if times is not None else machine is None
    _refuse(element, timed, limits, check)
    changes = [Change.parse(text) for text in what_if or ()]
    with output.progress() as tell:
        tell(f"building {target}", 0.0)
        graph = _graph(target, pattern, image_size, element if timed else None)
        made = [(change, changed(graph, change)) for change in changes]
        if limits is None or timed:
            cpus = processors(threads)
            with pinned(cpus):
                study = measured(graph, limits, len(cpus), batch, runs, made, check, tell)
        else:
            study = limits_only(graph, limits, threads, batch, ELEMENTS[element] if element else None, made)
    analysis = study.analysis
    about = {"network": target, "element": element or graph.element, "pattern": pattern_of(graph)}
    about |= {"batch": batch, "threads": analysis.threads}
    about |= {"machine": f"{analysis.machine.name} ({analysis.machine.source})", "measured runs": runs if timed else "none"}
    noted = _accuracy(target, accuracy)
    if noted:
        about |= {"accuracy": f"{noted['percent']:.2f}%"} | {k: noted[k] for k in ("data", "model") if noted[k]}
    data = {**summary(analysis), "about": about, "accuracy": noted, "what_if": study.what_if, **provenance()}
    data["warnings"] += study.warnings
    _show(output, data, f"{target} on {analysis.machine.name}, batch {batch}, {analysis.threads} threads")
    output.save(data)
    if out is not None:
        _write(out, data)
        output.say(f"report written to {out.absolute()}")


def _refuse(element: str | None, timed: bool, limits: Machine | None, check: bool) -> None:
    """Errors: InputError for options that contradict each other."""
    if element not in (None, *ELEMENTS):
        raise InputError(f"--element: {element!r} is not known; it is one of {', '.join(ELEMENTS)}")
    if timed and element == "bf16":
        raise InputError("--element bf16: Jettison has no bf16 kernels to measure; name a --machine that has bf16")
    if not timed and limits is None:
        raise InputError("--no-times needs a --machine: `jettison probe -o here.toml` describes this one")
    if check and not timed:
        raise InputError("--measure measures here, and with --machine nothing is: add --times, for a file that `jettison probe` wrote here")


def _graph(target: str, pattern: str, image_size: int | None, element: str | None) -> Graph:
    """The network with weights of any kind: limits do not depend on them. Errors: those of files, the zoo and export."""
    from ..bench.target import networks
    from ..formats import parse

    if element is None and target.endswith(".jettison"):
        from ..file import load

        return load(target)
    return networks(target, [parse(pattern)], image_size, seed=0, element=element or "f32")[-1].graph


def _accuracy(target: str, given: float | None) -> dict[str, Any] | None:
    """{"percent", "data", "model"}: as given, or as `jettison compress` noted in the file; None if nobody knows."""
    from .noted import Noted, read

    noted = read(target) if target.endswith(".jettison") else Noted()
    percent = given if given is not None else None if noted.accuracy is None else 100 * noted.accuracy
    return None if percent is None else {"percent": percent, "data": noted.data, "model": noted.model}


def _write(out: Path, data: Mapping[str, Any]) -> None:
    from ..analysis.report import html
    from ..file import replace

    replace(out, html(data, f"Jettison: {data['about']['network']} on {data['limits']['name']}").encode())


def _show(output: Output, data: Mapping[str, Any], title: str) -> None:
    columns = ("layer", "kind", "format", ">MACs kept", ">operations", ">B cold", ">B cached", ">op/B", ">limit cold", "by")
    columns = (*columns, ">limit cached", "by", ">ms", ">of limit")
    rows: list[Any] = [_cells(row) for row in data["kernels"]]
    network = data["network"]
    layers = sum(row["measured_ms"] or 0.0 for row in data["kernels"])
    traffic = (byte_count(network[m]["bytes"]) for m in ("cold", "cached"))
    total = ("total", "", "", units(network["macs_kept"]), units(network["operations"]), *traffic, "")
    bounds = (f"{network['cold']['bound_ms']:.3f}", "", f"{network['cached']['bound_ms']:.3f}", "", f"{layers:.3f}" if layers else "", "")
    rows += [None, (*total, *bounds)]
    output.table(
        title, columns, rows, "limits and times in ms; 1 MAC = 2 operations; op/B: operations per byte, cold; bytes of main memory"
    )
    output.table("The whole network", ("", ">cold", ">cached"), _whole(network), "E*: arithmetic over limit; E: arithmetic over measured")
    _show_what_if(output, data["what_if"])
    for line in (*(f"{name}: {text}" for name, text in data["advice"].items()), *data["warnings"]):
        output.say(line)


def _show_what_if(output: Output, rows: Sequence[Mapping[str, Any]]) -> None:
    if not rows:
        return
    cells = []
    for r in rows:
        times = ("" if r[k] is None else f"{r[k]:.3f}" for k in ("bound_ms", "predicted_ms", "measured_ms"))
        error = "" if r["error"] is None else f"{r['error']:+.1%}"
        cells.append((r["change"], units(r["macs_kept"]), units(r["operations"]), f"{r['cold_bound_ms']:.3f}", *times, error))
    columns = ("change", ">MACs kept", ">operations", ">limit cold", ">limit cached", ">predicted ms", ">measured ms", ">error")
    output.table(
        "What if", columns, cells, "predicted from kernels measured one by one; error of the prediction, relative to the measurement"
    )


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    cold, cached = row["cold"], row["cached"]
    counts = (units(row[key]) if row[key] else "" for key in ("macs_kept", "operations"))
    traffic = (byte_count(cold["bytes"]), byte_count(cached["bytes"]), f"{cold['intensity']:.3g}")
    limits = (f"{cold['bound_ms']:.3f}", cold["bound_by"], f"{cached['bound_ms']:.3f}", cached["bound_by"])
    measured = "" if row["measured_ms"] is None else f"{row['measured_ms']:.3f}"
    share = "" if cached["share_of_limit"] is None else f"{cached['share_of_limit']:.0%}"
    return (row["name"], row["kind"], row["format"], *counts, *traffic, *limits, measured, share)


def _whole(network: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    def both(name: str, text: Any) -> tuple[str, str, str]:
        return (name, *(text(network[model]) for model in ("cold", "cached")))

    rows = [
        both("arithmetic at the peak, ms", lambda m: f"{network['arithmetic_ms']:.3f}"),
        both("memory limit, ms", lambda m: f"{m['bound_ms'] - network['arithmetic_ms']:.3f}"),
        both("limit, ms", lambda m: f"{m['bound_ms']:.3f}"),
        both("E*", lambda m: f"{m['attainable']:.1%}"),
        both("roofline of the totals", lambda m: f"{m['roofline']:.1%}"),
    ]
    if network["measured_ms"] is None:
        return rows
    return [
        *rows,
        both("kernel inefficiency, ms", lambda m: f"{m['gap']['kernel_ms']:.3f}"),
        both("idle and dispatch, ms", lambda m: f"{m['gap']['idle_ms']:.3f}"),
        both("measured, ms", lambda m: f"{network['measured_ms']:.3f}"),
        both("E", lambda m: f"{network['efficiency']:.1%}"),
    ]
