"""`jettison compress`: the main job. A trained network in; a faster one out, checked and measured."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import DataError, FileError, PatternError
from ..formats import Block
from .budget import DEFAULT_M, Cost, Formats, Kept, M, average_pattern, read_formats
from .compressed import as_json, measured, show
from .picture import check_picture, draw
from .tables import Json, Output, check_writable
from .train import Device, HintsOption, Mixup

if TYPE_CHECKING:
    from ..personal import Personal
    from ..training import Epoch

PERSONAL = ".jettison-checkpoint"  # of what --from reads


def compress(
    model: Annotated[str, typer.Argument(help="The network: zoo name, timm:NAME, or path/to/file.py:function.")],
    data: Annotated[str, typer.Option(help="Data set: digits, mnist, cifar10 …, or a folder of class folders or parquet files.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="The .jettison file to write.")],
    pattern: Annotated[
        str | None,
        typer.Option(
            help="N:M keeps N of every M input channels; 32x64/2:4@16% also removes whole blocks; 'dense' with --element int8. "
            "Default: 1:4, crisp 32x32/2:4, tabconv lut9 (lut9x256: 256 prototypes; pixel8x1024: by pixel; lut9,layer3.*=lut6: by layer)."
        ),
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            help="How to prune: srste, maxq, crisp, ste, asp (with --epochs 0 once, untrained); tabconv: tables. "
            "Default: srste, with --from crisp."
        ),
    ] = None,
    permute: Annotated[bool, typer.Option("--permute", help="First move channels so that pruning keeps more; free at inference.")] = False,
    reconstruct: Annotated[
        bool, typer.Option("--reconstruct", help="Prune by refitting layer after layer on --calibrate images: for --epochs 0.")
    ] = False,
    kept: Kept = None,
    budget: Cost = "macs",
    m: M = DEFAULT_M,
    formats: Formats = None,
    epochs: Annotated[int, typer.Option(help="Epochs of sparse training, or of training tables.", min=0)] = 10,
    weights: Annotated[Path | None, typer.Option(help="Trained dense weights. Without them the dense network is trained first.")] = None,
    dense_epochs: Annotated[
        int | None, typer.Option(help="Epochs of dense training. Default: none with --weights, else as --epochs.", min=0)
    ] = None,
    teacher: Annotated[
        str | None,
        typer.Option(help="Distil from these weights of the same network; dense: the baseline itself; none. Default: none, crisp dense."),
    ] = None,
    distill: Annotated[float, typer.Option(help="Share of the teacher in the loss.", min=0, max=1)] = 0.5,
    hints: HintsOption = 0.0,
    lr: Annotated[float, typer.Option(help="Peak learning rate.", min=0)] = 0.05,
    weight_decay: Annotated[float, typer.Option(help="Weight decay of sparse training.", min=0)] = 5e-5,
    mixup: Mixup = 0.0,
    dropout: Annotated[
        float | None, typer.Option(help="Factor on the rates of the network's dropout layers. Default: 1, crisp 0.", min=0, max=1)
    ] = None,
    decay: Annotated[
        float | None, typer.Option(help="srste, maxq: pull of pruned weights towards zero. Default: the papers' 2e-4.", min=0)
    ] = None,
    ramp_epochs: Annotated[
        float | None, typer.Option(help="maxq: epochs until every block is sparse. Default: half of all.", min=0)
    ] = None,
    batch: Annotated[int, typer.Option(help="Images per training step.", min=1)] = 128,
    bf16: Annotated[bool, typer.Option("--bf16", help="Train in bfloat16: faster on processors that have it.")] = False,
    include: Annotated[
        list[str] | None, typer.Option(help="Also prune these layers (stem, classifier …); * allowed, may be repeated.")
    ] = None,
    exclude: Annotated[list[str] | None, typer.Option(help="Leave these layers dense; * allowed, may be repeated.")] = None,
    element: Annotated[
        str | None,
        typer.Option(help="Arithmetic of the result: f32, or int8 by quantisation. Default: f32, int8 for tabconv."),
    ] = None,
    calibrate: Annotated[int, typer.Option(help="Training images for int8's ranges and for --reconstruct.", min=1)] = 512,
    ranges: Annotated[str, typer.Option("--range", help="int8: how ranges are chosen: minmax, percentile or mse.")] = "mse",
    equalize: Annotated[bool, typer.Option("--equalize", help="int8: equalise weights across layers first (depthwise networks).")] = False,
    keep_float: Annotated[int, typer.Option(help="int8: leave this many of the most sensitive layers in f32.", min=0)] = 0,
    qat_epochs: Annotated[int, typer.Option(help="int8: epochs of training with int8's rounding, after pruning.", min=0)] = 0,
    remainder: Annotated[
        str, typer.Option(help="Layers whose channels do not divide: 'refuse', 'dense', or 'inner': N:M where blocks do not fit.")
    ] = "refuse",
    classes: Annotated[
        str | None, typer.Option(help="The classes that matter, with commas, or @FILE with one a line. Default: all.", metavar="NAMES")
    ] = None,
    others: Annotated[
        float,
        typer.Option(help="With --classes: share of images of other classes in sparse training, others in each epoch; against few images."),
    ] = 0.0,
    head: Annotated[
        str | None,
        typer.Option(
            help="With --classes: 'keep' all outputs, or 'shrink' the classifier to the chosen ones. Default: keep, or as --from has."
        ),
    ] = None,
    sparsity: Annotated[
        float | None, typer.Option(help="crisp: share of the prunable weights to remove, such as 0.92. Default: what the pattern says.")
    ] = None,
    start: Annotated[
        Path | None,
        typer.Option("--from", help="crisp: change the classes of a personalised network; its .jettison-checkpoint.", metavar="FILE"),
    ] = None,
    fit_images: Annotated[int, typer.Option(help="tabconv: images to fit tables to; beyond all for training, augmented.", min=1)] = 2048,
    criterion: Annotated[str, typer.Option(help="tabconv: which layers stay exact first: cosine, top1, top5 or latency.")] = "cosine",
    budget_ops: Annotated[
        float | None, typer.Option(help="tabconv: save at least this share of the operations, 0 to 1; the rest of the layers stay exact.")
    ] = None,
    budget_accuracy: Annotated[
        float | None, typer.Option(help="tabconv: before training, change at most this many percent of the answers.")
    ] = None,
    budget_ms: Annotated[float | None, typer.Option(help="tabconv: take at most this long for one image, milliseconds.")] = None,
    size: Annotated[int | None, typer.Option(help="Height and width of the images. Default: the data set's.", min=1)] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Where the data set's files are. Default: $JETTISON_DATA, else a cache.")] = None,
    device: Device = "auto",
    threads: Annotated[int | None, typer.Option(help="Threads of training and timing. Default: every core.")] = None,
    run_batch: Annotated[int, typer.Option(help="Images per run when timing.", min=1)] = 1,
    runs: Annotated[int, typer.Option(help="Timed runs of each network.", min=1)] = 60,
    seed: Annotated[int, typer.Option(help="Of initial weights, order and augmentation.")] = 0,
    checkpoints: Annotated[Path | None, typer.Option(help="Folder for training checkpoints. Default: OUT.checkpoints.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue an interrupted run of the same settings.")] = False,
    save_weights: Annotated[Path | None, typer.Option(help="Also write the sparse PyTorch weights, as .safetensors.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Also draw the time per layer as a .png (needs matplotlib).")] = None,
    json: Json = None,
) -> None:
    """Make a trained network faster: prune it, retrain, export, check against PyTorch, measure on this machine.

    Ends with one table, dense against compressed: accuracy on the whole test set, median latency, file size. All
    networks run in Jettison's own runtime, in turns. With --element int8 the file holds the int8 network.

    Examples:

        jettison compress resnet18 --data digits --size 32 --epochs 3 -o digits.jettison

        jettison compress resnet20_cifar --weights resnet20.th --data cifar10 --pattern 2:4 --epochs 15 -o r20.jettison

        jettison compress resnet20_cifar --weights resnet20.th --data cifar10 --pattern 1:4 --element int8 -o r20.jettison

        jettison compress resnet20_cifar --weights resnet20.th --data cifar10 --kept 0.25 --budget latency -o r20.jettison

        jettison compress resnet18 --weights r18.safetensors --data photos/ --method crisp --classes cat,dog --sparsity 0.92 -o r18.jettison

        jettison compress resnet20_cifar --weights resnet20.th --data cifar10 --method tabconv --epochs 10 -o r20.jettison

        jettison compress timm:resnet50 --weights r50.safetensors --data imagenet/ --method asp --epochs 0 -o r50.jettison
    """
    import torch

    from ..bench import processors
    from ..budget import Timed
    from ..compression import compress as run
    from ..settings import CRISP_PATTERN, Settings
    from ..tabconv import job
    from ..training import device_of
    from ..training.data import load
    from .train import save_weights as write_weights

    output = Output(json)
    for path in (out, save_weights):
        if path is not None:
            check_writable(path)
    if out.suffix == PERSONAL:
        raise FileError(f"{out}: that ending is for what --from reads, which is written beside the result; write -o {out.stem}.jettison")
    if save_weights is not None and method == job.METHOD:
        raise PatternError("--save-weights: tables are no PyTorch weights; the .jettison file holds everything")
    if plot is not None:
        check_picture(plot)
    method = method or ("crisp" if start else "srste")
    if start is not None and method == "crisp":
        pattern, sparsity, head = _as_before(start, pattern, sparsity, head, bool(classes))
    by_layer = read_formats(formats) if formats else ()
    settings = Settings(
        model=model,
        formats=by_layer,
        pattern=average_pattern(pattern, kept, m, by_layer) or {"crisp": CRISP_PATTERN, job.METHOD: job.PATTERN}.get(method, "1:4"),
        method=method,
        weights=str(weights) if weights else None,
        teacher=_teacher(teacher, method),
        dense_epochs=_dense_epochs(dense_epochs, weights or start, epochs),
        epochs=epochs,
        lr=lr,
        weight_decay=weight_decay,
        mixup=mixup,
        dropout=dropout if dropout is not None else 0.0 if method == "crisp" else 1.0,
        decay=decay,
        ramp_epochs=ramp_epochs,
        permute=permute,
        reconstruct=reconstruct,
        kept=kept,
        budget=budget,
        batch=batch,
        bf16=bf16,
        distill=distill,
        hints=hints,
        include=tuple(include or ()),
        exclude=tuple(exclude or ()),
        remainder=remainder,
        seed=seed,
        element=element or ("int8" if method == job.METHOD else "f32"),
        calibrate=calibrate,
        ranges=ranges,
        equalize=equalize,
        keep_float=keep_float,
        qat_epochs=qat_epochs,
        classes=_names(classes),
        others=others,
        head=head or "keep",
        sparsity=sparsity,
        start=str(start) if start else None,
        fit_images=fit_images,
        criterion=criterion,
        budget_ops=budget_ops,
        budget_accuracy=budget_accuracy,
        budget_ms=budget_ms,
    )
    cpus, trains_on = processors(threads), device_of(device)
    torch.set_num_threads(len(cpus))
    images = load(data, data_dir, size)
    folder = checkpoints or Path(f"{out}.checkpoints")
    try:
        say, timed = lambda stage, epoch: _say_epoch(output, stage, epoch), Timed(tuple(cpus), run_batch)
        result = run(settings, images, folder, resume, say, output.live, output.progress, timed, trains_on)
    except KeyboardInterrupt:
        output.say(f"interrupted; the same command with --resume continues from {folder}")
        raise
    images = result.data
    found = measured(output, result, settings, images, out, cpus, run_batch, runs)
    if result.personal is not None:
        _save_personal(output, result.personal, out)
    if save_weights is not None:
        write_weights(result.weights, save_weights)
    if plot is not None:
        draw(plot, found.layers_ms)
    show(output, result, settings, images, found, f"{out}: {model}, batch {run_batch}, {len(cpus)} threads, {runs} runs each, in turns")
    about = {"out": str(out), "batch": run_batch, "threads": len(cpus), "device": str(trains_on)}
    output.save({**as_json(result, settings, images, found), **about})


def _as_before(
    start: Path, pattern: str | None, sparsity: float | None, head: str | None, chosen: bool
) -> tuple[str, float | None, str | None]:
    """What is not said anew is as in the personalised network to start from; a head shrinks to `chosen` classes alone.

    Errors: CheckpointError.
    """
    from ..formats import parse
    from ..personal import load, sparsity_of

    old = load(start)
    fmt = parse(pattern or old.pattern)
    if pattern is None and sparsity is not None and isinstance(fmt, Block):
        fmt = replace(fmt, keep=1.0)  # how many blocks stay is said anew
    if sparsity is None and isinstance(fmt, Block) and fmt.keep == 1:
        sparsity = sparsity_of(old)
    return pattern or str(fmt), sparsity, head or (old.head if chosen else None)


def _teacher(given: str | None, method: str) -> str | None:
    """For the few images of chosen classes the dense network's scores are worth more than labels."""
    if given is None and method == "crisp":
        return "dense"
    return None if given == "none" else given


