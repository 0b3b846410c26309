"""The network as frozen data: what export produces, passes rewrite, files store and programs run.

Shapes are **per sample**: the batch size is chosen at run time. Images are (h, w, c), channels
innermost; sequences (t, c); vectors (c,). Letters, everywhere:

    n batch   h w input rows, columns   c input channels   k output channels
    r s kernel rows, columns            p q output rows, columns

The grammar (which kinds exist, what they need) is `jettison.spec`; the meaning is `jettison.reference`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np

from .formats import Cost, Dense, Format

VERSION = 1
DTYPES = {"f32": np.dtype(np.float32), "u8": np.dtype(np.uint8)}

Pads = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """A value that flows between ops.

    dtype "f32", or "u8": quantized, standing for (q − zero) · scale, q = 0 … 255.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str = "f32"
    scale: float = 1.0
    zero: int = 0

    @property
    def size(self) -> int:
        """Elements per sample."""
        return prod(self.shape)

    @property
    def bytes(self) -> int:
        """Bytes per sample."""
        return self.size * DTYPES[self.dtype].itemsize

    @property
    def row_bytes(self) -> int:
        """Bytes of one step along the first axis, of an image one row."""
        return self.bytes // self.shape[0]


@dataclass(frozen=True, slots=True)
class Op:
    """One step. `params` maps a role ("weight", "bias") to the name of a constant.

    A weight in another format than Dense is stored as several constants, `<name>.<part>`.
    element: of the weight's numbers, "f32" or "i8"; structure (`format`) and element are independent.
    """

    name: str
    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attrs: Mapping[str, Any] = field(default_factory=dict)
    params: Mapping[str, str] = field(default_factory=dict)
    format: Format = field(default_factory=Dense)
    element: str = "f32"


@dataclass(frozen=True, slots=True)
class Graph:
    """A whole network: ops in an order in which they can run, and every constant they need.

    `layouts` gives, for each graph input and output, how the user sees it: "nchw" (a PyTorch
    image (n, c, h, w), stored here as (h, w, c)) or "plain" (stored as it is).
    """

    ops: tuple[Op, ...]
    tensors: Mapping[str, TensorSpec]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    constants: Mapping[str, np.ndarray] = field(default_factory=dict, compare=False)
    layouts: Mapping[str, str] = field(default_factory=dict)
    version: int = VERSION

    @property
    def element(self) -> str:
        """Of its arithmetic: "int8" if any tensor is u8, else "f32"."""
        return "int8" if any(t.dtype == "u8" for t in self.tensors.values()) else "f32"

    def user_shape(self, name: str) -> tuple[int, ...]:
        """Of a sample of an input or output as the user sees it: "nchw" images (c, h, w)."""
        shape = self.tensors[name].shape
        return (shape[2], *shape[:2]) if self.layouts.get(name) == "nchw" else shape

    def weight_parts(self, op: Op) -> dict[str, np.ndarray]:
        """The encoded parts of `op`'s weight, by part name (Dense: {"weight": …})."""
        base = op.params["weight"]
        if isinstance(op.format, Dense):
            return {"weight": self.constants[base]}
        prefix = base + "."
        return {k[len(prefix) :]: v for k, v in self.constants.items() if k.startswith(prefix)}

    def weight(self, op: Op) -> np.ndarray:
        """The decoded (k, r, s, c / groups) weight of a conv or linear op, float32 or int8."""
        return op.format.decode(self.weight_parts(op), weight_shape(self, op), op.name)


@dataclass(frozen=True, slots=True)
class Problem:
    """A convolution (or a linear layer: h = 1, w = rows, r = s = 1) with every size known.

    pad is (top, left, bottom, right). MACs count every kernel tap, those on padding too.
    """

    n: int
    h: int
    w: int
    c: int
    k: int
    r: int = 1
    s: int = 1
    stride: tuple[int, int] = (1, 1)
    pad: Pads = (0, 0, 0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1

    @property
    def p(self) -> int:
        """⌊(h + pad_t + pad_b − dilation·(r − 1) − 1) / stride⌋ + 1."""
        return window_count(self.h, self.pad[0] + self.pad[2], self.r, self.stride[0], self.dilation[0])

    @property
    def q(self) -> int:
        return window_count(self.w, self.pad[1] + self.pad[3], self.s, self.stride[1], self.dilation[1])

    @property
    def padded_pixels(self) -> int:
        """Of one input, border and all."""
        top, left, bottom, right = self.pad
        return (self.h + top + bottom) * (self.w + left + right)

    @property
    def macs(self) -> int:
        """n·p·q·k·r·s·c / groups."""
        return self.n * self.p * self.q * self.k * self.r * self.s * (self.c // self.groups)

    def cost(self, fmt: Format, weight_bytes: int, in_bytes: int = 4, out_bytes: int = 4) -> Cost:
        """Work of this layer with weights in `fmt`; in_bytes, out_bytes: of one activation."""
        shape = (self.k, self.r, self.s, self.c // self.groups)
        density = fmt.density(shape)
        return Cost(
            macs=round(self.macs * density),
            read_bytes=in_bytes * self.n * self.h * self.w * self.c,
            write_bytes=out_bytes * self.n * self.p * self.q * self.k,
            weight_bytes=weight_bytes,
            depth=max(1, round(prod(shape[1:]) * density)),
        )


def window_count(size: int, pad: int, taps: int, stride: int, dilation: int = 1) -> int:
    """Output positions of a sliding window: ⌊(size + pad − dilation·(taps − 1) − 1) / stride⌋ + 1."""
    return (size + pad - dilation * (taps - 1) - 1) // stride + 1


def weight_shape(graph: Graph, op: Op) -> tuple[int, int, int, int]:
    """(k, r, s, c / groups) of a conv or linear op, from shapes and attributes alone."""
    c = graph.tensors[op.inputs[0]].shape[-1]
    k = graph.tensors[op.outputs[0]].shape[-1]
    if op.kind == "linear":
        return (k, 1, 1, c)
    r, s = op.attrs["kernel"]
    return (k, r, s, c // op.attrs["groups"])


def problem(graph: Graph, op: Op, n: int = 1) -> Problem:
    """The Problem of a conv or linear op at batch size n; a linear's rows become pixels."""
    x = graph.tensors[op.inputs[0]].shape
    k = graph.tensors[op.outputs[0]].shape[-1]
    if op.kind == "linear":
        return Problem(n=n, h=1, w=prod(x[:-1]), c=x[-1], k=k)
    a = op.attrs
    r, s = a["kernel"]
    return Problem(
        n=n, h=x[0], w=x[1], c=x[2], k=k, r=r, s=s,
        stride=tuple(a["stride"]), pad=tuple(a["pad"]), dilation=tuple(a["dilation"]), groups=a["groups"],
    )  # fmt: skip
