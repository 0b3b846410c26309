"""The part of `jettison compress` that is tabconv's own: tables fitted, or found where an interrupted run left them, then trained."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import file
from ..bench.process import pinned
from ..errors import PatternError, QuantizationError, TrainingError
from ..formats import Format, PixelLut, parse
from ..formats.lut import LookUp
from ..graph import Graph, weight_shape
from ..methods import LayerReport
from ..spec import WEIGHTED
from .fit import choose, fit
from .network import Exact, TableNetwork
from .priority import CRITERIA, Budget, prioritised

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
        raise TrainingError("budgets are for method tabconv")
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
) -> tuple[Graph, list[LayerReport]]:
    """The network of tables and what became of each layer. folder: for the fitted network. train: for `settings.epochs`.

    cpus: processors that fit, and that a budget of milliseconds is measured on.
    """
    fmt, others = formats_of(settings.pattern)
    layers = [op.name for op in int8.ops if op.kind in WEIGHTED]
    exact, include = ([n for n in layers if any(fnmatchcase(n, p) for p in names)] for names in (settings.exclude, settings.include))
    formats: Any = {n: f for p, f in others.items() for n in [name for name in layers if fnmatchcase(name, p)] or [p]}  # unknown: `choose`
    path = folder / "tables.jettison"
    reasons = choose(int8, fmt, exact, include, formats)  # type: ignore[arg-type]
    if resume and path.is_file():
        made = file.load(path)
    else:
        with watch() as progress, pinned(cpus):
            made = _fitted(int8, images(), settings, {"exact": exact, "include": include, "formats": formats}, len(cpus), progress)
        file.save(made, path)
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
    return made, report


def _fitted(int8: Graph, images: np.ndarray, settings: Settings, chosen: dict[str, Any], threads: int, progress: Any) -> Graph:
    budget, fmt, run = budget_of(settings), settings.format, {"seed": settings.seed, "threads": threads, "progress": progress, **chosen}
    if not budget.given:
        return fit(int8, images, fmt, **run)[0]  # type: ignore[arg-type]
    return prioritised(int8, images, fmt, budget, settings.criterion, **run).graph  # type: ignore[arg-type]


def _masked(fmt: object, settings: Settings) -> str:
    return "" if isinstance(fmt, LookUp) else f"masked by {settings.criterion}"
