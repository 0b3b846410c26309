"""What networks are trained on. All that is not training is done on the processor."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from ..errors import TrainingError


def device_of(name: str) -> torch.device:
    """name: "cpu", "cuda", or "auto": a GPU if there is one. Errors: TrainingError."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as e:  # PyTorch without CUDA asserts
        raise TrainingError(f"device {name!r} cannot be used ({str(e).splitlines()[0]}); use cpu or cuda") from e
    return torch.device("cuda", torch.cuda.current_device()) if device.type == "cuda" and device.index is None else device


@contextmanager
def on(device: torch.device | str, *nets: nn.Module | None) -> Iterator[None]:
    """`nets` stand on `device` meanwhile, then on the processor again."""
    there = [net for net in nets if net is not None]
    try:
        for net in there:
            net.to(device)
        yield
    finally:
        for net in there:
            net.to("cpu")
