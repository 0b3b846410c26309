"""A network made for some classes, kept so that the choice can change: `NAME.jettison-checkpoint`.

It holds the dense network for all classes beside the sparse one for the chosen ones. To add or remove classes, the new network starts
where the old one is:

    W = W_old where a weight was kept, W_dense elsewhere          outputs: of the old network where it had the class, else dense

and computes with the old masks while saliency is measured; the masks are then chosen anew, all at once, for the new classes.
The file is a dictionary of PyTorch tensors, numbers and text, read without running code from it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .errors import CheckpointError
from .methods import Sparsifier
from .training import checkpoint

VERSION = 1
SHOWN = 5  # layers in a message


@dataclass(frozen=True, slots=True)
class Personal:
    """classes: of the data set. chosen: their labels that the network knows. head: "keep" or "shrink". pattern: as typed.

    dense: state of the dense network. weights: state of the sparse one, pruned weights included, with W under the weight's own name; both
    with all outputs. masks: by layer, True where a weight is kept.
    """

    model: str
    classes: list[str]
    chosen: list[int]
    head: str
    pattern: str
    dense: dict[str, Tensor]
    weights: dict[str, Tensor]
    masks: dict[str, Tensor]


def save(personal: Personal, path: Path) -> None:
    """Whole or not at all. Errors: CheckpointError."""
    checkpoint.write(path, {"version": VERSION, **asdict(personal)})


def load(path: Path) -> Personal:
    """Errors: CheckpointError (missing, damaged, unsafe, not of a personalised network)."""
    missing = "no such file; `jettison compress --method crisp` writes one beside its result"
    state = checkpoint.read(path, "a personalised network", "make it again", missing)
    kinds = {"model": str, "classes": list, "chosen": list, "head": str, "pattern": str, "dense": dict, "weights": dict, "masks": dict}
    if state.pop("version", None) != VERSION or set(state) != set(kinds):
        raise CheckpointError(f"{path}: not a checkpoint of a personalised network, or of another version; make it again")
    wrong = [name for name, kind in kinds.items() if not isinstance(state[name], kind)]
    tensors = [t for name in ("dense", "weights", "masks") if name not in wrong for t in state[name].values()]
    indices = [] if "chosen" in wrong or "classes" in wrong else state["chosen"]
    legal = all(type(i) is int and 0 <= i < len(state["classes"]) for i in indices)
    if wrong or not legal or not all(isinstance(t, Tensor) for t in tensors):
        raise CheckpointError(f"{path}: is damaged; make it again")
    return Personal(**state)


def sparsity_of(old: Personal) -> float:
    """Share of the weights of all sparse layers that is pruned."""
    return 1 - sum(int(m.sum()) for m in old.masks.values()) / max(1, sum(m.numel() for m in old.masks.values()))


def trained_state(handle: Sparsifier, net: nn.Module) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """(state with every W under its own name, masks by layer) of a network that is still sparsified."""
    state = {}
    for name, tensor in net.state_dict().items():
        plain = name.replace(".parametrizations.weight.original", ".weight").removeprefix("parametrizations.weight.")
        if ".parametrizations." not in plain:
            state[plain] = tensor.detach().clone()
    return state, handle.layer_masks()


def resumed(old: Personal, chosen: Sequence[int], head: str) -> dict[str, Tensor]:
    """State to start from for `chosen`, labels of all classes. head: name of the classifier; outputs of classes that are new start dense.

    Errors: CheckpointError.
    """
    state = {}
    known = torch.tensor([label in old.chosen and label in chosen for label in range(len(old.classes))])
    for name, dense in old.dense.items():
        trained = old.weights.get(name)
        if trained is None or trained.shape != dense.shape:
            raise CheckpointError(f"the checkpoint has no {name} of shape {tuple(dense.shape)}; make it again")
        layer, _, _ = name.rpartition(".")
        mask = old.masks.get(layer) if name.endswith(".weight") else None
        if mask is not None and (mask.dtype != torch.bool or mask.shape != dense.shape):
            raise CheckpointError(f"the checkpoint's mask of {name} does not fit its weight; make it again")
        keep = torch.ones_like(dense, dtype=torch.bool) if mask is None else mask
        if layer == head and len(dense) == len(known):
            keep = keep & known.view(-1, *[1] * (dense.dim() - 1))
        state[name] = torch.where(keep, trained, dense)
    return state


def check_fits(old: Personal, model: str, classes: Sequence[str], masks: Mapping[str, Any], path: Path) -> None:
    """Errors: CheckpointError when the file is of another network, data set or choice of layers."""
    if old.model != model:
        raise CheckpointError(f"{path} is of another network: {old.model} (now {model}); use the same, or start over without --from")
    if list(old.classes) != list(classes):
        name = next((c for c in (*old.classes, *classes) if (c in old.classes) != (c in classes)), None)
        whose = "they have another order" if name is None else f"only {'the file' if name in old.classes else 'the data set'} has {name!r}"
        raise CheckpointError(f"{path} is of another data set's classes: {whose}; use the same data set, or start over without --from")
    if set(old.masks) != set(masks):
        raise CheckpointError(
            f"{path} and these settings disagree on which layers are sparse: {_listed('there', old.masks, masks)}"
            f"{_listed('now', masks, old.masks)}; use --pattern {old.pattern}, and --include, --exclude and --remainder as then"
        )


def _listed(when: str, layers: Collection[str], others: Collection[str]) -> str:
    alone = [name for name in layers if name not in others]
    more = f" and {len(alone) - SHOWN} more" if len(alone) > SHOWN else ""
    return f" only {when} {', '.join(alone[:SHOWN])}{more}" if alone else ""
