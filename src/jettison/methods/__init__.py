"""Methods: how a network is trained so that its weights satisfy a format.

To add a method: one file here with a frozen dataclass that has the verbs of `Method`, one line in `METHODS`.
"""

from .asp import ASP
from .mask import keep_mask, nm_mask
from .method import Method, Parametrization, straight_through
from .select import LayerChoice, Select, choose_layers
from .sparsifier import SAD, Change, LayerReport, Sparsifier, sparsify_
from .srste import SRSTE
from .ste import STE

METHODS: dict[str, type] = {
    "asp": ASP,
    "ste": STE,
    "srste": SRSTE,
}

__all__ = [
    "ASP", "METHODS", "SAD", "SRSTE", "STE", "Change", "LayerChoice", "LayerReport", "Method", "Parametrization",
    "Select", "Sparsifier", "choose_layers", "keep_mask", "nm_mask", "sparsify_", "straight_through",
]  # fmt: skip
