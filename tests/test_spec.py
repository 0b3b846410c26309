"""The grammar: one test for each way in which a graph can be wrong."""

import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphs import ACT, CONV, quantized, small
from jettison.errors import FormatError, GraphError
from jettison.formats import NM, Dense
from jettison.graph import Graph, Op, TensorSpec, problem, weight_shape
from jettison.spec import KINDS, MAX_ELEMENTS, check, output_shape


def with_op(graph: Graph, index: int, **changes) -> Graph:
    ops = list(graph.ops)
    ops[index] = replace(ops[index], **changes)
    return replace(graph, ops=tuple(ops))


def with_tensor(graph: Graph, tensor: str, **changes) -> Graph:
    return replace(graph, tensors={**graph.tensors, tensor: replace(graph.tensors[tensor], **changes)})


def with_constant(graph: Graph, name: str, array: np.ndarray | None) -> Graph:
    constants = {k: v for k, v in graph.constants.items() if k != name}
    return replace(graph, constants=constants if array is None else {**constants, name: array})


@pytest.mark.parametrize("fmt", [Dense(), NM(1, 2), NM(2, 4), NM(1, 8)], ids=str)
def test_a_legal_graph_passes_unchanged(fmt):
    graph = small(fmt)
    assert check(graph) is graph
    assert check(check(graph)) == small(fmt)


def g() -> Graph:
    return small(NM(2, 4))


VIOLATIONS = {
    "version": (lambda: replace(g(), version=2), "version 2 cannot be read; this Jettison reads version 1"),
    "no input": (lambda: replace(g(), inputs=()), "no input or no output"),
    "no output": (lambda: replace(g(), outputs=()), "no input or no output"),
    "input unknown": (lambda: replace(g(), inputs=("z",)), "'z' is not a tensor"),
    "input twice": (lambda: replace(g(), inputs=("x", "x")), "named twice"),
    "output unknown": (lambda: replace(g(), outputs=("z",)), "'z' is not a tensor"),
    "output never computed": (
        lambda: replace(g(), outputs=("z",), tensors={**g().tensors, "z": TensorSpec("z", (3,))}),
        "'z' is never computed",
    ),
    "tensor never computed": (lambda: replace(g(), tensors={**g().tensors, "z": TensorSpec("z", (3,))}), "['z'] are never computed"),
    "tensor under another name": (lambda: with_tensor(g(), "ya", name="yz"), "'ya' has the illegal shape"),
    "tensor without axes": (lambda: with_tensor(g(), "ya", shape=()), "illegal shape ()"),
    "tensor with nine axes": (lambda: with_tensor(g(), "ya", shape=(1,) * 9), "illegal shape"),
    "tensor with a zero": (lambda: with_tensor(g(), "ya", shape=(5, 0, 8)), "illegal shape (5, 0, 8)"),
    "tensor too large": (lambda: with_tensor(g(), "ya", shape=(1 << 16, 1 << 15)), "illegal shape"),
    "tensor with a fraction": (lambda: with_tensor(g(), "ya", shape=(5, 6.0, 8)), "illegal shape"),
    "dtype": (lambda: with_tensor(g(), "ya", dtype="f64"), "unknown dtype 'f64'"),
    "layout": (lambda: replace(g(), layouts={"x": "nhwc"}), "unknown layout 'nhwc'"),
    "layout of a vector": (lambda: replace(g(), layouts={"yd": "nchw"}), "'yd' is called nchw but is not an image"),
    "two ops of one name": (lambda: with_op(g(), 1, name="a"), "two ops are called 'a'"),
    "read before written": (lambda: with_op(g(), 0, inputs=("yb",)), "a: input 'yb' is not computed before it (a cycle"),
    "reads itself": (lambda: with_op(g(), 2, inputs=("yc",)), "c: input 'yc' is not computed before it"),
    "written twice": (lambda: with_op(g(), 1, outputs=("ya",)), "b: tensor 'ya' is computed twice"),
    "overwrites the input": (lambda: with_op(g(), 0, outputs=("x",)), "a: tensor 'x' is computed twice"),
    "output undeclared": (lambda: with_op(g(), 0, outputs=("z",)), "a: output 'z' is not a tensor"),
    "two outputs": (lambda: with_op(g(), 0, outputs=("ya", "yb")), "a: every op has one output, got 2"),
    "no outputs": (lambda: with_op(g(), 0, outputs=()), "a: every op has one output, got 0"),
    "kind": (lambda: with_op(g(), 0, kind="fft"), "a: op kind 'fft' is not known"),
    "too many inputs": (lambda: with_op(g(), 2, inputs=("yb", "yb")), "c: mean takes 1 to 1 inputs, got 2"),
    "no inputs": (lambda: with_op(g(), 2, inputs=()), "c: mean takes 1 to 1 inputs, got 0"),
    "attribute missing": (lambda: with_op(g(), 2, attrs={"axes": (0, 1)}), "c: mean needs attributes ['axes', 'keepdims']"),
    "attribute unknown": (lambda: with_op(g(), 2, attrs={**g().ops[2].attrs, "zeal": 1}), "c: mean needs attributes"),
    "output shape": (lambda: with_tensor(g(), "yd", shape=(4,)), "d: output 'yd' is (4,), but linear gives (3,)"),
    "constant missing": (lambda: with_constant(g(), "a.b", None), "a: constant 'a.b' is missing"),
    "weight missing": (lambda: with_constant(g(), "a.w", None), "a: constant 'a.w' is missing"),
    "constant left over": (lambda: with_constant(g(), "z", np.zeros(3, np.float32)), "constants ['z'] belong to no op"),
    "bias size": (lambda: with_constant(g(), "a.b", np.zeros(7, np.float32)), "a: bias must be float32 (8,), got float32 (7,)"),
    "bias type": (lambda: with_constant(g(), "a.b", np.zeros(8)), "a: bias must be float32 (8,), got float64 (8,)"),
    "no weight": (lambda: with_op(g(), 3, params={}), "d: linear takes constants ['bias', 'weight'], got []"),
    "unknown role": (lambda: with_op(g(), 2, params={"weight": "d.w"}), "c: mean takes constants [], got ['weight']"),
}


