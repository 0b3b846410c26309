"""Figure of README.md from bench/results: how many times as fast as the fastest other engine. docs/img/speed.svg.

    python bench/plot_speed.py

The first group of the README's table (one machine, one number of threads, one batch): a bar for each network, element and pattern.
"""

from __future__ import annotations

from typing import Any

import matplotlib

matplotlib.use("agg")
from matplotlib import pyplot as plt
from readme_table import RESULTS, ROOT, circumstances, read_results

FIGURE = ROOT / "docs" / "img" / "speed.svg"
COLOURS = {"dense": "0.65", "2:4": "tab:cyan", "1:4": "tab:blue", "1:16": "tab:purple"}


def main() -> None:
    plt.rcParams.update({"svg.hashsalt": "jettison", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False})
    results = [r for r in read_results(RESULTS).values() if "rows" in r]
    where = circumstances(results[0])
    bars = sorted((bar for r in results if circumstances(r) == where for bar in gains(r)), key=lambda bar: (*bar[:2], bar[3]))
    places, labels = [], []
    for i, (model, element, pattern, _) in enumerate(bars):
        first = i == 0 or bars[i - 1][:2] != (model, element)
        places.append(0.0 if i == 0 else places[-1] + (1.5 if first else 1.0))
        labels.append(f"{model}, {element}   {pattern}" if first else pattern)
    figure, ax = plt.subplots(figsize=(7, 0.21 * len(bars) + 1.2), layout="constrained")
    ax.barh(places, [gain for *_, gain in bars], height=0.85, color=[COLOURS.get(pattern, "tab:green") for *_, pattern, _ in bars])
    for place, (*_, gain) in zip(places, bars):
        ax.annotate(f"{gain:.2f}×", (gain, place), xytext=(3, 0), textcoords="offset points", va="center", fontsize=8)
    ax.axvline(1, color="black", linewidth=1)
    ax.set_yticks(places, labels)
    ax.tick_params(axis="y", length=0)
    ax.invert_yaxis()
    ax.set(xlabel="times as fast as the fastest of the other engines, which run dense", title=where.rstrip(":"))
    FIGURE.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(FIGURE, metadata={"Date": None})
    print(FIGURE.relative_to(ROOT))


def gains(r: dict[str, Any]) -> list[tuple[str, str, str, float]]:
    """(network, element, pattern, times as fast) of each row of ours: round by round, as in the table."""
    ours = [row for row in r["rows"] if row["engine"] == "jettison" and row["of_best"]]
    return [(r["model"].removeprefix("timm:"), row["element"], row["pattern"], 1 / row["of_best"][0]) for row in ours]


if __name__ == "__main__":
    main()
