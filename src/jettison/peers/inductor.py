"""PyTorch's compiler, Inductor: weights frozen into the program, channels-last, inference mode.

In the default mode: on processors "max-autotune" has choices for matrix products only, in a convnet the classifier.

https://docs.pytorch.org/docs/stable/torch.compiler.html
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch._inductor.config

from ..graph import Graph
from . import Run, Sample
from .torch_model import TorchModel


def prepare(graph: Graph, samples: Sequence[Sample], element: str, threads: int) -> Run:
    torch.set_num_threads(threads)
    torch._inductor.config.freezing = True
    model = TorchModel(graph).eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    tensors = [tuple(_last(torch.from_numpy(x)) for x in inputs) for inputs in samples]
    bf16 = element == "bf16"
    compiled = torch.compile(model)

    @torch.inference_mode()
    def run(i: int) -> tuple[np.ndarray, ...]:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            outputs = compiled(*tensors[i])
        return tuple(y.float().numpy() for y in outputs)

    run(0)  # compiles
    return run


def _last(x: torch.Tensor) -> torch.Tensor:
    return x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x
