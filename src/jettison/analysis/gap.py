"""Efficiency-gap plot: accuracy over latency, once as the arithmetic alone would take at the peak, once as measured.

    t₀ = Σ a_i (ideal)      t = t₀ / E (measured)      on a logarithmic axis the distance between the two is log 1/E

Two curves for each family of networks. A family whose curves are close together uses the machine well; of two with equal
ideal curves the one with the smaller gap is the faster network, though both do the same arithmetic.

Source: Lavin 2024, *On the Efficiency of Convolutional Neural Networks* (arXiv 2404.03617), efficiency-gap plots.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite, sqrt
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SAME = ("processor", "threads", "batch", "data")  # what makes results comparable
COLOURS = ("#3b7dd8", "#d0563f", "#3a9a5b", "#e0a030", "#8a5fc0", "#8a8a8a")


@dataclass(frozen=True, slots=True)
class Point:
    """A network. accuracy: percent."""

    family: str
    network: str
    accuracy: float
    ideal_ms: float
    measured_ms: float

    @property
    def efficiency(self) -> float:
        """E = t₀ / t."""
        return self.ideal_ms / self.measured_ms


def load(names: Sequence[str]) -> tuple[list[Point], dict[str, Any]]:
    """Points of results that `jettison waterline --json` wrote, and what all have in common (`SAME`).

    names: "RESULT.json", or "FAMILY=RESULT.json". Errors: InputError naming the file and what it lacks.
    """
    points, common = [], {}
    for name in names:
        family, _, path = name.rpartition("=")
        data = _read(path)
        points.append(_point(data, family, path))
        about = {"processor": data["machine"]["processor"], "data": data["accuracy"]["data"]} | {
            key: data["about"][key] for key in ("threads", "batch")
        }
        for key, value in about.items():
            if value != "" and common.setdefault(key, value) != value:  # nobody noted on which data a given accuracy was measured
                raise InputError(f"{path}: {key} is {value}, in {names[0]} it is {common[key]}; they cannot stand in one plot")
    return points, {"data": "the test set", **common}


def _read(path: str) -> dict[str, Any]:
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ValueError) as e:
        raise InputError(f"{path}: cannot be read as a result: {e}") from e
    wanted = {"network": ("arithmetic_ms", "measured_ms"), "about": ("network", "threads", "batch"), "machine": ("processor",)}
    found = data if isinstance(data, dict) else {}
    for part, keys in wanted.items():
        if not isinstance(found.get(part), dict) or any(key not in found[part] for key in keys):
            raise InputError(f"{path}: has no {part} with {', '.join(keys)}; it must be written by `jettison waterline TARGET --json`")
    if not isinstance(found.get("accuracy"), dict) or not {"percent", "data"} <= set(found["accuracy"]):
        raise InputError(f"{path}: has no accuracy; a file of `jettison compress` knows its own, else give `waterline` --accuracy")
    return found


def _point(data: Mapping[str, Any], family: str, path: str) -> Point:
    network = str(data["about"]["network"])
    numbers = {"accuracy": data["accuracy"]["percent"], **{k: data["network"][k] for k in ("arithmetic_ms", "measured_ms")}}
    for key, value in numbers.items():
        number = isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value) and value > 0
        if not number:
            raise InputError(f"{path}: {key} must be a positive number, got {value!r}; was the network measured?")
    return Point(family or _family(str(data["about"].get("model") or network)), _short(network), *map(float, numbers.values()))


def _short(network: str) -> str:
    return Path(network).name.removesuffix(".jettison")


def _family(network: str) -> str:
    """The name as far as its first digit or underscore: resnet50 and resnet20_cifar are of "resnet"."""
    name = _short(network).rpartition(":")[2]
    found = re.match(r"[A-Za-z]+", name)
    return found[0] if found else name


def families(points: Sequence[Point]) -> dict[str, list[Point]]:
    """The fastest first in each."""
    found: dict[str, list[Point]] = {}
    for p in sorted(points, key=lambda p: p.measured_ms):
        found.setdefault(p.family, []).append(p)
    return found


def efficiencies(points: Sequence[Point]) -> list[tuple[float, float, str]]:
    """Where to write each E, between the two times, and its text."""
    return [(sqrt(p.ideal_ms * p.measured_ms), p.accuracy, f"E {p.efficiency:.0%}") for p in points]


def html(points: Sequence[Point], common: Mapping[str, Any]) -> str:
    import plotly.graph_objects as go

    from .page import definitions, html_table, page

    figure = go.Figure()
    for i, (family, found) in enumerate(families(points).items()):
        colour = COLOURS[i % len(COLOURS)]
        y, text = [p.accuracy for p in found], [p.network for p in found]
        for times, label, dash, symbol in (
            ([p.ideal_ms for p in found], "ideal", "dot", "circle-open"),
            ([p.measured_ms for p in found], "measured", "solid", "circle"),
        ):
            look = {"line": {"color": colour, "dash": dash}, "marker": {"symbol": symbol, "size": 9}}
            figure.add_scatter(x=times, y=y, text=text, mode="lines+markers", name=f"{family}, {label}", **look)
        for p, (x, accuracy, label) in zip(found, efficiencies(found)):
            line = {"color": colour, "width": 0.7}
            figure.add_scatter(x=[p.ideal_ms, p.measured_ms], y=[accuracy] * 2, mode="lines", line=line, hoverinfo="skip", showlegend=False)
            figure.add_scatter(
                x=[x], y=[accuracy], mode="text", text=[label], textposition="top center", hoverinfo="skip", showlegend=False
            )
    figure.update_xaxes(type="log", title="latency, milliseconds")
    figure.update_yaxes(title=f"accuracy on {common['data']}, %")
    figure.update_layout(height=520, legend={"orientation": "h", "y": 1.12})
    rows = [[p.family, p.network, p.accuracy, p.ideal_ms, p.measured_ms, 100 * p.efficiency] for p in points]
    names = ("family", "network", "accuracy, %", "ideal, ms", "measured, ms", "E, %")
    text = (
        "<p>Every network stands here twice: dotted, as fast as its arithmetic alone would be at the machine's peak; solid, as it was "
        "measured. The distance between the two is its efficiency gap, and E the share of the peak that was reached.</p>"
    )
    body = f"{text}<div id=gap></div>{html_table(names, rows)}<h2>Circumstances</h2><dl>{definitions(common)}</dl>"
    return page("Efficiency gap", body, {"points": rows, "columns": names, **common}, {"gap": figure})


def draw(points: Sequence[Point], common: Mapping[str, Any]) -> Figure:
    """The same as a picture."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5))
    axes = figure.subplots()
    for (family, found), colour in zip(families(points).items(), COLOURS * len(points)):
        y = [p.accuracy for p in found]
        axes.plot([p.ideal_ms for p in found], y, ":o", color=colour, markerfacecolor="none", label=f"{family}, ideal")
        axes.plot([p.measured_ms for p in found], y, "-o", color=colour, label=f"{family}, measured")
        for p, (x, accuracy, label) in zip(found, efficiencies(found)):
            axes.plot([p.ideal_ms, p.measured_ms], [accuracy] * 2, color=colour, linewidth=0.7)
            axes.annotate(label, (x, accuracy), (0, 3), textcoords="offset points", ha="center", fontsize=8)
    axes.set_xscale("log")
    axes.set_xlabel("latency, milliseconds")
    axes.set_ylabel(f"accuracy on {common['data']}, %")
    axes.set_title(f"{common['processor']}, {common['threads']} threads, batch {common['batch']}", fontsize=9)
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)
    figure.tight_layout()
    return figure
