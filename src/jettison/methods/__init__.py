"""Methods: how a network is trained so that its weights satisfy a format.

To add a method: one file here with a frozen dataclass that has the verbs of `Method`, one line in `CLASSES`.
"""

from importlib import import_module

from .asp import ASP
from .mask import keep_mask, nm_mask
from .method import Method, Parametrization, straight_through
from .select import LayerChoice, Select, choose_layers
from .sparsifier import SAD, Change, LayerReport, Sparsifier, sparsify_
from .srste import SRSTE
from .ste import STE

# name → class; the file has the method's name
CLASSES = {
    "asp": "ASP",
    "ste": "STE",
    "srste": "SRSTE",
}
METHODS: dict[str, type] = {name: getattr(import_module(f".{name}", __name__), cls) for name, cls in CLASSES.items()}

__all__ = [
    "ASP", "METHODS", "SAD", "SRSTE", "STE", "Change", "LayerChoice", "LayerReport", "Method", "Parametrization",
    "Select", "Sparsifier", "choose_layers", "keep_mask", "nm_mask", "sparsify_", "straight_through",
]  # fmt: skip
