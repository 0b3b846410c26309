"""What the examples segment, detect, flow and translate share: train dense, from there on sparse with each method, print a table."""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from jettison import ASP, NM, SRSTE, JettisonError, MaxQ, Session, Sparsifier, sparsify_
from jettison.export import export
from jettison.formats import Format
from jettison.methods import Method, Select

METHODS: dict[str, Method] = {"one-shot": ASP(retrain=False), "srste": SRSTE(), "maxq": MaxQ(end=0.5)}  # of one epoch, all the steps


@dataclass(frozen=True)
class Task:
    """batch(g) → inputs of the network and targets. loss(outputs, targets). quality(network): in percent, what `what` says."""

    build: Callable[[], nn.Module]
    batch: Callable[[torch.Generator], tuple[tuple[Tensor, ...], Any]]
    loss: Callable[[Any, Any], Tensor]
    quality: Callable[[nn.Module], float]
    what: str
    pattern: NM
    steps: int
    lr: float = 2e-3
    exclude: tuple[str, ...] = ()


@dataclass(frozen=True)
class Row:
    method: str
    quality: float
    model: nn.Module
    formats: dict[str, Format]


def train(model: nn.Module, task: Task, steps: int, handle: Sparsifier | None = None) -> None:
    g = torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(model.parameters(), task.lr)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, task.lr, steps)
    model.train()
    for step in range(steps):
        inputs, targets = task.batch(g)
        if handle is not None:
            handle.advance(step / steps)  # MaxQ's ramp ends half-way
        optimizer.zero_grad()
        with parametrize.cached():  # a layer that runs several times computes its mask once
            task.loss(model(*inputs), targets).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        if handle is not None:
            handle.step()
        optimizer.step()
        schedule.step()


def compare(task: Task, steps: int) -> list[Row]:
    """A row for the dense network and one for each method, all from the same dense network and with as many steps as it had."""
    torch.manual_seed(0)
    dense = task.build()
    train(dense, task, steps)
    rows = [Row("dense", quality(dense, task), dense, {})]
    for name, method in METHODS.items():
        model = copy.deepcopy(dense)
        handle = sparsify_(model, task.pattern, method, Select(exclude=task.exclude), remainder="dense")
        if name == "srste":
            for layer in handle.report():
                if layer.reason:
                    print(f"stays dense: {layer.name}: {layer.reason}")
        if method.retrain:
            train(model, task, steps, handle)
        formats = handle.finish()  # plain weights again, pattern verified
        rows.append(Row(name, quality(model, task), model, formats))
    return rows


@torch.inference_mode()
def quality(model: nn.Module, task: Task) -> float:
    return task.quality(model.eval())


def difference(row: Row, inputs: tuple[Tensor, ...]) -> float:
    """Of the network as it runs without PyTorch from the network in PyTorch, as a share of the largest output. Errors: JettisonError."""
    session = Session(export(row.model.eval(), inputs, row.formats))
    with torch.inference_mode():
        theirs = row.model(*inputs)
    ours: Any = session.run(*(x.numpy() for x in inputs))
    return float(np.abs(ours - theirs.numpy()).max() / theirs.abs().max())


def main(task: Task, doc: str | None) -> None:
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=task.steps, help="of dense training, and again of each sparse one")
    rows = compare(task, parser.parse_args().steps)
    print(f"\n{'method':10} {'pattern':8} {'weights kept':13} {task.what}")
    for row in rows:
        pattern = str(task.pattern) if row.formats else "dense"
        print(f"{row.method:10} {pattern:8} {kept(row.model):12.1%}  {row.quality:.1f}%")
    try:
        error = difference(rows[-1], task.batch(torch.Generator().manual_seed(1))[0])
        print(f"\ncompiled, the last one differs from PyTorch by {error:.1e} of the largest output")
    except JettisonError as e:
        print(f"\nruns in PyTorch only: {e}")


def kept(model: nn.Module) -> float:
    """Share of the network's weights, dense layers included, that is not zero."""
    weights = [p for p in model.parameters() if p.dim() > 1]
    return sum(int(p.count_nonzero()) for p in weights) / sum(p.numel() for p in weights)
