"""Every convolution kernel, on every instruction set, against the reference."""

from __future__ import annotations

import numpy as np
import pytest

from jettison import reference
from jettison.formats import NM, Block, Dense, Format
from native_op import EXAMPLES, accepts, constants, fits, kernels, pruned, run

# n, h, w, c, k, r, s, stride, pad (t, l, b, r), dilation, groups
SHAPES = {
    "1x1": (1, 5, 7, 32, 48, 1, 1, (1, 1), (0, 0, 0, 0), (1, 1), 1),
    "3x3": (1, 9, 8, 32, 33, 3, 3, (1, 1), (1, 1, 1, 1), (1, 1), 1),
    "batch of 3": (3, 6, 5, 16, 20, 3, 3, (1, 1), (1, 1, 1, 1), (1, 1), 1),
    "stride 2": (2, 11, 10, 32, 64, 3, 3, (2, 2), (1, 1, 1, 1), (1, 1), 1),
    "stem": (1, 23, 21, 3, 64, 7, 7, (2, 2), (3, 3, 3, 3), (1, 1), 1),
    "asymmetric padding": (1, 8, 9, 16, 17, 3, 3, (2, 2), (0, 0, 1, 1), (1, 1), 1),
    "dilation": (1, 12, 13, 16, 24, 3, 3, (1, 1), (2, 2, 2, 2), (2, 2), 1),
    "5x3, uneven strides": (1, 13, 12, 16, 40, 5, 3, (2, 1), (2, 1, 2, 1), (1, 1), 1),
    "one pixel": (1, 1, 1, 64, 10, 1, 1, (1, 1), (0, 0, 0, 0), (1, 1), 1),
    "one output channel": (1, 7, 7, 16, 1, 3, 3, (1, 1), (1, 1, 1, 1), (1, 1), 1),
    "padding wider than the image": (1, 2, 2, 16, 8, 5, 5, (1, 1), (4, 4, 4, 4), (1, 1), 1),
    "many channels": (1, 7, 7, 272, 130, 3, 3, (1, 1), (1, 1, 1, 1), (1, 1), 1),
    "many whole blocks": (1, 7, 6, 192, 144, 3, 3, (1, 1), (1, 1, 1, 1), (1, 1), 1),
    "depthwise": (2, 9, 11, 37, 37, 3, 3, (1, 1), (1, 1, 1, 1), (1, 1), 37),
    "depthwise, stride 2, 5x5": (1, 10, 13, 48, 48, 5, 5, (2, 2), (2, 2, 2, 2), (1, 1), 48),
    "depthwise, multiplier 2": (1, 8, 8, 12, 24, 3, 3, (1, 1), (1, 1, 1, 1), (1, 1), 12),
    "depthwise, 7x7": (1, 12, 9, 40, 40, 7, 7, (1, 1), (3, 3, 3, 3), (1, 1), 40),
    "depthwise, dilation": (1, 12, 12, 19, 19, 3, 3, (1, 1), (2, 2, 2, 2), (2, 2), 19),
    "groups of 8": (1, 9, 9, 48, 48, 3, 3, (2, 2), (1, 1, 1, 1), (1, 1), 6),
    "groups, odd widths": (2, 6, 7, 15, 21, 3, 3, (1, 1), (1, 1, 1, 1), (1, 1), 3),
    "groups of 32 to 20": (1, 5, 6, 64, 40, 3, 3, (1, 1), (1, 1, 1, 1), (1, 1), 2),
}
PATTERNS = [Dense(), NM(2, 4), NM(1, 4), NM(1, 16), NM(1, 1), NM(3, 3), NM(2, 3), NM(5, 8), NM(1, 32)]
PATTERNS += [
    Block(16, 16, NM(2, 4), 0.3),
    Block(32, 16),
    Block(32, 32, NM(1, 32), 0.5),
    Block(16, 64, NM(3, 16), 0.2),
    Block(64, 32, keep=0.4),
]
ACTS = ("none", "relu", "relu6", "silu", "hardswish", "hardsigmoid", "gelu", "gelu_tanh", "sigmoid", "tanh", "leaky_relu")


