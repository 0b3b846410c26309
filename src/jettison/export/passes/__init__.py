"""Graph → Graph, one rewriting rule per file; the graph is checked after each.

`PASSES` run in this order on every network; `fold_flatten` and `encode_weights` follow, which need to know
the weight formats. To add one: one file, one line.
"""

from __future__ import annotations

from collections.abc import Callable

from ...graph import Graph
from .cancel_moves import cancel_moves
from .encode_weights import encode_weights
from .fold_batch_norm import fold_batch_norm
from .fold_flatten import fold_flatten
from .fold_pad import fold_pad
from .fuse_epilogue import fuse_epilogue
from .fuse_shuffle import fuse_shuffle

__all__ = ["PASSES", "encode_weights", "fold_flatten"]

PASSES: tuple[Callable[[Graph], Graph], ...] = (
    fuse_shuffle,  # before cancel_moves, which may join its reshapes with others
    fold_pad,
    fold_batch_norm,
    cancel_moves,
    fuse_epilogue,
)
