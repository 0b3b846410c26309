"""ResNet-50 at 92% sparsity on four accelerators, by the analytical model: docs/img/accelerator.svg and bench/results/accelerator.json.

    python bench/accelerator.py

Deterministic: a model with assumptions, no measurement. Weights are random; which of them are left does not matter to it but for the
imbalance of machines that skip any zero. The sensitivity is that of CRISP-STC's gain over each of the others.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

import matplotlib

matplotlib.use("agg")
from density import PERSONAL
from matplotlib import pyplot as plt

from jettison.analysis import accelerator as model
from jettison.bench.target import in_element, random_graph
from jettison.cli.simulate import draw
from jettison.file import replace
from jettison.formats import parse

ROOT = Path(__file__).resolve().parent.parent
MODEL = "resnet50"


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--result", type=Path, default=ROOT / "bench" / "results" / "accelerator.json")
    p.add_argument("--figure", type=Path, default=ROOT / "docs" / "img" / "accelerator.svg")
    args = p.parse_args()
    layers = model.work(in_element(random_graph(MODEL, parse(PERSONAL), None, 0), "int8", 0), 1)
    machines = [model.load(name) for name in model.names()]
    costs = {a.name: [model.layer_cost(w, a) for w in layers] for a in machines}
    totals = {a.name: model.total(costs[a.name], a) for a in machines}
    first, *others = machines
    result = {
        "accelerator": {
            name: {
                **asdict(totals[name]),
                "layers": [{"name": c.name, "cycles": c.cycles, "bound": c.bound, "pj": c.total_pj} for c in own],
            }
            for name, own in costs.items()
        },
        "sensitivity": {other.name: model.sensitivity(layers, first, other) for other in others},
        "numbers": {a.name: {f: {"value": getattr(a, f), "source": source} for f, source in a.sources.items()} for a in machines},
        "paper": model.PAPER,
        "model": MODEL,
        "pattern": PERSONAL,
        "batch": 1,
    }
    replace(args.result, (json.dumps(result, indent=1) + "\n").encode())
    plt.rcParams.update({"svg.hashsalt": "jettison", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False})
    draw(args.figure, costs, totals, machines)


if __name__ == "__main__":
    main()
