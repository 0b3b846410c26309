"""From a PyTorch model to a `Graph`: trace, convert op by op, then passes.

    nn.Module ─ trace ─► ATen nodes ─ convert (aten.OPS) ─► Graph ─ PASSES ─► Graph ─ encode_weights ─► Graph

To support another PyTorch operation: one function and one line, see `export/aten/__init__.py`.
"""

from __future__ import annotations

from collections.abc import Mapping

try:
    from torch import nn
except ImportError as e:
    from ..errors import MissingExtra

    raise MissingExtra("exporting a model needs PyTorch; install it with: pip install 'jettison[train]'") from e

from .. import spec
from ..formats import Format
from ..graph import Graph
from .convert import convert
from .passes import PASSES, encode_weights, fold_flatten
from .trace import Example, trace

__all__ = ["Example", "export"]


def export(model: nn.Module, example: Example, formats: Mapping[str, Format] | None = None) -> Graph:
    """The network as `model` computes it in evaluation mode, in float32, for any batch size and one image size.

    example: one input tensor with a batch axis, a tuple of them, or the shape of one sample (c, h, w).
    formats: for the path of a Conv2d or Linear ("layer1.0.conv1") the format its weights are stored in;
        layers not named stay dense. Weights must already satisfy it: nothing is pruned here.

    BatchNorm is folded, activations and residual additions become part of the layer before them. The
    model is not changed. Ops are named after the modules they come from.

    Errors: ExportError (an operation or a use of the batch that has no place in the graph; it names
    the module), FormatError (weights that do not satisfy their format, or a path that is no layer).
    """
    formats = dict(formats or {})
    graph = convert(trace(model, example))
    for apply in PASSES:
        graph = spec.check(apply(graph))
    graph = spec.check(fold_flatten(graph, formats))
    return spec.check(encode_weights(graph, formats))
