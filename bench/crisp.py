"""Accuracy on a user's classes at 92% sparsity: CRISP and what each of its ingredients is worth.

    python bench/crisp.py --data-dir DATA                        the whole queue, many core hours
    python bench/crisp.py --data-dir DATA --network resnet20_cifar --classes 2 --draws 1
    python bench/crisp.py --data-dir DATA --list                 what is done and what is next
    python bench/crisp.py --data-dir DATA --collect              only write the result file from what is done
    python bench/crisp.py --data-dir DATA --network vgg16_bn --classes 5 --variants crisp --set lr=0.06,epochs=4     a trial

Each network is trained dense on all classes first, from --backbone or its own if there is one (the classifier, and what else does not
fit, start anew). Then, for every number of classes and every draw of classes, all variants start from it and learn from its scores too,
with one recipe and equal epochs:

    dense         not trained further                       dense-tuned   trained on the chosen classes, nothing removed
    crisp         the whole method                          magnitude     CRISP whose saliency is |w|
    blind         CRISP with images of all classes          block         whole blocks alone, dense inside
    maxq          N:M alone, by magnitude, step by step     srste         the same, at once
    half          crisp with half of the epochs

and a change of mind, with half of the epochs, too:

    from          CRISP from `old` (--from), a network for all but the first of these classes and for one other
    from-others   CRISP from the former draw, a network for other classes

With --ranks sum the layers compete by plain sums of saliency and every step has equal epochs, as published; by default as in
`methods.crisp`. Accuracy is that of the last epoch among the chosen classes, on all their test images; where these are few, their mean
cross-entropy tells settings apart sooner, and sooner still the correlation of the scores with the dense network's. The queue lives in
files as in bench/accuracy.py: it may be killed at any moment and started again, and several processes may work at it. A trial, with
settings of its own, stays out of it: in --state's folder `trials`, and in the file that --result names, if any.
"""

from __future__ import annotations

import argparse
import copy
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from accuracy import locked, replace_json
from crisp_subjects import SUBJECTS, Subject
from torch import Tensor, nn

from jettison import personal, zoo
from jettison.bench.machine import provenance
from jettison.cli.train import save_weights
from jettison.compression import SALIENCY_BATCHES, ready_for_training_
from jettison.errors import JettisonError
from jettison.formats import NM, Block, Dense, Format
from jettison.methods import CRISP, Hybrid, Select, Sparsifier, choose_layers, make_method, mean_gradients, sparsify_
from jettison.training import Recipe, device_of, fit, on
from jettison.training.data import DataSet, classifier, load, normalise, only_classes, shrink_head, test_batches, train_batches, with_others

ROOT = Path(__file__).resolve().parent.parent
RESULT = ROOT / "bench" / "results" / "crisp.json"
SPARSITY = 0.92
DISTILL = 0.9  # weight of the dense network's scores in what is learnt: chosen classes may have few images
VARIANTS = ("dense", "dense-tuned", "crisp", "magnitude", "blind", "block", "maxq", "srste", "half", "old", "from", "from-others")
SHARES = {"dense": 0.0, "half": 0.5, "from": 0.5, "from-others": 0.5}  # of the epochs
KEPT = ("crisp", "old")  # leave a checkpoint to start from
NM_ALONE = ("maxq", "srste")
UNRANKED = ("dense", "dense-tuned", *NM_ALONE)  # have no blocks
PUBLISHED = {"rank": "sum", "settle": 0.0}


@dataclass(frozen=True, slots=True)
class Run:
    network: str
    count: int
    draw: int
    variant: str
    ranks: str = "mean"
    changes: tuple[tuple[str, float | str], ...] = ()  # of a trial: settings by name

    @property
    def name(self) -> str:
        published = "-sum" if self.ranks == "sum" and self.variant not in UNRANKED else ""
        return f"{self.network}-{self.count}-{self.draw}-{self.variant}{published}" + "".join(f"-{k}={v}" for k, v in self.changes)

    @property
    def method(self) -> CRISP:
        method = CRISP(use="magnitude" if self.variant == "magnitude" else "class", **(PUBLISHED if self.ranks == "sum" else {}))
        return replace(method, **self.changed(CRISP))

    def changed(self, settings: type) -> dict[str, Any]:
        """The changes that are settings of this kind."""
        return {k: v for k, v in self.changes if k in {f.name for f in fields(settings)}}

    def chosen(self, classes: int) -> list[int]:
        """The draw's classes: the first `count` of a permutation, so 2 are among 5 of the same draw; of `old` without the very first."""
        first = int(self.variant == "old")
        return sorted(int(i) for i in np.random.default_rng(self.draw).permutation(classes)[first : first + self.count])


