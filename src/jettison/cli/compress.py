"""`jettison compress`: the main job. A trained network in; a faster one out, checked and measured."""

from __future__ import annotations

import tempfile
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .. import __version__
from ..errors import DataError, PatternError
from ..formats import Block
from ..spec import WEIGHTED
from .budget import DEFAULT_M, Cost, Kept, M, average_pattern, show
from .picture import check_picture, draw
from .tables import Json, Output, byte_count, check_writable, interval
from .train import Device

if TYPE_CHECKING:
    from ..bench.comparison import Comparison
    from ..compression import Compressed
    from ..graph import Graph
    from ..methods import LayerReport
    from ..personal import Personal
    from ..settings import Settings
    from ..training import Epoch
    from ..training.data import DataSet

EVAL_BATCH = 100
SLOWEST = 16  # layers in the picture
DENSE = "dense"


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
        str,
        typer.Option(help="How to prune: srste, maxq, crisp, ste, asp (with --epochs 0 once, untrained); tabconv: tables."),
    ] = "srste",
    permute: Annotated[bool, typer.Option("--permute", help="First move channels so that pruning keeps more; free at inference.")] = False,
    reconstruct: Annotated[
        bool, typer.Option("--reconstruct", help="Prune by refitting layer after layer on --calibrate images: for --epochs 0.")
    ] = False,
    kept: Kept = None,
    budget: Cost = "macs",
    m: M = DEFAULT_M,
    epochs: Annotated[int, typer.Option(help="Epochs of sparse training, or of training tables.", min=0)] = 10,
    weights: Annotated[Path | None, typer.Option(help="Trained dense weights. Without them the dense network is trained first.")] = None,
    dense_epochs: Annotated[
        int | None, typer.Option(help="Epochs of dense training. Default: none with --weights, else as --epochs.", min=0)
    ] = None,
    teacher: Annotated[
        str | None, typer.Option(help="Distil from these weights of the same network; 'dense' for the baseline itself.")
    ] = None,
    distill: Annotated[float, typer.Option(help="Share of the teacher in the loss.", min=0, max=1)] = 0.5,
    lr: Annotated[float, typer.Option(help="Peak learning rate.", min=0)] = 0.05,
    weight_decay: Annotated[float, typer.Option(help="Weight decay of sparse training.", min=0)] = 5e-5,
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
    head: Annotated[str, typer.Option(help="With --classes: 'keep' all outputs, or 'shrink' the classifier to the chosen ones.")] = "keep",
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
    if save_weights is not None and method == job.METHOD:
        raise PatternError("--save-weights: tables are no PyTorch weights; the .jettison file holds everything")
    if plot is not None:
        check_picture(plot)
    settings = Settings(
        model=model,
        pattern=average_pattern(pattern, kept, m) or {"crisp": CRISP_PATTERN, job.METHOD: job.PATTERN}.get(method, "1:4"),
        method=method,
        weights=str(weights) if weights else None,
        teacher=teacher,
        dense_epochs=_dense_epochs(dense_epochs, weights or start, epochs),
        epochs=epochs,
        lr=lr,
        weight_decay=weight_decay,
        decay=decay,
        ramp_epochs=ramp_epochs,
        permute=permute,
        reconstruct=reconstruct,
        kept=kept,
        budget=budget,
        batch=batch,
        bf16=bf16,
        distill=distill,
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
        head=head,
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
    measured = _measure(output, result, settings, images, out, cpus, run_batch, runs)
    if result.personal is not None:
        _save_personal(output, result.personal, out)
    if save_weights is not None:
        write_weights(result.weights, save_weights)
    if plot is not None:
        draw(plot, measured.layers_ms)
    _show(output, result, settings, images, measured, f"{out}: {model}, batch {run_batch}, {len(cpus)} threads, {runs} runs each, in turns")
    about = {"out": str(out), "batch": run_batch, "threads": len(cpus), "device": str(trains_on)}
    output.save({**_json(result, settings, images, measured), **about})


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

    path = out.with_suffix(".jettison-checkpoint")
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


@dataclass(frozen=True, slots=True)
class Measured:
    """All networks on this machine, by the names in `Compressed.graphs`. layers_ms: by layer, slowest first."""

    accuracy: dict[str, float]
    file_bytes: dict[str, int]
    timing: Comparison
    layers_ms: dict[str, dict[str, float]]


def _measure(
    output: Output, result: Compressed, settings: Settings, images: DataSet, out: Path, cpus: list[int], batch: int, runs: int
) -> Measured:
    """Accuracy of all networks as they run, the file written, then the time of all in turns."""
    from .. import file
    from ..bench import Entrant, compare
    from ..bench.target import random_samples
    from ..runtime import Session
    from .eval import session_score

    graphs = result.graphs
    written = list(graphs)[-1]
    with output.progress() as tell, tempfile.TemporaryDirectory(prefix="jettison-compress-") as folder:
        accuracy = {k: session_score(Session(g, threads=len(cpus)), images, EVAL_BATCH, tell).accuracy for k, g in graphs.items()}
        paths = {label: out if label == written else Path(folder) / f"{i}.jettison" for i, label in enumerate(graphs)}
        for label, path in paths.items():
            file.save(graphs[label], path, _meta(settings, images, accuracy, result.kept_float) if path == out else None)
        entrants = [Entrant("jettison", graphs[label].element, label, path, label) for label, path in paths.items()]
        timing = compare(entrants, random_samples(graphs[DENSE], batch, settings.seed), cpus, runs, tell)
        sizes = {label: path.stat().st_size for label, path in paths.items()}
    return Measured(accuracy, sizes, timing, _layer_times(graphs, cpus, batch))


def _layer_times(graphs: dict[str, Graph], cpus: list[int], batch: int) -> dict[str, dict[str, float]]:
    """Median milliseconds of every convolution and linear layer in all networks, slowest first."""
    from ..analysis.measure import measure
    from ..bench.process import pinned
    from ..bench.target import random_samples
    from ..runtime import Session

    times: dict[str, dict[str, float]] = {}
    with pinned(cpus):
        for label, graph in graphs.items():
            for t in measure(Session(graph, threads=len(cpus)), random_samples(graph, batch, seed=0)).layers:
                if t.kind in WEIGHTED:
                    times.setdefault(t.name, {})[label] = t.median_ms
    shared = {name: ms for name, ms in times.items() if len(ms) == len(graphs)}
    return dict(sorted(shared.items(), key=lambda item: -max(item[1].values())))


def _meta(settings: Settings, images: DataSet, accuracy: dict[str, float], kept_float: list[str]) -> dict[str, Any]:
    """What a user of the file needs to know: what goes in, what comes out, how good it is, how it was made.

    Of paths only the file's name: the folders of this machine are nobody's business.
    """
    names = {k: Path(v).name for k, v in (("weights", settings.weights), ("teacher", settings.teacher), ("model", settings.model)) if v}
    return {
        "made_by": f"jettison {__version__}",
        "classes": list(images.classes),
        "mean": list(images.mean),
        "std": list(images.std),
        "data": images.name,
        "accuracy": list(accuracy.values())[-1],
        "dense_accuracy": accuracy[DENSE],
        "kept_float": kept_float,
        "settings": {**asdict(settings), **names},
    }


def _show(output: Output, result: Compressed, settings: Settings, images: DataSet, m: Measured, title: str) -> None:
    labels = list(m.accuracy)
    slowest = list(m.layers_ms)[:SLOWEST]
    series = {label: [m.layers_ms[name][label] for name in slowest] for label in labels}
    output.bars("Time per layer" if len(slowest) == len(m.layers_ms) else f"The {SLOWEST} slowest layers", slowest, series, "ms")
    if result.report:
        left = "; ".join(f"{r.name} ({r.reason})" for r in result.report if str(r.format) == DENSE)
        sparse = sum(str(r.format) != DENSE for r in result.report)
        output.say(f"{sparse} of {len(result.report)} layers are {settings.label}; dense: {left or 'none'}")
        if result.budget is not None:
            show(output, result.budget)
        if settings.method == "crisp":
            _show_blocks(output, result)
    if result.moved:
        before, after = (sum(getattr(p, k) for p in result.moved) / len(result.moved) for k in ("kept_before", "kept_after"))
        output.say(f"channels moved in {len(result.moved)} places: N:M keeps {after:.1%} of the magnitude there, not {before:.1%}")
    if result.kept_float:
        output.say(f"in f32, the most sensitive: {', '.join(result.kept_float)}")
    dense, *_, last = m.timing.rows
    times = [interval(r.median_ms, r.p10_ms, r.p90_ms) for r in m.timing.rows]
    end = labels[-1]
    rows = [
        ("accuracy", *(f"{m.accuracy[k]:.2%}" for k in labels), f"{100 * (m.accuracy[end] - m.accuracy[DENSE]):+.2f} points"),
        ("median ms (p10 – p90)", *times, f"{dense.median_ms / last.median_ms:.2f}× as fast"),
        ("file", *(byte_count(m.file_bytes[k]) for k in labels), f"{m.file_bytes[DENSE] / m.file_bytes[end]:.2f}× smaller"),
    ]
    note = f"accuracy on all {len(images.test)} test images of {images.name}; all run by Jettison; f32 equals PyTorch to {result.error:.0e}"
    output.table(title, ("", *(f">{label}" for label in labels), ">gain"), rows, note)


def _show_blocks(output: Output, result: Compressed) -> None:
    """What each layer kept; one block per block-row always stays."""
    rows = [(r.name, "×".join(map(str, r.shape)), str(r.format), *_kept(r), r.reason) for r in result.report]
    total = sum(prod(r.shape) for r in result.report if str(r.format) != DENSE)
    left = sum(prod(r.shape) * r.format.density(r.shape) for r in result.report if str(r.format) != DENSE)
    note = f"sparsity of the sparse layers {1 - left / total:.2%}"
    output.table("What is left of each layer", ("layer", "weight (k, r, s, c)", "format", ">blocks kept", ">weights kept", ""), rows, note)


def _kept(r: LayerReport) -> tuple[str, str]:
    blocks = f"{r.format.kept(r.shape)} of {r.format.total(r.shape)}" if isinstance(r.format, Block) else ""
    return blocks, f"{r.format.density(r.shape):.1%}"


def _json(result: Compressed, settings: Settings, images: DataSet, m: Measured) -> dict[str, Any]:
    from ..bench.machine import provenance

    return {
        "settings": asdict(settings),
        "data": images.name,
        "test_images": len(images.test),
        "accuracy": m.accuracy,
        "file_bytes": m.file_bytes,
        "latency": [asdict(r) for r in m.timing.rows],
        "layers_ms": m.layers_ms,
        "kept_float": result.kept_float,
        "permuted": [asdict(p) for p in result.moved],
        "budget": asdict(result.budget) if result.budget is not None else None,
        "layers": [
            {"name": r.name, "format": str(r.format), "density": r.format.density(r.shape), "reason": r.reason} for r in result.report
        ],
        "history": {stage: [asdict(e) for e in epochs] for stage, epochs in result.history.items()},
        "error_against_pytorch": result.error,
        **provenance(),
    }
