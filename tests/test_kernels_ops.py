"""Every native kernel without weights, and the constant-carrying ones, on every instruction set, against the reference."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np
import pytest

from jettison import reference
from jettison.spec import KINDS
from native_op import kernels, run

ACTS = ("none", "relu", "relu6", "silu", "hardswish", "hardsigmoid", "gelu", "gelu_tanh", "sigmoid", "tanh", "leaky_relu")
ISAS = sorted({isa for _, _, isa in kernels("act")})
PLAIN = {"act": "none", "alpha": 0.0}
LARGE = (61, 43, 70)  # enough work for several jobs, sizes that share no factor


@dataclass(frozen=True)
class Case:
    """One op; shapes are per sample. `tolerance` is relative to the output's largest magnitude."""

    kind: str
    shapes: tuple[tuple[int, ...], ...]
    attrs: dict[str, Any] = field(default_factory=dict)
    params: tuple[str, ...] = ()
    n: int = 2
    tolerance: float = 0.0

    def __str__(self) -> str:
        return f"{self.kind} {self.shapes} {self.attrs} n={self.n}"


def check(case: Case, isa: str, make: Callable[[np.random.Generator, tuple[int, ...]], np.ndarray] | None = None) -> None:
    rng = np.random.default_rng(0)
    draw = make or (lambda g, shape: g.standard_normal(shape))
    inputs = [draw(rng, (case.n, *shape)).astype(np.float32) for shape in case.shapes]
    params = {role: rng.standard_normal(case.shapes[0][-1]).astype(np.float32) for role in case.params}
    want = reference.compute(case.kind, inputs, case.attrs, params)
    out = run(case.kind, isa, case.kind, inputs, case.attrs, (params, (0, 0)), threads=2)
    np.testing.assert_allclose(out, want, rtol=0, atol=case.tolerance * np.abs(want).max(), err_msg=f"{case} on {isa}")


def check_all(cases: list[Case]) -> None:
    for isa in ISAS:
        for case in cases:
            check(case, isa)


def test_every_kind_has_a_kernel_on_every_instruction_set() -> None:
    for kind in set(KINDS) - {"conv", "linear", "quantize", "dequantize"}:
        assert {isa for _, _, isa in kernels(kind)} == set(ISAS), kind


# element by element


@pytest.mark.parametrize("act", ACTS)
def test_act(act: str) -> None:
    attrs = {"act": act, "alpha": 0.1 if act == "leaky_relu" else 0.0}
    check_all([Case("act", (shape,), attrs, tolerance=1e-6) for shape in [(1,), (3, 5, 7), (37,), (64,)]])


@pytest.mark.parametrize("act", ACTS)
def test_act_far_from_zero(act: str) -> None:
    """Saturation, and no overflow on the way to it."""
    attrs = {"act": act, "alpha": 0.1 if act == "leaky_relu" else 0.0}
    for isa in ISAS:
        check(Case("act", ((4000,),), attrs, n=1, tolerance=1e-6), isa, lambda g, s: np.linspace(-300, 300, s[1])[None])


@pytest.mark.parametrize("act", ("gelu", "gelu_tanh", "silu"))
def test_tails_are_no_denormal_numbers(act: str) -> None:
    """One such number takes a processor as long as a hundred others."""
    x = np.concatenate([np.linspace(-40, -5, 7001), [-1e4, -1e30], np.linspace(0, 40, 99), [1e30]]).astype(np.float32)[None]
    for isa in ISAS:
        out = run("act", isa, "act", [x], {"act": act, "alpha": 0.0}, ({}, (0, 0)))
        assert np.abs(out[out != 0]).min() >= np.finfo(np.float32).tiny, isa
        np.testing.assert_array_equal(out[0, -1], x[0, -1], err_msg=isa)


def test_gelu_keeps_infinity_and_shows_nan() -> None:
    x = np.array([[np.inf, np.nan, 3.0]], np.float32)
    for isa in ISAS:
        out = run("act", isa, "act", [x], {"act": "gelu", "alpha": 0.0}, ({}, (0, 0)))
        assert out[0, 0] == np.inf and np.isnan(out[0, 1]) and abs(out[0, 2] - 2.99595) < 1e-4, isa


