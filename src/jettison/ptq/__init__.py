"""Post-training quantisation: a float32 Graph and some images in, an int8 Graph out. Needs no PyTorch.

    Graph ─ (equalize) ─ prepare ─► Graph ─ observe on images ─► a range per tensor ─ lower ─► int8 Graph

Weights are symmetric int8 with a scale per output channel, activations u8 with a scale and a zero point per
tensor; `jettison.quantized` defines what the result computes. Every zero weight stays zero, so weights stay in
their format. Source of the whole: Nagel et al. 2021, *A white paper on neural network quantization*
(arXiv 2106.08295), section 3; of the arithmetic: Jacob et al. 2018 (arXiv 1712.05877).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from .. import spec
from ..errors import QuantizationError
from ..graph import Graph
from .calibrate import Images, Observed, observe, whole
from .equalize import equalized
from .lower import lower
from .placement import observed_tensors, place
from .prepare import prepare
from .ranges import RANGES
from .sensitivity import sensitivity

__all__ = ["RANGES", "Observed", "quantize", "sensitivity"]


def quantize(
    graph: Graph,
    images: Images | Sequence[Images],
    ranges: str = "mse",
    keep_float: Collection[str] = (),
    bias_correction: bool = True,
    equalize: bool = False,
    threads: int | None = None,
    progress: Callable[[str, float], None] = lambda what, done: None,
) -> Graph:
    """The network in int8. Inputs and outputs stay float32; `graph` is not changed.

    images: what the network is fed, float32 (n, c, h, w), one array per input; a few hundred are usual.
    ranges: how each activation's range is chosen, a key of `RANGES`: "minmax", "percentile" or "mse".
    keep_float: ops, by name, that go on computing in float32; `sensitivity` says which are worth it.
    bias_correction: shift each bias by the mean error that rounding its weights makes (`jettison.ptq.weights`).
    equalize: equalise weight ranges across layers first (`jettison.ptq.equalize`).
    progress: called with what is being done and the finished share, 0 … 1.

    A constant tensor is legal and warned of. Errors: QuantizationError (no images, images or weights not finite,
    unknown names), InputError (images of the wrong shape).
    """
    if ranges not in RANGES:
        raise QuantizationError(f"ranges must be one of {', '.join(RANGES)}, got {ranges!r}")
    spec.check(graph)
    arrays = whole(graph, images)
    prepared = prepare(equalized(graph) if equalize else graph, keep_float)
    floats = place(prepared, keep_float)
    names = observed_tensors(prepared, floats) + [op.inputs[0] for op in prepared.ops if op.kind in spec.WEIGHTED]
    seen = observe(prepared, list(dict.fromkeys(names)), arrays, threads, RANGES[ranges].bins, progress)
    return spec.check(lower(prepared, floats, seen, ranges, bias_correction))
