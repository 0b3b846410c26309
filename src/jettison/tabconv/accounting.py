"""What table look-up saves, counted twice: as the paper counts, and as the kernel works.

    of one output pixel        exact            paper                            kernel
    operations, lut            D·k              C·log2 K + (C − 1)·k             3·L·C + C'·k'
    storage, bytes             k·D (int8)       C·K·k                            + 4·L bytes of splits, K − 1 of thresholds per codebook

    operations, pixel_lut                       (C − 1)·k                        C·k'
    of one pixel of the input                   Σ over trees and levels of       7·L·G
                                                1, or 2 if about two channels
    storage, bytes                              C·K·k                            + 8·L of questions, K − 1 of thresholds per group

A multiply-add, a comparison and an addition of a looked-up entry are one operation each. The kernel's tree takes three
instructions a level (threshold, comparison, bit), its codebooks are filled up to C' a multiple of 4, outputs to k' of 4.
Those are the numbers of `lut`; `lut_rows` fills up outputs alone. Pixels are those of the padded input, each asked once; the kernel's
question takes seven instructions.

Source of the paper's count: Gupta et al. 2024 (arXiv 2404.05872), section III-D.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..formats import PixelLut
from ..formats.lut import LookUp
from ..graph import Graph, Op, problem, weight_shape
from ..spec import WEIGHTED

STEP = 4  # codebooks and outputs that the kernel takes at once


@dataclass(frozen=True, slots=True)
class Operations:
    """Of one image. exact: what the layer, or the network, would do with weights."""

    exact: int
    paper: int
    kernel: int
    storage_bytes: int

    @property
    def saved_paper(self) -> float:
        """Share of the exact operations."""
        return 1 - self.paper / self.exact if self.exact else 0.0

    @property
    def saved_kernel(self) -> float:
        return 1 - self.kernel / self.exact if self.exact else 0.0


def layer_operations(graph: Graph, op: Op) -> Operations:
    """Of one conv or linear op."""
    size, shape = problem(graph, op), weight_shape(graph, op)
    stored = sum(a.nbytes for a in graph.weight_parts(op).values())
    if not isinstance(op.format, LookUp):
        return Operations(size.macs, size.macs, size.macs, stored)
    pixels, k, count = size.p * size.q, size.k, op.format.codebooks(shape)
    if isinstance(op.format, PixelLut):
        questions = graph.weight_parts(op)["questions"]
        comparisons = int((1 + (questions[..., 0] != questions[..., 1])).sum())
        look_ups, kernel = pixels * (count - 1) * k, pixels * count * -(-k // STEP) * STEP
        return Operations(
            size.macs, size.padded_pixels * comparisons + look_ups, size.padded_pixels * 7 * questions[..., 0].size + kernel, stored
        )
    paper = count * op.format.levels + (count - 1) * k
    kernel = 3 * op.format.levels * count + -(-count // STEP) * STEP * (-(-k // STEP) * STEP)
    return Operations(size.macs, pixels * paper, pixels * kernel, stored)


def operations(graph: Graph) -> Operations:
    """Of all conv and linear layers together."""
    rows = [layer_operations(graph, op) for op in graph.ops if op.kind in WEIGHTED]
    return Operations(*(sum(getattr(r, f) for r in rows) for f in ("exact", "paper", "kernel", "storage_bytes")))
