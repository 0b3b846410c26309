"""`jettison gap`: accuracy over latency, ideal and measured, for families of networks."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from ..errors import InputError
from .picture import PICTURES, check_picture, save
from .tables import Json, Output, check_writable


def gap(
    results: Annotated[
        list[str],
        typer.Argument(metavar="[FAMILY=]RESULT.json…", help="Results of `jettison waterline --json` whose accuracy is known."),
    ],
    out: Annotated[Path | None, typer.Option("-o", "--out", metavar="FILE", help="Plot to write: .html, .png, .svg or .pdf.")] = None,
    json: Json = None,
) -> None:
    """Draw the efficiency gap: accuracy over latency, as arithmetic alone would take at the peak, and as measured.

    The distance between the two is what memory, kernels and idle time cost; E, the share of the peak, is written at each pair.
    Accuracy comes with files that `compress` wrote; for other networks give `waterline` --accuracy. The family is the network's
    name up to its first digit, unless it is given.

    Examples:

        jettison waterline r20.jettison --json r20.json

        jettison gap r20.json r32.json "2:4=r20-24.json" -o gap.html
    """
    from ..analysis.gap import draw, families, html, load
    from ..file import replace

    output = Output(json)
    if out is not None:
        if out.suffix not in (".html", *PICTURES):
            raise InputError(f"-o {out}: write a .html page or a picture, {', '.join(PICTURES)}")
        (check_writable if out.suffix == ".html" else check_picture)(out)
    points, common = load(results)
    rows = [
        (p.family, p.network, f"{p.accuracy:.2f}%", f"{p.ideal_ms:.3f}", f"{p.measured_ms:.3f}", f"{p.efficiency:.1%}")
        for found in families(points).values()
        for p in found
    ]
    title = f"{common['data']}, {common['processor']}, batch {common['batch']}, {common['threads']} threads"
    columns = ("family", "network", ">accuracy", ">ideal ms", ">measured ms", ">E")
    output.table(title, columns, rows, "ideal: all operations at the machine's peak; E: ideal over measured")
    if out is not None:
        if out.suffix == ".html":
            replace(out, html(points, common).encode())
        else:
            save(draw(points, common), out)
        output.say(f"plot written to {out.absolute()}")
    output.save({"points": [{**asdict(p), "efficiency": p.efficiency} for p in points], **common})
