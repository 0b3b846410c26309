"""The report: one HTML file that needs no network. Plots by plotly, whose JavaScript is embedded; the data as JSON inside.

It is made from plain data (`summary`, and what the command adds), so a report can be drawn again from its own JSON.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import accumulate
from pathlib import Path
from string import Template
from typing import Any

import plotly.graph_objects as go

from .page import definitions, html_table, page
from .waterline import MODELS

Row = Mapping[str, Any]

# parts of every kernel's time, bottom up: how the legend calls them, colour
PARTS = (("arithmetic at the peak", "#3b7dd8"), ("memory limit", "#e0a030"), ("kernel inefficiency", "#d0563f"))
IDLE = ("idle and dispatch", "#8a8a8a")
NARROW = 0.06  # of the longest bar: no room for a number
MOST_HEIGHT = 8.0  # times its arithmetic: kernels above are drawn beside, as wide as their time needs


def html(data: Mapping[str, Any], title: str) -> str:
    """The page. data: `summary`, with "about" (name → text) and "what_if" (rows, or none)."""
    body = Template(Path(__file__).with_name("report.html").read_text(encoding="utf-8"))
    figures = {**{f"waterline-{m}": boxes(data, m) for m in MODELS}, "gap": gap(data)}
    if data.get("what_if"):
        figures["what-if"] = what_if(data["what_if"])
    filled = body.substitute(
        headline=_headline(data["network"]),
        about=definitions({**data["about"], **_provenance(data)}),
        warnings="".join(f"<p class=warning>{escape(w)}</p>" for w in data["warnings"]),
        advice="".join(f"<li><b>{escape(k)}</b> {escape(v)}</li>" for k, v in data["advice"].items()),
        what_if_table=_what_if_table(data.get("what_if") or []),
        table=_table(data["kernels"]),
    )
    return page(title, filled, data, figures)


# ---- plots


def boxes(data: Mapping[str, Any], model: str) -> go.Figure:
    """Width: time at the peak. Height: times as long. Area: time."""
    places = _places(data, model)
    figure = go.Figure()
    for i, (label, colour) in enumerate((*PARTS, IDLE)):
        figure.add_bar(
            x=[p.left + p.width / 2 for p in places],
            width=[p.width for p in places],
            y=[p.parts[i] / p.width if p.width else 0.0 for p in places],
            name=label,
            hovertext=[p.text for p in places],
            hoverinfo="text",
            marker={"color": colour, "line": {"width": 0.4, "color": "white"}},
        )
    ends = [0.0, sum(p.width for p in places)]
    figure.add_scatter(x=ends, y=[1, 1], mode="lines", name="waterline", line={"width": 2.5, "color": "#0a2a5c"}, hoverinfo="skip")
    figure.update_layout(
        barmode="stack",
        bargap=0,
        hovermode="closest",
        height=460,
        xaxis_title="width: milliseconds that the arithmetic takes at the peak (then kernels with hardly any arithmetic)",
        yaxis_title="height: times as long",
        legend={"orientation": "h", "y": 1.12, "traceorder": "normal"},
    )
    return figure


@dataclass(frozen=True, slots=True)
class Place:
    """A box of the plot. parts: milliseconds of `PARTS` and `IDLE`; their sum over the width is the height."""

    left: float
    width: float
    parts: tuple[float, float, float, float]
    text: str


def _places(data: Mapping[str, Any], model: str) -> list[Place]:
    """Kernels in order, then those with hardly any arithmetic, then idle time."""
    kernels = [(_parts(row, model), _hover(row, model)) for row in data["kernels"]]
    wide = [parts[0] > 0 and sum(parts) <= MOST_HEIGHT * parts[0] for parts, _ in kernels]
    height = max((sum(parts) / parts[0] for (parts, _), is_wide in zip(kernels, wide) if is_wide), default=1.0)
    boxes = [(parts[0], parts, text) for (parts, text), is_wide in zip(kernels, wide) if is_wide]
    boxes += [(sum(parts) / height, parts, text) for (parts, text), is_wide in zip(kernels, wide) if not is_wide]
    idle = (data["network"][model]["gap"] or {}).get("idle_ms", 0.0)
    if idle > 0:
        boxes.append((idle / height, (0.0, 0.0, 0.0, idle), f"idle and dispatch: {idle:.3f} ms"))
    lefts = accumulate((width for width, _, _ in boxes), initial=0.0)
    return [Place(left, *box) for left, box in zip(lefts, boxes)]


def _parts(row: Row, model: str) -> tuple[float, float, float, float]:
    """Arithmetic, memory limit, kernel inefficiency (none if it was faster than its bound); idle time is the network's."""
    bound = row[model]["bound_ms"]
    return row["arithmetic_ms"], bound - row["arithmetic_ms"], max((row["measured_ms"] or 0.0) - bound, 0.0), 0.0


def _hover(row: Row, model: str) -> str:
    limit = row[model]
    lines = [
        f"<b>{escape(row['name'])}</b> {row['kind']} {row['format']} {row['element']}",
        *([f"{len(row['layers'])} layers"] if len(row["layers"]) > 1 else []),
        f"{row['macs_kept'] / 1e6:.2f} M MACs kept of {row['macs_dense'] / 1e6:.2f} M, {row['operations'] / 1e6:.2f} M operations",
        f"{limit['bytes'] / 1e6:.3f} MB of main memory ({model})",
        f"limit {limit['bound_ms']:.4f} ms by {limit['bound_by']}",
    ]
    if row["measured_ms"] is not None:
        lines.append(f"measured {row['measured_ms']:.4f} ms, {limit['share_of_limit'] or 0:.0%} of the limit")
    return "<br>".join(lines)


