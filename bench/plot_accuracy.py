"""Figures of docs/ from bench/results: accuracy, SAD and sparsity by epoch, a row for each pattern (accuracy_*.json) or share kept
(budget_*.json), and for the latter accuracy over milliseconds.

python bench/plot_accuracy.py
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from statistics import mean
from typing import Any

import matplotlib

matplotlib.use("agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "bench" / "results"
FIGURES = ROOT / "docs" / "img"
BUDGETS = {"uniform": "tab:blue", "latency": "tab:orange", "macs": "tab:green"}
LABELS = {"width": "width (dense)"}
COLOURS = {"asp": "tab:green", "ste": "tab:olive", "srste": "tab:blue", "maxq": "tab:orange", "width": "tab:red"} | BUDGETS
COLUMNS = (("accuracy", "accuracy, %"), ("sad", "SAD in the epoch, % of positions"), ("sparsity", "pruned weights, %"))


def main() -> None:
    plt.rcParams.update({"svg.hashsalt": "jettison", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False})
    for path in sorted(RESULTS.glob("accuracy_*.json")):
        result = json.loads(path.read_text())
        by_pattern = grouped((r["pattern"], r) for r in result["runs"] if r["pattern"] != "dense")
        curves(by_pattern, f"{result['model']} on {result['data']}", FIGURES / f"{path.stem}.svg")
    for path in sorted(RESULTS.glob("budget_*.json")):
        result = json.loads(path.read_text())
        if result["budget"]:  # else only times are measured
            over_time(result, FIGURES / f"{path.stem}.svg")
            by_share = grouped((f"{r['kept']:g} kept", r) for r in result["budget"] if r["case"] in BUDGETS)
            curves(by_share, f"{result['model']}, N layer by layer", FIGURES / f"{path.stem}_epochs.svg")


def grouped(runs: Iterable[tuple[str, dict[str, Any]]]) -> dict[str, list[dict[str, Any]]]:
    """Runs by what stands before them."""
    found: dict[str, list[dict[str, Any]]] = {}
    for key, run in runs:
        found.setdefault(key, []).append(run)
    return found


def over_time(result: dict[str, Any], path: Path) -> None:
    """A point for each trained network, mean, least and best of its seeds, those of one case joined; a star where all start."""
    figure, ax = plt.subplots(figsize=(6, 4), layout="constrained")
    cases: dict[str, dict[float, list[float]]] = {}  # case → milliseconds → accuracy of every seed
    for run in result["budget"]:
        ms = result["times"][f"{run['case']}-{run['kept']:g}"]["median_ms"]
        cases.setdefault(run["case"], {}).setdefault(ms, []).append(100 * run["accuracy"])
    for case, networks in cases.items():
        ms = sorted(networks)
        means = [mean(networks[x]) for x in ms]
        around = [[m - min(networks[x]) for x, m in zip(ms, means)], [max(networks[x]) - m for x, m in zip(ms, means)]]
        ax.errorbar(ms, means, around, marker="o", capsize=3, label=LABELS.get(case, case), color=COLOURS[case], alpha=0.8)
    start = 100 * result["budget"][0]["start"]["accuracy"]
    ax.plot([result["times"]["dense"]["median_ms"]], [start], "k*", label="dense, where all start")
    images = f", {result['images']} images" if result["images"] else ""
    ax.set(xlabel="median milliseconds an image", ylabel="accuracy, %", title=f"{result['model']}, {result['epochs']} epochs{images}")
    ax.grid(alpha=0.25)
    ax.legend(frameon=False)
    save(figure, path)


def curves(by_pattern: dict[str, list[dict[str, Any]]], title: str, path: Path) -> None:
    size = (9, 2.3 * len(by_pattern))
    figure, rows = plt.subplots(len(by_pattern), len(COLUMNS), figsize=size, layout="constrained", squeeze=False, sharex=True)
    for axes, (pattern, runs) in zip(rows, by_pattern.items()):
        for ax, (key, label) in zip(axes, COLUMNS):
            for run in runs:
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
    figure.suptitle(f"{title}, one line for each seed", fontsize=10)
    save(figure, path)


def save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
    print(path.relative_to(ROOT))


def curve(ax: Axes, run: dict[str, Any], key: str) -> None:
    points = [(e["epoch"], 100 * e[key]) for e in run["epochs"] if e.get(key) is not None]
    if points:
        ax.plot(*zip(*points), label=run["case"], color=COLOURS.get(run["case"], "0.4"), alpha=0.8, linewidth=1.2)


if __name__ == "__main__":
    main()
