"""What hash trees lose against nearest prototypes: the error of single layers made tables, each with both kinds of codes.

    python bench/kmeans.py INT8 --name resnet20_cifar --data cifar10 --data-dir DATA --layers layer1.0.conv2 layer2.0.conv2 layer3.2.conv1

INT8: a dense int8 network (`jettison compress --pattern dense --element int8`). Prototypes are those of k-means (Lloyd) on each codebook's
inputs, and a code is the nearest one: K·v multiply-adds for each codebook, where a tree asks log₂ K questions. Tables of both are refined
by the same ridge regression. The error is Σ(y − ŷ)² / Σ(y − ȳ)² of the layer's sums on images that nothing was fitted to.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from accuracy import replace_json
from table_sensitivity import parser

from jettison import file
from jettison.bench.machine import provenance
from jettison.compression import fitting_images
from jettison.errors import JettisonError
from jettison.formats import Lut, lut
from jettison.graph import Graph, Op, weight_shape
from jettison.tabconv import observe, tables
from jettison.tabconv.descent import Layer, solve
from jettison.tabconv.tree import grow, subspaces
from jettison.training.data import load

RESULT = Path(__file__).resolve().parent / "results" / "kmeans.json"
ROWS, TREE_ROWS = 32768, 8192
ROUNDS = 25  # of Lloyd's algorithm


def main() -> None:
    args = arguments()
    exact, data = file.load(args.file), load(args.data, args.data_dir)
    images = fitting_images(data, args.fit_images + args.judges, seed=0)
    rows = []
    for op in exact.ops:
        if op.name in args.layers:
            for prototypes in args.prototypes:
                rows.append(errors(exact, op, Lut(args.v, prototypes), images, args))
                print("{layer:24} K = {prototypes:4}  tree {tree:.4f}  nearest {nearest:.4f}".format(**rows[-1]), flush=True)
    about = {"what": (__doc__ or "").partition("\n")[0], "network": args.name, "data": data.name, "v": args.v}
    replace_json(args.out, about | {"fit_images": args.fit_images, "judged_images": args.judges, "kmeans": rows, **provenance()})


def errors(exact: Graph, op: Op, fmt: Lut, images: np.ndarray, args: argparse.Namespace) -> dict[str, object]:
    """Of a tree and of the nearest prototype, for one layer."""
    shape = weight_shape(exact, op)
    seen = [
        observe.samples(exact, exact, op, (part,), ROWS, 0, args.threads, lambda done: None)
        for part in (images[: args.fit_images], images[args.fit_images :])
    ]
    (x, y), (x_new, y_new) = seen
    weight = exact.weight(op).reshape(shape[0], -1) * observe.units_of(exact, op)[:, None]
    inputs = subspaces(shape, fmt.v)
    trees = grow(x[:TREE_ROWS], weight.reshape(shape), fmt, lambda done: None)
    centres = [kmeans(x[:TREE_ROWS][:, places].astype(np.float32), fmt.prototypes) for places in inputs]
    found = {}
    for kind, code_of in (
        ("tree", lambda rows: lut.codes(rows, trees.splits, trees.thresholds)),
        ("nearest", lambda rows: np.stack([nearest(rows[:, p].astype(np.float32), c) for p, c in zip(inputs, centres)], axis=1)),
    ):
        layer, new = (Layer.of_rows(code_of(part), fmt.levels, args.threads) for part in (x, x_new))
        start = tables.prototypes_times(x, layer.codes[:, :, 0], fmt.prototypes, inputs, weight)
        entries, constant = solve(layer, y[:, None], start.reshape(-1, shape[0]), lambda done: None)
        got = new.look_up(entries)[:, 0] + constant
        found[kind] = float(((got - y_new) ** 2).sum() / ((y_new - y_new.mean(axis=0)) ** 2).sum())
    depth = int(np.prod(shape[1:]))
    return {"layer": op.name, "prototypes": fmt.prototypes, **found, "exact": depth * shape[0], "distances": depth * fmt.prototypes}


def kmeans(rows: np.ndarray, count: int) -> np.ndarray:
    """(K, v) centres: Lloyd's algorithm from rows drawn by lot; one that nothing is near moves to the row that is farthest from all."""
    rng = np.random.default_rng(0)
    centres = rows[rng.choice(len(rows), count, replace=False)]
    for _ in range(ROUNDS):
        code = nearest(rows, centres)
        members = np.bincount(code, minlength=count)
        sums = np.stack([np.bincount(code, column, count) for column in rows.T], axis=1)
        centres = np.where(members[:, None] > 0, sums / np.maximum(members, 1)[:, None], centres).astype(np.float32)
        lost = np.flatnonzero(members == 0)
        centres[lost] = rows[np.argsort(-((rows - centres[code]) ** 2).sum(axis=1))[: len(lost)]]
    return centres


def nearest(rows: np.ndarray, centres: np.ndarray) -> np.ndarray:
    return ((centres**2).sum(axis=1) - 2 * rows @ centres.T).argmin(axis=1)


def arguments() -> argparse.Namespace:
    p = parser(__doc__, RESULT)
    p.add_argument("--layers", nargs="+", required=True)
    p.add_argument("--v", type=int, default=9)
    p.add_argument("--prototypes", type=int, nargs="+", default=[16, 256])
    p.add_argument("--fit-images", type=int, default=2048)
    p.add_argument("--judges", type=int, default=512, help="images that nothing is fitted to")
    return p.parse_args()


if __name__ == "__main__":
    try:
        main()
    except JettisonError as e:
        raise SystemExit(f"kmeans.py: {e}") from None
