"""Training checkpoints: one file, replaced atomically after every epoch, read without running code from it."""

from __future__ import annotations

import pickle
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from ..errors import CheckpointError
from .data.cache import atomic
from .recipe import Recipe

VERSION = 1


def save_checkpoint(path: Path, state: dict[str, Any], recipe: Recipe) -> None:
    """Write `state` so that at any moment the file holds either the former or this epoch. Errors: CheckpointError."""
    try:
        with atomic(path) as temporary:
            torch.save({"version": VERSION, "recipe": asdict(recipe), **state}, temporary)
    except (OSError, RuntimeError) as e:
        raise CheckpointError(f"{path}: cannot be written ({e}); free the disk or choose another folder, then resume") from e


def load_checkpoint(path: Path, recipe: Recipe) -> dict[str, Any]:
    """The state saved under the same recipe. Errors: CheckpointError (missing, corrupt, unsafe, other recipe)."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as e:
        raise CheckpointError(f"{path}: no such checkpoint") from e
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, OSError) as e:
        first = (str(e).splitlines() or [type(e).__name__])[0]
        raise CheckpointError(f"{path}: not a checkpoint of a training run, or damaged ({first}); remove it to start anew") from e
    if not isinstance(state, dict) or state.get("version") != VERSION or "recipe" not in state:
        raise CheckpointError(f"{path}: not a checkpoint of this version of Jettison; remove it to start anew")
    mine, theirs = asdict(recipe), {**asdict(Recipe()), **state["recipe"]}
    other = [k for k in mine if k != "workers" and mine[k] != theirs[k]]
    if other:
        what = ", ".join(f"{k} {theirs[k]} (now {mine[k]})" for k in other)
        raise CheckpointError(f"{path} was made with another recipe: {what}; use the same, or remove the file to start anew")
    return state
