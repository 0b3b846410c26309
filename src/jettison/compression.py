"""The main job, from a network and data to two graphs: dense and compressed. `jettison compress` shows and measures them.

build, load weights ─► train dense ─► sparsify, train ─► finish ─► export both ─► check against PyTorch ─► (int8)
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from dataclasses import replace as replace_field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from . import budget, ptq
from .bench.comparison import relative_error
from .budget import Budget, Timed
from .errors import CheckpointError, PatternError, VerificationError
from .export import export
from .file import replace
from .formats import NM, Block, Dense, Format
from .graph import Graph
from .methods import (
    Hybrid,
    LayerReport,
    Permutation,
    Sparsifier,
    are_of_no_data,
    choose_layers,
    match_statistics_,
    mean_gradients,
    permute_,
    reconstruct_,
    sparsify_,
    take_statistics_,
)
from .methods.qat import quantize_aware_
from .methods.reconstruct import BATCH
from .methods.select import check_names
from .personal import Personal, check_fits, resumed, trained_state
from .personal import load as load_personal
from .runtime import Session
from .settings import Settings
from .tabconv import LayerFit, job
from .training import Advance, Epoch, fit, on
from .training.data import (
    DataSet,
    class_indices,
    classifier,
    normalise,
    only_classes,
    shrink_head,
    test_batches,
    train_batches,
    with_others,
)
from .zoo import build, load_weights

SALIENCY_BATCHES = 64  # at most, per selection
TOLERANCE = 1e-4  # of the exported network against PyTorch, relative to the largest output
CHECKED_IMAGES = 16
STATISTICS_IMAGES = 512
STALE = ("budget.json", "tables.jettison")  # beside the checkpoints: what a run finds where an earlier one left it

Tell = Callable[[str, Epoch], None]
Train = Callable[..., None]  # stage, network, its handle, epochs of this part, its name, what guides it but for a teacher, `fit`'s advance


@dataclass(frozen=True, slots=True)
class Compressed:
    """The networks as graphs, by what they are: "dense" first, the one that was asked for last. error: largest relative error of
    those in float32 against PyTorch on test images. kept_float: layers that int8 leaves in float32. moved: channels that were
    permuted. data: what they were judged on. personal: what a change of classes starts from, after method crisp.
    budget: N by layer, with `kept`. fits: of each layer, with method tabconv.
    """

    graphs: dict[str, Graph]
    kept_float: list[str]
    report: list[LayerReport]
    moved: list[Permutation]
    history: dict[str, list[Epoch]]
    weights: dict[str, torch.Tensor]
    error: float
    data: DataSet
    personal: Personal | None
    budget: Budget | None
    fits: list[LayerFit]


def compress(
    settings: Settings,
    data: DataSet,
    folder: Path,
    resume: bool = False,
    tell: Tell = lambda stage, epoch: None,
    progress: bool = True,
    watch: job.Watch = lambda: nullcontext(lambda what, done: None),
    timed: Timed = Timed(),
    device: torch.device | str = "cpu",
) -> Compressed:
    """Do the whole job; everything that can be refused is refused before the first epoch.

    folder: for training checkpoints, one per stage. tell: called after every epoch with its stage: "dense", "sparse", "qat" or
    "tables". watch: gives a context with a function of what is being fitted and the finished share. timed: how a budget of
    milliseconds is measured. device: what trains; all else is done on the processor.
    Errors: those of the zoo, the methods, training and export; VerificationError when the exported network computes
    something else than PyTorch.
    """
    chosen = class_indices(data, settings.classes) if settings.classes else list(range(len(data.classes)))
    tables = settings.method == job.METHOD
    mine = only_classes(data, chosen, settings.head) if settings.classes else data
    learnt = mine if tables or settings.head == "keep" else only_classes(data, chosen, "keep")  # scores of all outputs teach more
    learnt_from = with_others(learnt, data, settings.others)
    dense, old = _start(settings, data)
    _refuse(dense, settings, data)
    if settings.head == "shrink":
        shrink_head(copy.deepcopy(dense), chosen, len(data.classes))  # refuses now what it would refuse after training
    teacher = _teacher(settings, data)
    _claim(folder, settings, data, resume)
    history = {}

    def train(
        stage: str,
        net: nn.Module,
        handle: Sparsifier | None,
        epochs: int | None = None,
        part: str = "",
        guide: nn.Module | None = None,
        advance: Advance = lambda share: None,
    ) -> None:
        recipe, path = settings.recipe(stage, epochs), folder / f"{stage}{part}.pt"
        if stage != "dense" and settings.teacher is not None:
            guide = dense if settings.teacher == "dense" else teacher
        seen = data if stage == "dense" else learnt_from
        say = lambda e: tell(stage + part, e)  # noqa: E731
        with on(device, net, guide):
            run = lambda: fit(net, seen, recipe, handle, guide, path, resume, say, progress=progress, advance=advance)  # noqa: E731
            history[stage + part] = run() if recipe.epochs else []

    train("dense", dense, None)
    whole = {name: t.detach().clone() for name, t in dense.state_dict().items()}
    net = copy.deepcopy(dense)
    if old is not None:
        net.load_state_dict(resumed(old, chosen, classifier(net)[0]))

    def shrink(*nets: nn.Module | None) -> None:
        for one in nets:
            if one is not None and settings.head == "shrink":
                shrink_head(one, chosen, len(data.classes))

    if tables:
        shrink(dense, teacher)
        graph, error = _exported(dense, {}, settings, mine)
        int8, kept = _quantized(graph, settings, mine)
        seen = lambda: fitting_images(mine, settings.fit_images, settings.seed)  # noqa: E731
        made, report, fits = job.tables_network(int8, settings, seen, folder, resume, train, watch, timed.processors)
        graphs = {"dense": graph, "dense int8": int8, settings.pattern: made}
        return Compressed(graphs, kept, report, [], history, {}, error, mine, None, None, fits)
    moved = _prepared(net, settings, learnt)
    shares = None
    if settings.kept is not None and isinstance(settings.format, NM):
        shape, timed = (data.channels, data.size, data.size), replace_field(timed, element=settings.element)
        wanted = (settings.kept, settings.format.m, settings.budget)
        with watch() as say:
            shares = budget.resumed(folder / "budget.json", resume, net, shape, *wanted, select=settings.select, timed=timed, tell=say)
        if set(shares.formats.values()) <= {Dense()}:
            raise PatternError(
                f"at {settings.kept:g} kept, {settings.budget} is best spent on dense layers alone; lower --kept, or stay dense"
            )
    state, masks, formats, report = _compressed(net, settings, learnt, old, train, shares, device)
    shrink(dense, net)
    if settings.head == "shrink":
        last = classifier(net)[0]
        report = [replace_field(r, shape=(len(chosen), *r.shape[1:])) if r.name == last else r for r in report]
    (graph, error), (sparse, its_error) = (_exported(n, f, settings, mine) for n, f in ((dense, {}), (net, formats)))
    graphs, kept = {"dense": graph, settings.label: sparse}, []
    if settings.element == "int8":
        graphs[f"{settings.label} int8"], kept = _quantized(sparse, settings, mine)
    weights = {name: tensor.detach().clone().contiguous() for name, tensor in net.state_dict().items()}
    known = (settings.model, list(data.classes), chosen, settings.head, settings.pattern)
    personal = Personal(*known, whole, state, masks) if settings.method == "crisp" else None
    return Compressed(graphs, kept, report, moved, history, weights, max(error, its_error), mine, personal, shares, [])


def _exported(net: nn.Module, formats: dict[str, Format], settings: Settings, data: DataSet) -> tuple[Graph, float]:
    """The graph and its relative error against PyTorch. Errors: VerificationError."""
    graph = export(net.eval(), (data.channels, data.size, data.size), formats)
    error = _error(graph, net, data)
    if error > TOLERANCE:
        raise VerificationError(
            f"{settings.model}: the exported network differs from PyTorch by {error:.2g} of the largest output; please report the model"
        )
    return graph, error


def _start(settings: Settings, data: DataSet) -> tuple[nn.Module, Personal | None]:
    """The dense network, untrained if nothing is there, and the personalised network that `--from` names."""
    dense = _build(settings, data)
    if settings.weights is not None:
        load_weights(dense, settings.weights)
        if settings.stages:
            ready_for_training_(dense, data, settings.seed)
    if settings.start is None:
        return dense, None
    path = Path(settings.start)
    old = load_personal(path)
    sparse = [c.name for c in choose_layers(dense, settings.format, settings.select, settings.remainder) if c.format]
    check_fits(old, settings.model, data.classes, dict.fromkeys(sparse), path)
    try:
        dense.load_state_dict(old.dense)
    except RuntimeError as e:
        raise CheckpointError(f"{path} does not fit {settings.model}: {e}") from e
    return dense, old


def ready_for_training_(net: nn.Module, data: DataSet, seed: int) -> None:
    """Weights from elsewhere whose norms have statistics of no data, which training would replace: they get those of training images.

    The network does what it did (`methods.take_statistics_`).
    """
    if data.train is not None and are_of_no_data(net):
        take_statistics_(net, torch.from_numpy(calibration_images(data, STATISTICS_IMAGES, seed)).split(BATCH))


def _refuse(dense: nn.Module, settings: Settings, data: DataSet) -> None:
    """What cannot be done, before any training. Errors: FormatError, TabConvError."""
    if settings.format == Dense():
        return
    if not settings.format.linear:
        check_names(dense, (*settings.include, *settings.exclude))
        return job.refuse(export(dense.eval(), (data.channels, data.size, data.size), {}), settings)
    remainder = "dense" if settings.kept is not None else settings.remainder  # with a budget what does not divide by M stays dense
    choices = choose_layers(dense, settings.by_layer or settings.format, settings.select, remainder)
    if settings.head == "shrink" and isinstance(choices[-1].format, Block):
        name = choices[-1].name
        raise PatternError(f"{name}: its outputs shrink and are no whole blocks then; leave it out of --include, or keep the head")
    if settings.method == "crisp":
        _hybrid(_sparsified(copy.deepcopy(dense), settings), settings)


def _sparsified(net: nn.Module, settings: Settings, shares: Budget | None = None) -> Sparsifier:
    """For crisp with all blocks, of which `Hybrid` then chooses."""
    fmt: Format | Mapping[str, Format] = settings.by_layer or (settings.format if shares is None else shares.formats)
    if settings.method == "crisp" and isinstance(fmt, Block):
        fmt = replace_field(fmt, keep=1.0)
    return sparsify_(net, fmt, settings.make_method(), settings.select, settings.remainder)  # type: ignore[arg-type]


def _hybrid(handle: Sparsifier, settings: Settings, old: Personal | None = None) -> tuple[Hybrid, float]:
    """With the sparsity to reach, which is checked. Errors: FormatError."""
    hybrid = Hybrid(handle, handle.method, None if old is None else old.masks)  # type: ignore[arg-type]
    low, _ = hybrid.sparsities()
    sparsity = settings.sparsity
    if sparsity is None and isinstance(settings.format, Block):
        sparsity = hybrid.sparsity_at(settings.format.keep)
    hybrid.check(sparsity or low)
    return hybrid, sparsity or low


def _prepared(net: nn.Module, settings: Settings, data: DataSet) -> list[Permutation]:
    """Before any mask: `net` with its channels moved and its layers refitted, as the settings say."""
    moved: list[Permutation] = []
    if isinstance(settings.format, NM) and settings.permute:
        moved = permute_(net, (data.channels, data.size, data.size), settings.format, settings.select)
    if isinstance(settings.format, NM) and settings.reconstruct:
        images = torch.from_numpy(calibration_images(data, settings.calibrate, settings.seed))
        reconstruct_(net, images, settings.format, settings.select, settings.remainder)  # type: ignore[arg-type]
    return moved


def _compressed(
    net: nn.Module, settings: Settings, data: DataSet, old: Personal | None, train: Train, shares: Budget | None, device: torch.device | str
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor], dict[str, Format], list[LayerReport]]:
    """`net` pruned and trained, then trained with rounding, as the settings say. Returns its trained state, masks, formats, report."""
    whole = copy.deepcopy(net)
    handle = _sparsified(net, settings, shares) if settings.format != Dense() else None
    if handle is not None and settings.method == "crisp":
        hybrid, sparsity = _hybrid(handle, settings, old)
        steps = hybrid.schedule(sparsity, settings.epochs) if old is None else [(sparsity, settings.epochs)]
        for i, (target, epochs) in enumerate(steps):
            with on(device, net):
                gradients = mean_gradients(handle, net, _saliency_batches(settings, data))
            hybrid.select(gradients, target)
            train("sparse", net, handle, epochs, f"-{i + 1}" if len(steps) > 1 else "")
            hybrid.follow()
    elif handle is not None:
        train("sparse", net, handle)
        if handle.finished and data.train is not None and not settings.reconstruct:  # pruned once, and no training followed
            images = torch.from_numpy(calibration_images(data, settings.calibrate, settings.seed))
            match_statistics_(net, whole, images.split(BATCH))
    if settings.qat_epochs:
        rounding = quantize_aware_(net)
        train("qat", net, handle)
        rounding.finish()
    if handle is None:
        return {}, {}, {}, []
    state, masks = trained_state(handle, net)
    return state, masks, handle.finish(), handle.report()


def _saliency_batches(settings: Settings, data: DataSet) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Training images as the network sees them at test time."""
    batches = train_batches(data, settings.batch, settings.seed, epoch=0, augment=False)
    return ((normalise(x, data).contiguous(), y) for x, y in islice(batches, SALIENCY_BATCHES))


