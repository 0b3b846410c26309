"""The report: self-contained, and in a real browser without errors, with a table that sorts."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

pytest.importorskip("plotly")
from graphs import small
from jettison.analysis import summary, waterline, works
from jettison.analysis.machine import load
from jettison.analysis.page import ID
from jettison.analysis.report import boxes, html
from jettison.bench.machine import provenance

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.fixture(scope="module")
def data():
    rows = works(small())
    times = {row.name: 0.001 * (i + 1) for i, row in enumerate(rows)}
    found = waterline(rows, load("epyc-zen5"), 2, times, 0.03)
    what_if = [
        {"change": "int8", "macs_kept": 1, "operations": 2, "bound_ms": 1.0, "predicted_ms": 2.0, "measured_ms": None, "error": None}
    ]
    return {**summary(found), "about": {"network": "<small>"}, "what_if": what_if, **provenance()}


@pytest.fixture(scope="module")
def page(data, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(html(data, "a </script> title"), encoding="utf-8")
    return path


def test_the_area_of_the_plot_is_the_measured_time(data):
    for model in ("cold", "cached"):
        figure = boxes(data, model)
        area = sum(w * y for bar in figure.data if bar.type == "bar" for w, y in zip(bar.width, bar.y))
        bounds = sum(max(row["measured_ms"], row[model]["bound_ms"]) for row in data["kernels"])
        assert area == pytest.approx(bounds + data["network"][model]["gap"]["idle_ms"])


def test_the_page_holds_its_data_and_loads_nothing(page, data):
    text = page.read_text(encoding="utf-8")
    inside = re.search(rf'<script type="application/json" id="{ID}">(.*?)</script>', text, re.DOTALL)
    assert inside and json.loads(inside[1]) == json.loads(json.dumps(data))
    assert not re.search(r"<(script|link|img)[^>]+(src|href)=", text.split("<script>")[0])
    shown = text.split("<script>")[0]
    assert "<small>" not in shown
    assert f"jettison {data['machine']['versions']['jettison']}" in shown and "MACs kept, G" in shown


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_browser_shows_it(page, scheme):
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        tab = browser.new_page(color_scheme=scheme)
        tab.set_default_timeout(120_000)  # a busy machine is slow, not wrong
        complaints: list[str] = []
        tab.on("console", lambda m: complaints.append(m.text) if m.type in ("error", "warning") else None)
        tab.on("pageerror", lambda e: complaints.append(str(e)))
        tab.on("request", lambda r: complaints.append(r.url) if not r.url.startswith("file:") else None)
        tab.goto(page.as_uri())
        for plot in ("#waterline", "#gap", "#what-if"):
            tab.wait_for_selector(f"{plot} .bars path", state="attached")
        tab.select_option("#model", "cold")
        table = tab.locator("table").last
        _check_sorting(table, "measured, ms")
        ink = tab.evaluate("getComputedStyle(document.querySelector('#waterline .xtitle')).fill")
        browser.close()
    assert not complaints
    assert (sum(map(int, re.findall(r"\d+", ink)[:3])) > 384) == (scheme == "dark")


def _check_sorting(table, column: str) -> None:
    names = table.locator("th").all_inner_texts()
    at = next(i for i, name in enumerate(names) if name.startswith(column)) + 1
    for direction in (True, False):
        table.locator(f"th:nth-child({at}) button").click()
        values = [float(v) for v in table.locator(f"tbody td:nth-child({at})").all_inner_texts() if v]
        assert len(values) > 3 and values == sorted(values, reverse=direction)
