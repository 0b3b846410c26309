"""Table look-up by pixels: the format, the reference, files, and the kernel equal to the reference to the last bit."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jettison import file, quantized, reference
from jettison.errors import FormatError, GraphError, PatternError
from jettison.formats import Lut, PixelLut, from_json, pixel_lut, to_json
from jettison.fusion import schedule
from jettison.graph import Graph, Op, TensorSpec
from jettison.runtime import Session, isas
from jettison.spec import check
from native_op import kernels
from test_kernels_conv import SHAPES, conv_attrs
from test_kernels_int8 import FLOAT, X, output
from test_lut import MORE, fed, image, leaf, same

Shape = tuple[int, ...]
SPEC = TensorSpec("x", (5, 6, 7), "u8", 0.02, 117)
ATTRS: dict[str, Any] = {"groups": 1, "dilation": (1, 1), "kernel": (3, 2), "stride": (2, 1), "pad": (1, 0, 1, 1)}


def params(fmt: PixelLut, shape: Shape, seed: int = 0, single: bool = False) -> dict[str, np.ndarray]:
    """Any trees and tables of a layer (k, r, s, c). single: questions of one channel only."""
    rng = np.random.default_rng(seed)
    k, groups, c = shape[0], fmt.groups(shape), shape[3]
    first = rng.integers(0, c, (groups, fmt.levels))
    second = first if single else rng.integers(-c, c, (groups, fmt.levels))
    return {
        "questions": np.stack([first, second], axis=-1).astype(np.int32),
        "thresholds": rng.integers(0, 256, (groups, fmt.prototypes - 1)).astype(np.uint8),
        "tables": rng.integers(-128, 128, (k, fmt.codebooks(shape), fmt.prototypes)).astype(np.int8),
        "bias": rng.integers(-500, 500, k).astype(np.int32),
        "multiplier": rng.uniform(0.01, 0.1, k).astype(np.float32),
    }


def sums(x: np.ndarray, p: dict[str, np.ndarray], attrs: dict[str, Any] = ATTRS) -> np.ndarray:
    """Of the reference, without bias and multiplier."""
    k = len(p["bias"])
    plain = p | {"bias": np.zeros(k, np.int32), "multiplier": np.ones(k, np.float32)}
    return quantized.OPS["conv"]([x], [SPEC], TensorSpec("y", (0, 0, k)), attrs | {"act": "none", "alpha": 0.0}, plain)


def graph() -> Graph:
    """Image (5, 6, 7) → quantize → 3×3 conv → dequantize."""
    fmt = PixelLut(3, 16)
    found = params(fmt, (4, 3, 3, 7))
    constants = {f"w.{name}": found[name] for name in ("questions", "thresholds", "tables")} | {r: found[r] for r in ("bias", "multiplier")}
    attrs: dict[str, Any] = {"k": 4, "groups": 1, "dilation": (1, 1), "kernel": (3, 3), "stride": (1, 1), "pad": (1, 1, 1, 1)}
    attrs |= {"act": "relu", "alpha": 0.0}
    ops = (
        Op("quantize", "quantize", ("x",), ("xq",)),
        Op("conv", "conv", ("xq",), ("yq",), attrs, {"weight": "w", "bias": "bias", "multiplier": "multiplier"}, fmt, "i8"),
        Op("dequantize", "dequantize", ("yq",), ("y",)),
    )  # fmt: skip
    tensors = (
        TensorSpec("x", (5, 6, 7)), TensorSpec("xq", (5, 6, 7), "u8", 0.02, 117), TensorSpec("yq", (5, 6, 4), "u8", 0.5, 30),
        TensorSpec("y", (5, 6, 4)),
    )  # fmt: skip
    return check(Graph(ops, {t.name: t for t in tensors}, ("x",), ("y",), constants, {"x": "nchw", "y": "nchw"}))


@pytest.mark.parametrize(
    ("text", "fmt"),
    [
        ("pixel8", PixelLut(8)),
        ("pixel4x16", PixelLut(4, 16)),
        ("pixel64x4096", PixelLut(64, 4096)),
        ("pixel64x65536", PixelLut(64, 65536)),
    ],
)
def test_a_pattern_is_written_and_read(text: str, fmt: PixelLut) -> None:
    assert str(fmt) == text and PixelLut.parse(text) == fmt and from_json(to_json(fmt), "here") == fmt


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("pixel", "pixelV or pixelVxK with whole numbers"),
        ("pixel8x", "pixelV or pixelVxK"),
        ("pixel0", "v, the channels per group, must be 1 to 65536, got 0"),
        ("pixel8x100", "prototypes must be a power of two from 2 to 65536"),
    ],
)
def test_impossible_patterns_are_named(text: str, words: str) -> None:
    with pytest.raises(PatternError, match=re.escape(words)):
        PixelLut.parse(text)


def asked(pixel: np.ndarray, i: int, j: int) -> int:
    """The value that a question compares."""
    other = int(pixel[j]) if j >= 0 else 255 - int(pixel[-1 - j])
    return (int(pixel[i]) + other + 1) >> 1


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_code_is_the_leaf_that_the_walk_reaches(data) -> None:
    fmt, c = PixelLut(data.draw(st.integers(1, 9)), data.draw(st.sampled_from((2, 16, 512)))), data.draw(st.integers(1, 20))
    seed = data.draw(st.integers(0, 1000))
    p = params(fmt, (1, 1, 1, c), seed)
    pixels = np.random.default_rng(seed).integers(0, 256, (5, c)).astype(np.uint8)
    got = pixel_lut.codes(pixels, p["questions"], p["thresholds"])
    for pixel, its in zip(pixels, got):
        for questions, thresholds, code in zip(p["questions"], p["thresholds"], its):
            values = np.array([asked(pixel, int(i), int(j)) for i, j in questions])
            assert code == leaf(values, np.arange(len(values)), thresholds)


@pytest.mark.parametrize(("i", "j", "says"), [(0, 0, 200), (0, 1, 105), (1, 0, 105), (0, -2, 223), (1, -1, 33), (1, -2, 128)])
def test_a_question_is_of_one_channel_a_mean_or_a_difference(i: int, j: int, says: int) -> None:
    """Channels of 200 and 10: the channel itself, ⌊210/2⌋, 128 + ⌊190/2⌋, 128 − 95, and 128 for none."""
    pixel = np.array([[200, 10]], np.uint8)
    question = np.array([[[i, j]]], np.int32)
    assert pixel_lut.codes(pixel, question, np.array([[says - 1]], np.uint8)) == 1
    assert pixel_lut.codes(pixel, question, np.array([[says]], np.uint8)) == 0


def test_a_convolution_looks_up_the_codes_of_the_pixels_that_it_sees() -> None:
    fmt, shape = PixelLut(3, 16), (4, 3, 2, 7)  # the last group has one channel
    p = params(fmt, shape)
    x = np.random.default_rng(1).integers(0, 256, (2, *SPEC.shape)).astype(np.uint8)
    padded = np.pad(x, ((0, 0), (1, 1), (0, 1), (0, 0)), constant_values=SPEC.zero)
    code = pixel_lut.codes(padded.reshape(-1, 7), p["questions"], p["thresholds"]).reshape(*padded.shape[:3], 3)
    want = np.zeros((2, 3, 6, 4), np.int64)
    for n, y, xx, o in np.ndindex(want.shape):
        want[n, y, xx, o] = sum(int(p["tables"][o, (r * 2 + s) * 3 + g, code[n, 2 * y + r, xx + s, g]]) for r, s, g in np.ndindex(3, 2, 3))
    assert np.array_equal(sums(x, p), want)


def test_with_questions_of_one_channel_it_is_a_look_up_whose_trees_repeat() -> None:
    fmt, shape = PixelLut(4, 32), (5, 3, 2, 7)
    p = params(fmt, shape, single=True)
    taps = 7 * np.arange(6).reshape(-1, 1, 1)
    splits = (p["questions"][..., 0] + taps).reshape(-1, 5).astype(np.int32)
    plain = {**{k: v for k, v in p.items() if k != "questions"}, "splits": splits, "thresholds": np.tile(p["thresholds"], (6, 1))}
    Lut(4, 32).verify({k: plain[k] for k in ("splits", "thresholds", "tables")}, (5, 3, 2, 8), "here")
    x = np.random.default_rng(2).integers(0, 256, (1, *SPEC.shape)).astype(np.uint8)
    assert np.array_equal(sums(x, p), sums(x, plain))


def test_a_file_holds_it(tmp_path) -> None:
    g = graph()
    file.save(g, tmp_path / "g.jettison")
    back = file.load(tmp_path / "g.jettison")
    x = np.random.default_rng(3).normal(0, 1, (2, 7, 5, 6)).astype(np.float32)
    assert back.ops == g.ops and np.array_equal(reference.run(back, x)[0], reference.run(g, x)[0])
    assert np.ptp(reference.run(g, x)[0]) > 0


@pytest.mark.parametrize(
    ("part", "change", "words"),
    [
        ("questions", lambda a: a[:, :-1], "'questions' must be int32 (3, 4, 2)"),
        ("questions", lambda a: np.full_like(a, 7), "'questions' must name channels 0 to 6; the file is damaged"),
        ("questions", lambda a: np.full_like(a, -8), "'questions' must name channels 0 to 6; the file is damaged"),
        ("thresholds", lambda a: a.astype(np.int8), "'thresholds' must be uint8 (3, 15)"),
        ("tables", lambda a: a[:, 1:], "'tables' must be int8 (4, 27, 16)"),
    ],
)
def test_damaged_parts_are_named(part: str, change, words: str) -> None:
    g = graph()
    constants = dict(g.constants) | {f"w.{part}": np.ascontiguousarray(change(g.constants[f"w.{part}"]))}
    with pytest.raises(FormatError, match=re.escape(f"conv: {words}")):
        check(replace(g, constants=constants))


def test_a_missing_part_a_grouped_layer_and_plain_weights_are_refused() -> None:
    g = graph()
    with pytest.raises(FormatError, match="pixel3x16 needs parts questions, thresholds, tables"):
        check(replace(g, constants={n: a for n, a in g.constants.items() if n != "w.questions"}))
    with pytest.raises(FormatError, match="fitted to images"):
        PixelLut(3).encode(np.zeros((4, 3, 3, 7)), "conv")
    with pytest.raises(FormatError, match="has no weights"):
        PixelLut(3).decode({}, (4, 3, 3, 7), "conv")
    conv = g.ops[1]
    grouped = replace(g, ops=(g.ops[0], replace(conv, attrs={**conv.attrs, "groups": 7}), g.ops[2]))
    with pytest.raises((GraphError, FormatError)):
        check(grouped)


# ---- kernels


def layer(fmt: PixelLut, shape: Shape, seed: int = 0) -> dict[str, np.ndarray]:
    found = params(fmt, shape, seed)
    return found | {"multiplier": found["multiplier"] * np.float32(10 / np.sqrt(fmt.codebooks(shape)))}


def test_every_instruction_set_has_the_kernel() -> None:
    assert {isa for name, fmt, isa in kernels("conv", "u8") if (name, fmt) == ("pixel_lut", "pixel_lut")} == set(isas())


@pytest.mark.parametrize("name", [n for n, s in {**SHAPES, **MORE}.items() if s[-1] == 1])
def test_every_shape(name: str) -> None:
    shape = {**SHAPES, **MORE}[name]
    n, h, w, c, k, r, s, *_ = shape
    for v, prototypes in (1, 2), (8, 256), (c + 1, 1024):
        found = layer(PixelLut(v if c * r * s < 1000 else v + 3, prototypes), (k, r, s, c))
        for isa in isas():
            same("pixel_lut", isa, [image((n, h, w, c))], [X, output()], conv_attrs(shape), found, f"{name} {v}")


def test_sums_of_extreme_entries_are_exact() -> None:
    """More than 256 look-ups of −128: 16 bits do not hold them."""
    shape = SHAPES["3x3"]
    n, h, w, _, k, r, s, *_ = shape
    found = layer(PixelLut(1, 4), (k, r, s, 64))
    found["tables"][:] = np.where(found["tables"] < 100, -128, 127)
    for isa in isas():
        same("pixel_lut", isa, [image((n, h, w, 64))], [X, output()], conv_attrs(shape), found, "extreme")


@pytest.mark.parametrize("k", [4096, 8192, 65536])
def test_deep_trees(k: int) -> None:
    shape = SHAPES["3x3"]
    n, h, w, c, outputs, r, s, *_ = shape
    found = layer(PixelLut(c, k), (outputs, r, s, c))
    for isa in isas():
        same("pixel_lut", isa, [image((n, h, w, c))], [X, output()], conv_attrs(shape), found, str(k))


@pytest.mark.parametrize("act", ["none", "relu6"])
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("out", [output(), output(0.0004, 0), FLOAT], ids=["u8", "saturated", "f32"])
def test_epilogue(act: str, residual: bool, out: TensorSpec) -> None:
    for name, k in (("3x3", 33), ("batch of 3", 20), ("stride 2", 64)):
        _, _, _, c, _, r, s, *_ = shape = SHAPES[name]
        inputs, types = fed(shape, residual, out)
        for isa in isas():
            same("pixel_lut", isa, inputs, types, conv_attrs(shape, act), layer(PixelLut(8), (k, r, s, c)), name)


@pytest.mark.parametrize(("c", "k", "n"), [(64, 10, 3), (512, 100, 1), (3, 5, 70)])
def test_linear(c: int, k: int, n: int) -> None:
    for isa in isas():
        for out in (FLOAT, output()):
            attrs = {"k": k, "act": "none", "alpha": 0.0}
            same("pixel_lut", isa, [image((n, c))], [X, out], attrs, layer(PixelLut(8, 64), (k, 1, 1, c)), str((c, k)), "linear")


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_any_geometry(data) -> None:
    draw = lambda low, high: data.draw(st.integers(low, high))  # noqa: E731
    r, s, c, k, v = draw(1, 5), draw(1, 5), draw(1, 40), draw(1, 40), draw(1, 12)
    stride, dilation = (draw(1, 3), draw(1, 3)), (draw(1, 2), draw(1, 2))
    pad = tuple(draw(0, 4) for _ in range(4))
    h, w = draw(1, 40) + (r - 1) * dilation[0], draw(1, 12) + (s - 1) * dilation[1]
    shape = (draw(1, 3), h, w, c, k, r, s, stride, pad, dilation, 1)
    found = layer(PixelLut(v, 2 ** draw(1, 12)), (k, r, s, c), draw(0, 99))
    for isa in isas():
        x = image((shape[0], h, w, c), draw(0, 99))
        same("pixel_lut", isa, [x], [X, output()], conv_attrs(shape), found, str(shape), threads=draw(1, 3))


@pytest.mark.parametrize("band", [1, 3])
def test_a_session_and_bands_of_a_fused_group_give_the_bits_of_the_reference(band: int) -> None:
    g = graph()
    x = np.random.default_rng(0).standard_normal((2, 7, 5, 6)).astype(np.float32)
    (want,) = reference.run(g, x)
    for isa in isas():
        for groups in (False, [schedule(g, g.ops, band, 2)]):
            np.testing.assert_array_equal(Session(g, threads=2, isa=isa, fuse=groups).run(x), want, err_msg=f"{isa} {groups}")
