"""Peers: other engines that run the same network, to be compared with.

Each is one file with one function,

    prepare(graph, inputs, element, threads) -> run,   run() -> outputs

called in a process of its own (`jettison.bench.worker`). `run` takes nothing: whatever an engine
wants done to its inputs once (layout, device) has been done. Outputs are in the user's layout.

To add an engine: one file here, one line in `ENGINES`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module, util

import numpy as np

from ..graph import Graph

__all__ = ["ENGINES", "Engine", "Run"]

Run = Callable[[], tuple[np.ndarray, ...]]
Prepare = Callable[[Graph, tuple[np.ndarray, ...], str, int], Run]


@dataclass(frozen=True, slots=True)
class Engine:
    """One row. `module` stands in this folder; `packages` are what it imports."""

    module: str
    packages: tuple[str, ...]
    install: str
    elements: tuple[str, ...]

    @property
    def missing(self) -> tuple[str, ...]:
        """Packages that are not installed."""
        return tuple(p for p in self.packages if util.find_spec(p) is None)

    def refusal(self, element: str) -> str | None:
        """Why this engine cannot run `element` here, or None."""
        if self.missing:
            return f"{' and '.join(self.missing)} not installed: {self.install}"
        if element not in self.elements:
            return f"has no {element} on this processor; it has {', '.join(self.elements)}"
        return None

    def prepare(self) -> Prepare:
        """The `prepare` of its file; importing that imports the engine."""
        return import_module(f".{self.module}", __name__).prepare


ENGINES: dict[str, Engine] = {
    "jettison": Engine("jettison", ("jettison",), "make native", ("f32", "int8")),
    "inductor": Engine("inductor", ("torch",), "pip install 'jettison[train]'", ("f32", "bf16", "int8")),
    "onnxruntime": Engine("onnxruntime", ("onnxruntime", "onnx"), "pip install 'jettison[bench]'", ("f32", "int8")),
    "openvino": Engine("openvino", ("openvino", "onnx"), "pip install 'jettison[bench]'", ("f32", "bf16", "int8")),
}
