"""Peers: other engines that run the same network, to be compared with.

Each is one file with one function,

    prepare(graph, samples, element, threads) -> run,   run(i) -> outputs of samples[i]

called in a process of its own (`jettison.bench.worker`). A sample is all inputs of one run. `run` takes its number alone: whatever an
engine wants done to inputs once (layout, device) has been done. Outputs are in the user's layout.

To add an engine: one file here, one line in `ENGINES`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module, util

import numpy as np

from ..graph import Graph
from ..runtime import isas

__all__ = ["ENGINES", "Engine", "Run", "Sample"]

Sample = tuple[np.ndarray, ...]
Run = Callable[[int], tuple[np.ndarray, ...]]
Prepare = Callable[[Graph, Sequence[Sample], str, int], Run]


@dataclass(frozen=True, slots=True)
class Engine:
    """One row. `module` stands in this folder; `packages` are what it imports.

    limits: by instruction set, the environment that keeps the engine to it; an engine without a row has no such switch.
    """

    module: str
    packages: tuple[str, ...]
    install: str
    elements: tuple[str, ...]
    limits: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    @property
    def missing(self) -> tuple[str, ...]:
        """Packages that are not installed."""
        return tuple(p for p in self.packages if util.find_spec(p) is None)

    def refusal(self, element: str, isa: str | None = None) -> str | None:
        """Why this engine cannot run `element` here, limited to `isa`; or None."""
        if self.missing:
            return f"{' and '.join(self.missing)} not installed: {self.install}"
        if element not in self.elements:
            return f"has no {element} on this processor; it has {', '.join(self.elements)}"
        if isa is not None and isa not in self.limits and isa != isas()[0]:  # the best of this machine limits nobody
            return f"cannot be limited to {isa}"
        return None

    def prepare(self) -> Prepare:
        """The `prepare` of its file; importing that imports the engine."""
        return import_module(f".{self.module}", __name__).prepare


_ONEDNN = {"ONEDNN_MAX_CPU_ISA": "AVX2"}
_INDUCTOR = {**_ONEDNN, "ATEN_CPU_CAPABILITY": "avx2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"}

ENGINES: dict[str, Engine] = {
    "jettison": Engine(
        "jettison", ("jettison",), "make native", ("f32", "int8"), {isa: {"JETTISON_ISA": isa} for isa in ("avx512", "avx2", "scalar")}
    ),
    "inductor": Engine("inductor", ("torch",), "pip install 'jettison[train]'", ("f32", "bf16", "int8"), {"avx2": _INDUCTOR}),
    "onnxruntime": Engine("onnxruntime", ("onnxruntime", "onnx"), "pip install 'jettison[bench]'", ("f32", "int8")),
    "openvino": Engine("openvino", ("openvino", "onnx"), "pip install 'jettison[bench]'", ("f32", "bf16", "int8"), {"avx2": _ONEDNN}),
}
