"""Post-training quantisation: what the int8 network computes, what it keeps, and what it refuses."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pytest

from graphs import ACT, CONV, small
from jettison import file, ptq, reference
from jettison.errors import InputError, QuantizationError
from jettison.formats import NM, Dense
from jettison.graph import Graph, Op, TensorSpec
from jettison.ptq import calibrate, equalize
from jettison.ptq.prepare import prepare
from jettison.ptq.ranges import RANGES, scale_zero
from jettison.spec import check, output_shape

POINT = {**CONV, "kernel": (1, 1), "pad": (0, 0, 0, 0)}


def images(n=16, seed=1, shape=(4, 5, 6)):
    return np.random.default_rng(seed).standard_normal((n, *shape)).astype(np.float32)


def chain(*steps, shape=(5, 6, 4), inputs=None, outputs=None):
    """A graph from (name, kind, inputs, attrs, params); every op writes a tensor of its own name; nchw input "x"."""
    shapes, ops, constants = {"x": shape, **(inputs or {})}, [], {}
    for name, kind, xs, attrs, params in steps:
        shapes[name] = output_shape(kind, [shapes[i] for i in xs], attrs, name)
        constants.update({f"{name}.{role}": np.asarray(a, np.float32) for role, a in params.items()})
        ops.append(Op(name, kind, xs, (name,), attrs, {role: f"{name}.{role}" for role in params}))
    out = outputs or (ops[-1].outputs[0],)
    layouts = {"x": "nchw"} if len(shape) == 3 else {}
    return check(Graph(tuple(ops), {k: TensorSpec(k, v) for k, v in shapes.items()}, ("x", *(inputs or {})), out, constants, layouts))


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def conv(name, x, k, c, kernel=3, act="none", seed=0, residual=(), **more):
    attrs = {**(CONV if kernel == 3 else POINT), "k": k, "act": act, **more}
    w = normal(k, kernel, kernel, c // attrs["groups"], seed=seed) / kernel
    return (name, "conv", (x, *residual), attrs, {"weight": w, "bias": normal(k, seed=seed + 50)})


def error(graph, q, x):
    """‖y − y_q‖² / ‖y‖², on images it was not calibrated with."""
    want, got = reference.run(graph, x)[0], reference.run(q, x)[0]
    return float(((got - want) ** 2).sum() / (want**2).sum())


# ---- the whole


@pytest.mark.parametrize("ranges", RANGES)
@pytest.mark.parametrize("fmt", [Dense(), NM(2, 4), NM(1, 4)], ids=str)
def test_int8_computes_nearly_the_same_and_keeps_the_pattern(fmt, ranges, tmp_path):
    graph = small(fmt)
    q = ptq.quantize(graph, images(), ranges)
    assert error(graph, q, images(seed=2)) < 2e-3
    for op in q.ops:
        if op.kind in ("conv", "linear"):
            old = next(o for o in graph.ops if o.name == op.name)
            assert op.element == "i8" and op.format == old.format
            assert not q.weight(op)[graph.weight(old) == 0].any()
    assert all(q.tensors[op.outputs[0]].dtype == "u8" for op in q.ops if op.name != "d")
    assert q.tensors[q.outputs[0]].dtype == "f32"
    file.save(q, tmp_path / "q.jettison")
    np.testing.assert_array_equal(reference.run(file.load(tmp_path / "q.jettison"), images(2))[0], reference.run(q, images(2))[0])


def test_weights_are_symmetric_per_channel_and_use_the_whole_range():
    q = ptq.quantize(small(), images(), bias_correction=False)
    for op in q.ops:
        if op.element == "i8":
            assert (np.abs(q.weight(op).astype(int)).reshape(op.attrs["k"], -1).max(axis=1) == 127).all()


def test_the_float_graph_is_not_changed():
    graph = small()
    before = {k: v.copy() for k, v in graph.constants.items()}
    ptq.quantize(graph, images(), equalize=True)
    assert graph == small()
    assert all((graph.constants[k] == v).all() for k, v in before.items())


# ---- ranges


def seen(x):
    counts, _ = np.histogram(x, 2048, (x.min(), x.max()))
    return calibrate.Observed(float(x.min()), float(x.max()), counts, x)


def squared_error(x, low, high):
    s, z = scale_zero(low, high)
    return float((((np.clip(np.rint(x / s) + z, 0, 255) - z) * s - x) ** 2).mean())


@pytest.mark.parametrize(("low", "high"), [(-1.0, 3.0), (0.0, 5.0), (2.0, 5.0), (-7.0, -1.0), (-1e-3, 1e3), (0.0, 0.0)])
def test_every_range_holds_zero_exactly(low, high):
    scale, zero = scale_zero(low, high)
    assert scale > 0 and 0 <= zero <= 255
    assert (0 - zero) * scale <= min(low, 0) + scale and (255 - zero) * scale >= max(high, 0) - scale


def test_mse_range_is_as_good_as_an_exhaustive_search_and_better_than_minmax_on_long_tails():
    x = np.concatenate([np.random.default_rng(0).standard_normal(200000), [-9.0, 9.0]])
    found = squared_error(x, *RANGES["mse"].choose(seen(x)))
    shares = np.linspace(0.05, 1, 39)
    best = min(squared_error(x, x.min() * a, x.max() * b) for a in shares for b in shares)
    assert found <= 1.02 * best
    assert found < 0.8 * squared_error(x, *RANGES["minmax"].choose(seen(x)))


def test_percentile_leaves_out_the_rare_and_keeps_the_rest():
    x = np.concatenate([np.random.default_rng(0).uniform(0, 1, 200000), [50.0]])
    low, high = RANGES["percentile"].choose(seen(x))
    assert low < 0.03 and 0.95 < high < 1.1


def test_observing_gives_the_bounds_the_mean_and_the_counts_however_images_are_batched(monkeypatch):
    graph, x = small(), images(7)
    truth = reference.run(replace(graph, outputs=("x", "ya"), layouts={}), x.transpose(0, 2, 3, 1))
    for most in (1, 3, 32):
        monkeypatch.setattr(calibrate, "MOST_AT_ONCE", most)
        got = calibrate.observe(graph, ["x", "ya"], (x,), 1, 64, lambda what, done: None)
        for name, want in zip(("x", "ya"), truth):
            assert got[name].low == pytest.approx(want.min(), abs=1e-5) and got[name].high == pytest.approx(want.max(), rel=1e-5)
            assert got[name].counts.sum() == want.size
            np.testing.assert_allclose(got[name].mean, want.mean(axis=0), atol=1e-5)
    np.testing.assert_array_equal(got["x"].counts, np.histogram(x, 64, (x.min(), x.max()))[0])


# ---- which tensors get which scale


def test_what_only_moves_numbers_keeps_the_scale():
    pool = {"kernel": (2, 2), "stride": (2, 2), "pad": (0, 0, 0, 0)}
    graph = chain(
        conv("a", "x", 8, 4, act="relu"),
        ("p", "max_pool", ("a",), pool, {}),
        ("s", "channel_shuffle", ("p",), {"groups": 2}, {}),
        conv("b", "s", 8, 8),
    )
    q = ptq.quantize(graph, images())
    assert len({(q.tensors[t].scale, q.tensors[t].zero) for t in "aps"}) == 1
    assert error(graph, q, images(seed=2)) < 1e-3


def test_branches_that_only_a_concat_reads_share_its_scale_and_others_are_requantised_once():
    graph = chain(
        conv("a", "x", 8, 4, act="relu"),
        conv("b", "a", 4, 8, seed=1),
        conv("c", "a", 4, 8, seed=2),
        ("cat", "concat", ("b", "c", "a"), {"axis": 2}, {}),
        conv("d", "cat", 4, 16, seed=3),
    )
    q = ptq.quantize(graph, images())
    t = q.tensors
    assert t["b"].scale == t["c"].scale == t["cat"].scale != t["a"].scale
    assert [op.kind for op in q.ops] == ["quantize", "conv", "conv", "conv", "concat", "conv"]
    assert error(graph, q, images(seed=2)) < 1e-3


@pytest.mark.parametrize("act", ["silu", "hardswish", "gelu", "leaky_relu"])
def test_an_activation_that_is_no_clamp_becomes_a_table(act):
    first = conv("a", "x", 8, 4, act=act, alpha=0.1 if act == "leaky_relu" else 0.0)
    graph = chain(first, conv("b", "a", 8, 8, seed=1))
    q = ptq.quantize(graph, images())
    assert [op.kind for op in q.ops] == ["quantize", "conv", "act", "conv"]
    assert error(graph, q, images(seed=2)) < 2e-3


def test_at_the_end_an_activation_stays_in_float():
    q = ptq.quantize(chain(conv("a", "x", 8, 4, act="sigmoid")), images())
    assert [(op.kind, q.tensors[op.outputs[0]].dtype) for op in q.ops] == [("quantize", "u8"), ("conv", "f32"), ("act", "f32")]


def test_an_affine_becomes_an_exact_depthwise_convolution():
    graph = chain(("n", "affine", ("x",), {**ACT, "act": "relu"}, {"scale": normal(4), "shift": normal(4, seed=1)}), conv("b", "n", 8, 4))
    q = ptq.quantize(graph, images())
    assert [op.kind for op in q.ops] == ["quantize", "conv", "conv"]
    assert (np.abs(q.weight(q.ops[1]).astype(int)) == 127).all()
    assert error(graph, q, images(seed=2)) < 1e-3


def test_kinds_without_an_int8_form_stay_float_and_conversions_are_made_once():
    up = {"mode": "bilinear", "size": (10, 12), "scale": (0.5, 0.5), "align_corners": False}
    graph = chain(
        conv("a", "x", 8, 4, act="relu"),
        ("u", "upsample", ("a",), up, {}),
        conv("b", "u", 4, 8, seed=1),
        conv("c", "u", 4, 8, seed=2),
        ("sum", "add", ("b", "c"), ACT, {}),
        ("n", "layer_norm", ("a",), {"eps": 1e-5}, {"weight": np.ones(8), "bias": np.zeros(8)}),
        conv("d", "a", 4, 8, seed=3),
        outputs=("sum", "n", "d"),
    )
    q = ptq.quantize(graph, images())
    assert sorted(op.kind for op in q.ops if "quantize" in op.kind) == ["dequantize", "dequantize", "quantize", "quantize"]
    assert error(graph, q, images(seed=2)) < 1e-3


def test_a_graph_output_that_others_read_keeps_its_name_and_is_float():
    graph = chain(conv("a", "x", 8, 4, act="relu"), conv("b", "a", 8, 8, seed=1), outputs=("a", "b"))
    q = ptq.quantize(graph, images())
    assert q.outputs == ("a", "b") and all(q.tensors[t].dtype == "f32" for t in q.outputs)
    for got, want in zip(reference.run(q, images(2)), reference.run(graph, images(2))):
        assert np.abs(got - want).max() < 0.03 * np.abs(want).max()


def test_a_channel_of_zeros_gives_its_bias():
    name, kind, xs, attrs, params = conv("a", "x", 8, 4)
    params["weight"][3] = 0
    params["weight"][4] = 1e-30
    graph = chain((name, kind, xs, attrs, {**params, "bias": np.linspace(-3, 40, 8)}))
    got = reference.run(ptq.quantize(graph, images(), bias_correction=False), images(2))[0]
    np.testing.assert_allclose(got[..., 3:5], reference.run(graph, images(2))[0][..., 3:5], rtol=1e-6)


# ---- layers kept in float


def test_a_kept_layer_computes_in_float_with_conversions_around_it():
    q = ptq.quantize(small(), images(), keep_float=["b"])
    assert {op.name: op.element for op in q.ops if op.kind == "conv"} == {"a": "i8", "b": "f32"}
    assert [op.kind for op in q.ops] == ["quantize", "conv", "conv", "quantize", "mean", "linear"]  # a gives float32 itself


def test_keeping_every_layer_is_the_float_network():
    graph = small()
    q = ptq.quantize(graph, images(), keep_float=[op.name for op in graph.ops])
    assert q == graph
    np.testing.assert_array_equal(reference.run(q, images(2))[0], reference.run(graph, images(2))[0])


def test_sensitivity_finds_the_layer_that_int8_hurts():
    steps = [conv("a", "x", 8, 4, act="relu"), conv("b", "a", 8, 8, act="relu", seed=1), conv("c", "b", 8, 8, seed=2)]
    weight = steps[1][4]["weight"]
    weight[:, 0, 0, 0] = 300 * weight[:, 0, 0, 0]  # one large weight per channel leaves few steps for the others
    graph = chain(*steps)
    found = ptq.sensitivity(graph, images(), threads=1)
    assert next(iter(found)) == "b" and set(found) == {"a", "b", "c"}
    assert list(found.values()) == sorted(found.values(), reverse=True)


# ---- bias correction and equalisation


@pytest.mark.parametrize("groups", [1, 4])
def test_bias_correction_removes_the_mean_error_of_each_channel(groups):
    graph = chain(conv("a", "x", 8, 4, stride=(2, 1), groups=groups))
    x = np.abs(images(32)) + 1
    want = reference.run(graph, x)[0].mean(axis=(0, 1, 2))
    plain, corrected = (reference.run(ptq.quantize(graph, x, bias_correction=b), x)[0].mean(axis=(0, 1, 2)) for b in (False, True))
    assert np.abs(corrected - want).max() < 0.25 * np.abs(plain - want).max()


def test_equalisation_changes_ranges_and_not_the_network():
    graph = chain(
        conv("a", "x", 8, 4, act="relu"),
        conv("b", "a", 8, 8, act="relu", groups=8, seed=1),
        conv("c", "b", 4, 8, kernel=1, seed=2),
    )
    spread = {k: v * np.exp(normal(len(v), seed=5)).reshape(-1, *(1,) * (v.ndim - 1)) for k, v in graph.constants.items() if k[0] in "ab"}
    graph = replace(graph, constants={**graph.constants, **{k: v.astype(np.float32) for k, v in spread.items()}})
    even = check(equalize.equalized(graph))
    np.testing.assert_allclose(reference.run(even, images())[0], reference.run(graph, images())[0], rtol=1e-4, atol=1e-4)
    a, b, c = (np.abs(even.weight(op)) for op in even.ops)
    np.testing.assert_allclose(a.max(axis=(1, 2, 3)), b.max(axis=(1, 2, 3)), rtol=0.02)
    np.testing.assert_allclose(b.max(axis=(1, 2, 3)), c.max(axis=(0, 1, 2)), rtol=0.02)


def test_equalisation_keeps_patterns_and_residual_branches():
    graph = small(NM(1, 4))
    assert equalize.equalized(graph).ops == graph.ops  # "a" is read twice, "b" has a residual


# ---- bad input


@pytest.mark.parametrize(
    ("x", "kind", "words"),
    [
        (images(0), QuantizationError, "empty"),
        (images(3, shape=(4, 6, 5)), InputError, r"\(n, 4, 5, 6\)"),
        (images(3)[0], InputError, r"\(n, 4, 5, 6\)"),
        (images(3).astype(np.float64), InputError, "float32"),
        (np.full((2, 4, 5, 6), np.nan, np.float32), QuantizationError, "NaN"),
        ((images(2), images(2)), InputError, "1 input"),
    ],
)
def test_calibration_images_that_cannot_be_used_are_refused(x, kind, words):
    with pytest.raises(kind, match=words):
        ptq.quantize(small(), x)


def test_weights_that_are_not_finite_are_refused_by_the_layers_name():
    graph = small()
    broken = graph.constants["a.b"].copy()
    broken[1] = np.inf
    with pytest.raises(QuantizationError, match="layer a: its bias"):
        ptq.quantize(replace(graph, constants={**graph.constants, "a.b": broken}), images())


def test_unknown_names_and_int8_networks_are_refused():
    with pytest.raises(QuantizationError, match="'nope', which is no layer"):
        ptq.quantize(small(), images(), keep_float=["nope"])
    with pytest.raises(QuantizationError, match="minmax, percentile, mse"):
        ptq.quantize(small(), images(), "best")
    with pytest.raises(QuantizationError, match="int8 already"):
        ptq.quantize(ptq.quantize(small(), images()), images())


@pytest.mark.parametrize("bias", [0.0, 2.5, -1.0])
@pytest.mark.parametrize("ranges", RANGES)
def test_constant_activations_are_legal_and_warned_of_by_name(bias, ranges):
    _, _, _, attrs, params = conv("a", "x", 4, 4)
    first = ("a", "conv", ("x",), attrs, {"weight": 0 * params["weight"], "bias": np.full(4, bias)})
    graph = chain(first, conv("b", "a", 4, 4, seed=1))
    with pytest.warns(UserWarning, match="tensor a is"):
        q = ptq.quantize(graph, images(), ranges)
    assert error(graph, q, images(seed=2)) < 1e-3


def test_black_calibration_images_are_warned_of():
    with pytest.warns(UserWarning, match="tensor x is zero everywhere"):
        q = ptq.quantize(small(), 0 * images())
    assert np.isfinite(reference.run(q, images(2))[0]).all()


def test_nothing_is_warned_of_on_ordinary_images():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ptq.quantize(small(), images())


def test_preparing_changes_nothing_in_what_is_computed():
    graph = chain(
        ("n", "affine", ("x",), {**ACT, "act": "silu"}, {"scale": normal(4), "shift": normal(4, seed=1)}),
        conv("a", "n", 4, 4, act="gelu"),
        ("s", "add", ("a", "n"), {"act": "hardswish", "alpha": 0.0}, {}),
    )
    prepared = prepare(graph)
    np.testing.assert_allclose(reference.run(prepared, images())[0], reference.run(graph, images())[0], atol=1e-5)
    assert {op.kind for op in prepared.ops} == {"conv", "act", "add"}
