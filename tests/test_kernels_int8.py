"""Every int8 kernel, on every instruction set, equal to the integer reference to the last bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from jettison import quantized
from jettison.formats import NM, Dense, Format
from jettison.graph import TensorSpec
from jettison.spec import output_shape
from native_op import EXAMPLES, accepts, constants, fits, kernels, pruned, run
from test_kernels_conv import PATTERNS, SHAPES, conv_attrs, weight_shape

X = TensorSpec("x", (1,), "u8", 0.021, 117)
RESIDUAL = TensorSpec("r", (1,), "u8", 0.033, 60)
FLOAT = TensorSpec("y", (1,))


def convolutions() -> list[tuple[str, str, str]]:
    """(name, format, isa) of those with weights; test_lut.py and test_pixel_lut.py have the rest."""
    return [row for row in kernels("conv", "u8") if row[1] not in ("lut", "pixel_lut")]


def output(scale: float = 0.05, zero: int = 100) -> TensorSpec:
    return TensorSpec("y", (1,), "u8", scale, zero)


def layer(shape: tuple, pattern: Format, seed: int = 0, extreme: bool = False) -> tuple[list[np.ndarray], dict[str, np.ndarray]]:
    """u8 image and int8 weights; `extreme`: only 0 and 255, only ±127."""
    n, h, w, c, k, r, s, *_, groups = shape
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 256, (n, h, w, c), np.uint8)
    weight = rng.integers(-127, 128, (k, r, s, c // groups), np.int8)
    if extreme:
        x = np.where(x > 60, 255, 0).astype(np.uint8)
        weight = np.where(weight > -90, 127, -127).astype(np.int8)
    weight = pruned(weight, pattern, rng.random(weight.shape))
    depth = weight[0].size
    multiplier = (0.02 / np.sqrt(depth) * rng.uniform(0.5, 1.5, k)).astype(np.float32)
    bias = rng.integers(-2000, 2000, k).astype(np.int32) - X.zero * weight.reshape(k, -1).sum(axis=1, dtype=np.int32)
    return [x], {"weight": weight, "bias": bias.astype(np.int32), "multiplier": multiplier}


def same(
    kernel: str, fmt: str, isa: str, kind: str, inputs: list, types: list, attrs: dict, params: dict, pattern: Format | None, note: str
) -> None:
    out = TensorSpec(
        "y", output_shape(kind, [x.shape[1:] for x in inputs], attrs, "test"), types[-1].dtype, types[-1].scale, types[-1].zero
    )
    got = run(kernel, isa, kind, inputs, attrs, constants(fmt, params, pattern), threads=2, types=types)
    want = quantized.compute(kind, inputs, types[:-1], out, attrs, params)
    np.testing.assert_array_equal(got, want, err_msg=f"{kernel} {isa} {pattern} {note}")


@pytest.mark.parametrize("extreme", [False, True])
def test_every_conv_on_every_shape_and_pattern(extreme: bool) -> None:
    seen = set()
    for kernel, fmt, isa in convolutions():
        for name, shape in SHAPES.items():
            for pattern in PATTERNS:
                if pattern.kind != fmt or not fits(pattern, weight_shape(shape)):
                    continue
                inputs, params = layer(shape, pattern, extreme=extreme)
                types: list[Any] = [X, output()]
                if accepts(kernel, isa, "conv", inputs, conv_attrs(shape), constants(fmt, params, pattern), types):
                    seen.add((isa, name))
                    same(kernel, fmt, isa, "conv", inputs, types, conv_attrs(shape), params, pattern, name)
    for isa in {isa for _, _, isa in convolutions()}:
        missing = [name for name in SHAPES if (isa, name) not in seen]
        assert not missing, f"no {isa} int8 kernel accepts {missing}"


@pytest.mark.parametrize("act", ["none", "relu", "relu6"])
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("out", [output(), output(0.0004, 0), output(30.0, 255), FLOAT], ids=["u8", "saturated", "coarse", "f32"])
def test_epilogue(act: str, residual: bool, out: TensorSpec) -> None:
    for kernel, fmt, isa in convolutions():
        pattern = EXAMPLES[fmt]
        shape = SHAPES[{"depthwise_i8": "depthwise", "grouped_i8": "groups, odd widths", "block_i8": "stride 2"}.get(kernel, "3x3")]
        inputs, params = layer(shape, pattern, seed=1)
        types = [X, out]
        if residual:
            where = output_shape("conv", [inputs[0].shape[1:]], conv_attrs(shape), "test")
            inputs = [*inputs, np.random.default_rng(2).integers(0, 256, (inputs[0].shape[0], *where), np.uint8)]
            types = [X, RESIDUAL, out]
        same(kernel, fmt, isa, "conv", inputs, types, conv_attrs(shape, act), params, pattern, act)


@pytest.mark.parametrize(("c", "k"), [(64, 10), (512, 1000), (80, 112), (3, 5)])
def test_linear_to_float_and_u8(c: int, k: int) -> None:
    for kernel, fmt, isa in convolutions():
        pattern = EXAMPLES[fmt]
        if "depthwise" in kernel or "grouped" in kernel or not fits(pattern, (k, 1, 1, c)):
            continue
        inputs, params = layer((3, 1, 1, c, k, 1, 1, (1, 1), (0, 0, 0, 0), (1, 1), 1), pattern)
        flat = [inputs[0].reshape(3, c)]
        for out in (FLOAT, output()):
            same(kernel, fmt, isa, "linear", flat, [X, out], {"k": k, "act": "none", "alpha": 0.0}, params, pattern, str((c, k)))


@pytest.mark.parametrize("pattern", [NM(n, m) for m in range(1, 17) for n in {1, (m + 1) // 2, m}], ids=str)
def test_every_pattern_from_first_to_last_position(pattern: NM) -> None:
    c = pattern.m * 9
    rng = np.random.default_rng(pattern.n)
    x = rng.integers(0, 256, (1, 4, 5, c), np.uint8)
    attrs = {"k": 9, "kernel": [2, 1], "stride": [1, 1], "pad": [0, 0, 1, 0], "dilation": [1, 1], "groups": 1, "act": "none", "alpha": 0.0}
    for where in ("first", "last", "random"):
        score = rng.random((9, 2, 1, c)) if where == "random" else np.tile(np.arange(pattern.m)[:: -1 if where == "first" else 1] + 1.0, 9)
        keep = pattern.mask(np.broadcast_to(score, (9, 2, 1, c)).astype(np.float32))
        weight = (rng.integers(-127, 128, keep.shape) * keep).astype(np.int8)
        params = {"weight": weight, "bias": np.zeros(9, np.int32), "multiplier": np.full(9, 1e-3, np.float32)}
        for kernel, fmt, isa in convolutions():
            if fmt == "nm":
                same(kernel, fmt, isa, "conv", [x], [X, output()], attrs, params, pattern, where)


# c, k, groups
GROUPED = [
    *((c, c, c) for c in (2, 15, 16, 17, 33, 64, 65, 96, 144, 200)),  # depthwise
    (48, 48, 2),  # a RegNet's groups of 24
    (170, 34, 2),  # more inputs than a window
    (16, 64, 16),
    (9, 27, 3),
    (40, 10, 10),
]
# h, w, r, s, stride, pad, dilation
GEOMETRIES = [
    (7, 14, 3, 3, (1, 1), (1, 1, 1, 1), (1, 1)),
    (8, 15, 3, 3, (2, 2), (0, 0, 1, 1), (1, 1)),
    (9, 20, 5, 5, (1, 1), (2, 2, 2, 2), (1, 1)),
    (9, 31, 5, 5, (2, 2), (2, 1, 1, 2), (1, 1)),
    (8, 30, 7, 7, (2, 2), (3, 3, 3, 3), (1, 1)),
    (9, 9, 9, 9, (1, 1), (4, 4, 4, 4), (1, 1)),
    (5, 9, 1, 1, (1, 1), (0, 0, 0, 0), (1, 1)),
    (6, 9, 1, 3, (1, 2), (0, 1, 0, 1), (1, 1)),
    (9, 8, 3, 2, (3, 3), (1, 0, 1, 1), (1, 1)),
    (9, 12, 3, 3, (1, 1), (2, 2, 2, 2), (2, 1)),
    (9, 12, 3, 3, (2, 1), (3, 3, 3, 3), (1, 3)),
    (2, 2, 5, 5, (1, 1), (4, 4, 4, 4), (1, 1)),
]


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_depthwise_and_grouped_of_every_width_and_geometry(geometry: tuple) -> None:
    h, w, r, s, stride, pad, dilation = geometry
    for i, (c, k, groups) in enumerate(GROUPED):
        shape = (1 + i % 2, h, w, c, k, r, s, stride, pad, dilation, groups)
        inputs, params = layer(shape, Dense(), seed=i, extreme=i % 3 == 0)
        attrs = conv_attrs(shape, ("none", "relu", "relu6")[i % 3])
        types = [X, (output(0.05, 20), FLOAT)[(i + h) % 2]]
        seen = set()
        for kernel, fmt, isa in convolutions():
            parts = constants("dense", params, None)
            if fmt == "dense" and accepts(kernel, isa, "conv", inputs, attrs, parts, types):
                seen.add((kernel.removesuffix("_i8"), isa))
                same(kernel, fmt, isa, "conv", inputs, types, attrs, params, None, str(shape))
        assert {name for name, _ in seen} == ({"depthwise", "grouped"} if groups == c == k else {"grouped"})


@pytest.mark.parametrize("multiplier", [1e-9, 1.0, 1e6, 1e30])
def test_multipliers_that_saturate(multiplier: float) -> None:
    """No overflow on the way to 0 and 255."""
    for name in ("3x3", "depthwise", "groups, odd widths"):
        inputs, params = layer(SHAPES[name], Dense(), extreme=True)
        params["multiplier"] = np.full_like(params["multiplier"], multiplier)
        for kernel, fmt, isa in convolutions():
            if fmt == "dense" and accepts(kernel, isa, "conv", inputs, conv_attrs(SHAPES[name]), (params, (0, 0)), [X, output()]):
                same(kernel, fmt, isa, "conv", inputs, [X, output()], conv_attrs(SHAPES[name]), params, None, name)


WIDE = (1, 5, 5, 64, 192, 1, 1, (1, 1), (0, 0, 0, 0), (1, 1), 1)  # whole vectors of output channels in all kernels


@pytest.mark.parametrize("act", ["none", "relu", "relu6"])
@pytest.mark.parametrize("zero", [0, 100])
def test_bounds_of_whole_vectors(act: str, zero: int) -> None:
    for kernel, fmt, isa in wide_convolutions():
        inputs, params = layer(WIDE, EXAMPLES[fmt])
        same(kernel, fmt, isa, "conv", inputs, [X, output(zero=zero)], conv_attrs(WIDE, act), params, EXAMPLES[fmt], act)


@pytest.mark.parametrize("large", ["multiplier", "residual"])
def test_one_channel_beyond_int32(large: str) -> None:
    """Packing alone clamps what int32 holds. A channel that it does not hold, or a residual of a far larger scale, is clamped before."""
    residual = TensorSpec("r", (1,), "u8", 1e9 if large == "residual" else 0.05, 3)
    for kernel, fmt, isa in wide_convolutions():
        inputs, params = layer(WIDE, EXAMPLES[fmt], extreme=True)
        if large == "multiplier":
            params["multiplier"][77] = 1e8
        inputs = [*inputs, np.random.default_rng(2).integers(0, 256, (1, 5, 5, 192), np.uint8)]
        types = [X, residual, output(zero=0)]
        same(kernel, fmt, isa, "conv", inputs, types, conv_attrs(WIDE, "relu"), params, EXAMPLES[fmt], large)


def wide_convolutions() -> list[tuple[str, str, str]]:
    of = [(k, fmt, isa) for k, fmt, isa in convolutions() if not k.startswith(("depthwise", "grouped")) and fmt in EXAMPLES]
    return [found for found in of if fits(EXAMPLES[found[1]], weight_shape(WIDE))]
