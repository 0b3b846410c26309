"""Searches that need training: hyper-parameters, and how a budget is spread over the layers. Many machines may work at one study.

    trial: values ─► sparse training from the dense network ─► accuracy on images held out of the training split

The test split is never looked at. Trials that fall behind the median of the others at the same epoch end early. Everything that
is known lives in the study's storage, a file on a shared disk or a database: any number of processes on any machines work at it with
the same command, and one that is killed is started again.

Optuna does the searching: Akiba et al. 2019 (arXiv 1907.10902); its sampler here is the tree-structured Parzen estimator.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from . import budget
from .errors import CheckpointError, MissingExtra, TrainingError, no_effect
from .export import export
from .formats import Format, parse
from .methods import METHODS, make_method, sparsify_
from .training import Epoch, Recipe, fit, on
from .training.data import DataSet
from .training.data.dataset import Split

try:
    import optuna
    from optuna.storages.journal import JournalFileBackend
    from optuna.trial import TrialState
    from sqlalchemy.exc import SQLAlchemyError  # comes with Optuna
except ImportError as e:
    raise MissingExtra("searching needs Optuna; install it with: pip install 'jettison[search]'") from e

HELD_OUT = 0.1  # of the training images
DONE = (TrialState.COMPLETE, TrialState.PRUNED)

# name → what a trial may choose
Suggest = Callable[[optuna.Trial], float]
SPACE: dict[str, Suggest] = {
    "lr": lambda t: t.suggest_float("lr", 1e-3, 0.3, log=True),
    "weight_decay": lambda t: t.suggest_float("weight_decay", 1e-6, 1e-3, log=True),
    "decay": lambda t: t.suggest_float("decay", 1e-6, 1e-2, log=True),
    "ramp": lambda t: t.suggest_float("ramp", 0.0, 0.9),  # share of the epochs
    "width": lambda t: t.suggest_float("width", -1.0, 1.0),
    "depth": lambda t: t.suggest_float("depth", -2.0, 2.0),
}
SPREAD = ("width", "depth")  # of a budget


@dataclass(frozen=True, slots=True)
class Search:
    """What all trials share, and what a study is recognised by. tune: names of `SPACE`; other values are as in `compress`.

    kept, cost: of a budget (`jettison.budget`), None for the same pattern everywhere. width, depth weigh the layers' losses by
    (weights of the layer)^−width and exp(depth · position), position from 0 to 1.
    """

    model: str
    data: str
    pattern: str
    method: str
    tune: tuple[str, ...]
    epochs: int
    batch: int = 128
    kept: float | None = None
    cost: str = "macs"
    seed: int = 0

    def __post_init__(self) -> None:
        for name in self.tune:
            if name not in SPACE:
                raise TrainingError(f"--tune: {name!r} is not known; known: {', '.join(SPACE)}")
            if name in SPREAD and self.kept is None:
                raise TrainingError(f"--tune {name} spreads a budget over the layers; give one with --kept")
        if not self.tune or self.method not in METHODS or self.method == "crisp":
            raise TrainingError("a search needs --tune and a method out of srste, maxq, ste and asp")
        budget.check(self.kept, self.cost, parse(self.pattern))
        if self.kept is None and self.cost != "macs":
            raise no_effect(f"--budget {self.cost}", "--kept")
        self.method_of(dict.fromkeys(self.tune, 0.0))  # a setting that the method does not have

    def method_of(self, values: Mapping[str, float]) -> Any:
        ramp = values["ramp"] * self.epochs if "ramp" in values else None
        return make_method(self.method, self.epochs, values.get("decay"), ramp)


def open_study(search: Search, storage: str, name: str) -> optuna.Study:
    """The study of this name, made if it is missing. storage: a database URL, or a file. Errors: CheckpointError for another search."""
    try:
        if "://" in storage:
            place: Any = optuna.storages.RDBStorage(storage)
        else:
            place = optuna.storages.JournalStorage(JournalFileBackend(storage))
        study = optuna.create_study(
            storage=place, study_name=name, direction="maximize", load_if_exists=True, pruner=optuna.pruners.MedianPruner(5, 1)
        )
    except (OSError, ImportError, ValueError, RuntimeError, SQLAlchemyError, optuna.exceptions.OptunaError) as e:
        raise CheckpointError(f"--storage {storage}: cannot be used ({str(e).splitlines()[0]}); name a file, or a database URL") from e
    mine, theirs = json.dumps(asdict(search)), study.user_attrs.get("search")
    if theirs is None:
        study.set_user_attr("search", mine)
    elif theirs != mine:
        old, new = json.loads(theirs), json.loads(mine)
        other = ", ".join(f"{k} {old.get(k)!r} (now {new[k]!r})" for k in new if old.get(k) != new[k])
        raise CheckpointError(f"study {name} in {storage} is another search: {other}; use the same settings, or another --study")
    study.sampler = optuna.samplers.TPESampler(seed=search.seed + len(study.trials), constant_liar=True)  # others draw other values
    return study


def run(
    search: Search,
    study: optuna.Study,
    dense: nn.Module,
    data: DataSet,
    trials: int,
    tell: Callable[[int, Epoch], None] = lambda number, epoch: None,
    progress: bool = True,
    timed: budget.Timed = budget.Timed(),
    device: torch.device | str = "cpu",
) -> None:
    """Work at the study until it has `trials` that are done, whoever did them. timed: how a latency budget is measured. device: trains.

    Errors: those of training.
    """
    seen, table = held_out(data, search.seed), {}
    if search.kept is not None:
        fmt: Any = parse(search.pattern)
        graph = export(copy.deepcopy(dense).eval(), (data.channels, data.size, data.size))
        table = budget.costs(graph, budget.prunable(dense, fmt.m), fmt.m, search.cost, timed)

    def objective(trial: optuna.Trial) -> float:
        values = {name: SPACE[name](trial) for name in search.tune}
        net, formats = copy.deepcopy(dense), parse(search.pattern) if not table else spread(search, dense, table, values)
        trial.set_user_attr("formats", str(formats) if isinstance(formats, Format) else {n: str(f) for n, f in formats.items()})
        handle = sparsify_(net, formats, search.method_of(values), remainder="dense")
        own = {name: values[name] for name in ("lr", "weight_decay") if name in values}
        recipe = Recipe(**{"epochs": search.epochs, "batch": search.batch, "lr": 0.05, "seed": search.seed, **own})  # type: ignore[arg-type]

        def on_epoch(epoch: Epoch) -> None:
            tell(trial.number, epoch)
            trial.report(epoch.accuracy, epoch.epoch)
            if epoch.epoch < search.epochs and trial.should_prune():
                raise optuna.TrialPruned

        try:
            with on(device, net):
                return fit(net, seen, recipe, handle, on_epoch=on_epoch, progress=progress)[-1].accuracy
        except TrainingError as e:
            if "not finite" not in str(e):
                raise
            raise optuna.TrialPruned(str(e)) from e  # values that diverge are bad values

    if len(study.get_trials(deepcopy=False, states=DONE)) < trials:
        study.optimize(objective, callbacks=[optuna.study.MaxTrialsCallback(trials, states=DONE)])


def spread(search: Search, dense: nn.Module, table: Mapping[str, np.ndarray], values: Mapping[str, float]) -> dict[str, Format]:
    """The budget's formats with the layers' losses weighed by `width` and `depth`."""
    fmt: Any = parse(search.pattern)
    sizes = {name: dense.get_submodule(name).weight.numel() for name in table}  # type: ignore[union-attr,operator]
    position = {name: i / max(len(table) - 1, 1) for i, name in enumerate(table)}
    weigh = {n: sizes[n] ** -values.get("width", 0.0) * np.exp(values.get("depth", 0.0) * position[n]) for n in table}
    return budget.within(dense, table, search.kept or 1.0, fmt.m, search.cost, weigh).formats


def held_out(data: DataSet, seed: int) -> DataSet:
    """`data` whose test split is a tenth of the training images, drawn by lot, and which trains on the others. Errors: TrainingError."""
    if data.train is None or not data.train.in_memory:
        raise TrainingError(f"{data.name}: a search holds out training images, and needs a data set that fits into memory")
    images: Any = data.train.images
    order = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(seed)).numpy()
    count = max(1, round(HELD_OUT * len(order)))
    parts = [Split(images[i], data.train.labels[i]) for i in (np.sort(order[count:]), np.sort(order[:count]))]
    return replace(data, train=parts[0], test=parts[1])


def options(search: Search, values: Mapping[str, float], formats: str) -> str:
    """What makes `jettison compress` train as a trial with these values did. formats: file with the study's result, for a budget."""
    pattern = f"--formats {formats}" if search.kept is not None else f"--pattern {search.pattern}"
    named = {"ramp_epochs" if n == "ramp" else n: v * search.epochs if n == "ramp" else v for n, v in values.items() if n not in SPREAD}
    own = "".join(f" --{name.replace('_', '-')} {value:.4g}" for name, value in named.items())
    return f"{pattern} --method {search.method} --epochs {search.epochs} --batch {search.batch}{own}"


def result(study: optuna.Study) -> dict[str, Any]:
    """Plain data: all trials, the best first."""
    rows = [
        {
            "number": t.number, "state": t.state.name.lower(), "accuracy": t.value, "values": t.params,
            "formats": t.user_attrs.get("formats"), "epochs": len(t.intermediate_values),
        }
        for t in study.get_trials(deepcopy=False)
    ]  # fmt: skip
    return {"study": study.study_name, "trials": sorted(rows, key=lambda r: -(r["accuracy"] or 0) if r["state"] == "complete" else 1)}
