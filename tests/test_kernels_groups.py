"""Depthwise and grouped convolution on problems drawn at random, on every instruction set, against the reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from jettison import reference
from native_op import accepts, kernels, run

KERNELS = [(name, isa) for name, _, isa in kernels("conv") if name in ("depthwise", "grouped")]


def draw(
    rng: np.random.Generator, group_inputs: int, group_outputs: int, groups: int
) -> tuple[list[np.ndarray], dict[str, Any], dict[str, np.ndarray]]:
    """A conv with this channel structure and everything else at random; taps may fall on padding only."""
    c, k = groups * group_inputs, groups * group_outputs
    r, s = rng.integers(1, 8, 2)
    stride, dilation = rng.integers(1, 4, 2), rng.integers(1, 3, 2)
    pad = [int(v) for v in (rng.integers(0, r + 1), rng.integers(0, s + 1), rng.integers(0, r + 1), rng.integers(0, s + 1))]
    h = int(rng.integers(max(1, dilation[0] * (r - 1) + 1 - pad[0] - pad[2]), 24))
    w = int(rng.integers(max(1, dilation[1] * (s - 1) + 1 - pad[1] - pad[3]), 24))
    x = rng.standard_normal((int(rng.integers(1, 3)), h, w, c)).astype(np.float32)
    attrs = {"k": k, "kernel": [int(r), int(s)], "stride": [int(v) for v in stride], "pad": pad, "dilation": [int(v) for v in dilation],
             "groups": groups, "act": str(rng.choice(["relu6", "silu", "hardswish"])), "alpha": 0.0}  # fmt: skip
    params = {"weight": rng.standard_normal((k, r, s, group_inputs)).astype(np.float32), "bias": rng.standard_normal(k).astype(np.float32)}
    inputs = [x]
    if rng.integers(2):
        inputs.append(rng.standard_normal(reference.compute("conv", inputs, attrs, params).shape).astype(np.float32))
    return inputs, attrs, params


def check(kernel: str, isa: str, inputs: list[np.ndarray], attrs: dict[str, Any], params: dict[str, np.ndarray]) -> np.ndarray:
    parts = (params, (0, 0))
    assert accepts(kernel, isa, "conv", inputs, attrs, parts)
    out = run(kernel, isa, "conv", inputs, attrs, parts, threads=2)
    want = reference.compute("conv", inputs, attrs, params)
    scale = max(1.0, np.sqrt(params["weight"][0].size))  # of a sum before it is clamped
    np.testing.assert_allclose(out, want, rtol=0, atol=6e-6 * scale, err_msg=f"{kernel} {isa} {inputs[0].shape} {attrs}")
    return out


@pytest.mark.parametrize("seed", range(60))
def test_depthwise_with_random_geometry(seed: int) -> None:
    rng = np.random.default_rng(seed)
    problem = draw(rng, 1, int(rng.choice([1, 1, 1, 2, 3, 5])), int(rng.integers(2, 90)))
    for kernel, isa in KERNELS:
        check(kernel, isa, *problem)


@pytest.mark.parametrize("size", (3, 5, 7))
@pytest.mark.parametrize("stride", (1, 2))
def test_depthwise_of_compiled_sizes(size: int, stride: int) -> None:
    """Rows in pairs and alone, tiles whole, shifted back and cut short, on every border; padding that is not half the kernel."""
    rng = np.random.default_rng(size * stride)
    half = size // 2
    for h, w, pad in [
        (1, 1, half), (2, 6, half), (3, 7, half), (7, 8, half), (6, 15, half), (9, 16, half), (10, 31, half), (size, 40, 0),
        (8, 9, half + 1), (9, 33, size - 1),
    ]:  # fmt: skip
        c = int(rng.choice([5, 16, 40]))
        attrs = {"k": c, "kernel": [size, size], "stride": [stride, stride], "pad": [pad, pad, pad, half], "dilation": [1, 1],
                 "groups": c, "act": str(rng.choice(["none", "relu6", "silu"])), "alpha": 0.0}  # fmt: skip
        x = rng.standard_normal((2, h, max(w, size - pad - half), c)).astype(np.float32)
        params = {"weight": rng.standard_normal((c, size, size, 1)).astype(np.float32), "bias": rng.standard_normal(c).astype(np.float32)}
        for kernel, isa in KERNELS:
            if kernel == "depthwise":
                check(kernel, isa, [x], attrs, params)


@pytest.mark.parametrize("seed", range(60))
def test_grouped_with_random_geometry(seed: int) -> None:
    """Groups narrower than a vector, wider, and cut by one."""
    rng = np.random.default_rng(1000 + seed)
    problem = draw(
        rng, int(rng.choice([2, 3, 4, 8, 16, 24, 32, 37])), int(rng.choice([1, 2, 4, 5, 8, 16, 24, 32])), int(rng.integers(2, 8))
    )
    for kernel, isa in KERNELS:
        if kernel == "grouped":
            check(kernel, isa, *problem)


# c, k, groups, kernel, stride, size: layers of MobileNetV2, EfficientNet, ConvNeXt, RegNetY-400MF, ResNeXt-50, ShuffleNet
LAYERS = [
    (96, 96, 96, 3, 2, 56),
    (144, 144, 144, 5, 2, 29),
    (80, 80, 80, 7, 1, 28),
    (48, 48, 6, 3, 2, 56),
    (440, 440, 55, 3, 1, 7),
    (128, 128, 32, 3, 1, 28),
    (256, 256, 32, 3, 2, 14),
    (240, 60, 3, 1, 1, 28),
]


@pytest.mark.parametrize("layer", LAYERS, ids=str)
def test_layers_of_networks(layer: tuple[int, ...]) -> None:
    """Sizes that are cut into several jobs; the number of threads changes no bit."""
    c, k, groups, taps, stride, size = layer
    rng = np.random.default_rng(0)
    x = rng.standard_normal((1, size, size, c)).astype(np.float32)
    attrs = {"k": k, "kernel": [taps] * 2, "stride": [stride] * 2, "pad": [taps // 2] * 4, "dilation": [1, 1], "groups": groups,
             "act": "none", "alpha": 0.0}  # fmt: skip
    params = {"weight": rng.standard_normal((k, taps, taps, c // groups)).astype(np.float32), "bias": np.zeros(k, np.float32)}
    for kernel, isa in KERNELS:
        if kernel == "grouped" or groups == c:
            two = check(kernel, isa, [x], attrs, params)
            np.testing.assert_array_equal(two, run(kernel, isa, "conv", [x], attrs, (params, (0, 0)), threads=1))
