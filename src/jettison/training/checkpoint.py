"""Checkpoints: dictionaries of tensors, numbers and text in one file, replaced atomically, read without running code from it.

`write` and `read` are for any of them; those of a training run are written after every epoch and belong to its recipe.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from ..errors import CheckpointError
from ..file import atomic
from .recipe import Recipe

VERSION = 1
NOWHERE: Mapping[str, str | None] = MappingProxyType({})


def write(path: Path, state: dict[str, Any], then: str = "") -> None:
    """Whole or not at all. then: what to do after an error, added to its text. Errors: CheckpointError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic(path) as temporary:
            torch.save(state, temporary)
    except (OSError, RuntimeError) as e:
        raise CheckpointError(f"{path}: cannot be written ({e}); free the disk or choose another folder{then}") from e


def read(path: Path, kind: str, then: str, missing: str = "no such checkpoint") -> dict[str, Any]:
    """What `write` wrote. kind: what it is a checkpoint of, then: what to do if it is none, missing: what to say if there is no file.

    Errors: CheckpointError (missing, damaged, unsafe).
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle protocols
            state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as e:
        raise CheckpointError(f"{path}: {missing}") from e
    except Exception as e:  # of altered bytes PyTorch's reader says whatever it trips over
        first = (str(e).splitlines() or [type(e).__name__])[0]
        raise CheckpointError(f"{path}: not a checkpoint of {kind}, or damaged ({first}); {then}") from e
    if not isinstance(state, dict):
        raise CheckpointError(f"{path}: not a checkpoint of {kind}; {then}")
    return state


def save_checkpoint(path: Path, state: dict[str, Any], recipe: Recipe, origin: Mapping[str, str | None] = NOWHERE) -> None:
    """Write `state` so that at any moment the file holds either the former or this epoch. Errors: CheckpointError."""
    write(path, {"version": VERSION, "recipe": asdict(recipe), "origin": dict(origin), **state}, ", then resume")


def load_checkpoint(path: Path, recipe: Recipe, origin: Mapping[str, str | None] = NOWHERE) -> dict[str, Any]:
    """The state saved under the same recipe, for a run of the same data and network. Errors: CheckpointError (missing, corrupt, unsafe,
    another run's)."""
    state = read(path, "a training run", "remove it to start anew")
    if state.get("version") != VERSION or "recipe" not in state:
        raise CheckpointError(f"{path}: not a checkpoint of this version of Jettison; remove it to start anew")
    was, now = state.get("origin", dict(origin)), dict(origin)  # checkpoints from before do not say
    for kind, theirs, mine in (("recipe", {**asdict(Recipe()), **state["recipe"]}, asdict(recipe)), ("run", was, now)):
        other = [k for k in mine if k != "workers" and mine[k] != theirs.get(k)]
        if other:
            what = ", ".join(f"{k} {theirs.get(k)} (now {mine[k]})" for k in other)
            raise CheckpointError(f"{path} was made with another {kind}: {what}; use the same, or remove the file to start anew")
    return state
