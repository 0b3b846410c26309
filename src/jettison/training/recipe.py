"""A training recipe: every number that decides how a network is trained, in one frozen record."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import nn

from ..errors import TrainingError


@dataclass(frozen=True, slots=True)
class Recipe:
    """Errors: TrainingError for a number that makes no sense.

    epochs:           passes over the training split
    batch:            images per optimizer step, over all processes
    optimizer:        "sgd" (momentum, Nesterov as set) or "adamw"
    lr:               peak learning rate
    warmup_epochs:    linear rise from 0 to `lr`, per step
    schedule:         "cosine" to 0, per step, or "constant"
    weight_decay:     L2 term of SGD, decoupled decay of AdamW
    decay_1d:         also decay biases and normalization weights (1-D parameters)
    label_smoothing:  share of the target spread over all classes
    distill:          weight of the teacher's soft labels in the loss, 0 … 1
    temperature:      softmax temperature of those
    hints:            weight of the teacher's features in the loss (`hints`), 0 for none; the teacher is the same network then
    mixup:            α of mixup, 0 for none: of each image and another of the batch λ·x + (1 − λ)·x′, λ from Beta(α, α) step by step,
                      with both labels in these shares; the teacher sees it too. Against learning few images by heart.
                      Zhang et al. 2018 (arXiv 1710.09412); with a teacher Beyer et al. 2022 (arXiv 2106.05237)
    dropout:          factor on the rates of the network's own dropout layers, 0 … 1 (`scaled_dropout`)
    clip_norm:        largest norm of the whole gradient, 0 for no limit
    bf16:             autocast to bfloat16
    channels_last:    NHWC memory layout
    augment:          random crops and flips
    sync_batchnorm:   batch statistics over all processes (GPU only)
    seed:             decides initial order of images and augmentation
    workers:          decoding processes, for large images only
    """

    epochs: int = 10
    batch: int = 128
    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: float = 0.1
    momentum: float = 0.9
    nesterov: bool = True
    warmup_epochs: float = 0.0
    schedule: Literal["cosine", "constant"] = "cosine"
    weight_decay: float = 5e-5
    decay_1d: bool = True
    label_smoothing: float = 0.0
    distill: float = 0.0
    temperature: float = 4.0
    hints: float = 0.0
    mixup: float = 0.0
    dropout: float = 1.0
    clip_norm: float = 0.0
    bf16: bool = False
    channels_last: bool = True
    augment: bool = True
    sync_batchnorm: bool = False
    seed: int = 0
    workers: int = 2

    def __post_init__(self) -> None:
        for name in ("epochs", "batch", "lr", "warmup_epochs", "weight_decay", "hints", "mixup", "clip_norm", "workers", "seed"):
            low = 1 if name == "batch" else 0
            if not low <= getattr(self, name) < math.inf:
                raise TrainingError(f"recipe: {name} must be a number >= {low}, got {getattr(self, name)}")
        for name in ("momentum", "label_smoothing", "distill", "dropout"):
            if not 0 <= getattr(self, name) <= 1:
                raise TrainingError(f"recipe: {name} must lie between 0 and 1, got {getattr(self, name)}")
        if self.temperature <= 0:
            raise TrainingError(f"recipe: temperature must be positive, got {self.temperature}")
        for name, known in (("optimizer", ("sgd", "adamw")), ("schedule", ("cosine", "constant"))):
            if getattr(self, name) not in known:
                raise TrainingError(f"recipe: {name} must be one of {', '.join(known)}, got {getattr(self, name)!r}")

    def lr_at(self, step: int, steps_per_epoch: int) -> float:
        """Learning rate of optimizer step `step` (from 0): warm-up, then lr·(1 + cos(π·t))/2 with t from 0 to 1."""
        warm = round(self.warmup_epochs * steps_per_epoch)
        if step < warm:
            return self.lr * (step + 1) / warm
        if self.schedule == "constant":
            return self.lr
        total = max(1, self.epochs * steps_per_epoch - warm)
        return self.lr * 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warm) / total)))

    def mix_at(self, epoch: int, step: int) -> float:
        """λ of this step of the epoch, the same in all processes; 1, the images alone, without mixup."""
        return np.random.default_rng((self.seed, epoch, step)).beta(self.mixup, self.mixup) if self.mixup else 1.0


def make_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """Parameters in the order of `model.parameters()`, in two groups when 1-D ones are not decayed."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if recipe.decay_1d or p.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in parameters if not recipe.decay_1d and p.ndim <= 1], "weight_decay": 0.0},
    ]
    groups = [g for g in groups if g["params"]]
    if recipe.optimizer == "adamw":  # fused: one pass over memory instead of a dozen
        return torch.optim.AdamW(groups, lr=recipe.lr, fused=True)
    nesterov = recipe.nesterov and recipe.momentum > 0
    return torch.optim.SGD(groups, lr=recipe.lr, momentum=recipe.momentum, nesterov=nesterov, fused=True)
