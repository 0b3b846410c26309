"""OpenVINO on the CPU, for latency.

The precision is always stated: where the processor has bf16 or f16 arithmetic, OpenVINO would use it for
fp32 models unasked. https://docs.openvino.ai/2026/openvino-workflow/running-inference/optimize-inference.html
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import openvino

from ..graph import Graph
from . import Run, Sample
from .onnx_model import onnx_model

PRECISION = {"f32": "f32", "bf16": "bf16", "int8": "f32"}  # of what is not int8


def prepare(graph: Graph, samples: Sequence[Sample], element: str, threads: int) -> Run:
    core = openvino.Core()
    model = core.read_model(onnx_model(graph, len(samples[0][0])).SerializeToString())
    hints = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": PRECISION[element],
    }
    request = core.compile_model(model, "CPU", hints).create_infer_request()
    feeds = [dict(enumerate(inputs)) for inputs in samples]

    def run(i: int) -> tuple[np.ndarray, ...]:
        request.infer(feeds[i], share_inputs=True)
        return tuple(request.get_output_tensor(n).data for n in range(len(graph.outputs)))

    return run
