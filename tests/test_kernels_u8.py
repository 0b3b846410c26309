"""Every kernel on u8 tensors but the convolutions, on every instruction set, equal to the integer reference to the last bit."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from jettison import quantized, reference
from jettison.graph import Graph, Op, TensorSpec
from jettison.runtime import Session, isas
from jettison.spec import KINDS, output_shape
from native_op import kernels, run
from test_kernels_ops import LARGE, OPERANDS, PLAIN, POOLS, SIZES, axis_sets, window

FLOAT = TensorSpec("f", (1,))
Shape = tuple[int, ...]


def u8(scale: float, zero: int) -> TensorSpec:
    return TensorSpec("t", (1,), "u8", scale, zero)


X, Y, OUT = u8(0.021, 117), u8(0.033, 60), u8(0.05, 100)
TYPES = [  # of two inputs and the output
    (X, Y, OUT),
    (X, X, X),
    (u8(1.0, 0), u8(0.5, 255), u8(0.25, 7)),  # ties everywhere
    (X, Y, u8(1e-4, 128)),  # all saturate
    (X, Y, u8(40.0, 255)),  # few values left
]


def draw(shape: Shape, n: int, seed: int = 0) -> np.ndarray:
    """Any byte, 0 and 255 often."""
    rng = np.random.default_rng(seed)
    q = rng.integers(-40, 296, (n, *shape))
    return np.clip(q, 0, 255).astype(np.uint8)


def same(
    kind: str, inputs: list[np.ndarray], types: list[TensorSpec], attrs: dict[str, Any], params: dict | None = None, note: str = ""
) -> None:
    """Equal to the reference on all instruction sets."""
    params = params or {}
    out = replace(types[-1], shape=output_shape(kind, [x.shape[1:] for x in inputs], attrs, "test"))
    want = quantized.compute(kind, inputs, types[:-1], out, attrs, params)
    rows = kernels(kind, types[0].dtype)
    assert {isa for _, _, isa in rows} == set(isas()), kind
    for kernel, _, isa in rows:
        got = run(kernel, isa, kind, inputs, attrs, (params, (0, 0)), threads=2, types=types)
        np.testing.assert_array_equal(got, want, err_msg=f"{kernel} {isa} {[x.shape for x in inputs]} {attrs} {note}")


def test_every_quantized_kind_has_a_kernel_on_every_instruction_set() -> None:
    for kind, row in KINDS.items():
        if row.quantized and kind != "linear":  # which the convolutions compute
            assert {isa for _, _, isa in kernels(kind, "u8")} == set(isas()), kind
    assert {isa for _, _, isa in kernels("quantize")} == set(isas())


# in and out of bytes


@pytest.mark.parametrize("to", [X, u8(1.0, 0), u8(0.5, 255), u8(1e-30, 3), u8(1e30, 200)], ids=str)
def test_quantize(to: TensorSpec) -> None:
    rng = np.random.default_rng(0)
    for shape in [(1,), (3, 5, 7), (64,), LARGE]:
        x = (rng.standard_normal((2, *shape)) * 2).astype(np.float32)
        same("quantize", [x], [FLOAT, to], {})
    ties = np.arange(-300, 300, dtype=np.float32)[None] * np.float32(0.5 * min(max(to.scale, 1e-3), 1e3))
    far = np.array([[np.inf, -np.inf, 3e38, -3e38, 1e-45, -0.0, np.nan, 1e10, -1e10]], np.float32)
    with np.errstate(over="ignore"):
        same("quantize", [ties], [FLOAT, to], {})
        if to.scale < 1e30:  # the reciprocal of 1e-30 times 0 is a number, inf times 0 is none
            same("quantize", [far], [FLOAT, to], {})


def test_dequantize() -> None:
    for shape in [(1,), (3, 5, 7), (64,), LARGE]:
        for spec in (X, u8(1.0, 0), u8(0.3, 255)):
            same("dequantize", [draw(shape, 2)], [spec, FLOAT], {})


def test_quantize_undoes_dequantize() -> None:
    every = np.arange(256, dtype=np.uint8)[None]
    for spec in (X, u8(1 / 3, 0), u8(7.7, 255)):
        assert (quantized.quantize(quantized.dequantize(every, spec), spec) == every).all()
        same("quantize", [quantized.dequantize(every, spec)], [FLOAT, spec], {})


# arithmetic


@pytest.mark.parametrize("kind", ["add", "mul"])
def test_add_and_mul_with_every_way_to_repeat(kind: str) -> None:
    for x, y in OPERANDS:
        for n in (1, 3):
            same(kind, [draw(x, n), draw(y, n, 1)], list(TYPES[0]), PLAIN)


@pytest.mark.parametrize("act", ["none", "relu", "relu6"])
@pytest.mark.parametrize("kind", ["add", "mul"])
def test_add_and_mul_of_every_scale(kind: str, act: str) -> None:
    for types in TYPES:
        for y in [(4, 5, 22), (1, 1, 22), (1, 1, 1)]:
            same(kind, [draw((4, 5, 22), 2), draw(y, 2, 1)], list(types), {"act": act, "alpha": 0.0})


@pytest.mark.parametrize("kind", ["add", "mul"])
def test_add_and_mul_of_every_pair_of_bytes(kind: str) -> None:
    q = np.arange(256, dtype=np.uint8)
    x, y = (a.reshape(1, 256, 256) for a in np.meshgrid(q, q))
    for types in TYPES:
        same(kind, [np.ascontiguousarray(x), np.ascontiguousarray(y)], list(types), PLAIN)


def test_act() -> None:
    for act in ("silu", "hardswish", "gelu", "sigmoid", "leaky_relu"):
        table = quantized.act_table(act, 0.1, X, OUT)
        for shape in [(1,), (3, 5, 7), (64,), (257,), LARGE]:
            same("act", [draw(shape, 2)], [X, OUT], {"act": act, "alpha": 0.1}, {"table": table})
    every = np.arange(256, dtype=np.uint8)[None]
    same("act", [every], [X, OUT], PLAIN, {"table": np.random.default_rng(0).permutation(every[0])})


def test_mean_over_every_set_of_axes() -> None:
    for shape in [(5, 6, 19), (23,), (3, 4, 2, 5), (7, 7, 320)]:
        for axes in axis_sets(len(shape)):
            for keep, n in ((True, 1), (False, 3)):
                same("mean", [draw(shape, n)], [X, OUT], {"axes": axes, "keepdims": keep})


def test_mean_of_large_images_and_of_extremes() -> None:
    for axes in axis_sets(3):
        same("mean", [draw(LARGE, 2)], [X, X], {"axes": axes, "keepdims": True})
    for value in (0, 255):
        for zero in (0, 255):
            x = np.full((1, 300, 200, 3), value, np.uint8)
            same("mean", [x], [u8(0.1, zero), u8(0.11, 255 - zero)], {"axes": [0, 1], "keepdims": False})
            same("mean", [x.reshape(1, -1)], [u8(0.1, zero), u8(0.11, zero)], {"axes": [0], "keepdims": False})


def test_avg_pool_counts_padding_as_told() -> None:
    for shape, kernel, stride, pad in POOLS:
        for count in ([0, 0, 0, 0], list(pad), [pad[0], pad[1], 0, 0]):
            for out in (X, OUT):
                same("avg_pool", [draw(shape, 2)], [X, out], {**window(kernel, stride, pad), "count_pad": count})


def test_adaptive_avg_pool() -> None:
    for shape, size in [((8, 8, 16), (1, 1)), ((9, 7, 37), (3, 2)), ((5, 4, 65), (7, 9)), ((6, 6, 8), (6, 6)), (LARGE, (13, 7))]:
        for n in (1, 3):
            same("adaptive_avg_pool", [draw(shape, n)], [X, OUT], {"size": list(size)})


def test_concat_brings_every_input_to_the_scale_of_the_output() -> None:
    shapes: list[tuple[tuple[Shape, ...], int]] = [
        (((3, 4, 5), (3, 4, 16), (3, 4, 33)), 2),
        (((3, 4, 5), (3, 1, 5), (3, 7, 5)), 1),
        (((2, 4, 5), (9, 4, 5)), 0),
        (((6,),), 0),
        (((40, 50, 40), (40, 50, 31)), 2),
        (((40, 50, 33), (20, 50, 33)), 0),
    ]
    for xs, axis in shapes:
        for n in (1, 3):
            inputs = [draw(s, n, i) for i, s in enumerate(xs)]
            for types in ([X] * len(xs), [X, Y, OUT][: len(xs)], [u8(40.0, 0)] * len(xs)):
                same("concat", inputs, [*types, X], {"axis": axis})


# moving data


def test_max_pool() -> None:
    for shape, *geometry in POOLS:
        same("max_pool", [draw(shape, 2)], [X, X], window(*geometry))
        same("max_pool", [np.zeros((2, *shape), np.uint8)], [X, X], window(*geometry))


def test_upsample() -> None:
    for shape, size in SIZES:
        scale = [shape[i] / size[i] for i in (0, 1)]
        attrs = {"mode": "nearest", "size": list(size), "scale": scale, "align_corners": False}
        same("upsample", [draw(shape, 2)], [X, X], attrs)


def test_slice() -> None:
    cuts = [  # shape, axis, start, stop, step
        ((4, 5, 20), 2, 4, 20, 1),
        ((4, 5, 20), 2, 1, 18, 3),
        ((4, 5, 20), 1, 0, 5, 2),
        ((9, 5, 20), 0, 2, 9, 4),
        ((9,), 0, 8, 9, 1),
        ((80, 50, 64), 2, 33, 64, 1),
    ]
    for shape, axis, start, stop, step in cuts:
        same("slice", [draw(shape, 3)], [X, X], {"axis": axis, "start": start, "stop": stop, "step": step})


def test_copies_of_every_length() -> None:
    for length in range(1, 140):
        same("slice", [draw((2, length + 3), 1)], [X, X], {"axis": 1, "start": 1, "stop": length + 1, "step": 1})


@pytest.mark.parametrize("value", [0.0, -1.5, 0.0315, 1e30, -1e30])
def test_pad_with_the_quantized_value(value: float) -> None:
    pads = [
        ((4, 5, 6), [[1, 1], [2, 0], [0, 0]]),
        ((4, 5, 6), [[0, 0], [0, 0], [3, 1]]),
        ((4, 5, 6), [[1, 2], [3, 4], [5, 6]]),
        ((4, 5, 6), [[0, 0], [0, 0], [0, 0]]),
        ((9,), [[0, 17]]),
        ((60, 50, 48), [[3, 3], [3, 3], [0, 0]]),
    ]
    for shape, p in pads:
        same("pad", [draw(shape, 2)], [X, X], {"pads": p, "value": value})


def test_channel_shuffle_reshape_and_transpose() -> None:
    for shape, groups in [*(((4, 5, 24), g) for g in (1, 2, 3, 4, 6, 8, 24)), ((10,), 5), ((70, 40, 116), 2)]:
        same("channel_shuffle", [draw(shape, 2)], [X, X], {"groups": groups})
    same("reshape", [draw((70, 50, 41), 2)], [X, X], {"shape": [50, 2870]})
    perms = [((4, 5, 6), p) for p in ([0, 1, 2], [2, 0, 1], [1, 2, 0], [0, 2, 1], [1, 0, 2], [2, 1, 0])]
    perms += [((2, 3, 2, 2, 3), [4, 2, 0, 3, 1]), ((1, 1), [1, 0]), (LARGE, [2, 0, 1]), ((3, 90, 500), [1, 2, 0]), (LARGE, [1, 0, 2])]
    for shape, perm in perms:
        same("transpose", [draw(shape, 2)], [X, X], {"perm": perm})


# a whole network


def conv_attrs(k: int, size: int = 3, stride: int = 1, groups: int = 1, act: str = "none") -> dict[str, Any]:
    pad = size // 2
    return {
        "k": k, "groups": groups, "dilation": (1, 1), "kernel": (size, size), "stride": (stride, stride), "pad": (pad,) * 4,
        "act": act, "alpha": 0.0,
    }  # fmt: skip


def network() -> Graph:
    """quantize → conv → (conv +) add → depthwise, stride 2 → pool ‖ slice → concat → mean → linear to float32; u8 between."""
    rng = np.random.default_rng(0)
    specs = [
        TensorSpec("x", (11, 9, 3)),
        TensorSpec("q", (11, 9, 3), "u8", 0.03, 128),
        TensorSpec("a", (11, 9, 20), "u8", 0.02, 3),
        TensorSpec("b", (11, 9, 20), "u8", 0.05, 120),
        TensorSpec("s", (11, 9, 20), "u8", 0.06, 90),
        TensorSpec("d", (6, 5, 20), "u8", 0.04, 100),
        TensorSpec("m", (6, 5, 20), "u8", 0.04, 100),
        TensorSpec("e", (6, 5, 7), "u8", 0.04, 100),
        TensorSpec("c", (6, 5, 27), "u8", 0.05, 90),
        TensorSpec("g", (27,), "u8", 0.02, 128),
        TensorSpec("y", (10,)),
    ]
    tensors = {spec.name: spec for spec in specs}
    constants: dict[str, np.ndarray] = {}

    def layer(name: str, kind: str, inputs: tuple[str, ...], out: str, attrs: dict[str, Any]) -> Op:
        x, k = tensors[inputs[0]], attrs["k"]
        r, s = attrs.get("kernel", (1, 1))
        weight = rng.integers(-127, 128, (k, r, s, x.shape[-1] // attrs.get("groups", 1)), np.int8)
        real = 1 / (60 * np.sqrt(weight[0].size) * np.where(np.arange(k) % 2, 1.0, 3.0))  # the weights' scales
        constants[name + ".w"] = weight
        constants[name + ".b"] = (-x.zero * weight.reshape(k, -1).sum(axis=1, dtype=np.int64)).astype(np.int32)
        constants[name + ".m"] = (x.scale * real / tensors[out].scale).astype(np.float32)
        params = {"weight": name + ".w", "bias": name + ".b", "multiplier": name + ".m"}
        return Op(name, kind, inputs, (out,), attrs, params, element="i8")

    ops = (
        Op("quantize", "quantize", ("x",), ("q",)),
        layer("conv", "conv", ("q",), "a", conv_attrs(20, act="relu")),
        layer("conv and residual", "conv", ("a", "a"), "b", conv_attrs(20, size=1)),
        Op("add", "add", ("b", "a"), ("s",), {"act": "relu6", "alpha": 0.0}),
        layer("depthwise", "conv", ("s",), "d", conv_attrs(20, stride=2, groups=20)),
        Op("pool", "max_pool", ("d",), ("m",), window((3, 3), (1, 1), (1, 1, 1, 1))),
        Op("slice", "slice", ("d",), ("e",), {"axis": 2, "start": 0, "stop": 20, "step": 3}),
        Op("concat", "concat", ("m", "e"), ("c",), {"axis": 2}),
        Op("mean", "mean", ("c",), ("g",), {"axes": (0, 1), "keepdims": False}),
        layer("linear", "linear", ("g",), "y", {"k": 10, "act": "none", "alpha": 0.0}),
    )
    return Graph(ops, tensors, ("x",), ("y",), constants, {"x": "nchw", "y": "plain"})


@pytest.mark.parametrize("isa", isas())
def test_a_quantized_network_gives_the_bits_of_the_reference(isa: str) -> None:
    graph = network()
    session = Session(graph, threads=2, isa=isa)
    for n in (1, 4):
        x = np.random.default_rng(n).standard_normal((n, 3, 11, 9)).astype(np.float32)
        (want,) = reference.run(graph, x)
        got = session.run(x)
        assert np.ptp(want) > 0.1 and len(np.unique(want)) > 5  # no network of saturated zeros
        np.testing.assert_array_equal(got, want)
