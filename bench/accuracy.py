r"""Accuracy of N:M training: {dense, asp, ste, srste, maxq} × {2:4, 1:4, 1:8, 1:16}, ResNet-20 on CIFAR-10, one recipe for all.

    python bench/accuracy.py --data-dir DATA --weights resnet20.th              the whole queue, about 10 core hours
    python bench/accuracy.py --data-dir DATA --weights resnet20.th --list       what is done and what is next
    python bench/accuracy.py --data-dir DATA --weights resnet20.th --collect    only write the table from what is done

Another recipe has a folder and a table of its own; put the dense networks that it starts from (bench/weights/) there first:

    python bench/accuracy.py … --only srste-1_4-seed0 --epochs 20 --distill 0.5 --state runs/longer \
        --result bench/results/accuracy_longer.json

Per seed the dense network is fine-tuned from `--weights`; every sparse run starts from its seed's dense network. Equal
epochs and recipe, accuracy of the last epoch on the whole test set.

The queue lives in files, so it may be killed at any moment and started again with the same command:

    runs/accuracy/NAME.jettison-checkpoint    a run that is not finished, after its last whole epoch
    runs/accuracy/NAME.safetensors, .json     a finished one: its plain weights, its numbers
    bench/results/accuracy_resnet20_cifar.json    the numbers of all finished runs, committed

A run that the committed file holds is not repeated on another machine. The dense networks that sparse runs start from are
committed too (bench/weights/); one that is missing is trained again. Each sparse run notes which one it started from.
Several processes may work at one queue: each run is locked.
"""

from __future__ import annotations

import argparse
import copy
import fcntl
import hashlib
import json
import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from jettison import file, zoo
from jettison.bench.machine import commit, provenance
from jettison.cli.train import save_weights
from jettison.formats import NM
from jettison.methods import METHODS, Method, Sparsifier, sparsify_
from jettison.training import Epoch, Recipe, evaluate, fit
from jettison.training.data import DataSet, load

ROOT = Path(__file__).resolve().parent.parent
MODEL = "resnet20_cifar"
KEPT = ROOT / "bench" / "weights"
RESULT = ROOT / "bench" / "results" / f"accuracy_{MODEL}.json"
PATTERNS = ("2:4", "1:4", "1:8", "1:16")
SEEDS = {"2:4": (0,), "1:4": (0, 1, 2), "1:8": (0,), "1:16": (0, 1, 2)}
DENSE = "dense"


@dataclass(frozen=True, slots=True)
class Case:
    """A row of the table. settings: of the method; its ramp ends after a share of the epochs. recipe: where it differs from everybody's."""

    method: str
    settings: dict[str, Any] = field(default_factory=dict)
    ramp: float | None = None
    recipe: dict[str, Any] = field(default_factory=dict)

    def make(self, epochs: int) -> Method:
        end = {} if self.ramp is None else {"end": self.ramp * epochs}
        return METHODS[self.method](**self.settings, **end)


CASES = {
    "asp": Case("asp"),
    "ste": Case("ste"),
    "srste": Case("srste"),
    "maxq": Case("maxq", ramp=0.5),
}

QUEUE = (  # what decides most comes first
    ("srste", "1:16"),
    ("maxq", "1:16"),
    ("maxq", "1:4"),
    ("srste", "1:4"),
    ("maxq", "2:4"),
    ("asp", "1:16"),
    ("ste", "1:16"),
    ("asp", "1:4"),
    ("ste", "1:4"),
    ("srste", "2:4"),
    ("maxq", "1:8"),
    ("srste", "1:8"),
    ("asp", "2:4"),
    ("asp", "1:8"),
    ("ste", "2:4"),
    ("ste", "1:8"),
)


@dataclass(frozen=True, slots=True)
class Run:
    case: str
    pattern: str
    seed: int

    @property
    def name(self) -> str:
        return f"dense-seed{self.seed}" if self.case == DENSE else f"{self.case}-{self.pattern.replace(':', '_')}-seed{self.seed}"

    def recipe(self, epochs: int, distill: float) -> Recipe:
        """Pruned weights want less weight decay: 5e-5 is the N:M papers', 5e-4 that of twenty years of CIFAR networks."""
        mine = {"weight_decay": 5e-4} if self.case == DENSE else {"weight_decay": 5e-5, "distill": distill, **CASES[self.case].recipe}
        return Recipe(**{"epochs": epochs, "batch": 128, "lr": 0.05, "bf16": True, "seed": self.seed, **mine})


