"""The part of `jettison compress` that is tabconv's own: tables fitted, or found where an interrupted run left them, then trained."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import file
from ..bench.process import pinned
from ..errors import PatternError, QuantizationError, TabConvError, TrainingError
from ..formats import Format, PixelLut, parse
from ..formats.lut import LookUp
from ..graph import Graph, weight_shape
from ..methods import LayerReport
from ..spec import WEIGHTED
from .fit import LayerFit, choose, fit, need_images
from .network import Exact, TableNetwork
from .priority import CRITERIA, Budget, parted, prioritised

if TYPE_CHECKING:
    from ..settings import Settings

METHOD = "tabconv"  # none of `METHODS`: in the end there are no weights
PATTERN = "lut9"  # where none is named
LR = 0.02  # share of the learning rate, as AdamW trains the tables
LR_BY_PIXEL = 4.0  # over the number of prototypes, if that is less, where codes are those of pixels: these start so near that noise counts

Watch = Callable[[], AbstractContextManager[Callable[[str, float], None]]]


def rate(pattern: str) -> float:
    """Share of the learning rate for tables of these formats."""
    fmt, others = formats_of(pattern)
    return min([LR, *(LR_BY_PIXEL / f.prototypes for f in (fmt, *others.values()) if isinstance(f, PixelLut))])


def budget_of(settings: Settings) -> Budget:
    """What `settings` say must hold. Errors: TabConvError."""
    return Budget(settings.budget_ops, settings.budget_accuracy, settings.budget_ms)


def formats_of(pattern: str) -> tuple[Format, dict[str, Format]]:
    """ "lut9x256,layer3.*=lut6x256" → the pattern, and those of layers that have another, by name with *. Errors: PatternError."""
    first, *others = (part.strip() for part in pattern.split(","))
    named = {}
    for part in others:
        name, equal, its = (t.strip() for t in part.partition("="))
        if not (name and equal):
            raise PatternError(f"pattern {pattern!r}: {part!r} is not LAYER=PATTERN; for example '{PATTERN},layer3.*=lut6x64'")
        named[name] = parse(its)
    return parse(first), named


def check(settings: Settings) -> None:
    """Errors: PatternError, QuantizationError, TrainingError, TabConvError for settings that only make sense together."""
    fmt, others = formats_of(settings.pattern)
    if others and not all(isinstance(f, LookUp) for f in (fmt, *others.values())):
        raise PatternError(f"pattern {settings.pattern!r}: only table look-up, lutV or pixelV, may differ from layer to layer")
    wanted, made = isinstance(fmt, LookUp), settings.method == METHOD
    if wanted != made:
        what = f"pattern {settings.pattern} is made by method tabconv" if wanted else "method tabconv makes pattern lutV or pixelV"
        raise PatternError(f"{what}; write --method tabconv --pattern {settings.pattern if wanted else PATTERN}")
    if made and (settings.element != "int8" or settings.qat_epochs):
        raise QuantizationError("tables are looked up by u8: write element int8, and no quantisation-aware epochs")
    if budget_of(settings).given and not made:
        raise TrainingError("--budget-ops, --budget-accuracy and --budget-ms are for method tabconv")
    if settings.criterion not in CRITERIA:
        raise TrainingError(f"criterion must be one of {', '.join(CRITERIA)}, got {settings.criterion!r}")


def tables_network(
    int8: Graph,
    settings: Settings,
    images: Callable[[], np.ndarray],
    folder: Path,
    resume: bool,
    train: Callable[..., None],
    watch: Watch,
    cpus: Sequence[int],
) -> tuple[Graph, list[LayerReport], list[LayerFit]]:
    """The network of tables, what became of each layer, and how each was fitted. folder: for the fitted network.

    train: for `settings.epochs`. cpus: processors that fit, and that a budget of milliseconds is measured on.
    Errors: those of `fit` and `prioritised`.
    """
    path, chosen = folder / "tables.jettison", _chosen(int8, settings)
    reasons = choose(int8, **chosen)
    if resume and path.is_file():
        made, fits = file.load(path), [LayerFit(**f) for f in file.load_meta(path).get("fits", ())]
    else:
        with watch() as progress, pinned(cpus):
            made, fits = _fitted(int8, images(), settings, chosen, len(cpus), progress)
        file.save(made, path, {"fits": [asdict(f) for f in fits]})
    if settings.epochs:
        exact = Exact(int8)
        net = TableNetwork(made, exact)
        train("tables", net, None, guide=exact, advance=net.advance)
        made = net.trained()
    report = [
        LayerReport(o.name, weight_shape(made, o), o.format, reasons[o.name] or _masked(o.format, settings))
        for o in made.ops
        if o.kind in WEIGHTED
    ]
    return made, report, fits


def refuse(graph: Graph, settings: Settings) -> None:
    """What cannot be fitted, from an exported network, which need be neither trained nor quantised. Errors: TabConvError."""
    int8 = replace(graph, ops=tuple(replace(o, element="i8") if o.kind in WEIGHTED else o for o in graph.ops))
    chosen = _chosen(int8, settings)
    reasons = choose(int8, **chosen)
    for named in formats_of(settings.pattern)[1]:
        own = {name: why for name, why in reasons.items() if fnmatchcase(name, named)}
        left = [name for name in own if name not in chosen["exact"]]
        if left and all(own.values()):
            why = f"{left[0]} stays exact ({own[left[0]]})"
            raise TabConvError(f"the pattern of {named} is that of no layer: {why}; add --include '{named}', or leave the pattern out")
    budgeted = budget_of(settings).given
    need_images(int8, reasons, chosen["fmt"], chosen["formats"], *parted(settings.fit_images) if budgeted else (settings.fit_images, 0))


def _chosen(graph: Graph, settings: Settings) -> dict[str, Any]:
    """Arguments of `choose`: names written out."""
    fmt, others = formats_of(settings.pattern)
    layers = [op.name for op in graph.ops if op.kind in WEIGHTED]
    exact, include = ([n for n in layers if any(fnmatchcase(n, p) for p in names)] for names in (settings.exclude, settings.include))
    formats = {n: f for p, f in others.items() for n in [name for name in layers if fnmatchcase(name, p)] or [p]}  # unknown: `choose`
    return {"fmt": fmt, "exact": exact, "include": include, "formats": formats}


def _fitted(
    int8: Graph, images: np.ndarray, settings: Settings, chosen: dict[str, Any], threads: int, progress: Any
) -> tuple[Graph, list[LayerFit]]:
    budget, run = budget_of(settings), {"seed": settings.seed, "threads": threads, "progress": progress, **chosen}
    if not budget.given:
        return fit(int8, images, **run)
    made = prioritised(int8, images, budget=budget, criterion=settings.criterion, **run)
    return made.graph, made.fits


def _masked(fmt: object, settings: Settings) -> str:
    return "" if isinstance(fmt, LookUp) else f"masked by {settings.criterion}"