QUANTIZED = {
    "scale of f32": (lambda: with_tensor(quantized(), "z", scale=0.5), "'z' is f32 and has a scale"),
    "scale zero": (lambda: with_tensor(quantized(), "xq", scale=0.0), "'xq' has the illegal scale 0.0"),
    "scale NaN": (lambda: with_tensor(quantized(), "xq", scale=float("nan")), "'xq' has the illegal scale nan"),
    "scale of another type": (lambda: with_tensor(quantized(), "xq", scale="1"), "'xq' has the illegal scale '1'"),
    "zero point": (lambda: with_tensor(quantized(), "xq", zero=256), "'xq' has the illegal scale 0.02 or zero point 256"),
    "quantize to f32": (lambda: with_tensor(quantized(), "xq", dtype="f32", scale=1.0, zero=0), "quantize: quantize on f32 gives u8"),
    "element": (lambda: with_op(quantized(), 1, element="f32"), "conv: weights of a conv on u8 inputs must be i8, not 'f32'"),
    "element of f32": (lambda: with_op(g(), 0, element="i8"), "a: weights of a conv on f32 inputs must be f32, not 'i8'"),
    "activation": (lambda: with_op(quantized(), 1, attrs={**CONV, "k": 8, "act": "silu"}), "conv: a quantized conv can only clamp"),
    "quantized output": (lambda: replace(quantized(), outputs=("zq",)), "graph input or output 'zq' is quantized"),
    "table size": (lambda: with_constant(quantized(), "table", np.zeros(255, np.uint8)), "act: table must be uint8 (256,)"),
    "table missing": (lambda: with_op(quantized(), 2, params={}), "act: act takes constants ['table'], got []"),
    "bias type": (lambda: with_constant(quantized(), "bias", np.zeros(8, np.float32)), "conv: bias must be int32 (8,), got float32"),
    "no multiplier": (lambda: with_op(quantized(), 1, params={"weight": "w", "bias": "bias"}), "conv: conv takes constants"),
    "kind without u8": (lambda: with_op(quantized(), 2, kind="softmax", attrs={"axis": 2}, params={}), "act: softmax takes no u8 input"),
}


