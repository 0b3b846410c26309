"""`jettison eval`: accuracy on a whole test set."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import CheckpointError, DataError
from .tables import Json, Output

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..graph import Graph
    from ..runtime import Session
    from ..training.data import DataSet
    from .noted import Noted


def eval(
    target: Annotated[str, typer.Argument(help="A .jettison file; or, with --weights, a network: zoo name, timm:NAME, file.py:function.")],
    data: Annotated[str, typer.Option(help="Data set: digits, mnist, cifar10 …, or a folder.")],
    weights: Annotated[Path | None, typer.Option(help="Weights of the network, which then runs in PyTorch.")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Where the data set's files are. Default: $JETTISON_DATA, else a cache.")] = None,
    batch: Annotated[int, typer.Option(help="Images per run.", min=1)] = 100,
    size: Annotated[int | None, typer.Option(help="Height and width. Default: the file's; for a network, the data set's.", min=1)] = None,
    threads: Annotated[int | None, typer.Option(help="Threads, each on a core of its own. Default: every core.")] = None,
    json: Json = None,
) -> None:
    """Measure accuracy on a whole test set: of a .jettison file through the native runtime, of a network through PyTorch.

    A file made for some of the classes is judged on their images.

    Examples:

        jettison eval digits.jettison --data digits

        jettison eval resnet20_cifar --weights resnet20.th --data cifar10
    """
    from ..bench import processors
    from ..bench.process import pinned

    output = Output(json)
    cpus = processors(threads)
    with output.progress() as tell, pinned(cpus):
        settings = (data, data_dir, size, batch, len(cpus), tell)
        result = _run_file(target, *settings) if weights is None else _run_torch(target, weights, *settings)
    speed = f"{result.images / result.seconds:.0f} images/s"
    rows = [
        ("accuracy", f"{result.accuracy:.2%} ({result.right} of {result.images})"),
        ("engine", result.engine),
        ("speed", f"{speed}, batch {batch}, {len(cpus)} threads, reading of images not counted"),
    ]
    output.table(f"{target} on the test set of {data}", ("", ""), rows)
    counts = {"accuracy": result.accuracy, "right": result.right, "images": result.images, "images_per_s": result.images / result.seconds}
    output.save({"target": target, "data": data, **counts, "engine": result.engine, "batch": batch, "threads": len(cpus)})


@dataclass(frozen=True, slots=True)
class Score:
    """right of images classified as labelled; seconds spent in the network."""

    right: int
    images: int
    seconds: float
    engine: str

    @property
    def accuracy(self) -> float:
        return self.right / self.images


def count_right(run: Callable[[Any], Any], data: DataSet, batch: int, engine: str, tell: Callable[[str, float], None]) -> Score:
    """Over the whole test split; `run` maps float32 (n, c, h, w) to scores (n, classes), both NumPy."""
    from ..training.data import normalise, test_batches

    right = images = 0
    seconds = 0.0
    for x, y in test_batches(data, batch):
        array = normalise(x, data).contiguous().numpy()
        start = time.perf_counter()
        scores = run(array)
        seconds += time.perf_counter() - start
        right += int((scores.argmax(1) == y.numpy()).sum())
        images += len(y)
        tell("test set", images / len(data.test))
    return Score(right, images, seconds, engine)


def session_score(session: Session, data: DataSet, batch: int, tell: Callable[[str, float], None]) -> Score:
    """Accuracy of what really runs. Errors: DataError if the network and the data set do not fit."""
    _check_fit(session.graph, data)
    return count_right(session.run, data, batch, f"jettison, {session.isa}", tell)


def _run_file(target: str, name: str, data_dir: Path | None, size: int | None, batch: int, threads: int, tell: Any) -> Score:
    from ..runtime import Session
    from ..training.data import load
    from .noted import read

    if not target.endswith(".jettison") and not Path(target).is_file():
        raise CheckpointError(f"{target}: a network needs --weights FILE; a .jettison file must exist")
    session, noted = Session(target, threads=threads), read(target)
    shape = session.inputs[0].shape
    data = load(name, data_dir, size or shape[0])
    if len(noted.mean) == data.channels == len(noted.std):  # as the network was trained
        data = replace(data, mean=noted.mean, std=noted.std)
    return session_score(session, _of_classes(data, noted), batch, tell)


def _of_classes(data: DataSet, noted: Noted) -> DataSet:
    """With the classes that the file was made for alone, in its order. Where no name is the same, by number as they are.

    Errors: DataError for a class that the data set does not have.
    """
    from ..training.data import class_indices, only_classes

    names = noted.classes
    if set(names) & set(data.classes):
        missing = [name for name in names if name not in data.classes]
        if missing:
            raise DataError(
                f"the file tells apart {', '.join(names[:10])}; {data.name} has no class {missing[0]!r}: judge it on data that has"
            )
        if names != tuple(data.classes):
            data = only_classes(data, [data.classes.index(name) for name in names], "shrink")
    return only_classes(data, class_indices(data, noted.chosen), "keep") if noted.chosen and noted.head == "keep" else data


def _run_torch(
    target: str, weights: Path, name: str, data_dir: Path | None, size: int | None, batch: int, threads: int, tell: Any
) -> Score:
    import torch

    from ..training.data import load
    from ..zoo import build, load_weights

    torch.set_num_threads(threads)
    data = load(name, data_dir, size)
    model = build(target, num_classes=len(data.classes), in_channels=data.channels, image_size=data.size).eval()
    load_weights(model, weights)

    @torch.inference_mode()
    def run(x: Any) -> Any:
        return model(torch.from_numpy(x)).numpy()

    return count_right(run, data, batch, f"PyTorch {torch.__version__}", tell)


def _check_fit(graph: Graph, data: DataSet) -> None:
    if len(graph.inputs) != 1 or len(graph.outputs) != 1:
        raise DataError(f"a network of {len(graph.inputs)} inputs and {len(graph.outputs)} outputs is no classifier of images")
    image, scores = graph.tensors[graph.inputs[0]].shape, graph.tensors[graph.outputs[0]].shape
    if image != (data.size, data.size, data.channels):
        raise DataError(f"{data.name} gives images {data.size}×{data.size}×{data.channels}, the network takes {'×'.join(map(str, image))}")
    if scores != (len(data.classes),):
        raise DataError(f"{data.name} has {len(data.classes)} classes, the network gives {'×'.join(map(str, scores))} scores")
