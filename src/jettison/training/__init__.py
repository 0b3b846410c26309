"""Training: recipes, data sets, the loop, checkpoints, several processes."""

from .checkpoint import load_checkpoint, save_checkpoint
from .distributed import Processes, processes
from .loop import Epoch, evaluate, fit
from .recipe import Recipe, make_optimizer

__all__ = ["Epoch", "Processes", "Recipe", "evaluate", "fit", "load_checkpoint", "make_optimizer", "processes", "save_checkpoint"]