def main() -> None:
    args = arguments()
    args.runs.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(args.threads)
    runs = [
        Run(network, count, draw, variant, args.ranks, args.set)
        for network in args.network
        for draw in range(args.draws)
        for count in SUBJECTS[network].epochs
        if args.classes is None or count in args.classes
        for variant in args.variants
    ]
    if args.list:
        done = finished(args)
        for run in runs:
            print(f"{run.name:40}", f"{100 * done[run.name]['accuracy']:.2f}" if run.name in done else "-")
        return
    if not args.collect:
        for wait in (False, True):
            for run in runs:
                work_off(run, args, wait)
    write(args)


def work_off(run: Run, args: argparse.Namespace, wait: bool) -> None:
    if run.name in finished(args):
        return
    with locked(args.runs / f"{run.name}.lock", wait) as mine:
        if mine and run.name not in finished(args):
            train(run, args)
            write(args)


def train(run: Run, args: argparse.Namespace) -> None:
    """One run; leaves its numbers and, if another starts from it, its checkpoint."""
    subject = SUBJECTS[run.network]
    others = dict(run.changes).get("others", subject.others)
    data = load(subject.data, args.data_dir)
    dense, origin = dense_network(run.network, data, args), dense_record(run.network, args)
    chosen = run.chosen(len(data.classes))
    few = only_classes(data, chosen, "keep")
    seen = with_others(few, data, others)
    model = copy.deepcopy(dense)
    settings = {
        "epochs": subject.epochs[run.count], "batch": subject.batch.get(run.count, 64), "lr": subject.lr, "weight_decay": 5e-5,
        "distill": DISTILL, "mixup": subject.mixup, "hints": subject.hints, "dropout": subject.dropout, "seed": run.draw, "bf16": args.bf16,
    } | run.changed(Recipe)  # fmt: skip
    epochs = int(SHARES.get(run.variant, 1) * settings["epochs"])
    recipe = Recipe(**settings | {"epochs": epochs})
    handle, old = None, None
    if run.variant in NM_ALONE:
        formats = {c.name: nm for nm in reversed(subject.nm) for c in choose_layers(model, nm, Select(), "dense") if c.format}
        handle = sparsify_(model, formats, make_method(run.variant, epochs))
    elif not run.variant.startswith("dense"):
        old = former(run, args) if run.variant.startswith("from") else None
        if old is not None:
            model.load_state_dict(personal.resumed(old, chosen, classifier(model)[0]))
        handle = blocks(run, model, subject)
        prune(run, model, handle, seen, data if run.variant == "blind" else few, recipe, dense, old, args)
    if epochs and (handle is None or run.variant in NM_ALONE):
        with on(args.device, model, dense):
            fit(model, seen, recipe, handle, dense, args.runs / f"{run.name}.pt", resume=True, progress=False)
    sparsity = handle.sparsity() if handle else 0.0
    if handle is not None:
        if run.variant in KEPT:
            state, masks = personal.trained_state(handle, model)
            keep = personal.Personal(subject.model, list(data.classes), chosen, "keep", "", dense.state_dict(), state, masks)
            personal.save(keep, args.runs / f"{run.name}.jettison-checkpoint")
        handle.finish()
    shrink_head(model, chosen, len(data.classes))
    judged = only_classes(data, chosen, "shrink")
    scores, labels = test_scores(model, judged)
    accuracy = (scores.argmax(1) == labels).sum().item() / len(labels)
    entropy, likeness = F.cross_entropy(scores, labels).item(), correlation(scores, test_scores(dense, judged)[0][:, chosen])
    record = {
        "name": run.name, **asdict(run), "data": data.name, "chosen": [data.classes[i] for i in chosen], "accuracy": accuracy,
        "cross_entropy": entropy, "correlation": likeness, "test_images": len(few.test),
        "method": None if run.variant in UNRANKED else asdict(run.method),
        "sparsity": sparsity, "recipe": asdict(recipe), "others": others, "dense": origin, "threads": args.threads,
        "device": str(args.device), **provenance(),
    }  # fmt: skip
    replace_json(args.runs / f"{run.name}.json", record)
    told = f"accuracy {accuracy:.2%}  cross-entropy {entropy:.3f}  correlation {likeness:.3f}  sparsity {sparsity:.2%}"
    print(f"{run.name}  {told}", flush=True)
    for part in (args.runs / f"{run.name}.pt", *args.runs.glob(f"{run.name}-[0-9]*.pt")):
        part.unlink(missing_ok=True)


