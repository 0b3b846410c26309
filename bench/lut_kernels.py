"""Table look-up against our own dense int8 kernel, layer by layer, on one core.

    python bench/lut_kernels.py [--isa avx512] [--seconds 0.3] [--patience 0] [--out FILE]

Each layer is a network of its own, quantize → convolution → …, once with Laplace-distributed int8 weights and once for each number of
prototypes with random tables and random trees, each of its own inputs as fitted ones are. Dense and look-up take turns; the time is that
of the convolution's step alone, with everything it does: encoding, finding inputs, requantising. Before that all outputs must equal the
integer reference. "quiet" are the same from undisturbed turns alone (jettison/bench/quiet.py), for which each waits up to --patience
seconds. bench/results/lut_kernels.json.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from jettison import file, reference
from jettison.bench import processors
from jettison.bench.machine import provenance
from jettison.bench.process import pinned
from jettison.bench.quiet import Probe
from jettison.formats import Dense, Format, Lut
from jettison.graph import Graph, Op, TensorSpec, problem
from jettison.runtime import Session, spread_ms
from jettison.spec import check, output_shape
from jettison.tabconv.tree import subspaces

RESULT = Path(__file__).resolve().parent / "results" / "lut_kernels.json"
PROTOTYPES = (16, 32, 64, 128, 256)
TURN = 5  # runs of both between two looks at the core
# h = w, c, k, r = s, v
LAYERS = [
    (56, 64, 64, 3, 9), (28, 128, 128, 3, 9), (14, 256, 256, 3, 9), (7, 512, 512, 3, 9), (14, 512, 512, 3, 9),
    (56, 256, 64, 1, 9), (14, 1024, 256, 1, 9), (7, 512, 2048, 1, 9), (56, 256, 64, 1, 4),
    (32, 16, 16, 3, 9), (16, 32, 32, 3, 9), (8, 64, 64, 3, 9),
]  # fmt: skip


def main() -> None:
    args = arguments()
    probe = Probe(processors(1))  # one for all: it knows the core's best moment
    with pinned(processors(1)):
        rows = [measured(layer, args, probe) for layer in LAYERS]
    made_by = provenance()
    isa = args.isa or made_by["machine"]["isa"][0]
    content = {"what": "one layer by table look-up and in dense int8, one thread", "isa": isa, "layers": rows, **made_by}
    if args.out:
        file.replace(args.out, (json.dumps(content, indent=1) + "\n").encode())


def measured(layer: tuple[int, int, int, int, int], args: argparse.Namespace, probe: Probe) -> dict[str, Any]:
    size, c, k, r, v = layer
    tables = {f"lut{p}": network(size, c, k, r, Lut(v, p)) for p in PROTOTYPES}
    graphs = {"dense": network(size, c, k, r, Dense()), **tables}
    x = np.random.default_rng(0).standard_normal((1, c, size, size), np.float32)
    sessions = {name: Session(g, threads=1, isa=args.isa, fuse=False) for name, g in graphs.items()}
    for name, session in sessions.items():
        np.testing.assert_array_equal(session.run(x), reference.run(graphs[name], x)[0], err_msg=f"{name} {layer}")
    macs = problem(graphs["dense"], graphs["dense"].ops[1]).macs
    row: dict[str, Any] = {"h": size, "w": size, "c": c, "k": k, "r": r, "s": r, "v": v, "macs": macs, "gain": {}, "quiet": {}}
    row["kernels"] = {name: next(l.kernel for l in session.layers() if l.name == "conv") for name, session in sessions.items()}
    for name in tables:  # each with the dense layer alone: several layers' tables drive each other out of the caches
        every, still = in_turns({n: sessions[n] for n in ("dense", name)}, x, args, probe)
        spread = {n: [round(v, 2) for v in spread_ms(t)] for n, t in every.items()}
        row[f"{name}_us_median_p10_p90"] = spread[name]
        row.setdefault("dense_us_median_p10_p90", spread["dense"])
        row["gain"][name] = round(spread["dense"][0] / spread[name][0], 3)
        row["quiet"][name] = quiet(still, name)
    told = ", ".join(f"{name} {row[f'{name}_us_median_p10_p90'][0]} µs {row['gain'][name]}×, {row['quiet'][name]}" for name in tables)
    print(f"{size}×{size}, {c} → {k}, {r}×{r}, v = {v}: dense {row['dense_us_median_p10_p90'][0]} µs, {told}", flush=True)
    return row


def in_turns(
    sessions: dict[str, Session], x: np.ndarray, args: argparse.Namespace, probe: Probe
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """µs of the convolution's step: of all turns, and of those that were undisturbed."""
    turns: list[dict[str, list[float]]] = []
    before, after = [], []
    start = time.perf_counter()
    while time.perf_counter() - start < args.seconds or len(turns) * TURN < 20:
        before.append(probe.wait(args.patience, after[-1] if after else None))
        turns.append({name: [] for name in sessions})
        for i in range(TURN + 1):
            for name, session in sessions.items():
                us = next(t.median_ms for t in session.profile(x, runs=1) if t.name == "conv") * 1e3
                turns[-1][name] += [us] if i else []  # the first one fills the caches
        after.append(probe.look())
    still = [turn for turn, undisturbed in zip(turns, probe.quiet(before, after)) if undisturbed]
    return joined(turns, sessions), joined(still, sessions)


