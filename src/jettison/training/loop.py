"""The training loop: `fit` trains, `evaluate` measures; both know nothing of methods but `Sparsifier`'s handle."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ..errors import CheckpointError, DataError, TrainingError
from ..methods import Sparsifier
from .checkpoint import NOWHERE, load_checkpoint, save_checkpoint
from .data import Batch, DataSet, Shard, mixed_seed, normalise, steps_per_epoch, test_batches, train_batches
from .depthwise import strided_in_float32
from .distributed import Processes
from .dropout import scaled_dropout
from .hints import Hints
from .memory import freed_stays
from .progress import Bar
from .recipe import Recipe, make_optimizer

MASKS_CHECKED_STEPS = 100  # between two comparisons of the masks of several processes

Advance = Callable[[float], None]  # share of the training that is done, 0 … 1


@dataclass(frozen=True, slots=True)
class Epoch:
    """loss: mean over the epoch's training images. accuracy: share of the whole test split, after the epoch.

    sad: share of mask positions that changed during the epoch; sparsity: share of the sparse layers' weights that is pruned
    (both None without a sparsifier).
    """

    epoch: int
    loss: float
    accuracy: float
    lr: float
    images_per_s: float
    seconds: float
    sad: float | None
    sparsity: float | None = None  # checkpoints from before have none


def fit(
    model: nn.Module,
    data: DataSet,
    recipe: Recipe,
    sparsifier: Sparsifier | None = None,
    teacher: nn.Module | None = None,
    checkpoint: Path | None = None,
    resume: bool = False,
    on_epoch: Callable[[Epoch], None] | None = None,
    processes: Processes = Processes(),
    progress: bool = True,
    origin: Mapping[str, str | None] = NOWHERE,
    advance: Advance = lambda share: None,
) -> list[Epoch]:
    """Train `model` in place, on the device it stands on; returns one `Epoch` each.

    checkpoint: file written after every epoch. resume: continue from it if it is there; the
    continued run is bit-identical to an uninterrupted one (CPU). A checkpoint of other data, another recipe or another origin, whatever
    that may say of the network, is refused. The sparsifier is stepped, not finished. advance: told before each step what share of
    the training is done, for what changes while it lasts.

    Errors: TrainingError (loss not finite, or masks that differ between processes: the last good checkpoint stays),
    CheckpointError, DataError.
    """
    if data.train is None:
        raise DataError(f"{data.name} has no training split here; add its train files")
    for name in ("distill", "hints"):
        if teacher is None and getattr(recipe, name) > 0:
            raise TrainingError(f"recipe: {name} needs a teacher network")
    run = _Run(model, data, recipe, sparsifier, teacher, processes, advance)
    about = {"data": data.name, "size": str(data.size), "classes": str(len(data.classes)), **origin}
    with ExitStack() as meanwhile:
        if run.hints is not None:
            meanwhile.callback(run.hints.close)
        if resume and checkpoint is not None and checkpoint.is_file():
            run.restore(load_checkpoint(checkpoint, recipe, about), checkpoint)
        meanwhile.enter_context(freed_stays())
        meanwhile.enter_context(scaled_dropout(model, recipe.dropout))
        if recipe.bf16 and run.device.type == "cpu":
            meanwhile.enter_context(strided_in_float32(model))
        bar = meanwhile.enter_context(Bar(recipe.epochs * run.steps, len(run.history) * run.steps, progress and processes.is_first))
        while len(run.history) < recipe.epochs:
            epoch = run.epoch(bar, checkpoint)
            if checkpoint is not None and processes.is_first:
                save_checkpoint(checkpoint, run.state(), recipe, about)
            if on_epoch is not None and processes.is_first:
                on_epoch(epoch)
    model.eval()
    return run.history


@torch.inference_mode()
def evaluate(
    model: nn.Module, data: DataSet, batch: int = 250, processes: Processes = Processes(), bf16: bool = False, workers: int = 2
) -> float:
    """Share of the test split that `model` classifies correctly. Leaves the model in evaluation mode. workers: decode large images."""
    device = next(model.parameters()).device
    model.eval()
    right = torch.zeros((), dtype=torch.int64, device=device)
    with parametrize.cached():  # pruned weights are computed once, not for every batch
        for x, y in test_batches(data, batch, Shard(processes.rank, processes.world), workers):
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                scores = model(normalise(x.to(device), data))
            right += (scores.argmax(1) == y.to(device)).sum()
    return processes.sum(right).item() / len(data.test)


class _Run:
    """One call of `fit`: what changes while it lasts."""

    def __init__(
        self,
        model: nn.Module,
        data: DataSet,
        recipe: Recipe,
        sparsifier: Sparsifier | None,
        teacher: nn.Module | None,
        processes: Processes,
        advance: Advance,
    ) -> None:
        self.model, self.data, self.recipe, self.sparsifier, self.processes = model, data, recipe, sparsifier, processes
        self.advance = advance
        self.device = next(model.parameters()).device
        self.teacher = teacher.to(self.device).eval() if teacher is not None and (recipe.distill > 0 or recipe.hints > 0) else None
        self.hints = Hints(model, self.teacher) if self.teacher is not None and recipe.hints > 0 else None
        self.steps = steps_per_epoch(data.train, recipe.batch)  # type: ignore[arg-type]
        self.shard = processes.shard(min(recipe.batch, data.train.epoch))  # type: ignore[arg-type]
        if recipe.channels_last:
            model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.trained = processes.wrap(model, self.device, recipe.sync_batchnorm)
        self.optimizer = make_optimizer(model, recipe)
        self.history: list[Epoch] = []

    def epoch(self, bar: Bar, checkpoint: Path | None) -> Epoch:
        number, start = len(self.history), time.perf_counter()
        torch.manual_seed(mixed_seed(self.recipe.seed, number, self.processes.rank))  # dropout and the like
        self.trained.train()
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        batches = train_batches(
            self.data, self.recipe.batch, self.recipe.seed, number, self.shard, self.recipe.augment, self.recipe.workers
        )
        lr, images = 0.0, 0
        for i, batch in enumerate(batches):
            lr = self.recipe.lr_at(number * self.steps + i, self.steps)
            self.advance((number + i / self.steps) / self.recipe.epochs)
            if self.sparsifier is not None:
                self.sparsifier.advance(number + i / self.steps)
            loss = self.step(batch, lr, self.recipe.mix_at(number, i))
            if i % MASKS_CHECKED_STEPS == 0:
                self.check_masks()
            value = loss.item()
            if not math.isfinite(value):
                raise TrainingError(_not_finite(value, number, i, checkpoint if self.history else None))
            total += loss
            images += len(batch[1]) * self.shard.world
            bar.step(number, value, images / (time.perf_counter() - start))
        mean = self.processes.sum(total).item() / (self.steps * self.shard.world)
        speed = images / (time.perf_counter() - start)
        if self.sparsifier is not None:
            self.sparsifier.advance(number + 1)
        self.processes.same_buffers(self.model)
        accuracy = evaluate(self.model, self.data, max(250, self.recipe.batch), self.processes, self.recipe.bf16, self.recipe.workers)
        sad = self.sparsifier.sad().total.fraction if self.sparsifier is not None else None
        sparsity = self.sparsifier.sparsity() if self.sparsifier is not None else None
        bar.epoch(accuracy, sad)
        result = Epoch(number + 1, mean, accuracy, lr, speed, time.perf_counter() - start, sad, sparsity)
        self.history.append(result)
        return result

    def step(self, batch: Batch, lr: float, share: float) -> Tensor:
        """share: of each image in what the network sees; the rest is the image in its place from the batch's end."""
        x, y = normalise(batch[0].to(self.device, non_blocking=True), self.data), batch[1].to(self.device, non_blocking=True)
        x = x if share == 1 else share * x + (1 - share) * x.flip(0)
        x = x.contiguous(memory_format=torch.channels_last if self.recipe.channels_last else torch.contiguous_format)
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.recipe.bf16):
            scores = self.trained(x)
            target = self.teach(x)
        loss = self.loss(scores.float(), y, target, share)
        loss.backward()
        if self.recipe.clip_norm:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip_norm)
        if self.sparsifier is not None:
            self.sparsifier.step()
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.step()
        return loss.detach()

    def check_masks(self) -> None:
        """Masks are functions of the weights, so processes that average their gradients have the same. Errors: TrainingError."""
        if self.sparsifier is not None and self.processes.world > 1:
            self.processes.check_equal(self.sparsifier.digests(), "the masks")

    @torch.no_grad()
    def teach(self, x: Tensor) -> Tensor | None:
        return self.teacher(x).float() if self.teacher is not None else None

    def loss(self, scores: Tensor, y: Tensor, target: Tensor | None, share: float) -> Tensor:
        """(1 − a)·CE(scores, y) + a·T²·KL(softmax(target/T) ‖ softmax(scores/T)) + b·H: Hinton et al. 2015 (arXiv 1503.02531), hints.

        With `share` below 1, CE is the mean over both labels in these shares.
        """
        smooth = self.recipe.label_smoothing
        hard = F.cross_entropy(scores, y, label_smoothing=smooth)
        if share < 1:
            hard = share * hard + (1 - share) * F.cross_entropy(scores, y.flip(0), label_smoothing=smooth)
        if target is None:
            return hard
        a, t = self.recipe.distill, self.recipe.temperature
        soft = F.kl_div(F.log_softmax(scores / t, 1), F.log_softmax(target / t, 1), reduction="batchmean", log_target=True)
        taught = (1 - a) * hard + a * t * t * soft
        return taught if self.hints is None else taught + self.recipe.hints * self.hints.loss()

    def state(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "sparsifier": self.sparsifier.state_dict() if self.sparsifier is not None else None,
            "history": [asdict(e) for e in self.history],
        }

    def restore(self, state: dict[str, Any], path: Path) -> None:
        if (state["sparsifier"] is None) != (self.sparsifier is None):
            kind = "dense" if state["sparsifier"] is None else "sparse"
            raise CheckpointError(f"{path} is of a {kind} run, this one is not; remove it to start anew")
        try:
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
        except (RuntimeError, ValueError, KeyError) as e:
            raise CheckpointError(f"{path} does not fit the model: {e}") from e
        if self.sparsifier is not None:
            self.sparsifier.load_state_dict(state["sparsifier"])
        self.history = [Epoch(**e) for e in state["history"]]


def _not_finite(value: float, epoch: int, step: int, checkpoint: Path | None) -> str:
    kept = f"the last good checkpoint is {checkpoint} (epoch {epoch})" if checkpoint else "no checkpoint was written yet"
    return f"the loss is {value} in epoch {epoch + 1}, step {step + 1}; {kept}; lower the learning rate, add warm-up or check the data"
