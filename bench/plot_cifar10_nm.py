"""docs/img/cifar10_sad.svg from bench/results/cifar10_nm.json: SAD and accuracy by epoch.

python bench/plot_cifar10_nm.py
"""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib

matplotlib.use("agg")
from matplotlib import pyplot as plt
from matplotlib.ticker import MaxNLocator

ROOT = Path(__file__).resolve().parent.parent
RESULT = ROOT / "bench" / "results" / "cifar10_nm.json"
FIGURE = ROOT / "docs" / "img" / "cifar10_sad.svg"
COLOURS = {"dense": "0.55", "2:4": "tab:blue", "1:4": "tab:orange"}
STYLES = ("-", "--", ":", "-.")


def main() -> None:
    result = json.loads(RESULT.read_text())
    plt.rcParams.update({"svg.hashsalt": "jettison", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False})
    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.2), layout="constrained")
    seeds = sorted({r["seed"] for r in result["runs"]})
    for run in result["runs"]:
        look = {"color": COLOURS[run["pattern"]], "linestyle": STYLES[seeds.index(run["seed"]) % len(STYLES)]}
        label = f"{run['pattern']}, seed {run['seed']}"
        epochs = [e["epoch"] for e in run["epochs"]]
        right.plot(epochs, [100 * e["accuracy"] for e in run["epochs"]], label=label, **look)
        if run["pattern"] != "dense":
            left.plot(epochs, [100 * e["sad"] for e in run["epochs"]], label=label, **look)
    left.set(yscale="log", xlabel="epoch", ylabel="SAD in the epoch, % of positions")
    right.set(xlabel="epoch", ylabel="accuracy on the whole test set, %")
    for axes in (left, right):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend(frameon=False, fontsize=8)
        axes.grid(alpha=0.25)
    figure.suptitle(f"SR-STE, {result['model']} on CIFAR-10 ({result['data']})", fontsize=10)
    FIGURE.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(FIGURE, metadata={"Date": None})
    print(f"{FIGURE.relative_to(ROOT)} from {RESULT.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
