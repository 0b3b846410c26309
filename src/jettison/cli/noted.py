"""What `jettison compress` notes in a file about its training, checked before it is used: anybody may have written the file."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from ..errors import FileError

KINDS = {"mean": "a list of numbers", "std": "a list of numbers above 0", "classes": "a list of names", "settings": "a dictionary"}


@dataclass(frozen=True, slots=True)
class Noted:
    """mean, std: of the inputs, per channel. classes: names of the outputs. chosen: of `--classes`. Empty or None: not noted."""

    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    classes: tuple[str, ...] = ()
    chosen: tuple[str, ...] = ()
    head: str | None = None
    accuracy: float | None = None
    data: str = ""
    model: str | None = None


def read(path: str) -> Noted:
    """Errors: FileError, also for a note of another kind that evaluation depends on."""
    from ..file import load_meta

    meta = load_meta(path)
    settings = meta.get("settings") or {}
    chosen = (settings.get("classes") or []) if isinstance(settings, dict) else []
    legal = {
        "mean": _numbers(meta.get("mean", [])),
        "std": _numbers(meta.get("std", [])) and all(v > 0 for v in meta.get("std", [])),
        "classes": _names(meta.get("classes") or []),
        "settings": isinstance(settings, dict) and _names(chosen),
    }
    for key, fits in legal.items():
        if not fits:
            raise FileError(f"{path}: its note {key!r} is not {KINDS[key]}; compress the model again, or save the file without that note")
    accuracy, head, model = meta.get("accuracy"), settings.get("head"), settings.get("model")
    return Noted(
        mean=tuple(meta.get("mean", ())),
        std=tuple(meta.get("std", ())),
        classes=tuple(meta.get("classes") or ()),
        chosen=tuple(chosen),
        head=head if isinstance(head, str) else None,
        accuracy=accuracy if isinstance(accuracy, float) else None,
        data=str(meta.get("data", "")),
        model=model if isinstance(model, str) else None,
    )


def _numbers(value: Any) -> bool:
    return isinstance(value, list) and all(type(v) in (int, float) and math.isfinite(v) for v in value)


def _names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(v, str) for v in value)
