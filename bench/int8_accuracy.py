"""What int8 costs in accuracy: the same weights in float32 and after post-training quantisation, native and through ONNX Runtime.

    python bench/int8_accuracy.py --data-dir DATA --imagenet PHOTOS --imagenet-weights resnet18.safetensors

CIFAR-10: the ResNet-20s that bench/accuracy.py trained (run it first), calibrated on 512 training images, judged on the
whole test set. ImageNet ResNet-18: a folder of photographs, every fifth of which calibrates while
the others judge. Either part may be left out. bench/results/int8_accuracy.json is written after every network; rows of
networks that are not there stay as they were measured, each with its commit, date and machine.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch

from jettison import file, ptq, zoo
from jettison.bench.machine import provenance
from jettison.compression import calibration_images
from jettison.export import export
from jettison.formats import NM
from jettison.graph import Graph
from jettison.methods import Select, choose_layers
from jettison.peers.onnx_model import onnx_model
from jettison.runtime import Session
from jettison.training.data import DataSet, load, normalise, test_batches

ROOT = Path(__file__).resolve().parent.parent
RESULT = ROOT / "bench" / "results" / "int8_accuracy.json"
RUNS = ["dense", "srste-2_4", "maxq-2_4", "srste-1_4", "maxq-1_4", "srste-1_16", "maxq-1_16"]
CALIBRATED = 512
BATCH = 50

Batch = tuple[np.ndarray, np.ndarray]  # images as the network takes them, labels


def main() -> None:
    args = arguments()
    torch.set_num_threads(args.threads)
    for row in itertools.chain(cifar(args), imagenet(args)):
        print(json.dumps(row), flush=True)
        write(row | {"threads": args.threads, **provenance()})


def cifar(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """One row for each network of --runs whose weights are there."""
    if args.data_dir is None:
        return
    data = load("cifar10", args.data_dir)
    images = calibration_images(data, CALIBRATED, seed=0)
    tests = list(batches(data))
    for name, seed in itertools.product(args.runs, args.seeds):
        weights = args.state / f"{name}-seed{seed}.safetensors"
        if not weights.is_file():
            print(f"{weights}: not there, left out", flush=True)
            continue
        method, _, pattern = name.replace("_", ":").partition("-")
        pattern = pattern or "dense"
        about = {"network": "resnet20_cifar", "data": Path(args.data_dir).name, "method": method, "pattern": pattern, "seed": seed}
        yield about | measured(trained(pattern, weights), images, tests, args)


def trained(pattern: str, weights: Path) -> Graph:
    model = zoo.build("resnet20_cifar", num_classes=10)
    zoo.load_weights(model, weights)
    choices = [] if pattern == "dense" else choose_layers(model, NM.parse(pattern), Select(), "refuse")
    return export(model.eval(), (3, 32, 32), {c.name: c.format for c in choices if c.format is not None})


def imagenet(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    if args.imagenet is None:
        return
    data = load(str(args.imagenet))
    model = zoo.build("resnet18", num_classes=1000)
    zoo.load_weights(model, args.imagenet_weights)
    graph = export(model.eval(), (3, data.size, data.size))
    x, y = (np.concatenate(part) for part in zip(*batches(data)))
    calibrates = np.arange(len(x)) % 5 == 0
    judged = [(x[~calibrates][i : i + BATCH], y[~calibrates][i : i + BATCH]) for i in range(0, int((~calibrates).sum()), BATCH)]
    yield {"network": "resnet18", "data": args.imagenet.name, "method": "dense", "pattern": "dense"} | measured(
        graph, x[calibrates], judged, args
    )


def batches(data: DataSet) -> Iterator[Batch]:
    for x, y in test_batches(data, BATCH):
        yield normalise(x, data).contiguous().numpy(), y.numpy()


def measured(graph: Graph, images: np.ndarray, tests: list[Batch], args: argparse.Namespace) -> dict[str, Any]:
    """Accuracy in percent of the float32 network, of int8, and of the int8 network in ONNX Runtime."""
    q = ptq.quantize(graph, images, args.ranges, threads=args.threads)
    runs = {"f32": session(graph, args), "int8": session(q, args), "onnxruntime_int8": through_onnx(q, args)}
    percent = {name: round(accuracy(run, tests), 3) for name, run in runs.items()}
    judged = sum(len(y) for _, y in tests)
    lost = round(percent["f32"] - percent["int8"], 3)
    return {"ranges": args.ranges, "calibrated_images": len(images), "judged_images": judged, "percent": percent, "lost_points": lost}


def session(graph: Graph, args: argparse.Namespace) -> Callable[[np.ndarray], Any]:
    return Session(graph, threads=args.threads).run


def through_onnx(graph: Graph, args: argparse.Namespace) -> Callable[[np.ndarray], Any]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = args.threads
    options.log_severity_level = 3
    model = onnxruntime.InferenceSession(onnx_model(graph, BATCH).SerializeToString(), options, providers=["CPUExecutionProvider"])
    return lambda x: model.run(None, {graph.inputs[0]: x})[0]


def accuracy(run: Callable[[np.ndarray], Any], tests: list[Batch]) -> float:
    """Percent right. The last batch is filled up, as the ONNX file has a fixed size."""
    right = 0
    for x, y in tests:
        full = np.concatenate([x, np.repeat(x[:1], BATCH - len(x), axis=0)])
        right += int((run(full)[: len(y)].argmax(1) == y).sum())
    return 100 * right / sum(len(y) for _, y in tests)


def key(row: dict[str, Any]) -> tuple:
    """What a row is about, in the order of the table."""
    name = "-".join(part.replace(":", "_") for part in (row["method"], row["pattern"]) if part != "dense") or "dense"
    return row["network"] == "resnet18", RUNS.index(name), row.get("seed", 0), row["data"]


def write(row: dict[str, Any]) -> None:
    """Into the table, in place of what was measured of the same network before."""
    what = "accuracy of the same weights in float32, in int8 (post-training quantisation) and of that int8 network in ONNX Runtime"
    rows = {key(r): r for r in json.loads(RESULT.read_text())["networks"]} if RESULT.is_file() else {}
    rows[key(row)] = row
    content = {"what": what, "networks": [rows[k] for k in sorted(rows)]}
    file.replace(RESULT, (json.dumps(content, indent=1) + "\n").encode())


def arguments() -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--data-dir", help="folder with CIFAR-10, as for accuracy.py")
    p.add_argument("--state", type=Path, default=ROOT / "runs" / "accuracy", help="where accuracy.py keeps its weights")
    p.add_argument("--runs", type=lambda s: s.split(","), default=RUNS, help=f"default {','.join(RUNS)}")
    p.add_argument("--seeds", type=lambda s: [int(x) for x in s.split(",")], default=[0, 1, 2], help="comma-separated, default 0,1,2")
    p.add_argument("--imagenet", type=Path, help="folder with photographs: class folders or parquet")
    p.add_argument("--imagenet-weights", type=Path, help="ResNet-18 weights")
    p.add_argument("--ranges", choices=tuple(ptq.RANGES), default="mse")
    p.add_argument("--threads", type=int, default=2)
    args = p.parse_args()
    if args.imagenet is not None and args.imagenet_weights is None:
        p.error("--imagenet needs --imagenet-weights")
    return args


if __name__ == "__main__":
    main()
