"""Training: recipes, data sets, the loop, checkpoints, several processes, devices."""

from .checkpoint import load_checkpoint, save_checkpoint
from .device import device_of, on
from .distributed import Processes, processes
from .loop import Advance, Epoch, evaluate, fit
from .recipe import Recipe, make_optimizer

__all__ = [
    "Advance", "Epoch", "Processes", "Recipe", "device_of", "evaluate", "fit", "load_checkpoint", "make_optimizer", "on", "processes",
    "save_checkpoint",
]  # fmt: skip
