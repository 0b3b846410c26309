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
Those are the numbers of `lut`; `lut_rows` and `pixel_lut` fill up outputs alone, to a load of 2·W bytes where it is known what runs.
Pixels are those of the padded input, each asked once; the kernel's question takes seven instructions.

Source of the paper's count: Gupta et al. 2024 (arXiv 2404.05872), section III-D.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from ..formats import PixelLut
from ..formats.lut import LookUp
from ..graph import Graph, Op, problem, weight_shape
from ..spec import WEIGHTED

STEP = 4  # codebooks and outputs that `lut` takes at once
LOADED = {"avx512": 32, "avx2": 16, "scalar": 8}  # outputs that the other kernels look up at once (native/table_rows.h)


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


def layer_operations(graph: Graph, op: Op, kernel: str = "", isa: str = "") -> Operations:
    """Of one conv or linear op. kernel, isa: what runs it, if that is known."""
    size, shape = problem(graph, op), weight_shape(graph, op)
    stored = sum(a.nbytes for a in graph.weight_parts(op).values())
    if not isinstance(op.format, LookUp):
        return Operations(size.macs, size.macs, size.macs, stored)
    pixels, k, count = size.p * size.q, size.k, op.format.codebooks(shape)
    if isinstance(op.format, PixelLut):
        questions = graph.weight_parts(op)["questions"]
        comparisons = int((1 + (questions[..., 0] != questions[..., 1])).sum())
        look_ups, done = pixels * (count - 1) * k, pixels * count * _filled(k, LOADED.get(isa, STEP))
        return Operations(
            size.macs, size.padded_pixels * comparisons + look_ups, size.padded_pixels * 7 * questions[..., 0].size + done, stored
        )
    paper = count * op.format.levels + (count - 1) * k
    look_ups = count * _filled(k, LOADED.get(isa, STEP)) if kernel == "lut_rows" else _filled(count, STEP) * _filled(k, STEP)
    return Operations(size.macs, pixels * paper, pixels * (3 * op.format.levels * count + look_ups), stored)


def _filled(n: int, step: int) -> int:
    return -(-n // step) * step


def operations(graph: Graph, kernels: Mapping[str, str] = MappingProxyType({}), isa: str = "") -> Operations:
    """Of all conv and linear layers together. kernels: by layer."""
    rows = [layer_operations(graph, op, kernels.get(op.name, ""), isa) for op in graph.ops if op.kind in WEIGHTED]
    return Operations(*(sum(getattr(r, f) for r in rows) for f in ("exact", "paper", "kernel", "storage_bytes")))
