"""Lowerings to other engines against the reference: every kind, every activation, every layout."""

from __future__ import annotations

import numpy as np
import pytest

from graphs import small
from jettison import reference
from jettison.graph import Graph, Op, TensorSpec
from jettison.peers import ENGINES, nchw
from jettison.spec import ACTIVATIONS, KINDS, check, output_shape

torch = pytest.importorskip("torch")
onnxruntime = pytest.importorskip("onnxruntime")

from jettison.peers import onnx_model, torch_model  # noqa: E402
from jettison.peers import onnxruntime as ort_engine  # noqa: E402

N = 2
NO_ACT = {"act": "none", "alpha": 0.0}
CONV = {"k": 6, "kernel": (3, 2), "stride": (2, 1), "pad": (1, 0, 2, 1), "dilation": (1, 1), "groups": 1, **NO_ACT}
POOL = {"kernel": (3, 3), "stride": (2, 2), "pad": (1, 1, 1, 1)}
UP = {"mode": "nearest", "size": (10, 9), "scale": (0.5, 2 / 3), "align_corners": False}

CASES = {
    "conv": ("conv", [(7, 6, 4)], CONV, {"weight": (6, 3, 2, 4), "bias": (6,)}),
    "conv grouped dilated": (
        "conv",
        [(9, 8, 4)],
        {**CONV, "kernel": (3, 3), "stride": (1, 1), "pad": (2, 2, 2, 2), "dilation": (2, 2), "groups": 2},
        {"weight": (6, 3, 3, 2)},
    ),
    "conv residual": (
        "conv",
        [(5, 5, 4), (5, 5, 6)],
        {**CONV, "kernel": (1, 1), "stride": (1, 1), "pad": (0, 0, 0, 0), "act": "relu"},
        {"weight": (6, 1, 1, 4), "bias": (6,)},
    ),
    "linear vector": ("linear", [(8,)], {"k": 5, **NO_ACT}, {"weight": (5, 1, 1, 8), "bias": (5,)}),
    "linear sequence residual": ("linear", [(3, 8), (3, 5)], {"k": 5, **NO_ACT, "act": "relu"}, {"weight": (5, 1, 1, 8)}),
    "linear image": ("linear", [(3, 4, 8)], {"k": 5, **NO_ACT}, {"weight": (5, 1, 1, 8), "bias": (5,)}),
    "max_pool": ("max_pool", [(7, 8, 3)], POOL, {}),
    "max_pool uneven": ("max_pool", [(8, 8, 3)], {**POOL, "pad": (0, 1, 2, 2)}, {}),
    "avg_pool not counted": ("avg_pool", [(7, 8, 3)], {**POOL, "count_pad": (0, 0, 0, 0)}, {}),
    "avg_pool counted": ("avg_pool", [(7, 8, 3)], {**POOL, "count_pad": (1, 1, 1, 1)}, {}),
    "avg_pool ceil": ("avg_pool", [(8, 8, 3)], {**POOL, "pad": (1, 1, 2, 2), "count_pad": (1, 1, 1, 1)}, {}),
    "adaptive 1": ("adaptive_avg_pool", [(5, 7, 3)], {"size": (1, 1)}, {}),
    "adaptive even": ("adaptive_avg_pool", [(6, 8, 3)], {"size": (3, 2)}, {}),
    "adaptive uneven": ("adaptive_avg_pool", [(5, 7, 3)], {"size": (2, 3)}, {}),
    "mean image": ("mean", [(5, 7, 3)], {"axes": (0, 1), "keepdims": False}, {}),
    "mean kept": ("mean", [(5, 7, 3)], {"axes": (1, 0), "keepdims": True}, {}),
    "mean rows": ("mean", [(5, 7, 3)], {"axes": (0,), "keepdims": False}, {}),
    "mean channels": ("mean", [(5, 7, 3)], {"axes": (2,), "keepdims": False}, {}),
    "mean everything": ("mean", [(5, 7, 3)], {"axes": (0, 1, 2), "keepdims": False}, {}),
    "mean of a vector": ("mean", [(7,)], {"axes": (0,), "keepdims": False}, {}),
    "add": ("add", [(4, 5, 6), (1, 1, 6)], {"act": "relu", "alpha": 0.0}, {}),
    "mul": ("mul", [(4, 5, 6), (4, 5, 1)], NO_ACT, {}),
    "affine image": ("affine", [(4, 5, 6)], NO_ACT, {"scale": (6,), "shift": (6,)}),
    "affine sequence": ("affine", [(4, 6)], NO_ACT, {"scale": (6,), "shift": (6,)}),
    "softmax image": ("softmax", [(4, 5, 6)], {"axis": 2}, {}),
    "softmax": ("softmax", [(6,)], {"axis": 0}, {}),
    "layer_norm image": ("layer_norm", [(4, 5, 6)], {"eps": 1e-6}, {"weight": (6,), "bias": (6,)}),
    "layer_norm": ("layer_norm", [(5, 6)], {"eps": 1e-5}, {"weight": (6,), "bias": (6,)}),
    "concat channels": ("concat", [(4, 5, 6), (4, 5, 2), (4, 5, 1)], {"axis": 2}, {}),
    "concat rows": ("concat", [(4, 5, 6), (2, 5, 6)], {"axis": 0}, {}),
    "slice channels": ("slice", [(4, 5, 6)], {"axis": 2, "start": 1, "stop": 6, "step": 2}, {}),
    "slice columns": ("slice", [(4, 5, 6)], {"axis": 1, "start": 0, "stop": 5, "step": 2}, {}),
    "pad": ("pad", [(4, 5, 6)], {"pads": ((1, 2), (0, 1), (3, 0)), "value": -1.5}, {}),
    "upsample nearest": ("upsample", [(5, 6, 3)], UP, {}),
    "upsample bilinear": ("upsample", [(5, 6, 3)], {**UP, "mode": "bilinear"}, {}),
    "upsample corners": ("upsample", [(5, 6, 3)], {**UP, "mode": "bilinear", "align_corners": True, "scale": (4 / 9, 5 / 8)}, {}),
    "upsample own scale": ("upsample", [(5, 5, 3)], {**UP, "mode": "bilinear", "size": (8, 8), "scale": (1 / 1.7, 1 / 1.7)}, {}),
    "shuffle image": ("channel_shuffle", [(4, 5, 6)], {"groups": 3}, {}),
    "shuffle vector": ("channel_shuffle", [(6,)], {"groups": 2}, {}),
    "reshape to vector": ("reshape", [(4, 5, 6)], {"shape": (120,)}, {}),
    "reshape to image": ("reshape", [(20, 6)], {"shape": (4, 5, 6)}, {}),
    "reshape one pixel": ("reshape", [(1, 1, 6)], {"shape": (6,)}, {}),
    "transpose image": ("transpose", [(4, 5, 6)], {"perm": (2, 0, 1)}, {}),
    "transpose": ("transpose", [(5, 6)], {"perm": (1, 0)}, {}),
    **{f"act {act}": ("act", [(3, 4, 5)], {"act": act, "alpha": 0.1 if act == "leaky_relu" else 0.0}, {}) for act in ACTIVATIONS},
}