def gap(data: Mapping[str, Any]) -> go.Figure:
    """Where the time goes, under both models: a bar each."""
    figure, network = go.Figure(), data["network"]
    series = {PARTS[0][0]: [network["arithmetic_ms"]] * 2}
    series[PARTS[1][0]] = [network[m]["bound_ms"] - network["arithmetic_ms"] for m in MODELS]
    if network["measured_ms"] is not None:
        series[PARTS[2][0]] = [network[m]["gap"]["kernel_ms"] for m in MODELS]
        series[IDLE[0]] = [network[m]["gap"]["idle_ms"] for m in MODELS]
    colours, most = dict((*PARTS, IDLE)), max(sum(values[i] for values in series.values()) for i in range(len(MODELS)))
    for label, values in series.items():
        text = [f"{v:.3f} ms" if abs(v) > NARROW * most else "" for v in values]
        look = {"marker": {"color": colours[label]}, "text": text, "textposition": "inside", "hovertemplate": f"{label}: %{{x:.4f}} ms"}
        figure.add_bar(y=[f"{m} traffic" for m in MODELS], x=values, name=label, orientation="h", **look)
    figure.update_layout(barmode="relative", height=230, xaxis_title="milliseconds", legend={"orientation": "h", "y": 1.3})
    return figure


def what_if(rows: Sequence[Row]) -> go.Figure:
    """Bound, prediction and measurement of every scenario."""
    figure = go.Figure()
    names = [row["change"] for row in rows]
    for key, label, colour in (
        ("bound_ms", "bound", PARTS[0][1]),
        ("predicted_ms", "predicted", PARTS[1][1]),
        ("measured_ms", "measured", PARTS[2][1]),
    ):
        if any(row[key] is not None for row in rows):
            figure.add_bar(x=names, y=[row[key] for row in rows], name=label, marker={"color": colour})
    figure.update_layout(barmode="group", height=320, yaxis_title="milliseconds", legend={"orientation": "h", "y": 1.15})
    return figure


# ---- text


def _provenance(data: Mapping[str, Any]) -> dict[str, str]:
    """Where and with what this was made, as `bench.machine.provenance` tells it."""
    if "machine" not in data:
        return {}
    here = data["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in here["versions"].items())
    return {
        "made on": f"{here['processor']}, {here['cores']} cores, {', '.join(here['isa'])}; {here['os']}",
        "versions": versions + (f", commit {data['commit']}" if data["commit"] else ""),
        "date": data["date"],
    }


def _headline(network: Row) -> str:
    macs = f"{network['macs_kept'] / 1e9:.3f} G MACs kept of {network['macs_dense'] / 1e9:.3f} G"
    pairs = {"arithmetic": f"{macs}; {network['operations'] / 1e9:.3f} G operations", "at the peak": f"{network['arithmetic_ms']:.3f} ms"}
    for model in ("cached", "cold"):
        m = network[model]
        pairs[f"with memory, {model}"] = f"{m['bound_ms']:.3f} ms: E* {m['attainable']:.1%} (roofline of the totals {m['roofline']:.1%})"
    if network["measured_ms"] is not None:
        times = f"; efficiency gap {1 / network['efficiency']:.2f}" if network["efficiency"] else ""
        pairs["measured"] = f"{network['measured_ms']:.3f} ms: E {network['efficiency']:.1%}{times}"
    return definitions(pairs)


COLUMNS = (
    ("layer", lambda r: r["name"]),
    ("kind", lambda r: r["kind"]),
    ("format", lambda r: r["format"]),
    ("element", lambda r: r["element"]),
    ("MACs kept, M", lambda r: r["macs_kept"] / 1e6),
    ("MACs dense, M", lambda r: r["macs_dense"] / 1e6),
    ("operations, M", lambda r: r["operations"] / 1e6),
    ("MB cold", lambda r: r["cold"]["bytes"] / 1e6),
    ("MB cached", lambda r: r["cached"]["bytes"] / 1e6),
    ("operations per byte, cold", lambda r: r["cold"]["intensity"]),
    ("limit cold, ms", lambda r: r["cold"]["bound_ms"]),
    ("limit cached, ms", lambda r: r["cached"]["bound_ms"]),
    ("limited by", lambda r: r["cached"]["bound_by"]),
    ("measured, ms", lambda r: r["measured_ms"]),
    ("of limit, %", lambda r: None if r["cached"]["share_of_limit"] is None else 100 * r["cached"]["share_of_limit"]),
)


def _table(rows: Sequence[Row]) -> str:
    return html_table([name for name, _ in COLUMNS], [[value(row) for _, value in COLUMNS] for row in rows])


def _what_if_table(rows: Sequence[Row]) -> str:
    if not rows:
        return ""
    names = ("change", "MACs kept, G", "operations, G", "bound, ms", "predicted, ms", "measured, ms", "error of the prediction, %")
    keys = ("bound_ms", "predicted_ms", "measured_ms")
    errors = [None if r["error"] is None else 100 * r["error"] for r in rows]
    counts = [(r["macs_kept"] / 1e9, r["operations"] / 1e9) for r in rows]
    cells = [[r["change"], *count, *(r[k] for k in keys), error] for r, count, error in zip(rows, counts, errors)]
    return "<h2>What if</h2><div id=what-if></div>" + html_table(names, cells)
