"""Accuracy over milliseconds: uniform N:M, N chosen layer by layer, and smaller dense networks. ResNet-20 on CIFAR-10.

    python bench/budget.py --dense dense.safetensors --choose                      first, on a quiet machine: choose N, time all networks
    python bench/budget.py --dense dense.safetensors --time                        time them again
    python bench/budget.py --dense dense.safetensors --data-dir DATA               then train them
    python bench/budget.py --dense dense.safetensors --list                        what is done and what is next

All start from the same dense network (`--dense`: of bench/accuracy.py, say) with equal epochs and recipe; seeds differ in the order of
images and in augmentation:

    uniform        N:16 in every layer
    macs, latency  N:16 with N by layer, with no more multiply-adds, or milliseconds, than uniform (`jettison.budget`)
    width          dense, half or three quarters of the channels: those with the largest filters (Li et al. 2017, arXiv 1608.08710)

Sparse networks are trained with SR-STE; smaller dense ones have the dense network's weight decay. Runs are locked and resumed as in
bench/accuracy.py. Times are those of one run of all networks in turns, pruned but not trained, which changes nothing about them.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import json
import tempfile
from dataclasses import asdict, dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

import torch
from accuracy import DENSE, MODEL, ROOT, finish, locked, replace_json
from torch import Tensor, nn

from jettison import budget, file, zoo
from jettison.bench import Entrant, compare, processors
from jettison.bench.machine import provenance
from jettison.bench.target import random_samples
from jettison.export import export
from jettison.formats import NM, Format, parse
from jettison.graph import Graph, problem, weight_shape
from jettison.methods import ASP, SRSTE, sparsify_
from jettison.training import Recipe, evaluate
from jettison.training.data import DataSet, load
from jettison.training.data.dataset import Split
from jettison.zoo.resnet_cifar import ResNetCifar

M = 16
IMAGE = (3, 32, 32)
RESULT = ROOT / "bench" / "results" / f"budget_{MODEL}.json"


@dataclass(frozen=True, slots=True)
class Run:
    """kept: share of the weights of uniform N:M; of a smaller dense network, its width as a share of the whole one."""

    case: str
    kept: float
    seed: int = 0

    @property
    def network(self) -> str:
        return f"{self.case}-{self.kept:g}"

    @property
    def name(self) -> str:
        return f"{self.network}-seed{self.seed}"

    def recipe(self, epochs: int) -> Recipe:
        decay = 5e-4 if self.case == "width" else 5e-5
        return Recipe(epochs=epochs, batch=128, lr=0.05, bf16=True, seed=self.seed, weight_decay=decay)


SPARSE = ("uniform", "latency", "macs")
QUEUE = (  # what decides most comes first
    *(Run(case, 0.125) for case in SPARSE),
    Run("width", 0.5),
    *(Run(case, 0.5) for case in SPARSE),
    Run("width", 0.75),
    *(Run(case, 0.25) for case in SPARSE),
    *(Run(case, kept, seed) for kept in (0.25, 0.5, 0.125) for seed in (1, 2) for case in SPARSE),  # a difference is claimed
)
NETWORKS = tuple(run for run in QUEUE if run.seed == 0)  # one run of each


def main() -> None:
    args = arguments()
    args.state.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(args.threads)
    if args.choose or args.time:
        measure(args, None if args.choose else times(args))
    elif args.list:
        for run in QUEUE:
            print(f"{run.name:24}", f"{100 * finished(args)[run.name]['accuracy']:.2f}" if run.name in finished(args) else "-")
        return
    elif args.data_dir is None:
        raise SystemExit("--data-dir says where CIFAR-10 is")
    else:
        work_off(args)
    write(args)


def work_off(args: argparse.Namespace) -> None:
    data, made_by = load("cifar10", args.data_dir), provenance()
    if args.images is not None and data.train is not None:
        data = replace(data, train=Split(data.train.images[: args.images], data.train.labels[: args.images]))  # type: ignore[index]
    for wait in (False, True):
        for run in QUEUE:
            path = args.state / f"{run.name}.json"
            if not path.is_file():
                with locked(path.with_suffix(".lock"), wait) as mine:
                    if mine and not path.is_file():
                        train(run, data, args, made_by)
                        write(args)


def train(run: Run, data: DataSet, args: argparse.Namespace, made_by: dict[str, Any]) -> None:
    dense = dense_network(args)
    digest = hashlib.sha256(args.dense.read_bytes()).hexdigest()[:16]
    start = {"weights": args.dense.name, "sha256": digest, "accuracy": started(dense, digest, data, args)}
    model, formats = network(run, dense, times(args))
    sparsifier = sparsify_(model, formats, SRSTE()) if formats else None
    finish(
        run.name, {**asdict(run), "images": args.images, "start": start}, model, sparsifier, run.recipe(args.epochs), data, args, made_by
    )


def started(dense: nn.Module, digest: str, data: DataSet, args: argparse.Namespace) -> float:
    """Accuracy of the dense network, looked up from the second run on."""
    path = args.state / f"dense-{digest}.json"
    if not path.is_file():
        replace_json(path, {"accuracy": evaluate(dense, data, bf16=True)})
    return json.loads(path.read_text())["accuracy"]


def choose(dense: ResNetCifar, graph: Graph, cpus: list[int]) -> tuple[dict[str, dict[str, str]], dict[str, list[float]]]:
    """Formats of every sparse network, and the milliseconds of each layer with N = 1 … M that those of the latency budget come from."""
    layers = budget.prunable(dense, M)
    by_layer = {cost: budget.costs(graph, layers, M, cost, budget.Timed(tuple(cpus))) for cost in ("macs", "latency")}
    chosen = {}
    for run in NETWORKS:
        fmt = NM(round(run.kept * M), M)
        if run.case == "uniform":
            chosen[run.network] = {name: str(fmt) for name in layers}
        elif run.case != "width":
            shares = budget.within(dense, by_layer[run.case], run.kept, M, run.case)
            chosen[run.network] = {name: str(f) for name, f in shares.formats.items()}
    return chosen, {name: [round(float(t), 6) for t in ms] for name, ms in by_layer["latency"].items()}


def measure(args: argparse.Namespace, known: dict[str, Any] | None) -> None:
    """Choose the formats of every network, unless `known`, and time all networks in turns."""
    dense, graph, cpus = dense_network(args), export(dense_network(args).eval(), IMAGE), processors(1)
    chosen, latency = (known["formats"], known["layers_ms"]) if known else choose(dense, graph, cpus)
    graphs = {DENSE: graph}
    for run in NETWORKS:
        model, formats = network(run, dense, {"formats": chosen})
        if formats:
            sparsify_(model, formats, ASP(retrain=False))
        graphs[run.network] = export(model.eval(), IMAGE, formats)
    with tempfile.TemporaryDirectory(prefix="jettison-budget-") as folder:
        entrants = []
        for name, g in graphs.items():
            path = Path(folder) / f"{name}.jettison"
            file.save(g, path)
            entrants.append(Entrant("jettison", "f32", name, path, name))
        rows = compare(entrants, random_samples(graph, 1, seed=0), cpus, args.runs).rows
    sizes = {name: {"macs": macs(g), "parameters": parameters(g)} for name, g in graphs.items()}
    networks = {r.pattern: {**asdict(r), **sizes[r.pattern]} for r in rows}
    content = {"formats": chosen, "layers_ms": latency, "times": networks, "time_threads": len(cpus), "batch": 1, **provenance()}
    replace_json(args.state / "times.json", content)


def network(run: Run, dense: ResNetCifar, known: dict[str, Any]) -> tuple[nn.Module, dict[str, Format]]:
    """What a run trains, and the formats of its layers."""
    if run.case == "width":
        return thinner(dense, run.kept), {}
    return copy.deepcopy(dense), {name: parse(f) for name, f in known["formats"][run.network].items()}


def macs(graph: Graph) -> int:
    """Kept multiply-adds of one image."""
    return sum(problem(graph, op).cost(op.format, 0).macs for op in graph.ops if op.kind in ("conv", "linear"))


def parameters(graph: Graph) -> int:
    """Kept weights."""
    shapes = [(op, weight_shape(graph, op)) for op in graph.ops if op.kind in ("conv", "linear")]
    return sum(round(prod(shape) * op.format.density(shape)) for op, shape in shapes)


def times(args: argparse.Namespace) -> dict[str, Any]:
    """What `--choose` and `--time` found, here or, committed, elsewhere."""
    for path in (args.state / "times.json", args.result):
        if path.is_file():
            return json.loads(path.read_text())
    raise SystemExit("nothing is timed yet: run with --choose first, on a quiet machine")


def finished(args: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Name → numbers of every finished run of this many epochs and images, here or committed."""
    committed = json.loads(args.result.read_text())["budget"] if args.result.is_file() else []
    here = [json.loads((args.state / f"{run.name}.json").read_text()) for run in QUEUE if (args.state / f"{run.name}.json").is_file()]
    return {r["name"]: r for r in (*committed, *here) if (r["recipe"]["epochs"], r["images"]) == (args.epochs, args.images)}


