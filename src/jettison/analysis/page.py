"""A page that needs no network: plots by plotly, whose JavaScript is embedded, tables that sort, and the data as JSON inside.

Light and dark follow the reader's system.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import Any

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

ID = "jettison-data"


def page(title: str, body: str, data: Any, figures: Mapping[str, go.Figure]) -> str:
    """body: HTML, with an element for each figure by its id."""
    return Template(Path(__file__).with_name("page.html").read_text(encoding="utf-8")).substitute(
        title=escape(title),
        body=body,
        id=ID,
        json=json.dumps(data, allow_nan=False).replace("<", "\\u003c"),
        plotly=get_plotlyjs(),
        figures="{" + ", ".join(f'"{name}": {f.to_json()}' for name, f in figures.items()).replace("<", "\\u003c") + "}",
    )


def definitions(pairs: Mapping[str, str]) -> str:
    return "".join(f"<dt>{escape(k)}</dt><dd>{escape(str(v))}</dd>" for k, v in pairs.items())


def html_table(names: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    head = "".join(f"<th><button>{escape(n)}</button></th>" for n in names)
    body = "".join("<tr>" + "".join(_cell(v) for v in row) + "</tr>" for row in rows)
    return f"<div class=scroll><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"


def _cell(value: Any) -> str:
    """data-value is what sorting compares."""
    if value is None:
        return "<td></td>"
    if isinstance(value, str):
        return f"<td>{escape(value)}</td>"
    return f'<td class=number data-value="{value!r}">{value:.4g}</td>'
