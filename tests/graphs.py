"""Small legal graphs for tests of the file and of the grammar."""

import numpy as np

from jettison.formats import NM, Block, Dense, Format
from jettison.graph import Graph, Op, TensorSpec
from native_op import pruned

ACT = {"act": "none", "alpha": 0.0}
CONV = {"groups": 1, "dilation": (1, 1), "kernel": (3, 3), "stride": (1, 1), "pad": (1, 1, 1, 1), **ACT}


def width(fmt: Format) -> int:
    """Channels that the format fits."""
    return 32 if isinstance(fmt, Block) else 8


def small(fmt: Format = NM(2, 4), seed: int = 0) -> Graph:
    """Image (5, 6, 4) → conv to `width` channels → conv with residual in `fmt` → mean → linear to 3."""
    rng = np.random.default_rng(seed)

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(np.float32)

    k = width(fmt)
    w2 = pruned(normal(k, 3, 3, k), fmt)
    weights = {"a.w": normal(k, 3, 3, 4), "a.b": normal(k), "b.b": normal(k), "d.w": normal(3, 1, 1, k)}
    parts = fmt.encode(w2, "b")
    encoded = {"b.w": parts["weight"]} if isinstance(fmt, Dense) else {f"b.w.{part}": v for part, v in parts.items()}
    ops = (
        Op("a", "conv", ("x",), ("ya",), {**CONV, "k": k, "act": "relu"}, {"weight": "a.w", "bias": "a.b"}),
        Op("b", "conv", ("ya", "ya"), ("yb",), {**CONV, "k": k}, {"weight": "b.w", "bias": "b.b"}, fmt),
        Op("c", "mean", ("yb",), ("yc",), {"axes": (0, 1), "keepdims": False}),
        Op("d", "linear", ("yc",), ("yd",), {"k": 3, **ACT}, {"weight": "d.w"}),
    )
    shapes = {"x": (5, 6, 4), "ya": (5, 6, k), "yb": (5, 6, k), "yc": (k,), "yd": (3,)}
    return Graph(
        ops=ops,
        tensors={name: TensorSpec(name, shape) for name, shape in shapes.items()},
        inputs=("x",),
        outputs=("yd",),
        constants={**weights, **encoded},
        layouts={"x": "nchw", "yd": "plain"},
    )


def quantized(fmt: Format = NM(2, 4)) -> Graph:
    """Image (5, 6, `width`) → quantize → int8 conv to as many channels in `fmt` → hardswish by table → dequantize."""
    rng = np.random.default_rng(0)
    k = width(fmt)
    w = rng.integers(-127, 128, (k, 3, 3, k), np.int8)
    w = pruned(w, fmt, w.astype(np.float32))
    parts = fmt.encode(w, "conv")
    encoded = {"w": parts["weight"]} if isinstance(fmt, Dense) else {f"w.{part}": v for part, v in parts.items()}
    constants = {
        **encoded,
        "bias": rng.integers(-999, 999, k, np.int32),
        "multiplier": rng.random(k, np.float32) / 999,
        "table": np.arange(256, dtype=np.uint8),
    }
    roles = {"weight": "w", "bias": "bias", "multiplier": "multiplier"}
    ops = (
        Op("quantize", "quantize", ("x",), ("xq",)),
        Op("conv", "conv", ("xq",), ("yq",), {**CONV, "k": k, "act": "relu"}, roles, fmt, "i8"),
        Op("act", "act", ("yq",), ("zq",), {"act": "hardswish", "alpha": 0.0}, {"table": "table"}),
        Op("dequantize", "dequantize", ("zq",), ("z",)),
    )
    scales = {"xq": (0.02, 117), "yq": (0.5, 0), "zq": (0.4, 3)}
    tensors = {
        name: TensorSpec(name, (5, 6, k), "u8", *scales[name]) if name in scales else TensorSpec(name, (5, 6, k))
        for name in ("x", "xq", "yq", "zq", "z")
    }
    return Graph(ops, tensors, ("x",), ("z",), constants, {"x": "nchw", "z": "nchw"})