def one_op(kind, shapes, attrs, params):
    """A graph of one op, and inputs for it. Images alternate between both layouts."""
    rng = np.random.default_rng(0)
    names = tuple(f"x{i}" for i in range(len(shapes)))
    tensors = dict(zip(names, shapes)) | {"y": output_shape(kind, shapes, attrs, kind)}
    images = [name for name, shape in tensors.items() if len(shape) == 3]
    layouts = dict.fromkeys(images[::2], "nchw")
    constants = {role: rng.standard_normal(shape).astype(np.float32) for role, shape in params.items()}
    op = Op("op", kind, names, ("y",), attrs, {role: role for role in params})
    graph = check(Graph((op,), {k: TensorSpec(k, v) for k, v in tensors.items()}, names, ("y",), constants, layouts))
    xs = [rng.standard_normal((N, s[2], *s[:2]) if n in layouts else (N, *s)).astype(np.float32) for n, s in zip(names, shapes)]
    return graph, [3 * x for x in xs]


def agree(got, want):
    assert len(got) == len(want)
    for g, w in zip(got, want):
        assert g.shape == w.shape
        assert np.abs(g - w).max() <= 1e-5 * max(1.0, np.abs(w).max())


def test_every_kind_and_activation_has_a_lowering_and_a_case():
    assert set(onnx_model.LOWERINGS) == set(torch_model.LOWERINGS) == set(KINDS)
    assert set(onnx_model.ACTS) == set(torch_model.ACTS) == set(ACTIVATIONS)
    assert {case[0] for case in CASES.values()} == set(KINDS) - {"quantize", "dequantize"}


@pytest.mark.parametrize("case", CASES)
def test_onnx_means_what_the_reference_means(case):
    graph, xs = one_op(*CASES[case])
    agree(ort_engine.prepare(graph, [tuple(xs)], "f32", 1)(0), reference.run(graph, *xs))


@pytest.mark.parametrize("case", CASES)
def test_torch_means_what_the_reference_means(case):
    graph, xs = one_op(*CASES[case])
    with torch.inference_mode():
        got = torch_model.TorchModel(graph)(*map(torch.from_numpy, xs))
    agree([y.numpy() for y in got], reference.run(graph, *xs))


def test_sparse_weights_reach_every_engine_decoded():
    graph, x = small(), np.random.default_rng(1).standard_normal((N, 4, 5, 6)).astype(np.float32)
    want = reference.run(graph, x)
    agree(ort_engine.prepare(graph, [(x,)], "f32", 1)(0), want)
    pytest.importorskip("openvino")
    from jettison.peers import openvino

    agree(openvino.prepare(graph, [(x,)], "f32", 1)(0), want)


def test_an_engine_says_why_it_cannot_run():
    assert ENGINES["onnxruntime"].refusal("f32") is None
    assert "has no bf16" in ENGINES["onnxruntime"].refusal("bf16")
    absent = type(ENGINES["openvino"])("openvino", ("no_such_package",), "pip install it", ("f32",))
    assert absent.refusal("f32") == "no_such_package not installed: pip install it"


def test_a_pooling_that_counts_padding_in_part_is_corrected():
    attrs = {**POOL, "pad": (1, 1, 2, 2), "count_pad": (1, 1, 1, 1)}
    assert not nchw.counts_evenly(attrs)
    correction = nchw.count_correction((8, 8, 3), attrs)[0, 0]
    assert correction[0, 0] == 1  # inside the counted padding
    assert correction[-1, 0] == pytest.approx(3 / 2)  # one of three rows hangs over
