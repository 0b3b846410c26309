"""Training: recipes, data sets, the loop, checkpoints, several processes, devices."""

import os

from .checkpoint import load_checkpoint, save_checkpoint
from .device import device_of, on
from .distributed import Processes, processes
from .loop import Advance, Epoch, evaluate, fit
from .recipe import Recipe, make_optimizer

__all__ = [
    "Advance", "Epoch", "Processes", "Recipe", "device_of", "evaluate", "fit", "load_checkpoint", "make_optimizer", "on", "processes",
    "save_checkpoint",
]  # fmt: skip

# PyTorch looks for it at its first tensor: large tensors in large pages, which spares most page faults.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