def test_act_shows_nan() -> None:
    x = np.full((1, 21), np.nan, np.float32)
    for isa in ISAS:
        for act in ACTS:
            out = run("act", isa, "act", [x], {"act": act, "alpha": 0.1}, ({}, (0, 0)))
            assert np.isnan(out).all(), f"{act} on {isa}"


OPERANDS = [
    ((7,), (7,)),
    ((5, 6, 19), (5, 6, 19)),
    ((5, 6, 19), (1, 1, 19)),
    ((5, 6, 32), (1, 1, 32)),
    ((5, 6, 19), (1, 1, 1)),
    ((5, 6, 19), (5, 6, 1)),
    ((5, 6, 19), (5, 1, 19)),
    ((5, 6, 19), (1, 6, 1)),
    ((5, 6, 19), (1, 6, 19)),
    ((5, 1, 19), (5, 1, 1)),
    ((1, 1, 1), (1, 1, 1)),
    ((2, 3, 4, 5), (2, 1, 4, 1)),
    ((2, 3, 2, 3, 2, 3, 2, 3), (1, 3, 1, 3, 1, 3, 1, 3)),
    (LARGE, LARGE),
    (LARGE, (1, 1, 70)),
    (LARGE, (61, 1, 1)),
    (LARGE, (1, 1, 1)),
]


@pytest.mark.parametrize("kind", ["add", "mul"])
def test_add_and_mul_with_every_way_to_repeat(kind: str) -> None:
    check_all([Case(kind, pair, PLAIN, n=n, tolerance=1e-7) for pair in OPERANDS for n in (1, 3)])


@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize("kind", ["add", "mul"])
def test_add_and_mul_with_activation(kind: str, act: str) -> None:
    attrs = {"act": act, "alpha": 0.2 if act == "leaky_relu" else 0.0}
    check_all([Case(kind, ((4, 5, 22), y), attrs, tolerance=1e-6) for y in [(4, 5, 22), (1, 1, 22), (1, 1, 1)]])


def test_affine() -> None:
    shapes = [(5,), (3, 4, 16), (3, 4, 21), (1,), (50, 40, 33)]
    check_all(
        [
            Case("affine", (s,), {"act": a, "alpha": 0.0}, ("scale", "shift"), tolerance=1e-6)
            for s in shapes
            for a in ("none", "relu", "silu")
        ]
    )


# along the last axis


def test_softmax() -> None:
    check_all([Case("softmax", (s,), {"axis": len(s) - 1}, tolerance=1e-6) for s in [(1,), (10,), (1000,), (6, 7, 17), (70, 50, 33)]])


def test_softmax_of_large_and_of_very_negative_values() -> None:
    for isa in ISAS:
        for offset in (-1e4, 1e4):
            check(Case("softmax", ((5, 19),), {"axis": 1}, tolerance=1e-6), isa, lambda g, s, o=offset: g.standard_normal(s) * 30 + o)


def test_layer_norm() -> None:
    shapes = [(40,), (7, 7, 96), (3, 5, 33), (4, 1), (60, 50, 48)]
    check_all([Case("layer_norm", (s,), {"eps": 1e-6 if s[-1] > 1 else 1.0}, ("weight", "bias"), tolerance=2e-6) for s in shapes])


def test_layer_norm_of_values_far_from_zero() -> None:
    """The variance is not a difference of large squares."""
    for isa in ISAS:
        check(
            Case("layer_norm", ((6, 100),), {"eps": 1e-5}, ("weight", "bias"), tolerance=1e-4), isa, lambda g, s: g.standard_normal(s) + 300
        )


def axis_sets(rank: int) -> list[list[int]]:
    return [list(axes) for count in range(1, rank + 1) for axes in combinations(range(rank), count)]


def test_mean_over_every_set_of_axes() -> None:
    cases = [
        Case("mean", (shape,), {"axes": axes, "keepdims": keep}, n=n, tolerance=1e-6)
        for shape in [(5, 6, 19), (23,), (3, 4, 2, 5)]
        for axes in axis_sets(len(shape))
        for keep, n in ((True, 1), (False, 3))
    ]
    check_all(cases)


