"""`jettison search`: hyper-parameters, and how a budget is spread over the layers, by training; several machines at one study."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from .budget import DEFAULT_M, Cost, Kept, M, average_pattern
from .tables import STDOUT, Json, Output
from .train import Device

SHOWN = 12  # trials


def search(
    model: Annotated[str, typer.Argument(help="The network: zoo name, timm:NAME, or path/to/file.py:function.")],
    weights: Annotated[Path, typer.Option(help="Trained dense weights, from which every trial starts.")],
    data: Annotated[str, typer.Option(help="Data set: digits, mnist, cifar10 …, or a folder of class folders or parquet files.")],
    storage: Annotated[
        str, typer.Option(help="Where the study lives: a file, on a shared disk for several machines, or a database URL (postgresql://…).")
    ],
    tune: Annotated[str, typer.Option(help="What to search, with commas: lr, weight_decay, decay, ramp; with --kept also width, depth.")],
    pattern: Annotated[str | None, typer.Option(help="N:M, the same in every layer. Default: 1:4.")] = None,
    kept: Kept = None,
    cost: Cost = "macs",
    m: M = DEFAULT_M,
    method: Annotated[str, typer.Option(help="How to prune: srste, maxq, ste or asp.")] = "srste",
    epochs: Annotated[int, typer.Option(help="Epochs of each trial.", min=1)] = 5,
    trials: Annotated[int, typer.Option(help="Trials the study shall have in the end, those of all machines together.", min=1)] = 20,
    study: Annotated[str, typer.Option(help="Its name in the storage.")] = "jettison",
    batch: Annotated[int, typer.Option(help="Images per training step.", min=1)] = 128,
    size: Annotated[int | None, typer.Option(help="Height and width of the images. Default: the data set's.", min=1)] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Where the data set's files are. Default: $JETTISON_DATA, else a cache.")] = None,
    device: Device = "auto",
    threads: Annotated[
        int | None, typer.Option(help="Threads of training and timing. Default: PyTorch's choice, and every core.", min=1)
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the images held out and of training.", min=0)] = 0,
    json: Json = None,
) -> None:
    """Search what no formula gives: hyper-parameters of sparse training, or how a budget is spread over the layers.

    Every trial trains a sparse network from the dense one and is judged on a tenth of the training images, held out; the test
    set is not touched. Poor trials end early. The same command on other machines, or after a kill, works at the same study.

    Examples:

        jettison search resnet20_cifar --weights r20.th --data cifar10 --pattern 1:16 --method maxq --tune lr,decay,ramp --storage study.log

        jettison search resnet20_cifar --weights r20.th --data cifar10 --kept 0.25 --tune width,depth --trials 30 --storage study.log
    """
    import optuna
    import torch

    from .. import zoo
    from ..bench import processors
    from ..bench.machine import provenance
    from ..budget import Timed
    from ..search import Search, open_study, options, result, run
    from ..training import device_of
    from ..training.data import load

    output = Output(json)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if threads is not None:
        torch.set_num_threads(threads)
    trains_on = device_of(device)
    images = load(data, data_dir, size)
    names = tuple(word.strip() for word in tune.split(",") if word.strip())
    wanted = Search(model, images.name, average_pattern(pattern, kept, m) or "1:4", method, names, epochs, batch, kept, cost, seed)
    net = zoo.build(model, num_classes=len(images.classes), in_channels=images.channels, image_size=images.size)
    zoo.load_weights(net, weights)
    found = open_study(wanted, storage, study)
    tell = lambda n, e: output.say(f"trial {n}, epoch {e.epoch}: accuracy {e.accuracy:.2%}")  # noqa: E731
    run(wanted, found, net, images, trials, tell, output.live, Timed(tuple(processors(threads))), trains_on)
    known = result(found)
    rows = [
        (t["number"], t["state"], f"{t['accuracy']:.2%}" if t["accuracy"] is not None else "", *(f"{t['values'][n]:.4g}" for n in names))
        for t in known["trials"][:SHOWN]
        if t["values"].keys() >= set(names)
    ]
    note = "accuracy on training images held out; the test images were not looked at"
    output.table(
        f"Study {study} in {storage}: {len(known['trials'])} trials", ("trial", "", ">accuracy", *(f">{n}" for n in names)), rows, note
    )
    best = known["trials"][0]
    if best["state"] == "complete":
        file = str(json) if json is not None and str(json) != STDOUT else "FILE (of --json)"
        output.say(f"The best as options of jettison compress: {options(wanted, best['values'], file)}")
    output.save({**known, "device": str(trains_on), "search": asdict(wanted), "storage": storage, **provenance()})