@torch.inference_mode()
def test_scores(model: nn.Module, data: DataSet) -> tuple[Tensor, Tensor]:
    """(scores, labels) of all test images. The model is in evaluation mode."""
    device = next(model.parameters()).device
    told = [(model(normalise(x.to(device), data)).cpu(), y) for x, y in test_batches(data, 250)]
    return torch.cat([scores for scores, _ in told]), torch.cat([y for _, y in told])


def correlation(scores: Tensor, others: Tensor) -> float:
    """Of two networks' scores, each image's mean taken off."""
    a, b = ((s - s.mean(1, keepdim=True)).flatten() for s in (scores, others))
    return torch.corrcoef(torch.stack([a, b]))[0, 1].item()


def blocks(run: Run, model: nn.Module, subject: Subject) -> Sparsifier:
    inner: Format = Dense() if run.variant == "block" else NM(2, 4)
    return sparsify_(model, Block(subject.block, subject.block, inner), run.method, remainder="inner" if inner != Dense() else "dense")


def prune(
    run: Run,
    model: nn.Module,
    handle: Sparsifier,
    seen: DataSet,
    judges: DataSet,
    recipe: Recipe,
    dense: nn.Module,
    old: personal.Personal | None,
    args: argparse.Namespace,
) -> None:
    """Select and train in turns. seen: what is trained on. judges: what saliency is measured on. dense: the teacher."""
    hybrid = Hybrid(handle, handle.method, None if old is None else old.masks)  # type: ignore[arg-type]
    steps = hybrid.schedule(SPARSITY, recipe.epochs) if old is None else [(SPARSITY, recipe.epochs)]
    for i, (target, epochs) in enumerate(steps):
        with on(args.device, model):
            gradients = mean_gradients(handle, model, images(judges, recipe))
        hybrid.select(gradients, target)
        part = Recipe(**{**asdict(recipe), "epochs": epochs})
        with on(args.device, model, dense):
            fit(model, seen, part, handle, dense, args.runs / f"{run.name}-{i}.pt", resume=True, progress=False)
        hybrid.follow()


def images(data: DataSet, recipe: Recipe) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    batches = islice(train_batches(data, recipe.batch, recipe.seed, epoch=0, augment=False), SALIENCY_BATCHES)
    return ((normalise(x, data).contiguous(), y) for x, y in batches)


def former(run: Run, args: argparse.Namespace) -> personal.Personal:
    """The network that this run starts from, of a trial, too, without its changes; made if it is missing.

    The draw before the first is the last.
    """
    others = {"draw": (run.draw - 1) % max(args.draws, 2), "variant": "crisp"}
    other = replace(run, changes=(), **others if run.variant == "from-others" else {"variant": "old"})
    path = args.state / f"{other.name}.jettison-checkpoint"
    if not path.is_file():
        with locked(args.state / f"{other.name}.lock", True):
            if not path.is_file():
                train(other, argparse.Namespace(**vars(args) | {"runs": args.state}))
    return personal.load(path)


def dense_network(network: str, data: DataSet, args: argparse.Namespace) -> nn.Module:
    """Trained once on all classes, from --backbone or the subject's if there is one."""
    torch.manual_seed(0)
    subject = SUBJECTS[network]
    model = zoo.build(subject.model, num_classes=len(data.classes), in_channels=data.channels, image_size=data.size)
    if subject.stem_stride > 1:
        next(m for m in model.modules() if isinstance(m, nn.Conv2d)).stride = (subject.stem_stride, subject.stem_stride)
    weights = args.state / f"{network}.safetensors"
    with locked(args.state / f"{network}.lock", True):
        if not weights.is_file():
            teacher = dense_network(subject.teacher, data, args) if subject.teacher else None
            backbone = args.backbone if network in args.network else None  # a teacher is another network
            if backbone is None and subject.backbone:
                backbone = args.state / f"{subject.backbone}.safetensors"
                if not backbone.is_file():
                    dense_network(subject.backbone, load(SUBJECTS[subject.backbone].data, args.data_dir), args)
            if backbone is not None:
                start(model, backbone)
                ready_for_training_(model, data, seed=0)
            epochs, lr = args.dense_epochs or subject.dense_epochs, 0.02 if backbone else subject.dense_lr
            recipe = Recipe(epochs=epochs, batch=128, lr=lr, weight_decay=5e-4, bf16=args.bf16, distill=DISTILL if teacher else 0.0)
            part = args.state / f"{network}.pt"
            with on(args.device, model, teacher):
                history = fit(model, data, recipe, teacher=teacher, checkpoint=part, resume=True, on_epoch=print, progress=False)
            about = {"backbone": backbone and backbone.name, "accuracy": history[-1].accuracy, "recipe": asdict(recipe)}
            about |= {"stem_stride": subject.stem_stride, "teacher": subject.teacher}
            (args.state / "dense").mkdir(exist_ok=True)
            replace_json(args.state / "dense" / f"{network}.json", about)
            save_weights(model.state_dict(), weights)
    zoo.load_weights(model, weights)
    return model.eval()