def test_mean_of_large_images() -> None:
    cases = [Case("mean", (LARGE,), {"axes": axes, "keepdims": True}, n=n, tolerance=2e-6) for axes in axis_sets(3) for n in (1, 2)]
    for isa in ISAS:
        for case in [*cases, Case("mean", ((7, 7, 2048),), {"axes": [0, 1], "keepdims": False}, n=1, tolerance=2e-6)]:
            check(case, isa, lambda g, s: g.random(s) + 1)


def test_mean_keeps_its_accuracy_over_many_values() -> None:
    """A plain running sum of float32 would be off by a hundred times more."""
    for isa in ISAS:
        check(Case("mean", ((400, 500, 3),), {"axes": [0, 1], "keepdims": False}, n=1, tolerance=2e-6), isa, lambda g, s: g.random(s) + 1)
        check(Case("mean", ((200000,),), {"axes": [0], "keepdims": False}, n=1, tolerance=2e-6), isa, lambda g, s: g.random(s) + 1)


# windows

POOLS = [  # shape, kernel, stride, pad (t, l, b, r)
    ((8, 8, 16), (2, 2), (2, 2), (0, 0, 0, 0)),
    ((9, 11, 70), (3, 3), (2, 2), (1, 1, 1, 1)),
    ((7, 6, 5), (3, 2), (1, 3), (0, 1, 2, 0)),
    ((6, 6, 33), (5, 5), (1, 1), (2, 2, 2, 2)),
    ((5, 5, 64), (5, 5), (1, 1), (0, 0, 0, 0)),
    ((1, 1, 3), (3, 3), (2, 2), (1, 1, 1, 1)),
    (LARGE, (3, 3), (1, 1), (1, 1, 1, 1)),
    ((40, 40, 300), (40, 40), (1, 1), (0, 0, 0, 0)),
]


def window(kernel: Any, stride: Any, pad: Any) -> dict[str, Any]:
    return {"kernel": list(kernel), "stride": list(stride), "pad": list(pad)}


def test_max_pool_where_every_value_is_negative() -> None:
    """Padding never wins."""
    for isa in ISAS:
        for shape, *geometry in POOLS:
            check(Case("max_pool", (shape,), window(*geometry)), isa, lambda g, s: -1 - g.random(s))


def test_avg_pool_counts_padding_as_told() -> None:
    cases = []
    for shape, kernel, stride, pad in POOLS:
        for count in ([0, 0, 0, 0], list(pad), [pad[0], pad[1], 0, 0]):
            cases.append(Case("avg_pool", (shape,), {**window(kernel, stride, pad), "count_pad": count}, tolerance=1e-6))
    check_all(cases)


def test_adaptive_avg_pool() -> None:
    sizes = [((8, 8, 16), (1, 1)), ((9, 7, 37), (3, 2)), ((5, 4, 65), (7, 9)), ((6, 6, 8), (6, 6)), (LARGE, (1, 1)), (LARGE, (13, 7))]
    check_all([Case("adaptive_avg_pool", (shape,), {"size": list(size)}, n=n, tolerance=1e-6) for shape, size in sizes for n in (1, 3)])


SIZES = [
    ((5, 6, 19), (10, 12)),
    ((5, 6, 19), (13, 7)),
    ((7, 9, 3), (3, 4)),
    ((1, 1, 8), (4, 5)),
    ((4, 4, 40), (4, 4)),
    ((30, 31, 65), (60, 62)),
]


@pytest.mark.parametrize(("mode", "align"), [("nearest", False), ("bilinear", False), ("bilinear", True)])
def test_upsample(mode: str, align: bool) -> None:
    cases = []
    for shape, size in SIZES:
        plain = [shape[i] / size[i] for i in (0, 1)]
        corners = [max(shape[i] - 1, 1e-9) / max(size[i] - 1, 1) for i in (0, 1)]
        attrs = {"mode": mode, "size": list(size), "scale": corners if align else plain, "align_corners": align}
        cases.append(Case("upsample", (shape,), attrs, tolerance=0.0 if mode == "nearest" else 2e-5))
    check_all(cases)


# moving data: bit for bit


