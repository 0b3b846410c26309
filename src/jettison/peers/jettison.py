"""Ourselves, through the interface that users have."""

from __future__ import annotations

import numpy as np

from ..graph import Graph
from ..runtime import Session
from . import Run


def prepare(graph: Graph, inputs: tuple[np.ndarray, ...], element: str, threads: int) -> Run:
    session = Session(graph, threads=threads)

    def run() -> tuple[np.ndarray, ...]:
        out = session.run(*inputs)
        return out if isinstance(out, tuple) else (out,)

    return run
