"""Small legal graphs for tests of the file and of the grammar."""

import numpy as np

from jettison.formats import NM, Dense, Format
from jettison.graph import Graph, Op, TensorSpec

ACT = {"act": "none", "alpha": 0.0}
CONV = {"groups": 1, "dilation": (1, 1), "kernel": (3, 3), "stride": (1, 1), "pad": (1, 1, 1, 1), **ACT}


def small(fmt: Format = NM(2, 4), seed: int = 0) -> Graph:
    """Image (5, 6, 4) → conv to 8 channels → conv with residual in `fmt` → mean → linear to 3."""
    rng = np.random.default_rng(seed)

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(np.float32)

    w2 = normal(8, 3, 3, 8)
    if isinstance(fmt, NM):
        w2 *= fmt.mask(w2)
    weights = {"a.w": normal(8, 3, 3, 4), "a.b": normal(8), "b.b": normal(8), "d.w": normal(3, 1, 1, 8)}
    parts = fmt.encode(w2, "b")
    encoded = {"b.w": parts["weight"]} if isinstance(fmt, Dense) else {f"b.w.{k}": v for k, v in parts.items()}
    ops = (
        Op("a", "conv", ("x",), ("ya",), {**CONV, "k": 8, "act": "relu"}, {"weight": "a.w", "bias": "a.b"}),
        Op("b", "conv", ("ya", "ya"), ("yb",), {**CONV, "k": 8}, {"weight": "b.w", "bias": "b.b"}, fmt),
        Op("c", "mean", ("yb",), ("yc",), {"axes": (0, 1), "keepdims": False}),
        Op("d", "linear", ("yc",), ("yd",), {"k": 3, **ACT}, {"weight": "d.w"}),
    )
    shapes = {"x": (5, 6, 4), "ya": (5, 6, 8), "yb": (5, 6, 8), "yc": (8,), "yd": (3,)}
    return Graph(
        ops=ops,
        tensors={name: TensorSpec(name, shape) for name, shape in shapes.items()},
        inputs=("x",),
        outputs=("yd",),
        constants={**weights, **encoded},
        layouts={"x": "nchw", "yd": "plain"},
    )


def quantized(fmt: Format = NM(2, 4)) -> Graph:
    """Image (5, 6, 8) → quantize → int8 conv to 8 channels in `fmt` → hardswish by table → dequantize."""
    rng = np.random.default_rng(0)
    w = rng.integers(-127, 128, (8, 3, 3, 8), np.int8)
    if isinstance(fmt, NM):
        w *= fmt.mask(w.astype(np.float32))
    parts = fmt.encode(w, "conv")
    encoded = {"w": parts["weight"]} if isinstance(fmt, Dense) else {f"w.{k}": v for k, v in parts.items()}
    constants = {
        **encoded,
        "bias": rng.integers(-999, 999, 8, np.int32),
        "multiplier": rng.random(8, np.float32) / 999,
        "table": np.arange(256, dtype=np.uint8),
    }
    roles = {"weight": "w", "bias": "bias", "multiplier": "multiplier"}
    ops = (
        Op("quantize", "quantize", ("x",), ("xq",)),
        Op("conv", "conv", ("xq",), ("yq",), {**CONV, "k": 8, "act": "relu"}, roles, fmt, "i8"),
        Op("act", "act", ("yq",), ("zq",), {"act": "hardswish", "alpha": 0.0}, {"table": "table"}),
        Op("dequantize", "dequantize", ("zq",), ("z",)),
    )
    scales = {"xq": (0.02, 117), "yq": (0.5, 0), "zq": (0.4, 3)}
    tensors = {
        name: TensorSpec(name, (5, 6, 8), "u8", *scales[name]) if name in scales else TensorSpec(name, (5, 6, 8))
        for name in ("x", "xq", "yq", "zq", "z")
    }
    return Graph(ops, tensors, ("x",), ("z",), constants, {"x": "nchw", "z": "nchw"})