def joined(turns: list[dict[str, list[float]]], names: Iterable[str]) -> dict[str, list[float]]:
    return {name: [us for turn in turns for us in turn[name]] for name in names}


def quiet(still: dict[str, list[float]], name: str) -> dict[str, Any] | None:
    if not still[name]:
        return None
    dense, mine = (round(spread_ms(still[n])[0], 2) for n in ("dense", name))
    return {"dense_us": dense, "us": mine, "gain": round(dense / mine, 3), "runs": len(still[name])}


def network(size: int, c: int, k: int, r: int, fmt: Format) -> Graph:
    """One convolution, "conv", on random numbers."""
    rng = np.random.default_rng(1)
    attrs = {"k": k, "groups": 1, "dilation": (1, 1), "kernel": (r, r), "stride": (1, 1), "pad": (r // 2,) * 4, "act": "relu", "alpha": 0.0}
    tensors = [TensorSpec("x", (size, size, c)), TensorSpec("xq", (size, size, c), "u8", 0.02, 128)]
    out = output_shape("conv", [(size, size, c)], attrs, "conv")
    tensors += [TensorSpec("yq", out, "u8", 1.0, 100), TensorSpec("y", out)]
    depth = c * r * r
    if isinstance(fmt, Lut):
        count = fmt.codebooks((k, r, r, c))
        parts = {
            "w.splits": np.stack([rng.choice(own, fmt.levels) for own in subspaces((k, r, r, c), fmt.v)]).astype(np.int32),
            "w.thresholds": rng.integers(60, 196, (count, fmt.prototypes - 1)).astype(np.uint8),
            "w.tables": rng.integers(-127, 128, (k, count, fmt.prototypes)).astype(np.int8),
        }
        depth = count
    else:
        w = rng.laplace(size=(k, r, r, c))  # as trained ones nearly are: pairs of large weights cost AVX2 a second step
        parts = {"w": np.round(127 * w / abs(w).max(axis=(1, 2, 3), keepdims=True)).astype(np.int8)}
    multiplier = np.full(k, 0.5 / depth**0.5, np.float32)
    constants = {**parts, "b": np.zeros(k, np.int32), "m": multiplier}
    ops = (
        Op("quantize", "quantize", ("x",), ("xq",)),
        replace(Op("conv", "conv", ("xq",), ("yq",), attrs, {"weight": "w", "bias": "b", "multiplier": "m"}), format=fmt, element="i8"),
        Op("dequantize", "dequantize", ("yq",), ("y",)),
    )
    return check(Graph(ops, {t.name: t for t in tensors}, ("x",), ("y",), constants, {"x": "nchw", "y": "nchw"}))


def arguments() -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--isa", help="default: the best that this machine has")
    p.add_argument("--seconds", type=float, default=0.3, help="of measuring, per layer")
    p.add_argument("--patience", type=float, default=0.0, help="seconds to wait before a turn, at most, for an undisturbed core")
    p.add_argument("--out", type=Path, default=RESULT, help=f"default {RESULT.name}")
    return p.parse_args()


if __name__ == "__main__":
    main()
