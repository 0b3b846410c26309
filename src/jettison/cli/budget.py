"""`jettison budget`: how many weights each layer may keep, without training anything."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import InputError, PatternError
from .tables import Json, Output, units

if TYPE_CHECKING:
    from ..budget import Budget

Kept = Annotated[
    float | None,
    typer.Option(help="Share of the weights to keep, with N of N:M chosen layer by layer at the cost of that share in every layer."),
]
Cost = Annotated[str, typer.Option("--budget", help="With --kept, what must not cost more: parameters, macs, or latency as measured here.")]
Formats = Annotated[
    Path | None,
    typer.Option(
        "--formats", help="N:M of each layer as found before: the --json of budget, or of search, whose best trial counts.", metavar="FILE"
    ),
]
M = Annotated[int, typer.Option(help="With --kept: M of N:M, in every layer.", min=1, max=64)]
DEFAULT_M = 16
UNITS = {"parameters": "weights", "macs": "MACs", "latency": "ms"}


def budget(
    model: Annotated[str, typer.Argument(help="The network: zoo name, timm:NAME, or path/to/file.py:function.")],
    kept: Annotated[float, typer.Option(help="Share of the weights to keep; what keeping it in every layer costs is the budget.")] = 0.25,
    m: M = DEFAULT_M,
    cost: Cost = "macs",
    weights: Annotated[Path | None, typer.Option(help="Trained weights. Default: random ones, which say little.")] = None,
    num_classes: Annotated[int | None, typer.Option(help="Outputs of the network. Default: what it was published for.", min=1)] = None,
    size: Annotated[int | None, typer.Option(help="Height and width of the images. Default: what it was published for.", min=1)] = None,
    batch: Annotated[int, typer.Option(help="latency: images per run.", min=1)] = 1,
    element: Annotated[str, typer.Option(help="latency: arithmetic, f32 or int8.")] = "f32",
    threads: Annotated[int | None, typer.Option(help="latency: threads, each on a core of its own. Default: every core.")] = None,
    include: Annotated[list[str] | None, typer.Option(help="Also choose for these layers (stem, classifier …); * allowed.")] = None,
    exclude: Annotated[list[str] | None, typer.Option(help="Leave these layers dense; * allowed, may be repeated.")] = None,
    json: Json = None,
) -> None:
    """Choose N of N:M layer by layer, so that the network as a whole costs no more than with the same N everywhere.

    Nothing is trained: this shows what `jettison compress --kept` would choose. Layers whose channels do not divide by M stay dense.

    Examples:

        jettison budget resnet50 --weights r50.safetensors --kept 0.25

        jettison budget resnet20_cifar --weights resnet20.th --kept 0.5 --budget latency --threads 1 --json shares.json
    """
    import torch

    from .. import zoo
    from ..bench import processors
    from ..bench.machine import provenance
    from ..budget import Timed, check, choose
    from ..formats import NM
    from ..methods import Select
    from ..settings import ELEMENTS

    output = Output(json)
    check(kept, cost, NM(m, m))
    if element not in ELEMENTS:
        raise InputError(f"element {element!r} is not known; it is one of {', '.join(ELEMENTS)}")
    timed = Timed(tuple(processors(threads)), batch, element)
    torch.manual_seed(0)
    c, h, w = zoo.default_input(model)
    net = zoo.build(model, num_classes, c, image_size=size or h)
    if weights is not None:
        zoo.load_weights(net, weights)
    select = Select(include=tuple(include or ()), exclude=tuple(exclude or ()))
    with output.progress() as tell:
        found = choose(net, (c, size or h, size or w), kept, m, cost, select=select, timed=timed, tell=tell)
    show(output, found)
    output.save(
        {"model": model, "kept": kept, "m": m, **asdict(found), "formats": {n: str(f) for n, f in found.formats.items()}, **provenance()}
    )


def average_pattern(pattern: str | None, kept: float | None, m: int, formats: tuple[tuple[str, str], ...] = ()) -> str | None:
    """`pattern`, or with --kept the pattern of a layer that keeps as many as the average, with --formats the most frequent one.

    Errors: PatternError.
    """
    from ..budget import COSTS, check
    from ..formats import NM

    if formats:
        if pattern is not None or kept is not None:
            raise PatternError("--formats says the pattern of each layer; leave out --pattern and --kept")
        sparse = [text for _, text in formats if text != "dense"]
        return Counter(sparse).most_common(1)[0][0] if sparse else None
    if kept is None:
        if m != DEFAULT_M:
            raise PatternError(f"--m {m} has no effect without --kept; --pattern says both, for example 4:{m}")
        return pattern
    if pattern is not None:
        raise PatternError("--kept chooses N for each layer, --pattern gives all the same: write one of them, and M as --m")
    check(kept, COSTS[0], NM(m, m))
    return f"{min(max(round(kept * m), 1), m)}:{m}"


def read_formats(path: Path) -> tuple[tuple[str, str], ...]:
    """(layer, format) from the JSON of `jettison budget`, or of the best trial of `jettison search`. Errors: PatternError."""
    try:
        found = json.loads(path.read_text())
        formats = found["formats"] if "formats" in found else next(t for t in found["trials"] if t["state"] == "complete")["formats"]
    except (OSError, ValueError, KeyError, TypeError, StopIteration) as e:
        raise PatternError(f"--formats {path}: no result of `jettison budget --json`, nor of `search --json` with a finished trial") from e
    if isinstance(formats, str):
        raise PatternError(f"--formats {path}: has one pattern for all layers; write --pattern {formats}")
    if not isinstance(formats, dict) or not all(isinstance(text, str) for text in formats.values()):
        raise PatternError(f'--formats {path}: \'formats\' is no table of layers and patterns, such as {{"conv1": "2:16"}}')
    return tuple(formats.items())


def show(output: Output, found: Budget) -> None:
    """A row for each layer, and what is spent of the budget."""
    unit = UNITS[found.cost]
    rows = [
        (
            s.name,
            "×".join(map(str, s.shape)),
            s.format,
            f"{s.cost:.4g}" if unit == "ms" else units(s.cost),
            f"{s.loss:.1%}",
            f"{s.uniform_loss:.1%}",
        )
        for s in found.shares
    ]
    lost, uniform = (sum(getattr(s, k) for s in found.shares) / len(found.shares) for k in ("loss", "uniform_loss"))
    title = f"Weights of each layer: {units(found.spent)} of {units(found.limit)} {unit} spent"
    note = f"lost: share of the layer's Σ w² that is pruned; {lost:.2%} in the mean, with the same N everywhere {uniform:.2%}"
    output.table(title, ("layer", "weight (k, r, s, c)", "format", f">{unit}", ">lost", ">with the same N"), rows, note)
