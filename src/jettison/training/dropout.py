"""Dropout of a network that is trained anew: at a part of its own rates."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torch.nn.modules.dropout import _DropoutNd


@contextmanager
def scaled_dropout(model: nn.Module, factor: float) -> Iterator[None]:
    """Within it, p of each Dropout layer (also AlphaDropout, Dropout2d …) is factor · p.

    A network that has lost most of its weights needs less of it, and one that is to give its teacher's scores is kept from them: with
    a rate of 0.5 every step trains another half of it. Source: Han et al. 2015 (arXiv 1506.02626), section 3.2, for
    retraining after pruning: factor = √(share of the weights that are left).
    """
    rates = {m: m.p for m in model.modules() if isinstance(m, _DropoutNd)}
    try:
        for m, p in rates.items():
            m.p = factor * p
        yield
    finally:
        for m, p in rates.items():
            m.p = p