def test_concat() -> None:
    shapes = [
        (((3, 4, 5), (3, 4, 16), (3, 4, 33)), 2),
        (((3, 4, 5), (3, 1, 5), (3, 7, 5)), 1),
        (((2, 4, 5), (9, 4, 5)), 0),
        (((6,),), 0),
        (((1,),) * 40, 0),
        (((40, 50, 40), (40, 50, 31)), 2),
        (((40, 50, 33), (20, 50, 33)), 0),
    ]
    check_all([Case("concat", xs, {"axis": axis}, n=n) for xs, axis in shapes for n in (1, 3)])


def test_slice() -> None:
    cuts = [  # shape, axis, start, stop, step
        ((4, 5, 20), 2, 4, 20, 1),
        ((4, 5, 20), 2, 1, 18, 3),
        ((4, 5, 20), 1, 1, 4, 1),
        ((4, 5, 20), 1, 0, 5, 2),
        ((9, 5, 20), 0, 2, 9, 4),
        ((9,), 0, 8, 9, 1),
        ((80, 50, 64), 2, 32, 64, 1),
        ((80, 50, 64), 0, 1, 80, 2),
    ]
    check_all([Case("slice", (s,), {"axis": a, "start": b, "stop": e, "step": st}, n=n) for s, a, b, e, st in cuts for n in (1, 3)])


def test_pad() -> None:
    pads = [
        ((4, 5, 6), [[1, 1], [2, 0], [0, 0]], 0.0),
        ((4, 5, 6), [[0, 0], [0, 0], [3, 1]], -1.5),
        ((4, 5, 6), [[1, 2], [3, 4], [5, 6]], 7.0),
        ((4, 5, 6), [[0, 0], [0, 0], [0, 0]], 7.0),
        ((4, 5, 6), [[0, 3], [0, 0], [0, 0]], 2.0),
        ((9,), [[0, 17]], 1.0),
        ((60, 50, 48), [[3, 3], [3, 3], [0, 0]], 0.0),
    ]
    check_all([Case("pad", (shape,), {"pads": p, "value": v}, n=n) for shape, p, v in pads for n in (1, 2)])


def test_channel_shuffle() -> None:
    shapes = [((4, 5, 24), g) for g in (1, 2, 3, 4, 6, 8, 12, 24)] + [((10,), 5), ((70, 40, 116), 2)]
    check_all([Case("channel_shuffle", (shape,), {"groups": g}) for shape, g in shapes])


def test_reshape() -> None:
    check_all([Case("reshape", ((4, 5, 6),), {"shape": [120]}), Case("reshape", ((70, 50, 40),), {"shape": [50, 2800]})])


def test_transpose() -> None:
    perms = [((4, 5, 6), p) for p in ([0, 1, 2], [2, 0, 1], [1, 2, 0], [0, 2, 1], [1, 0, 2], [2, 1, 0])]
    perms += [((3, 1, 4, 1, 5), [4, 3, 2, 1, 0]), ((2, 3, 4, 5), [2, 0, 3, 1]), ((7,), [0]), ((1, 1), [1, 0]), ((5, 1, 1), [2, 1, 0])]
    perms += [((2, 3, 2, 2, 3, 2, 2, 3), [7, 5, 3, 1, 6, 4, 2, 0]), (LARGE, [2, 0, 1]), ((3, 90, 500), [1, 2, 0]), (LARGE, [1, 0, 2])]
    check_all([Case("transpose", (shape,), {"perm": perm}, n=n) for shape, perm in perms for n in (1, 3)])


def test_threads_change_no_bit() -> None:
    rng = np.random.default_rng(0)
    x, y = (rng.standard_normal((2, *LARGE)).astype(np.float32) for _ in range(2))
    attrs = {"act": "silu", "alpha": 0.0}
    for isa in ISAS:
        for kind, inputs, extra in [
            ("add", [x, y], attrs),
            ("mean", [x], {"axes": [0, 1], "keepdims": True}),
            ("softmax", [x], {"axis": 2}),
        ]:
            one, three = (run(kind, isa, kind, inputs, extra, ({}, (0, 0)), threads=t) for t in (1, 3))
            np.testing.assert_array_equal(one, three, err_msg=f"{kind} on {isa}")
