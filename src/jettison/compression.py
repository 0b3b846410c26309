"""The main job, from a network and data to two graphs: dense and compressed. `jettison compress` shows and measures them.

build, load weights ─► train dense ─► sparsify, train ─► finish ─► export both ─► check against PyTorch ─► (int8)
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from . import ptq
from .bench.comparison import relative_error
from .errors import CheckpointError, ModelError, PatternError, QuantizationError, TrainingError, VerificationError
from .export import export
from .file import replace
from .formats import Dense, Format, parse
from .graph import Graph
from .methods import LayerReport, Method, Select, Sparsifier, choose_layers, make_method, sparsify_
from .methods.qat import quantize_aware_
from .runtime import Session
from .training import Epoch, Recipe, fit
from .training.data import DataSet, normalise, test_batches, train_batches
from .zoo import build, load_weights

ELEMENTS = ("f32", "int8")
TOLERANCE = 1e-4  # of the exported network against PyTorch, relative to the largest output
CHECKED_IMAGES = 16
QAT_LR = 0.1  # share of the learning rate for fine-tuning with rounding
DENSE_WEIGHT_DECAY = 5e-4  # of the baseline: twenty runs of He et al.'s recipe; pruned weights want less

Tell = Callable[[str, Epoch], None]
Train = Callable[[str, nn.Module, Sparsifier | None], None]


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that decides the result; an interrupted run is resumed only with the same.

    weights, teacher: paths; teacher "dense" is the baseline itself. decay, ramp_epochs: see `methods.make_method`.
    dense_epochs, epochs: of dense training and of sparse training. include, exclude, remainder: see `methods.Select`.
    element: "f32", or "int8" for post-training quantisation at the end, with `calibrate` training images, `ranges` as in
    `ptq.quantize` and the `keep_float` most sensitive layers left in float32; before that, `qat_epochs` of training with
    rounding (`methods.qat`), at a tenth of the learning rate.
    Errors: PatternError, ModelError, TrainingError.
    """

    model: str
    pattern: str = "1:4"
    method: str = "srste"
    weights: str | None = None
    teacher: str | None = None
    dense_epochs: int = 0
    epochs: int = 10
    lr: float = 0.05
    weight_decay: float = 5e-5
    decay: float | None = None
    ramp_epochs: float | None = None
    batch: int = 128
    bf16: bool = False
    distill: float = 0.5
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    remainder: str = "refuse"
    seed: int = 0
    element: str = "f32"
    calibrate: int = 512
    ranges: str = "mse"
    equalize: bool = False
    keep_float: int = 0
    qat_epochs: int = 0

    def __post_init__(self) -> None:
        for what, value, known in (("element", self.element, ELEMENTS), ("ranges", self.ranges, tuple(ptq.RANGES))):
            if value not in known:
                raise QuantizationError(f"{what} must be one of {', '.join(known)}, got {value!r}")
        if self.qat_epochs and self.element != "int8":
            raise QuantizationError("quantisation-aware epochs prepare for int8; write element int8 too")
        if parse(self.pattern) == Dense() and self.element == "f32":
            raise PatternError("pattern 'dense' in f32 leaves nothing to compress; write N:M, for example 1:4, or element int8")
        if self.make_method().retrain and self.epochs == 0 and self.format != Dense():
            raise TrainingError(f"method {self.method} needs epochs; to prune once without retraining use method asp with 0 epochs")
        if self.weights is None and self.dense_epochs == 0:
            raise ModelError("there is nothing trained to start from: give weights, or epochs of dense training")
        if self.remainder not in ("refuse", "dense"):
            raise TrainingError(f"remainder must be 'refuse' or 'dense', got {self.remainder!r}")

    @property
    def format(self) -> Format:
        return parse(self.pattern)

    @property
    def select(self) -> Select:
        return Select(include=self.include, exclude=self.exclude)

    def make_method(self) -> Method:
        """For the epochs of sparse training; with none, one-shot pruning unless epochs with rounding follow."""
        return make_method(self.method, self.epochs or self.qat_epochs, self.decay, self.ramp_epochs)

    def recipe(self, stage: str) -> Recipe:
        """Of "dense", "sparse" or "qat" training."""
        first, last = stage == "dense", stage == "qat"
        return Recipe(
            epochs={"dense": self.dense_epochs, "sparse": self.epochs, "qat": self.qat_epochs}[stage],
            batch=self.batch,
            lr=self.lr * QAT_LR if last else self.lr,
            weight_decay=DENSE_WEIGHT_DECAY if first else self.weight_decay,
            distill=self.distill if self.teacher and not first else 0.0,
            bf16=self.bf16 and not last,  # which would round inputs a second time
            seed=self.seed,
        )


