"""What block fusion gains: the same network fused and layer by layer, in turns, with the same kernels and equal outputs.

    python bench/fusion.py --threads 2
    python bench/fusion.py --networks timm:mobilenetv2_100 --cases int8-1      only these; other rows stay

Random weights; int8 calibrated on random images. For each: latency, memory of the activations, the time that arithmetic
at this machine's peak would take (for the efficiency E), and time of every group and of its layers one by one. Every
case is measured in a process of its own, which takes a few seconds (`--prefix CMD` goes before its command line, on a
machine that has something to keep others quiet meanwhile), and written to bench/results/fusion.json at once.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from jettison import file
from jettison.analysis import waterline, works
from jettison.analysis.measure import this_machine
from jettison.bench import processors
from jettison.bench.machine import commit, provenance
from jettison.bench.process import pinned
from jettison.bench.target import networks, random_inputs
from jettison.graph import Graph
from jettison.runtime import Session, spread_ms

RESULT = Path(__file__).resolve().parent / "results" / "fusion.json"
NETWORKS = ("timm:mobilenetv2_100", "timm:efficientnet_b0", "timm:convnext_atto", "convfirst_xs", "convfirst_s")
CASES = ("f32-1", "f32-16", "int8-1", "int8-16")  # element, batch
TURN = 5  # runs before the other has its turn
PAUSE_S = 0.01  # lets the other's threads fall asleep


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--networks", nargs="+", default=NETWORKS, choices=NETWORKS)
    parser.add_argument("--cases", nargs="+", default=CASES, choices=CASES)
    parser.add_argument("--prefix", default="", help="before the command of every measurement")
    parser.add_argument("--one", nargs=2, metavar=("FILE", "BATCH"), help="measure this file and print the numbers as JSON")
    args = parser.parse_args()
    if args.one:
        with pinned(processors(args.threads)):
            print(json.dumps(compare(file.load(args.one[0]), int(args.one[1]), args)))
        return
    with tempfile.TemporaryDirectory(prefix="jettison-fusion-") as folder:
        for name in args.networks:
            for case in args.cases:
                element, batch = case.split("-")
                path = Path(folder) / f"{name.partition(':')[2] or name}-{element}.jettison"
                if not path.is_file():
                    file.save(networks(name, [], None, 0, element)[0].graph, path)
                row = measured(path, batch, args)
                write({"network": name, "element": element, "batch": int(batch), "commit": commit(), **row}, args.threads)
                print(name, case, row["fused"], row["unfused"], flush=True)


def measured(path: Path, batch: str, args: argparse.Namespace) -> dict[str, Any]:
    numbers = ["--threads", str(args.threads), "--rounds", str(args.rounds)]
    command = [*shlex.split(args.prefix), sys.executable, __file__, *numbers, "--one", str(path), batch]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def write(row: dict[str, Any], threads: int) -> None:
    """Puts a row into the result file, in the place of the one for the same network, element and batch."""
    old = json.loads(RESULT.read_text())["fusion"] if RESULT.is_file() else []
    rows = {(r["network"], r["element"], r["batch"]): r for r in [*old, row]}
    file.replace(RESULT, (json.dumps({"fusion": list(rows.values()), "threads": threads, **provenance()}, indent=1) + "\n").encode())


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
    ideal_ms = waterline(works(graph, batch), this_machine(args.threads, sessions["fused"].isa), args.threads).ideal_ms
    numbers = {**{name: spread(ms) for name, ms in times.items()}, **memory, "ideal_ms": round(ideal_ms, 4)}
    return {**numbers, "groups": groups(sessions, inputs, args.rounds)}


def spread(ms: list[float]) -> dict[str, float]:
    median, p10, p90 = (round(v, 4) for v in spread_ms(ms))
    return {"median_ms": median, "p10_ms": p10, "p90_ms": p90}


def groups(sessions: dict[str, Session], inputs: tuple[np.ndarray, ...], rounds: int) -> list[dict[str, Any]]:
    """Every group: its layers, and the median time of all of them, fused and one by one, measured in turns."""
    found = sessions["fused"].groups(len(inputs[0]))
    ms: dict[str, list[dict[str, float]]] = {name: [] for name in sessions}
    for _ in range(rounds):
        for name, session in sessions.items():
            time.sleep(PAUSE_S)
            ms[name].append({t.name: t.median_ms for t in session.profile(*inputs, runs=TURN)})
    total = {name: [round(float(np.median([sum(t[op] for op in group) for t in runs])), 4) for group in found] for name, runs in ms.items()}
    return [{"layers": list(g), "unfused_ms": u, "fused_ms": f} for g, u, f in zip(found, total["unfused"], total["fused"])]


def profiles(sessions: dict[str, Session], inputs: dict[str, tuple[np.ndarray, ...]], rounds: int) -> dict[str, list[dict[str, float]]]:
    """By session: of every round, the milliseconds of each layer. The sessions have their turns."""
    ms: dict[str, list[dict[str, float]]] = {name: [] for name in sessions}
    for _ in range(rounds):
        for name, session in sessions.items():
            time.sleep(PAUSE_S)
            session.run(*inputs[name])
            ms[name].append({t.name: t.median_ms for t in session.profile(*inputs[name], runs=TURN)})
    return ms


if __name__ == "__main__":
    main()