@pytest.mark.parametrize("fmt", [Dense(), NM(1, 2), NM(2, 4), NM(1, 8)], ids=str)
def test_a_legal_quantized_graph_passes(fmt):
    assert check(quantized(fmt)) == quantized(fmt)


@pytest.mark.parametrize("build,words", (VIOLATIONS | QUANTIZED).values(), ids=VIOLATIONS | QUANTIZED)
def test_a_violation_is_named(build, words):
    with pytest.raises(GraphError, match=re.escape(words)):
        check(build())


WEIGHTS = {
    "dense shape": (lambda: with_constant(g(), "a.w", np.zeros((8, 3, 3, 5), np.float32)), "a: dense needs one float32 or int8 part"),
    "dense type": (lambda: with_constant(g(), "a.w", np.zeros((8, 3, 3, 4))), "a: dense needs one float32 or int8 part"),
    "parts missing": (lambda: with_constant(g(), "b.w.indices", None), "b: 2:4 needs parts 'values' and 'indices'"),
    "part unknown": (lambda: with_constant(g(), "b.w.scale", np.zeros(1, np.float32)), "b: 2:4 needs parts 'values' and 'indices'"),
    "values size": (
        lambda: with_constant(g(), "b.w.values", np.zeros((8, 3, 3, 8), np.float32)),
        "b: 'values' must be float32 or int8 (8, 3, 3, 4)",
    ),
    "indices size": (lambda: with_constant(g(), "b.w.indices", np.zeros(3, np.uint8)), "b: 'indices' must be uint8 (72,)"),
    "indices equal": (lambda: with_constant(g(), "b.w.indices", np.zeros(72, np.uint8)), "b: 'indices' are not ascending"),
    "channels do not divide": (lambda: with_op(g(), 1, format=NM(1, 3)), "b: NM(1, 3) needs input channels divisible by 3, got 8"),
    "format without parts": (lambda: with_op(with_constant(g(), "a.w", None), 0, format=NM(1, 4)), "a: "),
}


@pytest.mark.parametrize("build,words", WEIGHTS.values(), ids=WEIGHTS)
def test_weights_that_do_not_fit_their_format_are_named(build, words):
    with pytest.raises(FormatError, match=re.escape(words)):
        check(build())