def write(args: argparse.Namespace) -> None:
    known = {k: v for k, v in times(args).items() if k not in ("what", "budget")}
    done = finished(args)
    about = {"what": __doc__.split("\n")[0], "model": MODEL, "epochs": args.epochs, "images": args.images}
    replace_json(args.result, {**about, **known, "budget": [done[run.name] for run in QUEUE if run.name in done]})


def dense_network(args: argparse.Namespace) -> ResNetCifar:
    model = zoo.build(MODEL, num_classes=10)
    zoo.load_weights(model, args.dense)
    return model  # type: ignore[return-value]


@torch.no_grad()
def thinner(model: ResNetCifar, share: float) -> ResNetCifar:
    """`share` of the channels of a CIFAR ResNet: inside each block, and of each stage, those whose filters are largest.

    A stage's shortcut puts the former stage's channels into the middle, so those are taken as they are, and as many before and behind them.
    """
    full = model.conv1.out_channels
    width = round(share * full)
    small = copy.deepcopy(model)
    stages = (model.layer1, model.layer2, model.layer3)
    kept = best(strength(model.conv1, model.bn1) + total(stages[0]), width)
    take(small.conv1, small.bn1, kept, None)
    for i, stage in enumerate((small.layer1, small.layer2, small.layer3)):
        former = kept
        if i:
            side, new, score = full << i >> 2, width << i >> 2, total(stages[i])
            kept = torch.cat([best(score[:side], new), former + side, best(score[-side:], new) + 3 * side])
        for j, block in enumerate(stage):
            inner = best(strength(block.conv1, block.bn1), len(kept))
            take(block.conv1, block.bn1, inner, kept if j else former)
            take(block.conv2, block.bn2, kept, inner)
            block.new_channels = 0 if j else len(kept) - len(former)  # type: ignore[union-attr]
    small.linear.weight = nn.Parameter(small.linear.weight[:, kept].clone())
    thin = ResNetCifar(len(model.layer1), small.linear.out_features, small.conv1.in_channels, width)
    thin.load_state_dict(small.state_dict())
    return thin