def start(model: nn.Module, backbone: Path) -> None:
    """Weights of the backbone; a shortcut that it lacks lets pass what comes."""
    new = zoo.load_backbone(model, backbone)
    print(f"from {backbone.name}: all but {', '.join(new)}")
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d) and f"{name}.weight" in new:
            nn.init.dirac_(module.weight)


def dense_record(network: str, args: argparse.Namespace) -> dict[str, Any]:
    """What the dense network was trained from and how, and its accuracy on all classes."""
    return json.loads((args.state / "dense" / f"{network}.json").read_text())


def finished(args: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Name → numbers of every finished run: this machine's and those committed before."""
    committed = json.loads(args.result.read_text())[args.key] if args.result and args.result.is_file() else []
    here = [json.loads(p.read_text()) for p in sorted(args.runs.glob("*.json"))]
    return {r["name"]: r for r in (*committed, *here)}


def write(args: argparse.Namespace) -> None:
    runs = sorted(finished(args).values(), key=lambda r: (r["network"], r["count"], r["draw"], VARIANTS.index(r["variant"])))
    if runs and args.result:
        replace_json(args.result, {"what": __doc__.split("\n")[0], "sparsity": SPARSITY, args.key: runs})


def arguments() -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--data-dir", required=True, help="folder with CIFAR-10 and Tiny-ImageNet")
    p.add_argument("--network", type=lambda s: s.split(","), default=list(SUBJECTS))
    p.add_argument("--classes", type=lambda s: [int(x) for x in s.split(",")], help="numbers of classes; default all of the network's")
    p.add_argument("--variants", type=lambda s: s.split(","), default=list(VARIANTS))
    p.add_argument("--ranks", choices=("mean", "sum"), default="mean", help="how ranks of different layers compare; sum: as published")
    p.add_argument("--draws", type=int, default=3)
    p.add_argument("--set", type=changes, default=(), help="a trial: KEY=VALUE,…, settings of Recipe or CRISP, or others")
    p.add_argument("--backbone", type=Path, help="weights that the dense network starts from, for any classes; with one --network")
    p.add_argument("--dense-epochs", type=int, help="default: 8 to 40, by network")
    p.add_argument("--threads", type=int, default=1)
    p.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="what trains; auto: a GPU if there is one")
    p.add_argument("--bf16", action="store_true")
    p.add_argument("--list", action="store_true")
    p.add_argument("--collect", action="store_true")
    p.add_argument("--state", type=Path, default=ROOT / "runs" / "crisp")
    p.add_argument("--result", type=Path, help="default: bench/results/crisp.json; of a trial none")
    args = p.parse_args()
    args.device = device_of(args.device)
    if args.set:
        args.runs, args.key = args.state / "trials", "crisp_trials"
    else:
        args.runs, args.key, args.result = args.state, "crisp", args.result or RESULT
    return args


def changes(text: str) -> tuple[tuple[str, float | str], ...]:
    known = {f.name for kind in (Recipe, CRISP) for f in fields(kind) if f.type in ("int", "float")} | {"others", "optimizer"}
    pairs = {key: value for key, _, value in (part.partition("=") for part in text.split(","))}
    if wrong := sorted(pairs.keys() - known):
        raise argparse.ArgumentTypeError(f"no setting {', '.join(wrong)}; there are {', '.join(sorted(known))}")
    try:
        settings = {key: value if key == "optimizer" else number(value) for key, value in pairs.items()}
        for kind in (Recipe, CRISP):
            kind(**{f.name: settings[f.name] for f in fields(kind) if f.name in settings})
    except (ValueError, JettisonError) as e:
        raise argparse.ArgumentTypeError(f"{text}: {e}") from None
    return tuple(sorted(settings.items()))


def number(text: str) -> int | float:
    return int(text) if text.isdigit() else float(text)


if __name__ == "__main__":
    main()
