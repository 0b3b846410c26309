"""Networks from outside the zoo: timm's (`timm:NAME`) and the user's own (`file.py:function`)."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from ..errors import MissingExtra, ModelError


def from_timm(name: str, num_classes: int | None, in_channels: int) -> nn.Module:
    """`timm.create_model(name)` with random weights. Errors: MissingExtra, ModelError."""
    timm = _timm()
    _check_timm_name(timm, name)
    options = {} if num_classes is None else {"num_classes": num_classes}
    try:
        return timm.create_model(name, pretrained=False, in_chans=in_channels, **options)
    except Exception as e:
        raise ModelError(f"timm:{name}: timm could not build it with {in_channels} input channels: {e}") from e


def timm_input(name: str) -> tuple[int, int, int]:
    """(c, h, w) that timm gives for `name`, without building it. Errors as `from_timm`."""
    timm = _timm()
    _check_timm_name(timm, name)
    cfg = timm.get_pretrained_cfg(name)
    return tuple(cfg.input_size) if cfg is not None else (3, 224, 224)


def from_file(name: str, options: Mapping[str, Any]) -> nn.Module:
    """Call the function named by `path/to/file.py:function` with those `options` it has parameters for.

    An option that is None is left to the function's own default. The file is run as Python: it is
    the user's own code. Errors: ModelError.
    """
    path, _, function = name.rpartition(":")
    make = getattr(_load(Path(path)), function, None)
    if not callable(make):
        raise ModelError(f"{path} has no function {function!r}; write {path}:FUNCTION with the one that returns your network")
    parameters = inspect.signature(make).parameters
    any_name = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    given = {k: v for k, v in options.items() if v is not None and (any_name or k in parameters)}
    try:
        model = make(**given)
    except Exception as e:
        call = ", ".join(f"{k}={v!r}" for k, v in given.items())
        raise ModelError(f"{name}: {function}({call}) failed: {type(e).__name__}: {e}") from e
    if not isinstance(model, nn.Module):
        raise ModelError(f"{name}: {function} must return a torch.nn.Module, it returned {type(model).__name__}")
    return model


def _load(path: Path) -> ModuleType:
    """Run the file as a module of its own; it may import its neighbours, as a script may."""
    if not path.is_file():
        raise ModelError(f"{path}: no such file; write path/to/file.py:function")
    name = f"jettison_user_{path.stem}"  # cannot hide an installed module
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ModelError(f"{path}: cannot be read as a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    folder = str(path.resolve().parent)
    if folder not in sys.path:
        sys.path.append(folder)
    try:
        spec.loader.exec_module(module)
    except Exception as e:
        del sys.modules[name]
        raise ModelError(f"{path}: running the file failed: {type(e).__name__}: {e}") from e
    return module


def _timm() -> ModuleType:
    try:
        return importlib.import_module("timm")
    except ImportError as e:
        raise MissingExtra(f"timm:NAME needs timm, which cannot be imported here ({e}); install it with: pip install timm") from e
    except RuntimeError:
        return _timm_without_torchvision_operators()


def _timm_without_torchvision_operators() -> ModuleType:
    """timm beside a torchvision whose compiled operators were made for another PyTorch (CUDA's beside the CPU's).

    Such a torchvision fails to import because it describes two operators that were not loaded. timm
    takes only Python code from it, so declaring the two (calling them stays an error) is enough.
    """
    for operator in ("nms", "qnms"):
        torch.library.define(f"torchvision::{operator}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    try:
        return importlib.import_module("timm")
    except RuntimeError as e:
        raise MissingExtra(
            f"timm:NAME needs timm, and importing it fails ({e}); "
            "install torch, torchvision and timm that belong together: pip install --upgrade torch torchvision timm"
        ) from e


def _check_timm_name(timm: ModuleType, name: str) -> None:
    if timm.is_model(name):
        return
    near = difflib.get_close_matches(name, timm.list_models(), n=3)
    hint = f"did you mean {' or '.join(f'timm:{n}' for n in near)}?" if near else "timm.list_models() has them all"
    raise ModelError(f"timm has no model {name!r}; {hint}")
