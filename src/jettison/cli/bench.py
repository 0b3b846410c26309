"""`jettison bench`: our time and that of other engines, in one run."""

from __future__ import annotations

import os
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import InputError
from .tables import Json, Output, interval

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..bench.comparison import Comparison, Entrant
    from ..bench.target import Network
    from ..formats import Format

ELEMENTS = ("f32", "bf16", "int8")


def bench(
    target: Annotated[
        str, typer.Argument(help="A .jettison file, or a network by name with random weights: resnet50, timm:NAME, file.py:function.")
    ],
    pattern: Annotated[
        str, typer.Option(help="For a network by name: patterns to prune it to, 'dense', N:M or 32x64/2:4@16%, several with commas.")
    ] = "dense",
    element: Annotated[str, typer.Option(help="Arithmetic: f32, bf16 or int8. A float32 network is quantised on random images.")] = "f32",
    against: Annotated[str, typer.Option(help="Other engines, with commas: inductor, onnxruntime, openvino; 'all' or 'none'.")] = "none",
    batch: Annotated[int, typer.Option(help="Images per run.", min=1)] = 1,
    threads: Annotated[int | None, typer.Option(help="Threads, each on a core of its own. Default: every core.")] = None,
    runs: Annotated[int, typer.Option(help="Timed runs of every engine.", min=1)] = 60,
    image_size: Annotated[int | None, typer.Option("--size", help="Height and width for a network by name.", min=1)] = None,
    seed: Annotated[int, typer.Option(help="Of random weights and inputs.", min=0)] = 0,
    isa: Annotated[
        str | None, typer.Option(help="Limit all engines to an instruction set, such as avx2; those without such a switch stay out.")
    ] = None,
    patience: Annotated[
        float, typer.Option(help="Seconds to wait before a turn, at most, for cores that no neighbour disturbs.", min=0)
    ] = 0.0,
    json: Json = None,
) -> None:
    """Time a network against other engines on this machine.

    Every engine runs in a process of its own, pinned to the same cores, on the same input; they take turns of
    a few runs, so that whatever changes over time meets all alike. Before a time counts, the outputs must agree
    with the reference and with each other.

    Examples:

        jettison bench resnet50 --pattern 1:4,1:16 --against openvino,onnxruntime,inductor --threads 2

        jettison bench resnet50 --pattern 1:4 --element int8 --against openvino,onnxruntime --threads 2

        jettison bench model.jettison --against all --batch 8 --json result.json

        jettison bench resnet50 --element int8 --against openvino --isa avx2
    """
    from ..bench import compare, processors
    from ..bench.target import check_options, networks, random_samples
    from ..runtime import isas

    output = Output(json)
    check_options(target, pattern, image_size)
    formats, engines = _patterns(pattern), _engines(against)
    if isa is not None and isa not in isas():
        raise InputError(f"--isa {isa}: this machine has {', '.join(isas())}")
    if isa is None and os.environ.get("JETTISON_ISA"):
        raise InputError("JETTISON_ISA limits Jettison alone, and no result would say so; unset it, or write --isa to limit all engines")
    if element not in ELEMENTS:
        raise InputError(f"element {element!r} is not known; it is one of {', '.join(ELEMENTS)}")
    cpus = processors(threads)
    with output.progress() as tell, tempfile.TemporaryDirectory(prefix="jettison-bench-") as folder:
        tell(f"building {target}", 0.0)
        found = networks(target, formats, image_size, seed, element)
        if engines and all(network.pattern != "dense" for network in found):
            raise InputError(f"{target} holds table look-ups, which other engines cannot run; write --against none")
        samples = random_samples(found[0].graph, batch, seed)
        result = compare(_entrants(found, engines, element, Path(folder)), samples, cpus, runs, tell, isa, patience)
    _show(output, result, f"{target}, batch {batch}, {len(cpus)} threads" + (f", {isa}" if isa else ""))
    output.save(_json(result, target, batch, len(cpus), samples[0], isa))


def _patterns(text: str) -> list[Format]:
    """Errors: PatternError."""
    from ..formats import parse

    return [parse(word.strip()) for word in text.split(",")]


def _engines(text: str) -> list[str]:
    """The peers asked for. Errors: InputError."""
    from ..peers import ENGINES

    peers = [name for name in ENGINES if name != "jettison"]
    if text in ("all", "none"):
        return peers if text == "all" else []
    names = [word.strip() for word in text.split(",")]
    for name in names:
        if name not in peers:
            raise InputError(f"--against: engine {name!r} is not known; known: {', '.join(peers)}, all, none")
    return list(dict.fromkeys(names))


def _entrants(found: list[Network], engines: list[str], element: str, folder: Path) -> list[Entrant]:
    """Jettison with every network; the others with the dense one, which is all they can make use of."""
    from .. import file
    from ..bench import Entrant

    entrants = []
    for i, network in enumerate(found):
        path = folder / f"{i}.jettison"
        file.save(network.graph, path)
        names = ["jettison", *engines] if network.pattern == "dense" else ["jettison"]
        entrants += [Entrant(name, element, network.pattern, path, network.weights) for name in names]
    return entrants


def _show(output: Output, result: Comparison, title: str) -> None:
    ours = next((r.median_ms for r in result.rows if r.engine == "jettison" and r.pattern == "dense"), None)
    rows: list[Any] = [
        (
            r.engine,
            r.element,
            r.pattern,
            interval(r.median_ms, r.p10_ms, r.p90_ms),
            f"{ours / r.median_ms:.2f}×" if ours else "",
            interval(*r.of_best) if r.of_best else "",
            f"{q.median_ms:.3f}" if q else "never",
            f"{q.of_best[0]:.3f}" if q and q.of_best else "",
            f"{e:.0e}",
        )
        for r, q, e in zip(result.rows, result.quiet, result.errors)
    ]
    columns = (
        "engine",
        "element",
        "pattern",
        ">median ms (p10 – p90)",
        ">vs our dense",
        ">time / best other",
        ">undisturbed ms",
        ">/ best other",
        ">error",
    )
    undisturbed = sum(q.runs for q in result.quiet if q) / sum(r.runs for r in result.rows)
    note = (
        f"{result.rows[0].runs} runs each, in turns; time / best other: over the fastest other engine, round by round; "
        f"undisturbed: the {undisturbed:.0%} of the runs in which no other program or machine took a part of these cores; "
        "error: largest difference to the reference over its largest output"
    )
    output.table(title, columns, rows, note)
    for a in result.absent:
        output.say(f"{a.engine} ({a.element}, {a.pattern}) not measured: {a.reason}")


def _json(result: Comparison, target: str, batch: int, threads: int, inputs: Sequence[Any], isa: str | None) -> dict[str, Any]:
    from ..bench.machine import provenance

    return {
        **asdict(result),
        "model": target,
        "inputs": [list(x.shape) for x in inputs],
        "batch": batch,
        "threads": threads,
        "isa": isa,
        **provenance(),
    }
