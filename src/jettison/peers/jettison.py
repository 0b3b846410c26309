"""Ourselves, through the interface that users have."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..graph import Graph
from ..runtime import Session
from . import Run, Sample


def prepare(graph: Graph, samples: Sequence[Sample], element: str, threads: int) -> Run:
    session = Session(graph, threads=threads)

    def run(i: int) -> tuple[np.ndarray, ...]:
        out = session.run(*samples[i])
        return out if isinstance(out, tuple) else (out,)

    return run
