"""Hints: what a teacher of the same network says of its features, beside its scores.

    H = mean over points of  mean((f_s − f_t)²) / mean((f_t − mean_c f_t)²)          mean_c: by channel, over all else

f_s, f_t are the outputs of the same module in student and teacher for the same inputs: the share of the teacher's variance that the
student misses. Every image then teaches thousands of numbers instead of one for each class, which is most where images are few.
Student and teacher have the same layers, so features need no map between them.

Source: Romero et al. 2015, "FitNets: Hints for Thin Deep Nets" (arXiv 1412.6550), without its regressor and at more than one point.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from ..errors import TrainingError

CONTAINERS = (nn.Sequential, nn.ModuleList)
# where a network has no blocks: the first of these that it has
OTHERS: tuple[tuple[type[nn.Module], ...], ...] = ((nn.MaxPool2d, nn.AvgPool2d), (nn.BatchNorm2d,), (nn.Conv2d,))


def points(model: nn.Module) -> list[str]:
    """Names of the modules whose outputs are compared: blocks, that is modules of several layers that stand in a row (`CONTAINERS`), the
    outermost ones. Without blocks: pooling, without that normalizations, without those convolutions.

    Errors: TrainingError when there is none.
    """
    found = list(_blocks(model, ""))
    for kinds in OTHERS:
        found = found or [name for name, m in model.named_modules() if isinstance(m, kinds)]
    if not found:
        raise TrainingError("hints need a network with blocks, pooling, normalizations or convolutions; leave --hints out")
    return found


def _blocks(module: nn.Module, path: str) -> Iterator[str]:
    for name, child in module.named_children():
        own = f"{path}{name}"
        if isinstance(module, CONTAINERS) and not isinstance(child, CONTAINERS) and next(child.children(), None) is not None:
            yield own
        else:
            yield from _blocks(child, f"{own}.")


class Hints:
    """Listens to both networks from its making to `close`; after both have seen a batch, `loss` is their H."""

    def __init__(self, student: nn.Module, teacher: nn.Module) -> None:
        self._features: tuple[dict[str, Tensor], dict[str, Tensor]] = ({}, {})
        names = set(points(teacher))
        self._hooks = [
            module.register_forward_hook(lambda _, __, out, into=into, name=name: into.update({name: out}))
            for net, into in zip((student, teacher), self._features)
            for name, module in net.named_modules()
            if name in names
        ]

    def loss(self) -> Tensor:
        """Errors: TrainingError when the networks have no features of equal shape in common."""
        student, teacher = self._features
        shared = [n for n, f in student.items() if isinstance(f, Tensor) and getattr(teacher.get(n), "shape", None) == f.shape]
        if not shared:
            raise TrainingError("hints: student and teacher have no features in common; both must be the same network")
        return torch.stack([_missed(student[n].float(), teacher[n].float()) for n in shared]).mean()

    def close(self) -> None:
        for hook in self._hooks:
            hook.remove()
        for features in self._features:
            features.clear()


def _missed(student: Tensor, teacher: Tensor) -> Tensor:
    rest = [d for d in range(teacher.dim()) if d != 1]
    variance = (teacher - teacher.mean(rest, keepdim=True)).square().mean()
    return (student - teacher).square().mean() / variance.clamp_min(1e-12)
