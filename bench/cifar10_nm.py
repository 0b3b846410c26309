"""ResNet-20 on CIFAR-10: SR-STE 2:4 and 1:4 against a dense baseline fine-tuned with the same recipe and epochs.

    python bench/cifar10_nm.py --data-dir DATA --weights resnet20.th

One command; run again after a kill it goes on where it was (state in runs/, git-ignored). Per seed: the
dense network is fine-tuned from the checkpoint, then each pattern is trained from that baseline. Accuracy is that
of the last epoch on the whole test set. bench/results/cifar10_nm.json is written after each run, from all
runs finished so far, so seeds may also be run by processes of their own, at the same time.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
from dataclasses import asdict, replace
from pathlib import Path

import torch

from jettison import zoo
from jettison.formats import NM
from jettison.methods import SRSTE, sparsify_
from jettison.training import Epoch, Recipe, evaluate, fit
from jettison.training.data import DataSet, load

ROOT = Path(__file__).resolve().parent.parent
RESULT = ROOT / "bench" / "results" / "cifar10_nm.json"
MODEL = "resnet20_cifar"
PATTERNS = ("2:4", "1:4")
DECAY = 2e-4
SPARSE_WEIGHT_DECAY = 5e-5


def main() -> None:
    args = arguments()
    torch.set_num_threads(args.threads)
    data = load("cifar10", args.data_dir)
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, cwd=ROOT, check=False).stdout.strip()
    for seed in args.seeds:
        folder = args.state / f"seed{seed}"
        dense = Recipe(epochs=args.epochs, batch=128, lr=0.05, weight_decay=5e-4, bf16=True, seed=seed)
        model = zoo.build(MODEL, num_classes=10)
        zoo.load_weights(model, args.weights)
        start = evaluate(model, data)
        train("dense", seed, model, data, dense, folder)
        baseline = {k: v.clone() for k, v in model.state_dict().items()}
        write(args, start, commit)
        for pattern in PATTERNS:
            model = zoo.build(MODEL, num_classes=10)
            model.load_state_dict(baseline)
            train(pattern, seed, model, data, replace(dense, weight_decay=SPARSE_WEIGHT_DECAY), folder)
            write(args, start, commit)


def train(pattern: str, seed: int, model: torch.nn.Module, data: DataSet, recipe: Recipe, folder: Path) -> None:
    """One run, stored as a JSON file in `folder`; the model ends with plain weights in the pattern."""
    sparsifier = None if pattern == "dense" else sparsify_(model, NM.parse(pattern), SRSTE(DECAY))
    name = pattern.replace(":", "_")

    def on_epoch(e: Epoch) -> None:
        sad = "" if e.sad is None else f"  SAD {e.sad:.3%}"
        done = f"seed {seed}  {pattern}  epoch {e.epoch}/{recipe.epochs}"
        print(f"{done}  loss {e.loss:.4f}  accuracy {e.accuracy:.2%}{sad}  {e.seconds:.0f} s", flush=True)

    checkpoint = folder / f"{name}.jettison-checkpoint"
    curve = fit(model, data, recipe, sparsifier, checkpoint=checkpoint, resume=True, on_epoch=on_epoch, progress=False)
    if sparsifier is not None:
        sparsifier.finish()
        finished = evaluate(model, data, bf16=True)
        if finished != curve[-1].accuracy:
            raise SystemExit(f"{pattern}: accuracy changed from {curve[-1].accuracy} to {finished} by finish()")
    run = {"pattern": pattern, "seed": seed, "accuracy": curve[-1].accuracy, "recipe": asdict(recipe)}
    replace_text(folder / f"{name}.json", {**run, "epochs": [asdict(e) for e in curve]})


def summary(runs: list[dict]) -> dict:
    """Mean over the seeds; loss in percentage points against the dense baseline of the same seed."""
    dense = {r["seed"]: r["accuracy"] for r in runs if r["pattern"] == "dense"}
    out = {}
    for pattern in ("dense", *PATTERNS):
        mine = {r["seed"]: r["accuracy"] for r in runs if r["pattern"] == pattern}
        if mine:
            lost = [100 * (dense[s] - a) for s, a in mine.items()]
            out[pattern] = {
                "seeds": sorted(mine),
                "accuracy_percent": round(100 * sum(mine.values()) / len(mine), 3),
                "lost_points": round(sum(lost) / len(lost), 3),
            }
    return out


def write(args: argparse.Namespace, start: float, commit: str) -> None:
    """The result file, from all finished runs. commit: when this program started."""
    order = ["dense", *PATTERNS]
    runs = [json.loads(p.read_text()) for p in sorted(args.state.glob("seed*/*.json"))]
    runs = sorted((r for r in runs if r["recipe"]["epochs"] == args.epochs), key=lambda r: (r["seed"], order.index(r["pattern"])))
    result = {
        "what": "accuracy on the whole CIFAR-10 test set after the last epoch",
        "model": MODEL,
        "method": {"kind": "srste", "decay": DECAY},
        "data": Path(args.data_dir).name,
        "weights": Path(args.weights).name,
        "start_accuracy": start,
        "summary": summary(runs),
        "commit": commit,
        "processor": processor(),
        "threads": args.threads,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "runs": runs,
    }
    replace_text(RESULT, result)
    print(json.dumps(result["summary"]), flush=True)


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


def replace_text(path: Path, content: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}")
    temporary.write_text(json.dumps(content, indent=1) + "\n")
    os.replace(temporary, path)


def arguments() -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--data-dir", required=True, help="folder with CIFAR-10 (official binary archive, or train-*/test-*.parquet)")
    p.add_argument("--weights", required=True, help="state dict to start from")
    p.add_argument("--epochs", type=int, default=10)
    p.add_argument("--seeds", type=lambda s: [int(x) for x in s.split(",")], default=[0, 1], help="comma-separated, default 0,1")
    p.add_argument("--threads", type=int, default=2, help="default 2; on a busy machine one per process is faster")
    p.add_argument("--state", type=Path, default=ROOT / "runs" / "cifar10_nm")
    return p.parse_args()


if __name__ == "__main__":
    main()