def queue(args: argparse.Namespace) -> list[Run]:
    """Every run of the table, in the order they are worked off; a dense network before the first run that needs it."""
    sparse = [Run(case, pattern, seed) for case, pattern in QUEUE for seed in SEEDS[pattern]]
    runs = [*(Run(DENSE, DENSE, seed) for seed in sorted({r.seed for r in sparse})), *sparse]
    return [run for run in runs if not args.only or any(run.name.startswith(name) for name in args.only)]


def main() -> None:
    args = arguments()
    if args.list:
        done = finished(args)
        for run in queue(args):
            print(f"{run.name:24}", f"{100 * done[run.name]['accuracy']:.2f}" if run.name in done else "-")
        return show(summary(in_order(done)))
    if not args.collect:
        torch.set_num_threads(args.threads)
        work_off(args)
    write(args)


def work_off(args: argparse.Namespace) -> None:
    """Runs that another process holds are left to it, and looked at again at the end."""
    data, made_by = load("cifar10", args.data_dir), provenance()  # of the code that runs, whatever is committed meanwhile
    args.state.mkdir(parents=True, exist_ok=True)
    for wait in (False, True):
        for run in queue(args):
            if run.name in finished(args):
                continue
            with locked(args.state / f"{run.name}.lock", wait) as mine:
                if mine and run.name not in finished(args):
                    train(run, data, args, made_by)
                    write(args)


