"""Accuracy over milliseconds of one network in int8: dense, N:M, hybrid and table look-up. docs/img/tabconv.svg.

    python bench/plot_tabconv.py

One panel for each network of tables that was measured. Milliseconds are those of one run (bench/results/tabconv.json), accuracies
those of the whole test set: of dense, hybrid and tables from the same file, of N:M after training from bench/results/int8_accuracy.json,
mean of the seeds.
"""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("agg")
from matplotlib import pyplot as plt

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "bench" / "results"
FIGURE = ROOT / "docs" / "img" / "tabconv.svg"
NETWORK = "resnet20_cifar"
NAMES = {"dense": "dense int8", "2:4": "N:M 2:4", "1:4": "N:M 1:4"}


def main() -> None:
    plt.rcParams.update({"svg.hashsalt": "jettison", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False})
    result = RESULTS / "tabconv.json"
    content = json.loads(result.read_text()) if result.is_file() else {"tabconv": [], "hybrids": []}
    rows = [r for r in content["tabconv"] if r["network"] == NETWORK and r["ms"]]
    hybrids = {h["label"]: h["percent"]["int8"] for h in content["hybrids"] if h["network"] == NETWORK}
    if not rows:
        print(f"{result.name}: {NETWORK} is not measured yet; run bench/tabconv.py --time")
        return
    trained = json.loads((RESULTS / "int8_accuracy.json").read_text())["networks"]
    figure, axes = plt.subplots(1, len(rows), figsize=(1 + 4.5 * len(rows), 3.4), layout="constrained", sharey=True, squeeze=False)
    for ax, row in zip(axes[0], rows):
        panel(ax, points(row, trained, hybrids), row)
    axes[0][0].set_ylabel("accuracy, %")
    figure.suptitle(f"{NETWORK} on {rows[0]['data']}")
    FIGURE.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(FIGURE, metadata={"Date": None})
    print(FIGURE.relative_to(ROOT))


def panel(ax: Any, found: list[tuple[str, float, float]], row: dict[str, Any]) -> None:
    """What was measured in one run, on one machine."""
    for i, (label, ms, percent) in enumerate(found):
        ax.plot(ms, percent, "o", color="tab:red" if label.startswith("table") else "tab:blue")
        ax.annotate(label, (ms, percent), xytext=(6, -3 - 10 * (i % 2)), textcoords="offset points")
    ax.set(xlabel="milliseconds an image, batch 1, 1 thread", title="{processor}, {isa[0]}".format(**row["timed"]["machine"]))
    ax.set_xlim(0, 1.6 * max(ms for _, ms, _ in found))
    ax.margins(y=0.12)
    ax.grid(alpha=0.25)


def points(row: dict[str, Any], trained: list[dict[str, Any]], hybrids: dict[str, float]) -> list[tuple[str, float, float]]:
    """(label, milliseconds, percent) of what has both."""
    percent = {"dense": row["percent"]["int8"], row["pattern"]: row["percent"]["tables"], **hybrids}
    for pattern in ("2:4", "1:4"):
        seeds = [t["percent"]["int8"] for t in trained if t["network"] == NETWORK and t["pattern"] == pattern]
        percent |= {pattern: statistics.fmean(seeds)} if seeds else {}
    ms = {t["pattern"]: t["median_ms"] for t in row["ms"] if t["engine"] == "jettison"}
    names = NAMES | {row["pattern"]: f"table look-up {row['pattern']}"} | {h: f"hybrid {h}" for h in hybrids}
    return [(names[p], ms[p], percent[p]) for p in ms if p in percent]


if __name__ == "__main__":
    main()