def calibration_images(data: DataSet, count: int, seed: int) -> np.ndarray:
    """float32 (n, c, h, w): `count` training images, or all there are, as the network sees them at test time.

    Errors: DataError without a training split.
    """
    x, _ = next(iter(train_batches(data, count, seed, epoch=0, augment=False)))
    return normalise(x, data).contiguous().numpy()


def fitting_images(data: DataSet, count: int, seed: int) -> np.ndarray:
    """The same; after all there are, once more, cut and mirrored as for training, until there are `count`."""
    parts, left = [calibration_images(data, count, seed)], count
    while (left := left - len(parts[-1])) > 0:
        x, _ = next(iter(train_batches(data, left, seed, epoch=len(parts))))
        parts.append(normalise(x, data).contiguous().numpy())
    return np.concatenate(parts)


def _quantized(graph: Graph, settings: Settings, data: DataSet) -> tuple[Graph, list[str]]:
    """The int8 network, and the layers it keeps in float32."""
    images = calibration_images(data, settings.calibrate, settings.seed)
    kept = list(ptq.sensitivity(graph, images, settings.ranges))[: settings.keep_float] if settings.keep_float else []
    return ptq.quantize(graph, images, settings.ranges, kept, equalize=settings.equalize), kept


def _build(settings: Settings, data: DataSet) -> nn.Module:
    torch.manual_seed(settings.seed)
    return build(settings.model, num_classes=len(data.classes), in_channels=data.channels, image_size=data.size)


