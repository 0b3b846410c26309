"""Pruning without training: by magnitude, with channels permuted, with BatchNorm matched to the dense network, with layers
reconstructed. Minutes, not epochs.

    python bench/post_training.py --data-dir DATA --weights resnet20.th --photos PHOTOS --photo-weights resnet18.safetensors

ResNet-20 on CIFAR-10, 512 training images without their labels, judged on the test set. ResNet-18 on a folder of photographs, every
fifth of which calibrates while the others judge. Either part may be left out. bench/results/post_training.json is written
after every row, and rows that it has already are not run again: delete it to start anew.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections.abc import Iterator
from itertools import chain, product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from jettison import file, zoo
from jettison.bench.machine import provenance
from jettison.compression import calibration_images
from jettison.formats import NM
from jettison.methods import ASP, match_statistics_, permute_, reconstruct_, sparsify_
from jettison.methods.reconstruct import BATCH
from jettison.training.data import load, normalise, test_batches

RESULT = Path(__file__).resolve().parent / "results" / "post_training.json"
PATTERNS = ("2:4", "1:4", "1:8")
WAYS = ("magnitude", "permute", "statistics", "reconstruct", "permute + reconstruct")
CALIBRATED = 512

Batches = list[tuple[Tensor, Tensor]]


def main() -> None:
    args = arguments()
    torch.set_num_threads(args.threads)
    made_by = provenance()
    networks = json.loads(RESULT.read_text())["post_training"] if RESULT.exists() else []
    done = {_key(row) for row in networks}
    for row in chain(photographs(args, done), cifar(args, done)):
        networks.append(row)
        print(json.dumps(row), flush=True)
        what = "accuracy in percent after pruning without training"
        content = {"what": what, "post_training": networks, "threads": args.threads, **made_by}
        file.replace(RESULT, (json.dumps(content, indent=1) + "\n").encode())


def _key(row: dict[str, Any]) -> tuple[str, ...]:
    return tuple(row[k] for k in ("network", "data", "pattern", "way"))


def cifar(args: argparse.Namespace, done: set[tuple[str, ...]]) -> Iterator[dict[str, Any]]:
    if args.data_dir is not None:
        data = load("cifar10", args.data_dir)
        model = zoo.build("resnet20_cifar", num_classes=10)
        zoo.load_weights(model, args.weights)
        judged = [(normalise(x, data), y) for x, y in test_batches(data, 250)]
        images = torch.from_numpy(calibration_images(data, CALIBRATED, seed=0))
        yield from rows("resnet20_cifar", Path(args.data_dir).name, model, images, judged, done, args.patterns)


def photographs(args: argparse.Namespace, done: set[tuple[str, ...]]) -> Iterator[dict[str, Any]]:
    if args.photos is not None:
        data = load(str(args.photos))
        model = zoo.build("resnet18", num_classes=1000)
        zoo.load_weights(model, args.photo_weights)
        x, y = (torch.cat(part) for part in zip(*((normalise(x, data), y) for x, y in test_batches(data, 50))))
        calibrates = torch.arange(len(x)) % 5 == 0
        judged = list(zip(x[~calibrates].split(50), y[~calibrates].split(50)))
        yield from rows("resnet18", args.photos.name, model, x[calibrates], judged, done, args.patterns)


def rows(
    network: str, data: str, model: nn.Module, images: Tensor, judged: Batches, done: set[tuple[str, ...]], patterns: tuple[str, ...]
) -> Iterator[dict[str, Any]]:
    about = {"network": network, "data": data, "images": len(images), "judged_images": sum(len(y) for _, y in judged)}
    for pattern, way in (("dense", "dense"), *product(patterns, WAYS)):
        row = about | {"pattern": pattern, "way": way}
        if _key(row) in done:
            continue
        start = time.perf_counter()
        net = copy.deepcopy(model)
        if pattern != "dense":
            prune(net, images, NM.parse(pattern), way)
        seconds = round(time.perf_counter() - start, 1)
        yield row | {"percent": accuracy(net, judged), "seconds": seconds}


def prune(net: nn.Module, images: Tensor, fmt: NM, way: str) -> None:
    if "permute" in way:
        permute_(net, tuple(images.shape[1:]), fmt)
    if "reconstruct" in way:
        reconstruct_(net, images, fmt)
    dense = copy.deepcopy(net)
    sparsify_(net, fmt, ASP(retrain=False))
    if "statistics" in way:
        match_statistics_(net, dense, images.split(BATCH))


@torch.inference_mode()
def accuracy(model: nn.Module, judged: Batches) -> float:
    model.eval()
    right = sum(int((model(x).argmax(1) == y).sum()) for x, y in judged)
    return round(100 * right / sum(len(y) for _, y in judged), 3)


def arguments() -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--data-dir", help="folder with CIFAR-10, as for accuracy.py")
    p.add_argument("--weights", type=Path, help="ResNet-20 trained on it")
    p.add_argument("--photos", type=Path, help="folder with photographs: class folders or parquet")
    p.add_argument("--photo-weights", type=Path, help="ResNet-18 weights")
    p.add_argument("--patterns", type=lambda names: tuple(names.split(",")), default=PATTERNS)
    p.add_argument("--threads", type=int, default=2)
    args = p.parse_args()
    for data, weights in (("data_dir", "weights"), ("photos", "photo_weights")):
        if (getattr(args, data) is None) != (getattr(args, weights) is None):
            p.error(f"--{data.replace('_', '-')} and --{weights.replace('_', '-')} belong together")
    return args


if __name__ == "__main__":
    main()
