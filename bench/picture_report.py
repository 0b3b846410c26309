"""docs/img/waterline.png: the top of a real report, as a browser shows it. Needs Playwright and a Chromium.

    python bench/picture_report.py

The report is drawn again from bench/results/waterline_mobilenetv2_100.json, which `jettison waterline --json` wrote.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

from jettison.analysis.report import html

ROOT = Path(__file__).resolve().parent.parent
RESULT = ROOT / "bench" / "results" / "waterline_mobilenetv2_100.json"
PICTURE = ROOT / "docs" / "img" / "waterline.png"
SIZE = {"width": 1100, "height": 1180}


def main() -> None:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        print("no Chromium here: docs/img/waterline.png stays as it is")
        return
    from playwright.sync_api import sync_playwright

    data = json.loads(RESULT.read_text())
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as p:
        page = Path(folder) / "report.html"
        page.write_text(html(data, f"Jettison: {data['about']['network']} on {data['limits']['name']}"), encoding="utf-8")
        browser = p.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        tab = browser.new_page(viewport=SIZE, color_scheme="light")
        tab.set_default_timeout(120_000)
        tab.goto(page.as_uri())
        for plot in ("#waterline", "#gap"):
            tab.wait_for_selector(f"{plot} .bars path", state="attached")
        tab.screenshot(path=PICTURE)
        browser.close()


if __name__ == "__main__":
    main()