POOL = {"kernel": (2, 2), "stride": (2, 2), "pad": (0, 0, 0, 0)}
IMAGE = (5, 6, 4)
SHAPES = [  # kind, input shapes, attributes, words of the error
    ("conv", [(6, 4)], {**CONV, "k": 8}, "needs an image (h, w, c)"),
    ("conv", [IMAGE], {**CONV, "k": 8, "groups": 3}, "4 input channels are not divisible by 3 groups"),
    ("conv", [IMAGE], {**CONV, "k": 9, "groups": 2}, "9 output channels are not divisible by 2 groups"),
    ("conv", [IMAGE, (5, 6, 7)], {**CONV, "k": 8}, "residual has shape (5, 6, 7), the output (5, 6, 8)"),
    ("conv", [IMAGE], {**CONV, "k": 8, "kernel": (8, 3)}, "larger than the padded input"),
    ("conv", [IMAGE], {**CONV, "k": 8, "dilation": (4, 4)}, "larger than the padded input"),
    ("conv", [IMAGE], {**CONV, "k": 8, "kernel": (3,)}, "attribute kernel"),
    ("conv", [IMAGE], {**CONV, "k": 8, "stride": (0, 1)}, "attribute stride"),
    ("conv", [IMAGE], {**CONV, "k": 8, "pad": (1, 1)}, "attribute pad"),
    ("conv", [IMAGE], {**CONV, "k": 8, "pad": (1, 1, 1, -1)}, "attribute pad"),
    ("conv", [IMAGE], {**CONV, "k": 8, "pad": (1, 1, 1, 1 << 31)}, "attribute pad"),
    ("conv", [IMAGE], {**CONV, "k": 0}, "attribute k"),
    ("conv", [IMAGE], {**CONV, "k": True}, "attribute k"),
    ("conv", [IMAGE], {**CONV, "k": 8, "act": "relu7"}, "attribute act"),
    ("conv", [IMAGE], {**CONV, "k": 8, "alpha": float("nan")}, "attribute alpha"),
    ("conv", [IMAGE], {**CONV, "k": 8, "alpha": 1e39}, "attribute alpha"),
    ("conv", [IMAGE], {**CONV, "k": (1 << 31) - 1}, "impossible shape"),
    ("linear", [(4,), (5,)], {"k": 3, **ACT}, "residual"),
    ("max_pool", [(6, 4)], POOL, "needs an image"),
    ("max_pool", [IMAGE], {**POOL, "pad": (2, 0, 0, 0)}, "padding must be smaller than the window"),
    ("max_pool", [IMAGE], {**POOL, "kernel": (6, 1)}, "larger than the padded input"),
    ("avg_pool", [IMAGE], {**POOL, "count_pad": (1, 0, 0, 0)}, "count_pad must not exceed pad"),
    ("adaptive_avg_pool", [IMAGE], {"size": (0, 1)}, "attribute size"),
    ("adaptive_avg_pool", [(4,)], {"size": (1, 1)}, "needs an image"),
    ("mean", [IMAGE], {"axes": (3,), "keepdims": True}, "axes (3,) do not fit"),
    ("mean", [IMAGE], {"axes": (), "keepdims": True}, "axes () do not fit"),
    ("mean", [IMAGE], {"axes": (1, 1), "keepdims": True}, "axes (1, 1) do not fit"),
    ("mean", [IMAGE], {"axes": (1,), "keepdims": 1}, "attribute keepdims"),
    ("add", [IMAGE, (5, 6, 2)], ACT, "does not broadcast"),
    ("add", [(1, 1, 4), IMAGE], ACT, "does not broadcast"),
    ("mul", [IMAGE, (4,)], ACT, "does not broadcast"),
    ("mul", [IMAGE], ACT, "takes 2 to 2 inputs"),
    ("softmax", [IMAGE], {"axis": 1}, "softmax runs over the last axis"),
    ("layer_norm", [IMAGE], {"eps": float("inf")}, "attribute eps"),
    ("concat", [IMAGE, (5, 5, 4)], {"axis": 2}, "differ outside axis 2"),
    ("concat", [IMAGE, (6, 4)], {"axis": 0}, "differ outside axis 0"),
    ("concat", [IMAGE], {"axis": 3}, "axis 3 does not fit"),
    ("concat", [], {"axis": 0}, "takes 1 to"),
    ("slice", [IMAGE], {"axis": 2, "start": 3, "stop": 5, "step": 1}, "does not fit"),
    ("slice", [IMAGE], {"axis": 2, "start": 3, "stop": 3, "step": 1}, "does not fit"),
    ("slice", [IMAGE], {"axis": 3, "start": 0, "stop": 1, "step": 1}, "does not fit"),
    ("slice", [IMAGE], {"axis": 2, "start": 0, "stop": 1, "step": 0}, "attribute step"),
    ("slice", [IMAGE], {"axis": 2, "start": -1, "stop": 1, "step": 1}, "attribute start"),
    ("pad", [IMAGE], {"pads": ((0, 0), (1, 1)), "value": 0.0}, "one (before, after) pair for each of 3 axes"),
    ("pad", [IMAGE], {"pads": ((0, 0), (1, 1), (-1, 0)), "value": 0.0}, "attribute pads"),
    ("upsample", [(4,)], {"mode": "nearest", "size": (2, 2), "scale": (1.0, 1.0), "align_corners": False}, "needs an image"),
    ("upsample", [IMAGE], {"mode": "cubic", "size": (2, 2), "scale": (1.0, 1.0), "align_corners": False}, "attribute mode"),
    ("upsample", [IMAGE], {"mode": "nearest", "size": (2, 2), "scale": (0.0, 1.0), "align_corners": False}, "attribute scale"),
    ("channel_shuffle", [IMAGE], {"groups": 3}, "4 channels are not divisible by 3 groups"),
    ("reshape", [IMAGE], {"shape": (5, 25)}, "another number of elements"),
    ("transpose", [IMAGE], {"perm": (0, 1, 1)}, "perm (0, 1, 1) does not fit"),
    ("transpose", [IMAGE], {"perm": (0, 1)}, "perm (0, 1) does not fit"),
]


