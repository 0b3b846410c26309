"""Speed against density: ResNet-50 with 2:4 inside blocks, ever fewer of them, against other engines' dense networks.

    python bench/density.py build --element int8         the networks, in runs/density
    python bench/density.py measure --element int8       all in one run, in turns: bench/results/density_resnet50_int8.json

In two steps, so that a machine need only be quiet for the second. Random weights; int8 calibrated on random images. Of every pattern the
file says what it leaves: `weights` of the prunable layers and `macs` of the whole network, stem and classifier included, as shares. So
1 / macs is the ceiling of the speed-up over dense arithmetic, (M/N)·(total/kept) of the layers that are sparse. Files are compared with
the float32 state of the same network, once with all outputs and once with those of a user's ten classes.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from math import prod
from pathlib import Path
from typing import Any

from jettison import file
from jettison.bench import Entrant, compare, processors
from jettison.bench.machine import provenance
from jettison.bench.target import in_element, networks, random_graph, random_samples
from jettison.file import replace
from jettison.formats import Dense, parse
from jettison.graph import Graph, problem, weight_shape
from jettison.zoo import build

ROOT = Path(__file__).resolve().parent.parent
MODEL = "resnet50"
PATTERNS = ("32x32/2:4", "32x32/2:4@50%", "32x32/2:4@25%", "32x32/2:4@15%", "32x16/2:4@15%", "32x32/2:4@8%", "32x16/2:4@8%")
ENGINES = ("openvino", "onnxruntime")
PERSONAL = "32x32/2:4@15%"  # at least 92% of the weights of sparse layers removed
FILES = ((1000, False), (1000, True), (10, False))  # outputs of the classifier, and whether it is pruned, too


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("step", choices=("build", "measure"))
    p.add_argument("--element", choices=("f32", "int8"), default="int8")
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--runs", type=int, default=30)
    p.add_argument("--patience", type=float, default=0.0, help="seconds to wait before each turn, at most, for undisturbed cores")
    p.add_argument("--state", type=Path, default=ROOT / "runs" / "density")
    p.add_argument("--out", type=Path, help="default bench/results/density_resnet50_ELEMENT.json; another for another machine")
    args = p.parse_args()
    paths = {pattern: args.state / f"{args.element}-{i}.jettison" for i, pattern in enumerate(("dense", *PATTERNS))}
    if args.step == "build":
        args.state.mkdir(parents=True, exist_ok=True)
        for network in networks(MODEL, [parse(pattern) for pattern in PATTERNS], None, 0, args.element):
            file.save(network.graph, paths[network.pattern])
        sizes = [files(n, pruned, args) for n, pruned in FILES] if args.element == "int8" else []
        replace(args.state / f"{args.element}-files.json", json.dumps(sizes).encode())
        return
    entrants = [
        Entrant(engine, args.element, pattern, path, pattern)
        for pattern, path in paths.items()
        for engine in ("jettison", *(ENGINES if pattern == "dense" else ()))
    ]
    samples = random_samples(file.load(paths["dense"]), 1, seed=0)
    found = compare(entrants, samples, processors(args.threads), args.runs, patience_s=args.patience)
    sweep = {**asdict(found), "left": {pattern: left(file.load(path)) for pattern, path in paths.items()}}
    sizes = json.loads((args.state / f"{args.element}-files.json").read_text())
    result = {
        "density": sweep,
        "files": sizes,
        "model": MODEL,
        "element": args.element,
        "batch": 1,
        "threads": args.threads,
        **provenance(),
    }
    out = args.out or ROOT / "bench" / "results" / f"density_{MODEL}_{args.element}.json"
    replace(out, (json.dumps(result, indent=1) + "\n").encode())
    for row, still in zip(found.rows, found.quiet):
        undisturbed = f"undisturbed {still.median_ms:7.3f} ms, {still.runs} runs, of best {still.of_best}" if still else "never undisturbed"
        print(f"{row.engine:12} {row.pattern:16} {row.median_ms:7.3f} ms ({row.p10_ms:.3f} – {row.p90_ms:.3f})  {undisturbed}")


def left(graph: Graph) -> dict[str, float]:
    """Shares that are left: of the weights of sparse layers, and of the whole network's multiply-adds."""
    weights, kept, macs, kept_macs = 0, 0.0, 0, 0.0
    for op in graph.ops:
        if op.kind not in ("conv", "linear"):
            continue
        shape, all_macs = weight_shape(graph, op), problem(graph, op).macs
        size, density = prod(shape), op.format.density(shape)
        macs, kept_macs = macs + all_macs, kept_macs + all_macs * density
        if op.format != Dense():
            weights, kept = weights + size, kept + size * density
    return {"weights": kept / weights if weights else 1.0, "macs": kept_macs / macs}


def files(classes: int, classifier: bool, args: argparse.Namespace) -> dict[str, Any]:
    """Bytes of PyTorch's float32 state and of our file."""
    path = args.state / f"{args.element}-{classes}-classes{'-pruned' if classifier else ''}.jettison"
    graph = in_element(random_graph(MODEL, parse(PERSONAL), None, 0, classes, classifier), args.element, 0)
    file.save(graph, path)
    last = next(op for op in reversed(graph.ops) if op.kind == "linear")
    state = sum(t.numel() * t.element_size() for t in build(MODEL, classes).state_dict().values())
    return {"classes": classes, "classifier": str(last.format), "state_bytes": state, "file_bytes": path.stat().st_size}


if __name__ == "__main__":
    main()