def _teacher(settings: Settings, data: DataSet) -> nn.Module | None:
    if settings.teacher in (None, "dense"):
        return None
    teacher = _build(settings, data)
    load_weights(teacher, settings.teacher)
    return teacher


def _claim(folder: Path, settings: Settings, data: DataSet, resume: bool) -> None:
    """Note in `folder` what its checkpoints belong to, and remove those of an earlier run, or a later --resume would mix both.

    Errors: CheckpointError when resuming something else.
    """
    note = folder / "settings.json"
    mine = json.loads(json.dumps({"data": data.name, "size": data.size, **asdict(settings)}))
    if resume and note.is_file():
        try:
            theirs = dict(json.loads(note.read_text()))
        except (OSError, ValueError, TypeError) as e:
            raise CheckpointError(f"{note}: cannot be read ({e}); start anew without --resume") from e
        other = [f"{k} {theirs.get(k)!r} (now {mine.get(k)!r})" for k in sorted({*mine, *theirs}) if mine.get(k) != theirs.get(k)]
        if other:
            raise CheckpointError(
                f"{folder} belongs to a run with other settings: {', '.join(other)}; use the same, or start anew without --resume"
            )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not resume and note.is_file():
            for name in (*(f"{stage}{part}.pt" for stage in settings.stages for part in ("", "-[0-9]*")), *STALE):
                for old in folder.glob(name):
                    old.unlink()
    except OSError as e:
        raise CheckpointError(f"{folder}: cannot be used ({e.strerror}); choose another folder for checkpoints") from e
    replace(note, json.dumps(mine, indent=2).encode())


@torch.inference_mode()
def _error(graph: Graph, net: nn.Module, data: DataSet) -> float:
    """Our runtime against PyTorch on the first test images, in float32."""
    x = normalise(next(iter(test_batches(data, CHECKED_IMAGES)))[0], data)
    out: Any = Session(graph).run(x.contiguous().numpy())
    return relative_error([out], [net(x).numpy()])