@pytest.mark.parametrize("kind,inputs,attrs,words", SHAPES, ids=[f"{s[0]}: {s[3]}" for s in SHAPES])
def test_illegal_attributes_and_shapes_are_named(kind, inputs, attrs, words):
    with pytest.raises(GraphError, match=re.escape(words)) as caught:
        output_shape(kind, inputs, attrs, "layer7")
    assert str(caught.value).startswith("layer7: ")


def test_every_kind_has_a_violation():
    always_legal = {"affine", "act", "quantize", "dequantize"}  # they take any shape; their attributes are those of add
    assert {s[0] for s in SHAPES} | always_legal == set(KINDS)


junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda x: st.lists(x, max_size=4) | st.tuples(x, x) | st.dictionaries(st.text(max_size=3), x, max_size=2),
    max_leaves=5,
)


@settings(max_examples=500, deadline=None)
@given(data=st.data())
def test_junk_attributes_give_graph_errors_only(data):
    kind = data.draw(st.sampled_from(sorted(KINDS)))
    legal = [s for s in SHAPES if s[0] == kind] or [("act", [IMAGE], ACT, "")]
    attrs = dict(data.draw(st.sampled_from(legal))[2])
    name = data.draw(st.sampled_from(sorted(attrs)))
    shapes = data.draw(st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=4).map(tuple), max_size=3))
    try:
        out = output_shape(kind, shapes, {**attrs, name: data.draw(junk)}, "here")
    except GraphError:
        return
    assert all(isinstance(d, int) and d >= 1 for d in out) and np.prod(out, dtype=float) < MAX_ELEMENTS


def test_problem_and_weight_shape_of_conv_and_linear():
    attrs = {**CONV, "k": 8, "kernel": (3, 5), "stride": (2, 1), "pad": (1, 2, 0, 3), "dilation": (2, 1), "groups": 2}
    op = Op("a", "conv", ("x",), ("y",), attrs, {"weight": "w"})
    shape = output_shape("conv", [(11, 9, 6)], attrs, "a")
    graph = Graph((op,), {"x": TensorSpec("x", (11, 9, 6)), "y": TensorSpec("y", shape)}, ("x",), ("y",))
    p = problem(graph, op, n=3)
    assert (p.p, p.q, p.k) == shape == ((11 + 1 - 4 - 1) // 2 + 1, 9 + 5 - 4, 8)
    assert weight_shape(graph, op) == (8, 3, 5, 3)
    assert p.macs == 3 * p.p * p.q * 8 * 3 * 5 * 3
    cost = p.cost(NM(1, 3), weight_bytes=7)
    assert (cost.macs, cost.depth, cost.weight_bytes) == (p.macs // 3, 15, 7)
    assert (cost.read_bytes, cost.write_bytes) == (4 * 3 * 11 * 9 * 6, 4 * 3 * p.p * p.q * 8)
