"""ONNX Runtime, CPU provider, all graph optimisations, threads that spin as by default.

https://onnxruntime.ai/docs/performance/tune-performance/threading.html
"""

from __future__ import annotations

import numpy as np
import onnxruntime

from ..graph import Graph
from . import Run
from .onnx_model import onnx_model


def prepare(graph: Graph, inputs: tuple[np.ndarray, ...], element: str, threads: int) -> Run:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 3
    model = onnx_model(graph, len(inputs[0])).SerializeToString()
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    feed = dict(zip((i.name for i in session.get_inputs()), inputs))

    def run() -> tuple[np.ndarray, ...]:
        return tuple(np.asarray(out) for out in session.run(None, feed))

    return run
