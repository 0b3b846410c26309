"""`jettison train`: train a network, dense or N:M sparse; the result is a PyTorch state dict."""

from __future__ import annotations

from dataclasses import asdict
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import TrainingError, no_effect
from .tables import Json, Output, check_writable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..methods import Method, Sparsifier
    from ..training import Epoch, Processes, Recipe
    from ..training.data import DataSet

DENSE = "dense"
Mixup = Annotated[float, typer.Option(help="Mix images by shares from Beta(a, a) against overfitting few; 1 is usual, 0 off.", min=0)]
HintsOption = Annotated[
    float, typer.Option("--hints", help="Weight of the teacher's features in the loss, 1 for instance: against few images.", min=0)
]
Device = Annotated[str, typer.Option(help="What trains: cpu, cuda, or auto: a GPU if there is one.")]


def train(
    model: Annotated[str, typer.Argument(help="The network: zoo name, timm:NAME, or path/to/file.py:function.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="The .safetensors file to write the trained weights to.")],
    data: Annotated[
        str, typer.Option(help="Data set: digits, mnist, cifar10 …, or a folder of class folders or parquet files.")
    ] = "digits",
    data_dir: Annotated[Path | None, typer.Option(help="Where the data set's files are. Default: $JETTISON_DATA, else a cache.")] = None,
    size: Annotated[int | None, typer.Option(help="Height and width of the images. Default: the data set's.", min=1)] = None,
    weights: Annotated[Path | None, typer.Option(help="Weights to start from. Default: random.")] = None,
    backbone: Annotated[
        Path | None, typer.Option(help="Weights of this network for other classes to start from; what does not fit, starts anew.")
    ] = None,
    pattern: Annotated[str, typer.Option(help="'dense', or N:M, which keeps N of every M input channels.")] = DENSE,
    method: Annotated[str, typer.Option(help="How to make it sparse: srste, maxq, ste or asp.")] = "srste",
    decay: Annotated[
        float | None, typer.Option(help="srste, maxq: pull of pruned weights towards zero. Default: the papers' 2e-4.", min=0)
    ] = None,
    ramp_epochs: Annotated[
        float | None, typer.Option(help="maxq: epochs until every block is sparse. Default: half of all.", min=0)
    ] = None,
    include: Annotated[
        list[str] | None, typer.Option(help="Also prune these layers (stem, classifier …); * allowed, may be repeated.")
    ] = None,
    exclude: Annotated[list[str] | None, typer.Option(help="Leave these layers dense; * allowed, may be repeated.")] = None,
    remainder: Annotated[str, typer.Option(help="Layers whose channels do not divide by M: 'refuse' or 'dense'.")] = "refuse",
    epochs: Annotated[int, typer.Option(help="Passes over the training images.", min=1)] = 10,
    batch: Annotated[int, typer.Option(help="Images per step, over all processes.", min=1)] = 128,
    optimizer: Annotated[str, typer.Option(help="sgd (Nesterov momentum 0.9) or adamw.")] = "sgd",
    lr: Annotated[float, typer.Option(help="Peak learning rate; falls to 0 along a cosine, step by step.", min=0)] = 0.05,
    warmup: Annotated[float, typer.Option(help="Epochs of linear rise to the peak learning rate.", min=0)] = 0.0,
    weight_decay: Annotated[float, typer.Option(help="Sparse networks want less than dense ones.", min=0)] = 5e-5,
    label_smoothing: Annotated[float, typer.Option(help="Share of the label spread over all classes.", min=0, max=1)] = 0.0,
    mixup: Mixup = 0.0,
    dropout: Annotated[float, typer.Option(help="Factor on the rates of the network's dropout layers.", min=0, max=1)] = 1.0,
    teacher: Annotated[Path | None, typer.Option(help="Distil from these weights of the same network, dense.")] = None,
    distill: Annotated[float, typer.Option(help="Share of the teacher in the loss.", min=0, max=1)] = 0.5,
    hints: HintsOption = 0.0,
    bf16: Annotated[bool, typer.Option("--bf16", help="Compute in bfloat16: faster on processors that have it.")] = False,
    channels_last: Annotated[bool, typer.Option(help="Keep images channels-last in memory: faster convolutions.")] = True,
    augment: Annotated[bool, typer.Option(help="Random crops, and flips where they keep the class.")] = True,
    workers: Annotated[int, typer.Option(help="Processes that decode large images.", min=0)] = 2,
    threads: Annotated[int | None, typer.Option(help="Threads. Default: PyTorch's choice.", min=1)] = None,
    device: Device = "auto",
    seed: Annotated[int, typer.Option(help="Of initial weights, order and augmentation.", min=0)] = 0,
    checkpoint: Annotated[Path | None, typer.Option(help="File written after every epoch. Default: OUT.jettison-checkpoint.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue from the checkpoint; bit-identical on the CPU.")] = False,
    json: Json = None,
) -> None:
    """Train a network, dense or N:M sparse, and write its weights.

    After every epoch: accuracy on the whole test set, loss, images per second and, for sparse networks, the share of
    mask positions that changed (SAD): it should fall towards 0. A killed run continues with --resume.

    Examples:

        jettison train resnet20_cifar --data digits --size 32 --epochs 5 -o dense.safetensors

        jettison train resnet20_cifar --data cifar10 --weights dense.safetensors --pattern 2:4 --bf16 -o sparse.safetensors

        jettison train resnet18 --data photos/ --backbone imagenet.safetensors --lr 0.02 --epochs 10 -o photos.safetensors

        torchrun --nproc-per-node 4 -m jettison train resnet50 --data imagenet/ --batch 256 --epochs 120 --warmup 5 -o r50.safetensors
    """
    import torch

    from ..compression import ready_for_training_
    from ..methods import make_method
    from ..training import Recipe, device_of, fit, processes
    from ..training.data import load
    from ..zoo import load_backbone

    output = Output(json)
    check_writable(out)
    if weights and backbone:
        raise TrainingError("--weights and --backbone: both say where training starts; give one")
    _check_effects(pattern, teacher, {"method": method, "decay": decay, "ramp_epochs": ramp_epochs, "distill": distill, "hints": hints})
    if threads is not None:
        torch.set_num_threads(threads)
    recipe = Recipe(
        epochs=epochs, batch=batch, optimizer=optimizer, lr=lr, warmup_epochs=warmup, weight_decay=weight_decay,  # type: ignore[arg-type]
        label_smoothing=label_smoothing, distill=distill if teacher else 0.0, bf16=bf16, channels_last=channels_last, augment=augment,
        mixup=mixup, dropout=dropout, hints=hints, seed=seed, workers=workers,
    )  # fmt: skip
    how = make_method(method, epochs, decay, ramp_epochs)
    path = checkpoint or Path(f"{out}.jettison-checkpoint")
    check_writable(path)
    with processes() as group:
        images = load(data, data_dir, size)
        net = _build(model, images, weights, seed)
        if backbone is not None:
            new = load_backbone(net, backbone)
            output.say(f"from {backbone}: all but {', '.join(new) or 'nothing'}")
        start = weights or backbone
        if start is not None and not (resume and path.is_file()):  # a checkpoint has statistics of its own
            ready_for_training_(net, images, seed)
        net = net.to(device_of(device))
        master = _build(model, images, teacher, seed) if teacher is not None else None
        handle = _sparsify(net, pattern, how, include, exclude, remainder)
        tell = _teller(output, recipe) if group.is_first else None
        origin = {"network": model, "weights": str(start) if start else None, "teacher": teacher and str(teacher)}
        history = fit(net, images, recipe, handle, master, path, resume, tell, group, output.live, origin)
        if handle is not None:
            handle.finish()
        if group.is_first:
            save_weights(net.state_dict(), out)
            _show(output, handle, history, out)
            output.save(_json(model, images, pattern, handle, recipe, history, group))


def _check_effects(pattern: str, teacher: Path | None, options: dict[str, Any]) -> None:
    """Errors: TrainingError for a choice that nothing would heed."""
    for name, value in options.items():
        needs, there = ("--teacher", teacher is not None) if name in ("distill", "hints") else ("--pattern", pattern != DENSE)
        if value != signature(train).parameters[name].default and not there:
            raise no_effect(f"--{name.replace('_', '-')}", needs)


def _build(name: str, images: DataSet, weights: Path | None, seed: int) -> Any:
    import torch

    from ..zoo import build, load_weights

    torch.manual_seed(seed)
    net = build(name, num_classes=len(images.classes), in_channels=images.channels, image_size=images.size)
    if weights is not None:
        load_weights(net, weights)
    return net


def _sparsify(net: Any, pattern: str, method: Method, include: Any, exclude: Any, remainder: str) -> Sparsifier | None:
    """None for a dense network. Errors: PatternError, FormatError."""
    from ..formats import parse
    from ..methods import Select, sparsify_

    fmt = parse(pattern)
    if str(fmt) == DENSE:
        return None
    select = Select(include=tuple(include or ()), exclude=tuple(exclude or ()))
    return sparsify_(net, fmt, method, select, remainder)  # type: ignore[arg-type]


def _teller(output: Output, recipe: Recipe) -> Any:
    def tell(e: Epoch) -> None:
        sad = "" if e.sad is None else f", SAD {e.sad:.3%}"
        output.say(f"epoch {e.epoch} of {recipe.epochs}: accuracy {e.accuracy:.2%}, loss {e.loss:.4f}, {e.images_per_s:.0f} images/s{sad}")

    return tell


def save_weights(state: Mapping[str, Any], path: Path) -> None:
    """Tensors by name, as .safetensors; whole or not at all. Errors: FileError."""
    from safetensors.torch import save

    from ..file import replace

    replace(path, save({name: t.detach().cpu().clone().contiguous() for name, t in state.items()}))


def _show(output: Output, handle: Sparsifier | None, history: list[Epoch], out: Path) -> None:
    if handle is not None:
        rows = [(r.name, "×".join(map(str, r.shape)), r.format, r.reason) for r in handle.report()]
        output.table("Layers", ("layer", "k×r×s×c", "format", "why dense"), rows)
    output.say(f"accuracy {history[-1].accuracy:.2%} on the whole test set, after the last epoch; weights: {out}")


def _json(
    name: str, images: DataSet, pattern: str, handle: Sparsifier | None, recipe: Recipe, history: list[Epoch], group: Processes
) -> Any:
    layers = [{"name": r.name, "format": str(r.format), "reason": r.reason} for r in handle.report()] if handle is not None else []
    return {
        "model": name,
        "data": images.name,
        "pattern": pattern,
        "method": handle.state_dict()["method"] if handle is not None else None,
        "accuracy": history[-1].accuracy,
        "test_images": len(images.test),
        "recipe": asdict(recipe),
        "epochs": [asdict(e) for e in history],
        "layers": layers,
        "processes": group.world,
    }
