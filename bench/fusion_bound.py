"""How much block fusion can gain: the same layers, with the same kernels, where no activation leaves the second-level cache.

    python bench/fusion_bound.py                    one thread; a minute for each network and element

Layer by layer, an image of 224 rows is written out and read back; an image of 32 rows and the same width needs a seventh of
the memory, which one core's second-level cache holds, and a seventh of the arithmetic. So seven times its time is what the layers take
when memory costs next to nothing, what any schedule of these kernels aims at. One thread, for threads that meet cost the low image more.

Random weights; int8 calibrated on random images. Written to bench/results/fusion_bound.json for each network at once.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from fusion import profiles

from jettison import file
from jettison.bench import processors
from jettison.bench.machine import provenance
from jettison.bench.process import pinned
from jettison.bench.target import in_element, random_inputs
from jettison.export import export
from jettison.graph import Graph
from jettison.runtime import Session, spread_ms
from jettison.zoo import build

RESULT = Path(__file__).resolve().parent / "results" / "fusion_bound.json"
NETWORKS = ("timm:mobilenetv2_100", "timm:convnext_atto")
HEIGHT, LOW, WIDTH = 224, 32, 224
LEAST_ROWS = 4  # of a layer's result in the low image: with fewer, kernels that take rows in pairs are no longer the same


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--networks", nargs="+", default=NETWORKS, choices=NETWORKS)
    parser.add_argument("--elements", nargs="+", default=("f32", "int8"), choices=("f32", "int8"))
    args = parser.parse_args()
    for name in args.networks:
        for element in args.elements:
            with pinned(processors(1)):
                groups = measured(name, element, args.rounds)
            write({"network": name, "element": element, "groups": groups})
            for g in groups:
                print(name, element, g["layers"][0], *(g[k][0] for k in ("unfused_ms", "near_ms", "fused_ms")), flush=True)


def measured(name: str, element: str, rounds: int) -> list[dict[str, Any]]:
    """Of every group that two threads fuse: its layers, and the sum of their times."""
    model = build(name, 1000).eval()
    graph, low = (in_element(export(model, (3, height, WIDTH)), element, 0) for height in (HEIGHT, LOW))
    groups = Session(graph, threads=2).groups(1)
    sessions = {
        "unfused": Session(graph, threads=1, fuse=False),
        "near": Session(low, threads=1, fuse=False),
        "fused": Session(graph, threads=1, fuse=groups),
    }
    inputs = {k: random_inputs(low if k == "near" else graph, 1, 0) for k in sessions}
    ms = profiles(sessions, inputs, rounds)
    scale = {"unfused": 1.0, "near": HEIGHT / LOW, "fused": 1.0}
    return [
        {"layers": list(g)} | {f"{k}_ms": spread([scale[k] * sum(t[op] for op in g) for t in ms[k]]) for k in sessions}
        for g in groups
        if all(enough_rows(low, op) for op in g)
    ]


def spread(ms: list[float]) -> list[float]:
    """Median, p10, p90."""
    return [round(v, 4) for v in spread_ms(ms)]


def enough_rows(graph: Graph, name: str) -> bool:
    op = next(op for op in graph.ops if op.name == name)
    return graph.tensors[op.outputs[0]].shape[0] >= LEAST_ROWS


def write(row: dict[str, Any]) -> None:
    old = json.loads(RESULT.read_text())["fusion_bound"] if RESULT.is_file() else []
    rows = {(r["network"], r["element"]): r for r in [*old, row]}
    content = {"fusion_bound": list(rows.values()), "threads": 1, "height": HEIGHT, "low": LOW, **provenance()}
    file.replace(RESULT, (json.dumps(content, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
