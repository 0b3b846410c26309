"""ONNX Runtime, CPU provider, all graph optimisations, threads that spin as by default.

Without VNNI its default int8 kernels add pairs of products in 16 bits, which saturate: outputs were off by a fifth of the largest in our
tests. There, and only there, it is asked for the exact ones, which are slower.

https://onnxruntime.ai/docs/performance/tune-performance/threading.html, https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnxruntime

from ..bench.machine import has_vnni
from ..graph import Graph
from . import Run, Sample
from .onnx_model import onnx_model


def prepare(graph: Graph, samples: Sequence[Sample], element: str, threads: int) -> Run:
    options = onnxruntime.SessionOptions()
    if not has_vnni():
        options.add_session_config_entry("session.x64quantprecision", "1")
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 3
    model = onnx_model(graph, len(samples[0][0])).SerializeToString()
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    names = [i.name for i in session.get_inputs()]
    feeds = [dict(zip(names, inputs)) for inputs in samples]

    def run(i: int) -> tuple[np.ndarray, ...]:
        return tuple(np.asarray(out) for out in session.run(None, feeds[i]))

    return run
