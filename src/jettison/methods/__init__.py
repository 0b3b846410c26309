"""Methods: how a network is trained so that its weights satisfy a format.

To add a method: one file here with a frozen dataclass that has the verbs of `Method`, one line in `CLASSES`.
"""

from dataclasses import fields
from importlib import import_module

from ..errors import TrainingError
from .asp import ASP
from .crisp import CRISP, Hybrid, mean_gradients
from .mask import keep_mask, nm_mask
from .maxq import MaxQ
from .method import Method, Parametrization, straight_through
from .permute import Permutation, permute_
from .reconstruct import reconstruct_
from .select import LayerChoice, Select, choose_layers
from .sparsifier import SAD, Change, LayerReport, Sparsifier, sparsify_
from .srste import SRSTE
from .statistics import are_of_no_data, match_statistics_, take_statistics_
from .ste import STE

# name → class; the file has the method's name
CLASSES = {
    "asp": "ASP",
    "ste": "STE",
    "srste": "SRSTE",
    "maxq": "MaxQ",
    "crisp": "CRISP",
}
METHODS: dict[str, type] = {name: getattr(import_module(f".{name}", __name__), cls) for name, cls in CLASSES.items()}


def make_method(name: str, epochs: float, decay: float | None = None, ramp_epochs: float | None = None) -> Method:
    """The method of this name for training of so many epochs. None: the method's own choice; a ramp takes half of the epochs.

    Errors: TrainingError for a name that is not known, and for a setting that this method does not have.
    """
    if name not in METHODS:
        raise TrainingError(f"method {name!r} is not known; known: {', '.join(METHODS)}")
    cls = METHODS[name]
    known = {f.name for f in fields(cls)}
    for field, value, option, one in (("decay", decay, "decay", "srste"), ("end", ramp_epochs, "ramp", "maxq")):
        if value is not None and field not in known:
            raise TrainingError(f"method {name} has no {option}; leave --{option.replace('ramp', 'ramp-epochs')} out, or use {one}")
    if ramp_epochs is not None and ramp_epochs > epochs:
        raise TrainingError(f"a ramp of {ramp_epochs:g} epochs is longer than the training, {epochs:g}; shorten it, or train longer")
    ours = {"retrain": epochs > 0, "decay": decay, "end": epochs / 2 if ramp_epochs is None else ramp_epochs}
    return cls(**{k: v for k, v in ours.items() if k in known and v is not None})


__all__ = [
    "ASP", "CRISP", "METHODS", "SAD", "SRSTE", "STE", "Change", "Hybrid", "LayerChoice", "LayerReport", "MaxQ", "Method", "Parametrization",
    "Permutation", "Select", "Sparsifier", "are_of_no_data", "choose_layers", "keep_mask", "make_method", "match_statistics_",
    "mean_gradients", "nm_mask", "permute_", "reconstruct_", "sparsify_", "straight_through", "take_statistics_",
]  # fmt: skip
