"""Filling a network from a checkpoint: safetensors, or a PyTorch file read without running its code."""

from __future__ import annotations

import pickle
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from ..errors import CheckpointError

NESTED = ("state_dict", "model", "state_dict_ema")  # where training programs put the state dict, in the order tried
PREFIXES = ("module.", "_orig_mod.")  # left by DistributedDataParallel and torch.compile
SHOWN = 5  # keys listed per kind of misfit


def load_weights(model: nn.Module, path: str | Path) -> None:
    """Copy the state dict in `path` into `model`; all keys and shapes must fit, else nothing is changed.

    `.safetensors`, or any other ending as a PyTorch file. The state dict stands at the top or under
    one of `NESTED`; `PREFIXES` are stripped; values are cast to the model's dtype. A checkpoint without
    `num_batches_tracked` (older PyTorch) fits.

    Errors: CheckpointError: missing file, corrupt file, code in a pickle, no state dict, keys or shapes that do not fit.
    """
    path = Path(path)
    state = _stripped(path)
    _check_fit(model.state_dict(), state, path)
    _copy(model, state, path)


def load_backbone(model: nn.Module, path: str | Path) -> list[str]:
    """Copy what of the state dict in `path` has a name and shape of `model`'s, to train it for other classes; the rest stays as it is.

    Files as in `load_weights`. Returns: names of the model's parameters that the file lacks or has in another shape, usually the
    classifier's; they keep their random values and must be trained.

    Errors: CheckpointError: as `load_weights`, or more than half of the model's parameters (tensors) would stay random.
    """
    path = Path(path)
    want = model.state_dict()
    state = {k: v for k, v in _stripped(path).items() if k in want and v.shape == want[k].shape}
    names = [name for name, _ in model.named_parameters()]
    new = [name for name in names if name not in state]
    if 2 * len(new) > len(names):
        raise CheckpointError(f"{path} is no backbone for the model; it has no fitting {_shorten(new)}. Is it the right model name?")
    _copy(model, state, path)
    return new


def _stripped(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; give a .safetensors file or a PyTorch state dict")
    return {_strip(k): v for k, v in _state_dict(_read(path), path).items()}


def _copy(model: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    try:
        model.load_state_dict({**model.state_dict(), **state})
    except RuntimeError as e:  # a sparse or quantized tensor of the right shape
        raise CheckpointError(f"{path} holds weights that cannot be copied into the model: {e}") from e


def _read(path: Path) -> Any:
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle protocols; a file that cannot be read gets our own message
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as e:
        raise _unsafe(path, e) from e
    except Exception as e:  # on damaged bytes the readers raise nearly every class
        reason = (str(e).splitlines() or [type(e).__name__])[0]
        raise CheckpointError(
            f"{path}: truncated or corrupt, or not a checkpoint ({reason}); fetch or save it again, "
            "as .safetensors or by torch.save(model.state_dict(), …)"
        ) from e


def _unsafe(path: Path, e: pickle.UnpicklingError) -> CheckpointError:
    called = re.search(r"GLOBAL (\S+)", str(e))
    if called:
        what = f"unsafe, not loaded: reading this pickle would run code ({called[1]})"
    else:
        what = "not loaded: corrupt, or a pickle that could run code when read, which would be unsafe; fetch it again"
    return CheckpointError(
        f"{path}: {what}. If you trust it, load it elsewhere and re-save its weights: "
        "safetensors.torch.save_file(model.state_dict(), 'model.safetensors')"
    )


def _state_dict(loaded: Any, path: Path) -> Mapping[str, Tensor]:
    if isinstance(loaded, Mapping):
        for candidate in (*(loaded.get(k) for k in NESTED), loaded):
            if isinstance(candidate, Mapping) and candidate and all(_is_weight(k, v) for k, v in candidate.items()):
                return candidate
    raise CheckpointError(f"{path}: no state dict at the top or under {', '.join(NESTED)}; save model.state_dict()")


def _is_weight(key: Any, value: Any) -> bool:
    return isinstance(key, str) and isinstance(value, Tensor)


def _strip(key: str) -> str:
    while key.startswith(PREFIXES):
        key = key.removeprefix(PREFIXES[0]).removeprefix(PREFIXES[1])
    return key


def _check_fit(want: Mapping[str, Tensor], state: Mapping[str, Tensor], path: Path) -> None:
    missing = [k for k in want if k not in state and not k.endswith("num_batches_tracked")]
    unexpected = [k for k in state if k not in want]
    misshapen = [
        f"{k} {tuple(state[k].shape)} instead of {tuple(want[k].shape)}" for k in want if k in state and state[k].shape != want[k].shape
    ]
    kinds = (("missing", missing), ("unexpected", unexpected), ("misshapen", misshapen))
    listed = [f"{len(keys)} {kind}: {_shorten(keys)}" for kind, keys in kinds if keys]
    if listed:
        raise CheckpointError(
            f"{path} does not fit the model; {'; '.join(listed)}. Is it the right model name and number of classes? "
            "Weights for other classes are a start: jettison train --backbone"
        )


def _shorten(keys: Sequence[str]) -> str:
    return ", ".join(keys[:SHOWN]) + (f", … and {len(keys) - SHOWN} more" if len(keys) > SHOWN else "")