@contextmanager
def locked(path: Path, wait: bool) -> Iterator[bool]:
    """True while this process alone holds `path`. The system frees it when a process dies."""
    with open(path, "w") as f:
        try:
            fcntl.flock(f, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        yield True


def train(run: Run, data: DataSet, args: argparse.Namespace, made_by: dict[str, Any]) -> None:
    """One run; leaves its weights, plain and in the pattern, and then its numbers."""
    model, start = start_of(run, data, args, made_by)
    case = CASES.get(run.case)
    teacher = copy.deepcopy(model) if case and args.distill else None
    sparsifier = sparsify_(model, NM.parse(run.pattern), case.make(args.epochs)) if case else None
    recipe = run.recipe(args.epochs, args.distill)
    finish(run.name, {**asdict(run), "start": start}, model, sparsifier, recipe, data, args, made_by, teacher)


def finish(
    name: str, about: dict[str, Any], model: nn.Module, sparsifier: Sparsifier | None, recipe: Recipe, data: DataSet,
    args: argparse.Namespace, made_by: dict[str, Any], teacher: nn.Module | None = None,
) -> None:  # fmt: skip
    """Train from the last checkpoint to the end; leave the weights, then what is known `about` the run and its numbers."""
    checkpoint = args.state / f"{name}.jettison-checkpoint"

    def on_epoch(e: Epoch) -> None:
        sad = "" if e.sad is None else f"  SAD {e.sad:.3%}"
        print(f"{name}  epoch {e.epoch}/{recipe.epochs}  loss {e.loss:.4f}  accuracy {e.accuracy:.2%}{sad}  {e.seconds:.0f} s", flush=True)

    curve = fit(model, data, recipe, sparsifier, teacher=teacher, checkpoint=checkpoint, resume=True, on_epoch=on_epoch, progress=False)
    settings = None
    if sparsifier is not None:
        settings = sparsifier.state_dict()["method"]
        sparsifier.finish()
        after = evaluate(model, data, max(250, recipe.batch), bf16=recipe.bf16)
        if after != curve[-1].accuracy:
            raise SystemExit(f"{name}: accuracy changed from {curve[-1].accuracy} to {after} by finish()")
    save_weights(model.state_dict(), args.state / f"{name}.safetensors")
    numbers = {"method": settings, "accuracy": curve[-1].accuracy, "recipe": asdict(recipe)}
    record = {"name": name, **about, **numbers, "threads": args.threads, **made_by, "epochs": [asdict(e) for e in curve]}
    replace_json(args.state / f"{name}.json", record)
    checkpoint.unlink(missing_ok=True)


def start_of(run: Run, data: DataSet, args: argparse.Namespace, made_by: dict[str, Any]) -> tuple[nn.Module, dict[str, Any]]:
    """The network a run starts from, and what it notes about it. A sparse run: its seed's dense one, trained if missing."""
    model = zoo.build(MODEL, num_classes=10)
    weights = args.weights
    if run.case != DENSE:
        weights = KEPT / f"{MODEL}-{args.epochs}-epochs" / f"dense-seed{run.seed}.safetensors"
        if not weights.is_file():
            weights = args.state / weights.name
        with locked(args.state / f"dense-seed{run.seed}.lock", wait=True):
            if not weights.is_file():
                train(Run(DENSE, DENSE, run.seed), data, args, made_by)
    zoo.load_weights(model, weights)
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()[:16]
    accuracy = evaluate(model, data, bf16=True)
    return model, {"weights": weights.name, "sha256": digest, "accuracy": accuracy}


def finished(args: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Name → numbers of every finished run of this recipe: this machine's and those committed before."""
    committed = json.loads(args.result.read_text())["runs"] if args.result.is_file() else []
    here = [json.loads(p.read_text()) for p in sorted(args.state.glob("*.json"))]
    return {
        r["name"]: r
        for r in (*committed, *here)
        if r["recipe"]["epochs"] == args.epochs and (r["case"] == DENSE or r["recipe"]["distill"] == args.distill)
    }


def summary(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row for each case and pattern, over the seeds: mean and sample standard deviation, in percent and points.

    lost: against the dense network that the run started from; of the same seed.
    """
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for r in runs:
        groups.setdefault((r["pattern"], r["case"]), []).append(r)
    rows = []
    for (pattern, case), mine in groups.items():
        percent = [100 * r["accuracy"] for r in mine]
        lost = [0.0 if case == DENSE else 100 * (r["start"]["accuracy"] - r["accuracy"]) for r in mine]
        about = {"method": case, "pattern": pattern, "seeds": [r["seed"] for r in mine]}
        numbers = {"accuracy_percent": mean(percent), "spread": spread(percent), "lost_points": mean(lost), "lost_spread": spread(lost)}
        rows.append(about | numbers)
    return rows


def mean(values: list[float]) -> float:
    return round(statistics.fmean(values), 3)


def spread(values: list[float]) -> float | None:
    return round(statistics.stdev(values), 3) if len(values) > 1 else None


def in_order(done: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """By pattern, method and seed."""
    patterns, cases = [DENSE, *PATTERNS], [DENSE, *CASES]
    return sorted(done.values(), key=lambda r: (patterns.index(r["pattern"]), cases.index(r["case"]), r["seed"]))


def write(args: argparse.Namespace) -> None:
    """The result file, from all finished runs."""
    done = finished(args)
    runs = in_order(done)
    if not runs:
        return
    result = {
        "what": "accuracy on the whole CIFAR-10 test set after the last epoch; spread: standard deviation over the seeds",
        "model": MODEL,
        "data": Path(args.data_dir).name,
        "weights": args.weights.name,
        "epochs": args.epochs,
        "distill": args.distill,
        "summary": summary(runs),
        "missing": [r.name for r in queue(args) if r.name not in done],
        "commit": commit(),
        "runs": runs,
    }
    replace_json(args.result, result)
    show(result["summary"])


def show(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        accuracy = f"{row['accuracy_percent']:.2f} ± {row['spread'] or 0:.2f}"
        print(f"{row['method']:8} {row['pattern']:6} {accuracy}  lost {row['lost_points']:.2f}  seeds {row['seeds']}")


def replace_json(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    file.replace(path, (json.dumps(content, indent=1) + "\n").encode())


def arguments() -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--data-dir", required=True, help="folder with CIFAR-10 (official binary archive, or train-*/test-*.parquet)")
    p.add_argument("--weights", required=True, type=Path, help="state dict that the dense networks start from")
    p.add_argument("--epochs", type=int, default=10)
    p.add_argument("--distill", type=float, default=0.0, help="share in the loss of the dense network that a run starts from; default 0")
    p.add_argument("--only", type=lambda s: s.split(","), default=[], help="names of runs, or how they begin, with commas; default all")
    p.add_argument("--threads", type=int, default=1, help="default 1: several processes finish sooner than several threads")
    p.add_argument("--state", type=Path, default=ROOT / "runs" / "accuracy", help="where unfinished and finished runs are kept")
    p.add_argument("--result", type=Path, default=RESULT, help="the table to read and to write")
    p.add_argument("--collect", action="store_true", help="train nothing, only write the table")
    p.add_argument("--list", action="store_true", help="train nothing, only show the queue")
    return p.parse_args()


if __name__ == "__main__":
    main()
