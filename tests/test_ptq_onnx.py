"""int8 networks in ONNX Runtime, OpenVINO and PyTorch: every kind of op agrees with the integer reference within quantisation steps."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import pytest

from graphs import small
from jettison import file, ptq, reference
from jettison.bench.machine import has_vnni
from jettison.cli import main
from jettison.formats import NM
from jettison.graph import Graph

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
torch = pytest.importorskip("torch")

from jettison.peers import onnxruntime as ort_engine  # noqa: E402
from jettison.peers.onnx_model import onnx_model  # noqa: E402
from jettison.peers.torch_model import TorchModel  # noqa: E402
from test_bench_peers import CASES, N, one_op  # noqa: E402

STEPS = 1.01  # of the coarsest u8 tensor: rounding to even in another order of the same float32 products


def step(graph: Graph) -> float:
    return max((t.scale for t in graph.tensors.values() if t.dtype == "u8"), default=0.0)


def images(n=N):
    return np.random.default_rng(3).standard_normal((n, 4, 5, 6)).astype(np.float32)


def seven_bits(q: Graph) -> Graph:
    """Half of each weight and bias, twice the multiplier: pairs of products then fit into the 16 bits in which other engines add them
    on processors without VNNI, and what they compute can be compared. With VNNI the network as it is."""
    if has_vnni():
        return q
    constants = dict(q.constants)
    for op in q.ops:
        if op.element == "i8":
            weights = [name for name in constants if name.startswith(op.params["weight"]) and constants[name].dtype == np.int8]
            for name in (*weights, op.params["bias"]):
                constants[name] = constants[name] // 2
            constants[op.params["multiplier"]] = constants[op.params["multiplier"]] * np.float32(2)
    return replace(q, constants=constants)


@pytest.mark.parametrize("case", CASES)
def test_every_kind_in_int8_means_in_onnx_what_the_reference_means(case):
    graph, xs = one_op(*CASES[case])
    q = ptq.quantize(graph, tuple(xs))
    model = onnx_model(q, N)
    onnx.checker.check_model(model)
    for got, want in zip(ort_engine.prepare(q, [tuple(xs)], "int8", 1)(0), reference.run(q, *xs)):
        residual = 2 if "residual" in case else 1  # the branch is rounded once more
        assert np.abs(got - want).max() <= residual * STEPS * step(q) + 1e-5 * np.abs(want).max()


@pytest.mark.parametrize("case", CASES)
def test_every_kind_in_int8_means_in_pytorch_what_the_reference_means(case):
    graph, xs = one_op(*CASES[case])
    q = ptq.quantize(graph, tuple(xs))
    with torch.inference_mode():
        outputs = TorchModel(q)(*map(torch.from_numpy, xs))
    for got, want in zip(outputs, reference.run(q, *xs)):
        assert np.abs(got.numpy() - want).max() <= STEPS * step(q) + 1e-5 * np.abs(want).max()


def test_inductor_computes_the_layers_in_integers():
    from torch._dynamo.utils import counters

    from jettison.peers import inductor

    q = seven_bits(ptq.quantize(small(NM(1, 4)), images(16)))
    counters.clear()
    got = inductor.prepare(q, [(images(),)], "int8", 1)(0)[0]
    want = reference.run(q, images())[0]
    assert np.abs(got - want).max() < 0.03 * np.abs(want).max()
    assert counters["inductor"]["qconv_weight_prepack_matcher_count"] == 2
    assert counters["inductor"]["qlinear_weight_prepack_matcher_count"] == 1


def test_a_small_network_agrees_in_both_engines():
    full = ptq.quantize(small(NM(1, 4)), images(16))
    engines = [(ort_engine, full)]  # which is asked for exact sums
    if find_spec("openvino"):
        from jettison.peers import openvino

        engines.append((openvino, seven_bits(full)))
    for engine, q in engines:
        got = engine.prepare(q, [(images(),)], "int8", 1)(0)[0]
        want = reference.run(q, images())[0]
        assert np.abs(got - want).max() < 0.03 * np.abs(want).max(), engine.__name__


def test_onnxruntime_computes_the_layers_in_integers(tmp_path):
    q = ptq.quantize(small(), images(16))
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(onnx_model(q, 1).SerializeToString(), options, providers=["CPUExecutionProvider"])
    kinds = Counter(node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node)
    assert kinds["QLinearConv"] == 2 and kinds["QLinearAdd"] == 1 and kinds["QGemm"] == 1
    assert not {"Conv", "FusedConv", "Gemm", "Add"} & set(kinds)


@pytest.mark.parametrize("element", ["f32", "int8"])
def test_the_command_writes_a_model_that_runs(element, tmp_path, capsys):
    graph = small() if element == "f32" else ptq.quantize(small(), images(16))
    file.save(graph, tmp_path / "net.jettison")
    with pytest.raises(SystemExit) as e:
        main(["export", str(tmp_path / "net.jettison"), "--onnx", str(tmp_path / "net.onnx"), "--batch", "3"])
    assert e.value.code == 0 and ("QDQ" in capsys.readouterr().out) == (element == "int8")
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.x64quantprecision", "1")  # exact sums on processors without VNNI too
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx", options, providers=["CPUExecutionProvider"])
    (got,) = session.run(None, {"x": images(3)})
    want = reference.run(graph, images(3))[0]
    assert np.abs(got - want).max() < 0.03 * np.abs(want).max()