def conv_attrs(shape: tuple, act: str = "none") -> dict:
    _, _, _, _, k, r, s, stride, pad, dilation, groups = shape
    return {"k": k, "kernel": [r, s], "stride": list(stride), "pad": list(pad), "dilation": list(dilation), "groups": groups,
            "act": act, "alpha": 0.1 if act == "leaky_relu" else 0.0}  # fmt: skip


def weight_shape(shape: tuple) -> tuple[int, int, int, int]:
    _, _, _, c, k, r, s, *_, groups = shape
    return k, r, s, c // groups


def arrays(shape: tuple, pattern: Format, seed: int = 0) -> tuple[list[np.ndarray], dict[str, np.ndarray]]:
    n, h, w, c, k, r, s, *_, groups = shape
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, h, w, c)).astype(np.float32)
    weight = rng.standard_normal((k, r, s, c // groups)).astype(np.float32)
    return [x], {"weight": pruned(weight, pattern), "bias": rng.standard_normal(k).astype(np.float32)}


def check(out: np.ndarray, want: np.ndarray, depth: int) -> None:
    """float32 sums in another order: a few ulps, growing with the root of the number of terms."""
    np.testing.assert_allclose(out, want, rtol=0, atol=np.abs(want).max() * 3e-7 * (4 + depth**0.5))


def test_every_conv_kernel_on_every_shape_and_pattern() -> None:
    seen = set()
    for kernel, fmt, isa in kernels("conv"):
        for name, shape in SHAPES.items():
            for pattern in PATTERNS:
                if pattern.kind != fmt or not fits(pattern, weight_shape(shape)):
                    continue
                inputs, params = arrays(shape, pattern)
                parts = constants(fmt, params, pattern)
                if not accepts(kernel, isa, "conv", inputs, conv_attrs(shape), parts):
                    continue
                seen.add((kernel, isa, name))
                out = run(kernel, isa, "conv", inputs, conv_attrs(shape, "relu"), parts, threads=2)
                want = reference.compute("conv", inputs, conv_attrs(shape, "relu"), params)
                try:
                    check(out, want, params["weight"][0].size)
                except AssertionError as e:
                    raise AssertionError(f"{kernel} {isa} {pattern} on {name}: {e}") from None
    for isa in {isa for _, _, isa in kernels("conv")}:
        missing = [name for name in SHAPES if not any((k, isa, name) in seen for k in ("dense", "depthwise", "grouped"))]
        assert not missing, f"no {isa} kernel accepts {missing}"


@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize("residual", [False, True])
def test_epilogue(act: str, residual: bool) -> None:
    for kernel, fmt, isa in kernels("conv"):
        pattern = EXAMPLES[fmt]
        shape = SHAPES[{"depthwise": "depthwise", "grouped": "groups, odd widths", "block": "stride 2"}.get(kernel, "3x3")]
        inputs, params = arrays(shape, pattern)
        attrs = conv_attrs(shape, act)
        want = reference.compute("conv", inputs, attrs, params)
        if residual:
            inputs = [*inputs, np.random.default_rng(1).standard_normal(want.shape).astype(np.float32)]
            want = reference.compute("conv", inputs, attrs, params)
        out = run(kernel, isa, "conv", inputs, attrs, constants(fmt, params, pattern))
        np.testing.assert_allclose(out, want, rtol=0, atol=np.abs(want).max() * 3e-5, err_msg=f"{kernel} {isa}")


def test_without_bias() -> None:
    for kernel, fmt, isa in kernels("conv"):
        pattern = EXAMPLES[fmt]
        shape = SHAPES["depthwise"] if kernel == "depthwise" else SHAPES["groups of 8"] if kernel == "grouped" else SHAPES["1x1"]
        inputs, params = arrays(shape, pattern)
        del params["bias"]
        out = run(kernel, isa, "conv", inputs, conv_attrs(shape), constants(fmt, params, pattern))
        check(out, reference.compute("conv", inputs, conv_attrs(shape), params), params["weight"][0].size)


@pytest.mark.parametrize("rows", [(), (5,), (2, 3)])
@pytest.mark.parametrize(("c", "k"), [(64, 10), (48, 1000), (80, 112), (3, 5)])
def test_linear(rows: tuple[int, ...], c: int, k: int) -> None:
    rng = np.random.default_rng(0)
    for kernel, fmt, isa in kernels("conv"):
        pattern = EXAMPLES[fmt]
        if kernel in ("depthwise", "grouped") or not fits(pattern, (k, 1, 1, c)):
            continue
        weight = pruned(rng.standard_normal((k, 1, 1, c)).astype(np.float32), pattern)
        params = {"weight": weight, "bias": rng.standard_normal(k).astype(np.float32)}
        x = rng.standard_normal((3, *rows, c)).astype(np.float32)
        attrs = {"k": k, "act": "none", "alpha": 0.0}
        out = run(kernel, isa, "linear", [x], attrs, constants(fmt, params, pattern))
        check(out, reference.compute("linear", [x], attrs, params), c)


@pytest.mark.parametrize("pattern", [NM(n, m) for m in range(1, 17) for n in {1, (m + 1) // 2, m}], ids=str)
def test_every_pattern_from_first_to_last_position(pattern: NM) -> None:
    """Kept weights at the end, at the start and at random places of their groups."""
    c = pattern.m * 5
    rng = np.random.default_rng(pattern.n)
    x = rng.standard_normal((1, 4, 5, c)).astype(np.float32)
    for where in ("first", "last", "random"):
        score = rng.random((9, 2, 1, c)) if where == "random" else np.tile(np.arange(pattern.m)[:: -1 if where == "first" else 1] + 1.0, 5)
        keep = pattern.mask(np.broadcast_to(score, (9, 2, 1, c)).astype(np.float32))
        params = {"weight": (rng.standard_normal((9, 2, 1, c)) * keep).astype(np.float32)}
        attrs = {
            "k": 9,
            "kernel": [2, 1],
            "stride": [1, 1],
            "pad": [0, 0, 1, 0],
            "dilation": [1, 1],
            "groups": 1,
            "act": "none",
            "alpha": 0.0,
        }
        want = reference.compute("conv", [x], attrs, params)
        for kernel, fmt, isa in kernels("conv"):
            if fmt == "nm":
                check(run(kernel, isa, "conv", [x], attrs, constants(fmt, params, pattern)), want, 2 * c)


@pytest.mark.parametrize(("channels", "can"), [(1 << 18, True), ((1 << 18) + 16, False)])
def test_blocks_of_more_inputs_than_a_visit_can_name_are_refused(channels: int, can: bool) -> None:
    """65536 windows of 4 channels, as the portable kernel has them."""
    pattern, weight = Block(16, 16, keep=1e-4), np.zeros((16, 1, 1, channels), np.float32)
    weight[..., -16:] = 1
    inputs, params = [np.zeros((1, 1, 1, channels), np.float32)], {"weight": weight, "bias": np.zeros(16, np.float32)}
    attrs = conv_attrs((1, 1, 1, channels, 16, 1, 1, (1, 1), (0, 0, 0, 0), (1, 1), 1))
    assert accepts("block", "scalar", "conv", inputs, attrs, constants("block", params, pattern)) == can


def test_threads_do_not_change_a_bit() -> None:
    for kernel, fmt, isa in kernels("conv"):
        if kernel not in ("dense", "nm", "block"):
            continue
        pattern, shape = EXAMPLES[fmt], SHAPES["many whole blocks"]
        inputs, params = arrays(shape, pattern)
        parts = constants(fmt, params, pattern)
        one, three = (run(kernel, isa, "conv", inputs, conv_attrs(shape), parts, threads=t) for t in (1, 3))
        np.testing.assert_array_equal(one, three)
