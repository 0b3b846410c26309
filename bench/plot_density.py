"""Figure of docs/ from bench/results/density_*.json: speed-up over the fastest other engine's dense network against what is left.

python bench/plot_density.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "bench" / "results"
FIGURE = ROOT / "docs" / "img" / "density.svg"
BAR = 4.0  # what a personalised network should gain over the fastest dense engine


def main() -> None:
    plt.rcParams.update({"svg.hashsalt": "jettison", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False})
    results = [json.loads(path.read_text()) for path in sorted(RESULTS.glob("density_*.json"))]
    columns = min(len(results), 2)
    rows = -(-len(results) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(4.5 * columns, 3.4 * rows), layout="constrained", squeeze=False, sharey=True)
    for ax, result in zip(axes.flat, results):
        draw(ax, result)
    FIGURE.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(FIGURE, metadata={"Date": None})
    plt.close(figure)
    print(f"{FIGURE.relative_to(ROOT)} from {len(results)} results")


def draw(ax: Axes, result: dict[str, Any]) -> None:
    """Measured over our own dense network and over the fastest other engine, below the ceiling of the arithmetic."""
    rows, left = result["density"]["rows"], result["density"]["left"]
    ours = {r["pattern"]: r["median_ms"] for r in sorted(rows, key=lambda r: -left[r["pattern"]]["macs"]) if r["engine"] == "jettison"}
    peer = min((r for r in rows if r["engine"] != "jettison"), key=lambda r: r["median_ms"])
    where = f"batch {result['batch']}, {result['threads']} threads\n{result['machine']['processor']}, {result['machine']['isa'][0]}"
    x = [100 * left[pattern]["macs"] for pattern in ours]
    ax.plot(x, [100 / v for v in x], color="0.5", linestyle="--", label="ceiling: all multiply-adds / those left")
    ax.plot(x, [ours["dense"] / ms for ms in ours.values()], marker="o", label="over our dense network")
    ax.plot(x, [peer["median_ms"] / ms for ms in ours.values()], marker="s", label=f"over {peer['engine']}")
    ax.axhline(BAR, color="0.8", linewidth=1, zorder=0)
    ax.set(
        xscale="log", yscale="log", xlabel="multiply-adds left, %", ylabel="times as fast",
        title=f"{result['model']}, {result['element']}, {where}",
    )  # fmt: skip
    ax.set_xticks([10, 20, 50, 100], ["10", "20", "50", "100"])
    ax.set_yticks([1, 2, 4, 8], ["1", "2", "4", "8"])
    ax.minorticks_off()
    ax.invert_xaxis()
    ax.legend(frameon=False, fontsize=8)


if __name__ == "__main__":
    main()