@dataclass(frozen=True, slots=True)
class Compressed:
    """The networks as graphs; int8: of the sparse one, if asked for. error: largest relative error of dense and sparse
    against PyTorch on test images. kept_float: layers that int8 leaves in float32.
    """

    dense: Graph
    sparse: Graph
    int8: Graph | None
    kept_float: list[str]
    report: list[LayerReport]
    history: dict[str, list[Epoch]]
    weights: dict[str, torch.Tensor]
    error: float


def compress(
    settings: Settings, data: DataSet, folder: Path, resume: bool = False, tell: Tell = lambda stage, epoch: None, progress: bool = True
) -> Compressed:
    """Do the whole job; everything that can be refused is refused before the first epoch.

    folder: for training checkpoints, one per stage. tell: called after every epoch with its stage: "dense", "sparse" or "qat".
    Errors: those of the zoo, the methods, training and export; VerificationError when the exported network computes
    something else than PyTorch.
    """
    dense = _build(settings, data)
    if settings.weights is not None:
        load_weights(dense, settings.weights)
    if settings.format != Dense():
        choose_layers(dense, settings.format, settings.select, settings.remainder)  # refuses before any training
    teacher = _teacher(settings, data)
    _claim(folder, settings, data, resume)
    history = {}

    def train(stage: str, net: nn.Module, handle: Sparsifier | None) -> None:
        recipe, path = settings.recipe(stage), folder / f"{stage}.pt"
        guide = None if stage == "dense" else dense if settings.teacher == "dense" else teacher
        history[stage] = (
            fit(net, data, recipe, handle, guide, path, resume, lambda e: tell(stage, e), progress=progress) if recipe.epochs else []
        )

    train("dense", dense, None)
    net, formats, report = _compressed(dense, settings, train)
    shape = (data.channels, data.size, data.size)
    graphs = [export(n.eval(), shape, f) for n, f in ((dense, {}), (net, formats))]
    error = max(_error(graph, net, data) for graph, net in zip(graphs, (dense, net)))
    if error > TOLERANCE:
        raise VerificationError(
            f"{settings.model}: the exported network differs from PyTorch by {error:.2g} of the largest output; please report the model"
        )
    int8, kept = _quantized(graphs[-1], settings, data) if settings.element == "int8" else (None, [])
    weights = {name: tensor.detach().clone().contiguous() for name, tensor in net.state_dict().items()}
    return Compressed(graphs[0], graphs[-1], int8, kept, report, history, weights, error)


def _compressed(dense: nn.Module, settings: Settings, train: Train) -> tuple[nn.Module, dict[str, Format], list[LayerReport]]:
    """A copy of the dense network: pruned and trained, then trained with rounding, as the settings say."""
    net, handle = copy.deepcopy(dense), None
    if settings.format != Dense():
        handle = sparsify_(net, settings.format, settings.make_method(), settings.select, settings.remainder)  # type: ignore[arg-type]
        train("sparse", net, handle)
    if settings.qat_epochs:
        rounding = quantize_aware_(net)
        train("qat", net, handle)
        rounding.finish()
    return (net, handle.finish(), handle.report()) if handle is not None else (net, {}, [])


def calibration_images(data: DataSet, count: int, seed: int) -> np.ndarray:
    """float32 (n, c, h, w): `count` training images, or all there are, as the network sees them at test time.

    Errors: DataError without a training split.
    """
    x, _ = next(iter(train_batches(data, count, seed, epoch=0, augment=False)))
    return normalise(x, data).contiguous().numpy()


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
    """Note in `folder` what its checkpoints belong to. Errors: CheckpointError when resuming something else."""
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
    except OSError as e:
        raise CheckpointError(f"{folder}: cannot be made ({e.strerror}); choose another folder for checkpoints") from e
    replace(note, json.dumps(mine, indent=2).encode())


@torch.inference_mode()
def _error(graph: Graph, net: nn.Module, data: DataSet) -> float:
    """Our runtime against PyTorch on the first test images, in float32."""
    x = normalise(next(iter(test_batches(data, CHECKED_IMAGES)))[0], data)
    out: Any = Session(graph).run(x.contiguous().numpy())
    return relative_error([out], [net(x).numpy()])