def strength(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> Tensor:
    """L1 norm of each filter, its normalization included."""
    return conv.weight.abs().sum((1, 2, 3)) * norm.weight.abs() / (norm.running_var + norm.eps).sqrt()  # type: ignore[operator]


def total(stage: nn.Sequential) -> Tensor:
    return sum(strength(block.conv2, block.bn2) for block in stage)  # type: ignore[arg-type,misc,return-value]


def best(score: Tensor, count: int) -> Tensor:
    """Indices of the largest, ascending."""
    return score.topk(count).indices.sort().values


def take(conv: nn.Conv2d, norm: nn.BatchNorm2d, outputs: Tensor, inputs: Tensor | None) -> None:
    weight = conv.weight[outputs]
    conv.weight = nn.Parameter((weight if inputs is None else weight[:, inputs]).clone())
    for name in ("weight", "bias", "running_mean", "running_var"):
        values = getattr(norm, name)
        setattr(norm, name, nn.Parameter(values[outputs].clone()) if isinstance(values, nn.Parameter) else values[outputs].clone())


def arguments() -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--data-dir", help="folder with CIFAR-10, as for accuracy.py")
    p.add_argument("--dense", required=True, type=Path, help="weights of the dense network that all runs start from")
    p.add_argument("--epochs", type=int, default=10)
    p.add_argument("--images", type=int, help="train on the first so many only: a first look")
    p.add_argument("--threads", type=int, default=1)
    p.add_argument("--state", type=Path, default=ROOT / "runs" / "budget", help="where unfinished and finished runs are kept")
    p.add_argument("--result", type=Path, default=RESULT, help="the result file to read and to write")
    p.add_argument("--choose", action="store_true", help="train nothing; choose N by layer and time every network")
    p.add_argument("--time", action="store_true", help="train nothing; time every network again, with the N chosen before")
    p.add_argument("--runs", type=int, default=30, help="timed runs of each network")
    p.add_argument("--list", action="store_true", help="train nothing, only show the queue")
    return p.parse_args()


if __name__ == "__main__":
    main()
