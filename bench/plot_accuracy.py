"""Figures of docs/ from bench/results/accuracy_*.json: accuracy, SAD and sparsity by epoch, a row for each pattern.

python bench/plot_accuracy.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "bench" / "results"
FIGURES = ROOT / "docs" / "img"
COLOURS = {"asp": "tab:green", "ste": "tab:olive", "srste": "tab:blue", "maxq": "tab:orange"}
COLUMNS = (("accuracy", "accuracy, %"), ("sad", "SAD in the epoch, % of positions"), ("sparsity", "pruned weights, %"))


def main() -> None:
    plt.rcParams.update({"svg.hashsalt": "jettison", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False})
    for path in sorted(RESULTS.glob("accuracy_*.json")):
        result = json.loads(path.read_text())
        figure = FIGURES / f"{path.stem}.svg"
        draw(result, figure)
        print(f"{figure.relative_to(ROOT)} from {path.relative_to(ROOT)}")


def draw(result: dict[str, Any], path: Path) -> None:
    patterns = list(dict.fromkeys(r["pattern"] for r in result["runs"] if r["pattern"] != "dense"))
    figure, rows = plt.subplots(
        len(patterns), len(COLUMNS), figsize=(9, 2.3 * len(patterns)), layout="constrained", squeeze=False, sharex=True
    )
    for axes, pattern in zip(rows, patterns):
        for ax, (key, label) in zip(axes, COLUMNS):
            for run in result["runs"]:
                if run["pattern"] == pattern:
                    curve(ax, run, key)
            ax.set(ylabel=label, title=pattern if key == "accuracy" else None)
            ax.xaxis.set_major_locator(MaxNLocator(integer=True))
            ax.grid(alpha=0.25)
        axes[1].set_yscale("symlog", linthresh=0.01)
        handles, labels = axes[0].get_legend_handles_labels()
        shown = dict(zip(labels, handles))
        axes[0].legend(shown.values(), shown.keys(), frameon=False, fontsize=8)
    for ax in rows[-1]:
        ax.set_xlabel("epoch")
    figure.suptitle(f"{result['model']} on {result['data']}, one line for each seed", fontsize=10)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def curve(ax: Axes, run: dict[str, Any], key: str) -> None:
    points = [(e["epoch"], 100 * e[key]) for e in run["epochs"] if e.get(key) is not None]
    if points:
        ax.plot(*zip(*points), label=run["case"], color=COLOURS.get(run["case"], "0.4"), alpha=0.8, linewidth=1.2)


if __name__ == "__main__":
    main()
