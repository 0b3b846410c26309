"""Whether tables can be made smaller: codebooks left out, tables of low rank, tables shared. Nothing is trained afterwards.

    python bench/table_compression.py FILE --data cifar10 --data-dir DATA

FILE: a network of tables (`jettison compress --method tabconv`). Every layer's tables T (k, C, K), less their means over K,
which belong to the bias, are replaced by what the smaller form stands for, rounded to the same int8 steps:

    codebooks   the share `kept` of the codebooks with the largest Σ T²; the others add their mean, and need neither tree nor look-up
    rank        the best approximation of T as (k, C·K) of rank `kept`·k (singular values): `kept`·k outputs are looked up, and a dense
                int8 layer of k × `kept`·k follows
    shared      the k·C tables of K entries, each divided by its largest, fall into `kept`·k·C clusters (Lloyd, 8 rounds); a table is its
                cluster's centre times a factor of its own

Accuracy on the whole test set; bytes, and look-ups and multiply-adds, of all layers together. No kernel takes these forms: the
figures say whether one would pay.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from jettison import file
from jettison.bench.machine import provenance
from jettison.cli.eval import session_score
from jettison.formats import Lut
from jettison.graph import Graph, problem, weight_shape
from jettison.runtime import Session
from jettison.spec import WEIGHTED
from jettison.training.data import load

RESULT = Path(__file__).resolve().parent / "results" / "table_compression.json"
KEPT = (0.75, 0.5, 0.25)
ROUNDS = 8
SAMPLE = 8192  # tables that clusters are found from
BATCH = 250

Tables = np.ndarray  # float (k, C, K), every table's mean over K is 0


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("file")
    p.add_argument("--data", required=True)
    p.add_argument("--data-dir", required=True)
    p.add_argument("--threads", type=int, default=1)
    p.add_argument("--out", type=Path, default=RESULT)
    args = p.parse_args()
    graph, data = file.load(args.file), load(args.data, args.data_dir)

    def score(g: Graph) -> float:
        return 100 * session_score(Session(g, threads=args.threads), data, BATCH, lambda what, done: None).accuracy

    whole = {"form": "as they are", "kept": 1.0, "percent": score(graph), **size(graph, "codebooks", 1.0)}
    rows: list[dict[str, Any]] = [whole]
    for form, smaller in FORMS.items():
        for kept in KEPT:
            rows.append({"form": form, "kept": kept, "percent": score(compressed(graph, smaller, kept)), **size(graph, form, kept)})
            print(rows[-1], flush=True)
    content = {
        "what": __doc__.partition("\n")[0],
        "network": Path(args.file).name,
        "data": args.data,
        "table_compression": rows,
        **provenance(),
    }
    file.replace(args.out, (json.dumps(content, indent=1) + "\n").encode())


def compressed(graph: Graph, smaller: Callable[[Tables, float], Tables], kept: float) -> Graph:
    """The network whose tables are what is left of them."""
    constants = dict(graph.constants)
    for op in graph.ops:
        if op.kind not in WEIGHTED or not isinstance(op.format, Lut):
            continue
        name = f"{op.params['weight']}.tables"
        tables = constants[name].astype(np.float64)
        mean = tables.mean(axis=2, keepdims=True)
        left = np.rint(smaller(tables - mean, kept) + mean)
        constants[name] = np.clip(left, -128, 127).astype(np.int8)
    return replace(graph, constants=constants)


def codebooks(tables: Tables, kept: float) -> Tables:
    strength = (tables**2).sum(axis=(0, 2))
    count = round(kept * len(strength))
    keep = np.zeros(len(strength), bool)
    keep[np.argsort(-strength, kind="stable")[:count]] = True
    return tables * keep[:, None]


def rank(tables: Tables, kept: float) -> Tables:
    u, s, v = np.linalg.svd(tables.reshape(len(tables), -1), full_matrices=False)
    r = max(1, round(kept * len(tables)))
    return ((u[:, :r] * s[:r]) @ v[:r]).reshape(tables.shape)


def shared(tables: Tables, kept: float) -> Tables:
    rows = tables.reshape(-1, tables.shape[2])
    factor = np.abs(rows).max(axis=1, keepdims=True)
    shapes = (rows / np.maximum(factor, 1e-9)).astype(np.float32)
    count = max(1, round(kept * len(rows)))
    rng = np.random.default_rng(0)
    centres = shapes[rng.permutation(len(shapes))[:count]]
    for i in range(ROUNDS):
        some = shapes[rng.permutation(len(shapes))[: max(SAMPLE, count)]] if i < ROUNDS - 1 else shapes
        own = nearest(some, centres)
        seen = np.bincount(own, minlength=count)
        sums = np.stack([np.bincount(own, some[:, d], count) for d in range(some.shape[1])], axis=1)
        centres = np.where(seen[:, None] > 0, sums / np.maximum(seen, 1)[:, None], centres).astype(np.float32)
    return (centres[nearest(shapes, centres)] * factor).reshape(tables.shape)


def nearest(rows: np.ndarray, centres: np.ndarray) -> np.ndarray:
    half = (centres**2).sum(axis=1) / 2
    return np.concatenate([(part @ centres.T - half).argmax(axis=1) for part in np.array_split(rows, max(1, len(rows) // 1024))])


FORMS: dict[str, Callable[[Tables, float], Tables]] = {"codebooks": codebooks, "rank": rank, "shared": shared}


def size(graph: Graph, form: str, kept: float) -> dict[str, int]:
    """Bytes of tables and what belongs to them, look-ups and multiply-adds, of all layers of tables; with all codebooks, as they are."""
    size_bytes = operations = 0
    for op in graph.ops:
        if op.kind not in WEIGHTED or not isinstance(op.format, Lut):
            continue
        a, shape = problem(graph, op), weight_shape(graph, op)
        k, count, entries, pixels = shape[0], op.format.codebooks(shape), op.format.prototypes, a.p * a.q
        trees = 4 * op.format.levels + entries - 1  # bytes of one
        looked_up, more = k, 0
        if form == "codebooks":
            count = round(kept * count)
        elif form == "rank":
            looked_up = max(1, round(kept * k))
            more = k * looked_up  # weights of the dense layer, one byte each
        tables = looked_up * count * entries
        if form == "shared":
            distinct = max(1, round(kept * k * count))
            tables = distinct * entries + k * count * (2 + 1)  # a number and a factor each
        size_bytes += tables + more + count * trees
        operations += pixels * (count * looked_up + more)
    return {"bytes": size_bytes, "operations": operations}


if __name__ == "__main__":
    main()
