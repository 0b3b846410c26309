"""ConvFirst-style networks against ConvNeXt: accuracy on CIFAR-10 with one recipe from scratch, and speed.

    python bench/convfirst.py train --data-dir DATA     the queue of runs, about an hour of one core; may be killed and started again
    python bench/convfirst.py speed --threads 2         every network here and in PyTorch Inductor, interleaved, batch 1, random weights

Training: small-image forms, 32×32, random start, equal epochs, the last epoch's accuracy on the whole test set, in float32 and
after post-training quantisation to int8. A run waits in runs/convfirst (NAME.jettison-checkpoint while it trains, NAME.json and
NAME.safetensors when done) and then stands in the result file. Speed: of these forms and of those for 224×224 images.
What is committed is bench/results/convfirst.json; each command keeps what the other has written.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from accuracy import locked, mean, replace_json, spread

from jettison import file, ptq, zoo
from jettison.bench import Entrant, compare, processors
from jettison.bench.machine import provenance
from jettison.bench.target import in_element, random_graph, random_samples
from jettison.cli.eval import session_score
from jettison.cli.train import save_weights
from jettison.compression import calibration_images
from jettison.export import export
from jettison.formats import Dense
from jettison.runtime import Session
from jettison.training import Epoch, Recipe, fit
from jettison.training.data import load

ROOT = Path(__file__).resolve().parent.parent
RESULT = ROOT / "bench" / "results" / "convfirst.json"
NETWORKS = ("convnext_atto", "convfirst_xs")
ENGINES = ("jettison", "inductor")  # the paper compares with Inductor
SEEDS = (0, 1, 2)
CALIBRATED = 512  # images
RECIPE: dict[str, Any] = {
    "batch": 128, "optimizer": "adamw", "lr": 2e-3, "warmup_epochs": 0.5, "weight_decay": 0.05, "decay_1d": False, "bf16": True,
}  # fmt: skip


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("what", choices=("train", "speed"))
    p.add_argument("--data-dir", help="folder with CIFAR-10")
    p.add_argument("--epochs", type=int, default=5)
    p.add_argument("--threads", type=int, default=1)
    p.add_argument("--sizes", type=int, nargs="+", default=[32, 224], help="height and width of the images that are timed")
    p.add_argument("--runs", type=int, default=20)
    p.add_argument("--state", type=Path, default=ROOT / "runs" / "convfirst")
    args = p.parse_args()
    if args.what == "train" and args.data_dir is None:
        p.error("--data-dir says where CIFAR-10 is")
    {"train": train, "speed": speed}[args.what](args)


def train(args: argparse.Namespace) -> None:
    """Every network with seed 0, then with seed 1 …: whenever it is stopped, what is done compares."""
    torch.set_num_threads(args.threads)
    data, made_by = load("cifar10", args.data_dir), provenance()
    args.state.mkdir(parents=True, exist_ok=True)
    for seed in SEEDS:
        for network in NETWORKS:
            done = args.state / f"{network}-seed{seed}.json"
            with locked(done.with_suffix(".lock"), wait=False) as mine:
                if mine and not done.is_file():
                    run(network, seed, data, args, made_by, done)
                    collect(args.state)


def run(network: str, seed: int, data: Any, args: argparse.Namespace, made_by: dict[str, Any], done: Path) -> None:
    torch.manual_seed(seed)
    model = zoo.build(network, num_classes=10, image_size=32)
    recipe, checkpoint = Recipe(epochs=args.epochs, seed=seed, **RECIPE), done.with_suffix(".jettison-checkpoint")

    def on_epoch(e: Epoch) -> None:
        print(f"{done.stem}  epoch {e.epoch}/{recipe.epochs}  loss {e.loss:.4f}  accuracy {e.accuracy:.2%}  {e.seconds:.0f} s", flush=True)

    curve = fit(model, data, recipe, checkpoint=checkpoint, resume=True, on_epoch=on_epoch, progress=False)
    save_weights(model.state_dict(), done.with_suffix(".safetensors"))
    int8 = ptq.quantize(export(model.eval(), (3, 32, 32)), calibration_images(data, CALIBRATED, seed=0), threads=args.threads)
    accuracy = {
        "accuracy": curve[-1].accuracy,
        "int8_accuracy": session_score(Session(int8, threads=args.threads), data, 100, lambda *_: None).accuracy,
    }
    about = {"network": network, "seed": seed, **accuracy, "data": Path(args.data_dir).name}
    replace_json(done, {**about, "recipe": asdict(recipe), **made_by, "epochs": [asdict(e) for e in curve]})
    checkpoint.unlink(missing_ok=True)


def collect(state: Path) -> None:
    """Accuracies of the finished runs, and their mean and spread over the seeds."""
    runs = [json.loads(path.read_text()) for path in sorted(state.glob("*.json"))]
    summary = []
    for network in NETWORKS:
        mine = [r for r in runs if r["network"] == network]
        percent, int8 = ([100 * r[what] for r in mine] for what in ("accuracy", "int8_accuracy"))
        if mine:
            numbers = {
                "accuracy_percent": mean(percent),
                "spread": spread(percent),
                "int8_percent": mean(int8),
                "int8_spread": spread(int8),
            }
            summary.append({"network": network, "seeds": len(mine), **numbers})
    update({"convfirst_accuracy": summary, "runs": runs})


def speed(args: argparse.Namespace) -> None:
    """All networks at every size, in both elements here and in float32 in the other engine."""
    rows = [row for size in args.sizes for row in timed(size, args)]
    for row in rows:
        print(row["network"], row["size"], row["engine"], row["element"], row["median_ms"], row["p10_ms"], row["p90_ms"])
    update({"convfirst_speed": rows, "speed_about": {"batch": 1, "threads": args.threads, **provenance()}})


def timed(size: int, args: argparse.Namespace) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory(prefix="jettison-convfirst-") as folder:
        entrants = []
        for network in NETWORKS:
            graph = random_graph(network, Dense(), size, 0)
            path, int8 = (Path(folder) / f"{network}-{element}.jettison" for element in ("f32", "int8"))
            file.save(graph, path)
            file.save(in_element(graph, "int8", 0), int8)
            entrants += [Entrant(engine, "f32", "dense", path, network) for engine in ENGINES]
            entrants.append(Entrant("jettison", "int8", "dense", int8, f"{network}-int8"))
        result = compare(entrants, random_samples(graph, 1, 0), processors(args.threads), args.runs)
    if result.absent:
        raise SystemExit(f"{result.absent[0].engine} could not be measured: {result.absent[0].reason}")
    return [{"network": e.weights.removesuffix("-int8"), "size": size, **asdict(t)} for e, t in zip(entrants, result.rows)]


def update(parts: dict[str, Any]) -> None:
    old = json.loads(RESULT.read_text()) if RESULT.is_file() else {}
    replace_json(RESULT, {**old, **parts})


if __name__ == "__main__":
    main()
