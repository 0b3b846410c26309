"""What block fusion gains: the same network fused and layer by layer, in turns, with the same kernels and equal outputs.

    python bench/fusion.py --threads 2

Networks of timm with random weights; int8 calibrated on random images. For each: latency, memory of the activations, and
time of every group and of its layers one by one. bench/results/fusion.json is written after every network.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from jettison.bench import processors
from jettison.bench.machine import provenance
from jettison.bench.process import pinned
from jettison.bench.target import networks, random_inputs
from jettison.graph import Graph
from jettison.runtime import Session

RESULT = Path(__file__).resolve().parent / "results" / "fusion.json"
NETWORKS = ("mobilenetv2_100", "efficientnet_b0", "convnext_atto")
CASES = (("f32", 1), ("f32", 16), ("int8", 1), ("int8", 16))  # element, batch
TURN = 5  # runs before the other has its turn
PAUSE_S = 0.01  # lets the other's threads fall asleep


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=8)
    args = parser.parse_args()
    rows: list[dict[str, Any]] = []
    cpus = processors(args.threads)
    for name in NETWORKS:
        graphs = {element: networks(f"timm:{name}", [], None, 0, element)[0].graph for element in ("f32", "int8")}
        for element, batch in CASES:
            with pinned(cpus):
                rows.append({"network": name, "element": element, "batch": batch, **compare(graphs[element], batch, args)})
            RESULT.write_text(json.dumps({"fusion": rows, "threads": args.threads, **provenance()}, indent=1) + "\n")
            print(name, element, batch, rows[-1]["fused"], rows[-1]["unfused"], flush=True)


def compare(graph: Graph, batch: int, args: argparse.Namespace) -> dict[str, Any]:
    inputs = random_inputs(graph, batch, seed=0)
    sessions = {"unfused": Session(graph, threads=args.threads, fuse=False), "fused": Session(graph, threads=args.threads)}
    outputs = [session.run(*inputs) for session in sessions.values()]
    if not np.array_equal(*outputs):
        raise SystemExit("fused and unfused outputs differ: please report it")
    times: dict[str, list[float]] = {name: [] for name in sessions}
    for _ in range(args.rounds):
        for name, session in sessions.items():
            time.sleep(PAUSE_S)
            session.run(*inputs)
            for _ in range(TURN):
                start = time.perf_counter()
                session.run(*inputs)
                times[name].append((time.perf_counter() - start) * 1e3)
    memory = {f"{name}_bytes": {"arena": s.arena_bytes(batch), "workspace": s.workspace_bytes(batch)} for name, s in sessions.items()}
    return {**{name: spread(ms) for name, ms in times.items()}, **memory, "groups": groups(sessions, inputs, args.rounds)}


def spread(ms: list[float]) -> dict[str, float]:
    p10, median, p90 = (round(float(v), 4) for v in np.percentile(ms, (10, 50, 90)))
    return {"median_ms": median, "p10_ms": p10, "p90_ms": p90}


def groups(sessions: dict[str, Session], inputs: tuple[np.ndarray, ...], rounds: int) -> list[dict[str, Any]]:
    """Every group: its layers, and the median time of all of them, fused and one by one, measured in turns."""
    found = list(dict.fromkeys(layer.group for layer in sessions["fused"].layers() if layer.group))
    ms: dict[str, list[dict[str, float]]] = {name: [] for name in sessions}
    for _ in range(rounds):
        for name, session in sessions.items():
            time.sleep(PAUSE_S)
            ms[name].append({t.name: t.median_ms for t in session.profile(*inputs, runs=TURN)})
    total = {name: [round(float(np.median([sum(t[op] for op in group) for t in runs])), 4) for group in found] for name, runs in ms.items()}
    return [{"layers": list(g), "unfused_ms": u, "fused_ms": f} for g, u, f in zip(found, total["unfused"], total["fused"])]


if __name__ == "__main__":
    main()
