"""OpenVINO on the CPU, for latency.

The precision is always stated: where the processor has bf16 or f16 arithmetic, OpenVINO would use it for
fp32 models unasked. https://docs.openvino.ai/2026/openvino-workflow/running-inference/optimize-inference.html
"""

from __future__ import annotations

import numpy as np
import openvino

from ..graph import Graph
from . import Run
from .onnx_model import onnx_model

PRECISION = {"f32": "f32", "bf16": "bf16", "int8": "f32"}  # of what is not int8


def prepare(graph: Graph, inputs: tuple[np.ndarray, ...], element: str, threads: int) -> Run:
    core = openvino.Core()
    model = core.read_model(onnx_model(graph, len(inputs[0])).SerializeToString())
    hints = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": PRECISION[element],
    }
    request = core.compile_model(model, "CPU", hints).create_infer_request()
    feed = dict(enumerate(inputs))

    def run() -> tuple[np.ndarray, ...]:
        request.infer(feed, share_inputs=True)
        return tuple(request.get_output_tensor(i).data for i in range(len(graph.outputs)))

    return run
