"""Table look-up: the format, the reference, files, and every kernel equal to the reference to the last bit."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jettison import file, quantized, reference
from jettison.errors import FormatError, GraphError, PatternError
from jettison.formats import Lut, from_json, lut, parse, to_json
from jettison.formats.lut import PROTOTYPES
from jettison.fusion import schedule
from jettison.graph import Graph, Op, TensorSpec
from jettison.runtime import Session, isas
from jettison.spec import check, output_shape
from native_op import kernels, run
from test_kernels_conv import SHAPES, conv_attrs
from test_kernels_int8 import FLOAT, RESIDUAL, X, output

Shape = tuple[int, ...]


def parts(fmt: Lut, shape: Shape, seed: int = 0, extreme: bool = False) -> dict[str, np.ndarray]:
    """Any trees and tables of a layer (k, r, s, c). extreme: entries of −128 and 127 only."""
    rng = np.random.default_rng(seed)
    count, depth = fmt.codebooks(shape), int(np.prod(shape[1:]))
    tables = rng.integers(-128, 128, (shape[0], count, fmt.prototypes))
    return {
        "splits": rng.integers(0, depth, (count, fmt.levels)).astype(np.int32),
        "thresholds": rng.integers(0, 256, (count, fmt.prototypes - 1)).astype(np.uint8),
        "tables": (np.where(tables < 90, -128, 127) if extreme else tables).astype(np.int8),
    }


def params(fmt: Lut, shape: Shape, seed: int = 0, extreme: bool = False) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed + 1)
    k, count = shape[0], fmt.codebooks(shape)
    return {
        **parts(fmt, shape, seed, extreme),
        "bias": rng.integers(-500, 500, k).astype(np.int32),
        "multiplier": (rng.uniform(0.3, 1, k) / np.sqrt(count)).astype(np.float32),
    }


def graph(prototypes: int = 16, h: int = 5, w: int = 6) -> Graph:
    """Image (h, w, 8) → quantize → conv by table look-up → dequantize."""
    fmt, shape = Lut(9, prototypes), (7, 3, 3, 8)
    found = params(fmt, shape)
    constants = {f"w.{name}": found[name] for name in ("splits", "thresholds", "tables")} | {r: found[r] for r in ("bias", "multiplier")}
    attrs: dict[str, Any] = {"k": 7, "groups": 1, "dilation": (1, 1), "kernel": (3, 3), "stride": (1, 1), "pad": (1, 1, 1, 1)}
    attrs |= {"act": "relu", "alpha": 0.0}
    ops = (
        Op("quantize", "quantize", ("x",), ("xq",)),
        Op("conv", "conv", ("xq",), ("yq",), attrs, {"weight": "w", "bias": "bias", "multiplier": "multiplier"}, fmt, "i8"),
        Op("dequantize", "dequantize", ("yq",), ("y",)),
    )
    tensors = (
        TensorSpec("x", (h, w, 8)), TensorSpec("xq", (h, w, 8), "u8", 0.02, 117), TensorSpec("yq", (h, w, 7), "u8", 0.5, 30),
        TensorSpec("y", (h, w, 7)),
    )  # fmt: skip
    return check(Graph(ops, {t.name: t for t in tensors}, ("x",), ("y",), constants, {"x": "nchw", "y": "nchw"}))


# ---- format and reference


@pytest.mark.parametrize(
    ("text", "fmt"), [("lut9", Lut(9)), ("lut4x64", Lut(4, 64)), ("lut256x2", Lut(256, 2)), ("lut576x256", Lut(576, 256))]
)
def test_a_pattern_is_written_and_read(text: str, fmt: Lut) -> None:
    assert str(fmt) == text and parse(text) == fmt and from_json(to_json(fmt), "here") == fmt


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("lut", "lutV or lutVxK with whole numbers"),
        ("lut9x", "lutV or lutVxK"),
        ("lut-9", "lutV or lutVxK"),
        ("lut0", "v, the inputs per codebook, must be 1 to 65536, got 0"),
        ("lut65537", "must be 1 to 65536"),
        ("lut9x17", "prototypes must be a power of two from 2 to 65536"),
        ("lut9x131072", "prototypes must be a power of two from 2 to 65536, got 131072"),
    ],
)
def test_impossible_patterns_are_named(text: str, words: str) -> None:
    with pytest.raises(PatternError, match=re.escape(words)):
        parse(text)


def leaf(row: np.ndarray, splits: np.ndarray, thresholds: np.ndarray) -> int:
    """The definition, as a walk: left subtree first in each level, the bit of the first question lowest."""
    path: list[int] = []
    for level, split in enumerate(splits):
        at = sum(bit << i for i, bit in enumerate(path))
        path.append(int(row[split] > thresholds[2**level - 1 + at]))
    return sum(bit << i for i, bit in enumerate(path))


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_codes_and_sums_are_the_walk_and_the_sum(data) -> None:
    fmt = Lut(data.draw(st.integers(1, 20)), data.draw(st.sampled_from((2, 4, 16, 32, 256))))
    shape = (data.draw(st.integers(1, 5)), 1, data.draw(st.integers(1, 3)), data.draw(st.integers(1, 20)))
    found = parts(fmt, shape, data.draw(st.integers(0, 1000)))
    rows = np.random.default_rng(1).integers(0, 256, (3, int(np.prod(shape[1:]))), np.uint8)
    assert fmt.verify(found, shape, "w") == np.int8
    code = lut.codes(rows, found["splits"], found["thresholds"])
    want = [[leaf(row, *tree) for tree in zip(found["splits"], found["thresholds"])] for row in rows]
    np.testing.assert_array_equal(code, want)
    sums = [[sum(int(t[j][c]) for j, c in enumerate(line)) for t in found["tables"]] for line in want]
    np.testing.assert_array_equal(lut.look_up(code, found["tables"]), sums)


def test_a_layer_is_its_rows_and_padding_holds_the_zero_point() -> None:
    g = graph()
    x = np.random.default_rng(0).standard_normal((2, 8, 5, 6)).astype(np.float32)
    found, spec = params(Lut(9), (7, 3, 3, 8)), g.tensors["xq"]
    q = quantized.quantize(x.transpose(0, 2, 3, 1), spec)
    padded = np.full((2, 7, 8, 8), 117, np.uint8)
    padded[:, 1:6, 1:7] = q
    rows = np.array([padded[n, y : y + 3, z : z + 3].ravel() for n in range(2) for y in range(5) for z in range(6)])
    acc = lut.look_up(lut.codes(rows, found["splits"], found["thresholds"]), found["tables"]) + found["bias"]
    t = np.maximum(np.rint(acc.astype(np.float32) * found["multiplier"]), 0) + 30
    want = (np.minimum(t, 255) - 30) * 0.5
    (got,) = reference.run(g, x)
    np.testing.assert_array_equal(got, want.reshape(2, 5, 6, 7).transpose(0, 3, 1, 2).astype(np.float32))


@pytest.mark.parametrize("name", ["splits", "thresholds", "tables"])
def test_broken_parts_are_refused_by_name(name: str) -> None:
    fmt, shape = Lut(4), (3, 1, 1, 10)
    found = parts(fmt, shape)
    for broken in (found[name].astype(np.int64), found[name][:-1], found[name][..., :-1]):
        with pytest.raises(FormatError, match=f"conv1: '{name}' must be"):
            fmt.verify({**found, name: broken}, shape, "conv1")
    with pytest.raises(FormatError, match="conv1: lut4 needs parts splits, thresholds, tables"):
        fmt.verify({k: v for k, v in found.items() if k != name}, shape, "conv1")


@pytest.mark.parametrize("bad", [-1, 10])
def test_splits_outside_the_row_are_refused(bad: int) -> None:
    found = parts(Lut(4), (3, 1, 1, 10))
    found["splits"][1, 2] = bad
    with pytest.raises(FormatError, match="conv1: 'splits' must name inputs 0 to 9; the file is damaged"):
        Lut(4).verify(found, (3, 1, 1, 10), "conv1")


def test_tables_have_no_weights() -> None:
    for call in (lambda: graph().weight(graph().ops[1]), lambda: Lut(9).encode(np.zeros((1, 1, 1, 9), np.float32), "conv")):
        with pytest.raises(FormatError, match=r"^conv: "):
            call()


# ---- files and sessions


@pytest.mark.parametrize("k", PROTOTYPES)
def test_a_file_comes_back_and_runs_on_every_instruction_set(tmp_path, k: int) -> None:
    g = graph(k)
    file.save(g, tmp_path / "lut.jettison")
    back = file.load(tmp_path / "lut.jettison")
    assert back == g
    x = np.random.default_rng(0).standard_normal((3, 8, 5, 6)).astype(np.float32)
    for isa in isas():
        session = Session(tmp_path / "lut.jettison", isa=isa)
        np.testing.assert_array_equal(session.run(x), reference.run(g, x)[0])
        (layer,) = [row for row in session.layers() if row.format == str(Lut(9, k))]
        assert layer.kernel in {name for name, _ in KERNELS} and layer.cost is not None
        assert layer.cost.macs == 5 * 6 * 7 * 8  # one look-up per codebook
        assert layer.cost.weight_bytes == 8 * Lut(9, k).levels * 4 + 8 * (k - 1) + 7 * 8 * k


@pytest.mark.parametrize("band", [1, 3, 17])
def test_bands_of_a_fused_group_give_the_same_bits(band: int) -> None:
    """What is packed must not depend on the number of rows: a band has fewer than the image."""
    g = graph(h=40, w=41)
    x = np.random.default_rng(0).standard_normal((2, 8, 40, 41)).astype(np.float32)
    (want,) = reference.run(g, x)
    for isa in isas():
        for groups in (False, [schedule(g, g.ops, band, 2)]):
            np.testing.assert_array_equal(Session(g, threads=2, isa=isa, fuse=groups).run(x), want, err_msg=f"{isa} {groups}")


def test_grouped_tables_are_refused() -> None:
    g = graph()
    shape = (7, 3, 3, 4)  # of one group
    attrs, found = {**g.ops[1].attrs, "groups": 2, "k": 8}, params(Lut(9), (8, *shape[1:]))
    tensors = {n: replace(t, shape=(5, 6, 8)) for n, t in g.tensors.items()}
    constants = {n: found[n.removeprefix("w.")] for n in g.constants}
    grouped = replace(g, ops=(g.ops[0], replace(g.ops[1], attrs=attrs), g.ops[2]), tensors=tensors, constants=constants)
    with pytest.raises(GraphError, match="conv: lut9 of a grouped convolution is not known"):
        check(grouped)


# ---- kernels


KERNELS = [*(("lut", k) for k in (16, 32, 64)), *(("lut_rows", k) for k in (2, 16, 32, 64, 128, 256, 512))]


def same(
    kernel: str, isa: str, inputs: list, types: list, attrs: dict, found: dict[str, np.ndarray], note: str, kind: str = "conv",
    threads: int = 2,
) -> None:  # fmt: skip
    out = TensorSpec("y", output_shape(kind, [x.shape[1:] for x in inputs], attrs, "t"), types[-1].dtype, types[-1].scale, types[-1].zero)
    got = run(kernel, isa, kind, inputs, attrs, (found, (0, 0)), threads=threads, types=types)
    np.testing.assert_array_equal(got, quantized.compute(kind, inputs, types[:-1], out, attrs, found), err_msg=f"{kernel} {isa} {note}")


def image(shape: Shape, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def fed(shape: Any, residual: bool, out: TensorSpec) -> tuple[list[np.ndarray], list[TensorSpec]]:
    """Inputs of a convolution, and their types and that of its output."""
    n, h, w, c, *_ = shape
    if not residual:
        return [image((n, h, w, c))], [X, out]
    where = output_shape("conv", [(h, w, c)], conv_attrs(shape), "t")
    return [image((n, h, w, c)), image((n, *where), 1)], [X, RESIDUAL, out]


def test_every_instruction_set_has_the_kernel() -> None:
    for kernel in {name for name, _ in KERNELS}:
        assert {isa for name, fmt, isa in kernels("conv", "u8") if (name, fmt) == (kernel, "lut")} == set(isas())


MORE = {
    "many tiles": (1, 30, 31, 20, 36, 3, 3, (1, 1), (1, 1, 1, 1), (1, 1), 1),
    "flat, many tiles": (2, 29, 27, 40, 24, 1, 1, (1, 1), (0, 0, 0, 0), (1, 1), 1),
    "channel blocks": (1, 4, 4, 33, 200, 3, 3, (1, 1), (1, 1, 1, 1), (1, 1), 1),
    "pad larger than reach": (1, 4, 5, 16, 9, 1, 2, (1, 1), (2, 3, 1, 2), (1, 1), 1),
    "left pad only": (1, 6, 7, 16, 9, 3, 3, (1, 1), (1, 2, 1, 0), (1, 1), 1),
    "stride 3, dilation 2": (1, 17, 19, 9, 9, 3, 3, (3, 3), (2, 2, 2, 2), (2, 2), 1),
    "stride 2, dilation 2": (1, 12, 11, 16, 5, 3, 3, (2, 2), (1, 1, 1, 1), (2, 2), 1),
    "1x1, stride 2": (1, 9, 10, 64, 16, 1, 1, (2, 2), (0, 0, 0, 0), (1, 1), 1),
    "channels picked": (2, 9, 15, 128, 24, 1, 1, (1, 1), (0, 0, 0, 0), (1, 1), 1),
    "picked out of many": (1, 9, 10, 320, 17, 1, 1, (1, 1), (0, 0, 0, 0), (1, 1), 1),
    "too many to pick": (1, 5, 10, 1024, 16, 1, 1, (1, 1), (0, 0, 0, 0), (1, 1), 1),
    "300 codebooks": (1, 3, 3, 300, 6, 3, 3, (1, 1), (1, 1, 1, 1), (1, 1), 1),
}


@pytest.mark.parametrize("v", [1, 9, 40])
@pytest.mark.parametrize("name", [n for n, s in {**SHAPES, **MORE}.items() if s[-1] == 1])
def test_every_shape(name: str, v: int) -> None:
    shape = {**SHAPES, **MORE}[name]
    n, h, w, c, k, r, s, *_ = shape
    if v == 1 and c * r * s > 1000:
        v = 4
    for isa, (kernel, prototypes) in product(isas(), KERNELS):
        for extreme in (False, True):
            found = params(Lut(v, prototypes), (k, r, s, c), extreme=extreme)
            same(kernel, isa, [image((n, h, w, c))], [X, output()], conv_attrs(shape), found, name)


@pytest.mark.parametrize("act", ["none", "relu", "relu6"])
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("out", [output(), output(0.0004, 0), output(30.0, 255), FLOAT], ids=["u8", "saturated", "coarse", "f32"])
def test_epilogue(act: str, residual: bool, out: TensorSpec) -> None:
    for name, k in (("3x3", 33), ("batch of 3", 20), ("stride 2", 64)):
        _, _, _, c, _, r, s, *_ = shape = SHAPES[name]
        inputs, types = fed(shape, residual, out)
        for isa, (kernel, prototypes) in product(isas(), KERNELS):
            same(kernel, isa, inputs, types, conv_attrs(shape, act), params(Lut(9, prototypes), (k, r, s, c)), name)


@pytest.mark.parametrize(("c", "k", "n"), [(64, 10, 3), (512, 100, 1), (3, 5, 70)])
def test_linear(c: int, k: int, n: int) -> None:
    for isa in isas():
        for out in (FLOAT, output()):
            found = params(Lut(8), (k, 1, 1, c))
            for kernel in ("lut", "lut_rows"):
                same(kernel, isa, [image((n, c))], [X, out], {"k": k, "act": "none", "alpha": 0.0}, found, str((c, k)), "linear")


@pytest.mark.parametrize(("v", "k"), [(9, 1024), (9, 2048), (9, 4096), (40, 8192), (100, 65536)])
def test_deep_trees(v: int, k: int) -> None:
    shape = SHAPES["3x3"]
    n, h, w, c, outputs, r, s, *_ = shape
    for isa, extreme in product(isas(), (False, True)):
        found = params(Lut(v, k), (outputs, r, s, c), extreme=extreme)
        same("lut_rows", isa, [image((n, h, w, c))], [X, output()], conv_attrs(shape), found, str(k))


@pytest.mark.parametrize(("c", "v", "size"), [(64, 9, 5), (128, 3, 8), (192, 16, 9), (256, 9, 13), (320, 9, 8), (1024, 60, 11)])
def test_trees_that_ask_their_own_inputs_where_there_is_one_tap(c: int, v: int, size: int) -> None:
    """As fitted ones do: sixteen codebooks ask one to fifteen whole vectors of a pixel."""
    shape = (1, size, size, c, 20, 1, 1, (1, 1), (0, 0, 0, 0), (1, 1), 1)
    found = params(Lut(v), (20, 1, 1, c))
    start = v * np.arange(len(found["splits"]))[:, None]
    found["splits"] = np.minimum(start + found["splits"] % v, c - 1).astype(np.int32)
    for isa in isas():
        same("lut", isa, [image((1, size, size, c))], [X, output()], conv_attrs(shape), found, f"{c} {v}")


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_any_geometry(data) -> None:
    draw = lambda low, high: data.draw(st.integers(low, high))  # noqa: E731
    r, s, c, k, v = draw(1, 5), draw(1, 5), draw(1, 40), draw(1, 40), draw(1, 12)
    stride, dilation = (draw(1, 3), draw(1, 3)), (draw(1, 2), draw(1, 2))
    pad = tuple(draw(0, 4) for _ in range(4))
    h, w = draw(1, 12) + (r - 1) * dilation[0], draw(1, 40) + (s - 1) * dilation[1]
    shape = (draw(1, 3), h, w, c, k, r, s, stride, pad, dilation, 1)
    kernel, prototypes = data.draw(st.sampled_from(KERNELS))
    found = params(Lut(v, prototypes), (k, r, s, c), draw(0, 99))
    for isa in isas():
        x = image((shape[0], h, w, c), draw(0, 99))
        same(kernel, isa, [x], [X, output()], conv_attrs(shape), found, str(shape), threads=draw(1, 3))