def _names(text: str | None) -> tuple[str, ...]:
    """Class names of --classes. Errors: DataError."""
    if text is None:
        return ()
    if text.startswith("@"):
        try:
            words = Path(text[1:]).read_text().splitlines()
        except (OSError, UnicodeDecodeError) as e:
            raise DataError(f"--classes: the file {text[1:]} cannot be read ({e}); it holds one class name a line") from e
    else:
        words = text.split(",")
    names = tuple(word.strip() for word in words if word.strip())
    if not names:
        raise DataError("--classes names no class; write for example --classes cat,dog")
    return names


def _save_personal(output: Output, personal: Personal, out: Path) -> None:
    from ..personal import save

    path = out.with_name(out.name.removesuffix(".jettison") + PERSONAL)
    save(personal, path)
    output.say(f"{path}: to change the classes later, with --from")


def _dense_epochs(given: int | None, weights: Path | None, epochs: int) -> int:
    if given is not None:
        return given
    return epochs if weights is None else 0


def _say_epoch(output: Output, stage: str, epoch: Epoch) -> None:
    changed = "" if epoch.sad is None else f", mask positions changed {epoch.sad:.2%}"
    output.say(
        f"{stage} epoch {epoch.epoch}: accuracy {epoch.accuracy:.2%}, loss {epoch.loss:.4f}, {epoch.images_per_s:.0f} images/s{changed}"
    )
