"""Session: right answers, any batch, many threads, no growth, clear errors."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from dataclasses import replace

import numpy as np
import pytest

import graphs
from jettison import _native, planner, reference
from jettison.errors import InputError, KernelError
from jettison.file import save
from jettison.formats import NM, Block, Dense
from jettison.fusion import schedule
from jettison.graph import Graph, Op, TensorSpec
from jettison.plan import plan, portion
from jettison.runtime import Session, isas
from jettison.timings import Timings

ISAS = isas()


def images(graph: Graph, n: int, seed: int = 0) -> np.ndarray:
    h, w, c = graph.tensors[graph.inputs[0]].shape
    return np.random.default_rng(seed).standard_normal((n, c, h, w)).astype(np.float32)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("fmt", [Dense(), NM(2, 4), NM(1, 8), NM(3, 4), Block(16, 16, NM(2, 4), 0.3), Block(32, 32)], ids=str)
def test_equals_the_reference_at_any_batch(isa: str, fmt) -> None:
    graph = graphs.small(fmt)
    session = Session(graph, isa=isa, threads=2)
    for n in (1, 3, 1, 5, 2, 4, 6):  # more sizes than stay prepared
        x = images(graph, n, seed=n)
        (want,) = reference.run(graph, x)
        got = session.run(x)
        assert got.shape == want.shape
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 * np.abs(want).max())


def test_runs_from_a_file_and_says_what_runs(tmp_path) -> None:
    graph = graphs.small(NM(2, 4))
    save(graph, tmp_path / "net.jettison")
    session = Session(tmp_path / "net.jettison")
    x = images(graph, 2)
    np.testing.assert_allclose(session.run(x), reference.run(graph, x)[0], rtol=0, atol=1e-4)
    rows = {layer.name: layer for layer in session.layers()}
    assert rows["b"].format == "2:4"
    assert {c.kernel for c in rows["b"].candidates} == {"nm", "dense"}  # dense is always a candidate
    assert rows["b"].cost is not None and rows["b"].cost.macs == 5 * 6 * 8 * 3 * 3 * 8 // 2
    assert [t.name for t in session.profile(x, runs=2)] == ["input:x", "a", "b", "c", "d", "output:yd"]


@pytest.mark.parametrize("kernel", ["dense", "nm"])
def test_a_kernel_can_be_asked_for(kernel: str) -> None:
    graph = graphs.small(NM(2, 4))
    session = Session(graph, kernels={"b": kernel})
    assert [(layer.kernel, layer.reason) for layer in session.layers() if layer.name == "b"] == [(kernel, "asked for")]
    x = images(graph, 2)
    np.testing.assert_allclose(session.run(x), reference.run(graph, x)[0], rtol=0, atol=1e-4)


def test_tuning_measures_every_candidate() -> None:
    session = Session(graphs.small(NM(2, 4)), tune=Timings(), threads=1)
    (row,) = [layer for layer in session.layers() if layer.name == "b"]
    times = {c.kernel: c.measured_ms for c in row.candidates}
    assert row.reason == "measured fastest" and times[row.kernel] == min(times.values())


def test_times_are_measured_once_on_a_machine(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    first = Session(graphs.small(NM(2, 4)), tune=True, threads=1).layers()
    (path,) = (tmp_path / "jettison").iterdir()

    def known(*_: object) -> float:
        raise AssertionError("measured again")

    monkeypatch.setattr("jettison.choice.median_ms", known)
    assert [layer.candidates for layer in Session(graphs.small(NM(2, 4)), tune=True, threads=1).layers()] == [
        layer.candidates for layer in first
    ]
    with pytest.raises(AssertionError, match="measured again"):
        Session(graphs.small(NM(2, 4)), tune=Timings.load(again=True), threads=1)
    with pytest.raises(AssertionError, match="measured again"):
        Session(graphs.small(NM(1, 4)), tune=True, threads=1)
    for damaged in ('{"x": ', "[" * 100_000):  # as if it were not there
        path.write_text(damaged)
        with pytest.raises(AssertionError, match="measured again"):
            Session(graphs.small(NM(2, 4)), tune=True, threads=1)


def test_isa_from_the_environment(monkeypatch) -> None:
    monkeypatch.setenv("JETTISON_ISA", "scalar")
    assert Session(graphs.small()).isa == "scalar"
    monkeypatch.setenv("JETTISON_ISA", "mmx")
    with pytest.raises(KernelError, match=r"'mmx' cannot run on this machine.*scalar"):
        Session(graphs.small())


def test_threads_share_a_session_bit_for_bit() -> None:
    graph = graphs.small(NM(2, 4))
    session = Session(graph, threads=2)
    xs = [images(graph, 1 + i % 3, seed=i) for i in range(60)]
    alone = [session.run(x) for x in xs]
    together: list = [None] * len(xs)

    def work(start: int) -> None:
        for i in range(start, len(xs), 4):
            together[i] = session.run(xs[i])

    workers = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for w in workers:
        w.start()
    for w in workers:
        w.join()
    for a, b in zip(alone, together):
        np.testing.assert_array_equal(a, b)
    one = Session(graph, threads=1)
    for x, a in zip(xs, alone):
        np.testing.assert_array_equal(one.run(x), a)


def in_a_process(code: str) -> str:
    start = (
        f"import sys; sys.path[:0] = {sys.path!r}; import graphs, numpy as np; from jettison import Session; from jettison.errors import *;"
    )
    return subprocess.run([sys.executable, "-c", start + code], check=False, capture_output=True, text=True, timeout=60).stdout.strip()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_session_from_before_a_fork_says_so_and_does_not_wait_for_ever() -> None:
    code = """
import os
session, x = Session(graphs.small(), threads=2), np.zeros((1, 4, 5, 6), np.float32)
session.run(x)
if os.fork() == 0:
    try:
        session.run(x)
    except KernelError as e:
        print(e, Session(graphs.small(), threads=2).run(x).shape, flush=True)
    os._exit(0)
os.wait()
"""
    said = in_a_process(code)
    assert "make it in the new process (1, " in said


@pytest.mark.skipif(sys.platform != "linux", reason="limits memory as Linux does")
def test_threads_that_the_system_does_not_permit_are_an_error_of_ours() -> None:
    code = """
import resource
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (200 << 20),) * 2)
try:
    Session(graphs.small(), threads=1024)
except InputError as e:
    print(e)
"""
    assert "the system does not permit 1024 threads" in in_a_process(code)


def test_threads_that_ask_at_once_decide_once(monkeypatch) -> None:
    session, decided = Session(graphs.small(), threads=2), []

    def slow(*args: object) -> planner.Fusion:
        decided.append(args)
        time.sleep(0.05)
        return planner.Fusion()

    monkeypatch.setattr("jettison.planner.fuse", slow)
    workers = [threading.Thread(target=session.layers, args=(n,)) for n in (4, 4, 4)]
    for w in workers:
        w.start()
    session.run(images(session.graph, 4))
    for w in workers:
        w.join()
    assert len(decided) == 1


def test_memory_does_not_grow() -> None:
    def resident_kib() -> int:
        with open("/proc/self/statm") as f:
            return int(f.read().split()[1]) * 4

    graph = graphs.small(NM(2, 4))
    session = Session(graph, threads=2)
    batches = [images(graph, n) for n in (1, 2, 3, 4, 5, 6, 7)]
    for x in batches * 20:
        session.run(x)
    before = resident_kib()
    for i in range(10_000):
        session.run(batches[i % 2 if i % 50 else i % 7])
    assert resident_kib() - before < 1024


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.zeros((2, 4, 5, 7), np.float32), r"shape \(n, 4, 5, 6\).*got \(2, 4, 5, 7\)"),
        (np.zeros((4, 5, 6), np.float32), r"shape \(n, 4, 5, 6\)"),
        (np.zeros((0, 4, 5, 6), np.float32), "n >= 1"),
        (np.array(3, np.float32), "shape"),
        (np.zeros((1, 4, 5, 6)), r"float32, got float64; convert it"),
        ([[1.0]], "NumPy array or have __dlpack__, got list"),
    ],
)
def test_wrong_input_is_refused(x, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Session(graphs.small()).run(x)


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(InputError, match="takes 1 input"):
        Session(graphs.small()).run()
    with pytest.raises(InputError, match="threads"):
        Session(graphs.small(), threads=0)
    with pytest.raises(KernelError, match="unknown layer 'nope'"):
        Session(graphs.small(), kernels={"nope": "dense"})
    with pytest.raises(KernelError, match=r"layer b: kernel 'nope' does not accept it; these do: dense, nm"):
        Session(graphs.small(NM(2, 4)), kernels={"b": "nope"})


def test_too_many_operands_are_refused_by_name() -> None:
    x, y = TensorSpec("x", (2,)), TensorSpec("y", (2 * 70,))
    op = Op("join", "concat", ("x",) * 70, ("y",), {"axis": 0})
    with pytest.raises(KernelError, match="layer join: concat of 70 tensors"):
        Session(Graph(ops=(op,), tensors={"x": x, "y": y}, inputs=("x",), outputs=("y",)))


def test_inputs_of_any_memory_order_and_dlpack() -> None:
    graph = graphs.small()
    session = Session(graph)
    x = images(graph, 2)
    want = session.run(x)
    np.testing.assert_array_equal(session.run(np.asfortranarray(x)), want)
    torch = pytest.importorskip("torch")
    np.testing.assert_array_equal(session.run(torch.from_numpy(x)), want)
    with pytest.raises(InputError, match="DLPack"):
        session.run(torch.from_numpy(x).requires_grad_())


def chain_with_skips(rng: np.random.Generator, shape: tuple[int, ...] = (7, 8)) -> Graph:
    names = ["t0"]
    ops = []
    for i in range(12):
        a = names[-1]
        b = names[int(rng.integers(len(names)))]
        out = f"t{i + 1}"
        ops.append(Op(f"op{i}", "add", (a, b), (out,), {"act": "none", "alpha": 0.0}))
        names.append(out)
    tensors = {t: TensorSpec(t, shape) for t in names}
    return Graph(ops=tuple(ops), tensors=tensors, inputs=("t0",), outputs=(names[-1],))


@pytest.mark.parametrize("tensors", [4, 14])  # that fit into the cache, of 256 bytes each: one image's, two images'; two threads run two
def test_portions_of_a_batch_give_the_same_bits(tensors: int, monkeypatch) -> None:
    rng = np.random.default_rng(1)
    for _ in range(10):
        graph = chain_with_skips(rng, (8, 8))
        x = rng.standard_normal((7, 8, 8), np.float32)
        whole = Session(graph, threads=2).run(x)
        monkeypatch.setattr("jettison.plan._room_bytes", lambda: 256 * tensors)
        layout = plan(graph, 7, 256, portion(graph, 7, 2))
        assert layout.portion == 2
        assert layout.head == 12  # no weights: nothing speaks for the whole batch
        session = Session(graph, threads=2)
        np.testing.assert_array_equal(session.run(x), whole)
        assert [t.name for t in session.profile(x, runs=1)] == ["input:t0", *(op.name for op in graph.ops), "output:t12"]
        monkeypatch.undo()


@pytest.mark.parametrize("fuse", [True, False])
def test_a_network_in_portions_gives_the_same_bits(fuse: bool, monkeypatch) -> None:
    graph = graphs.small(NM(2, 4))
    x = images(graph, 9)
    whole = Session(graph, threads=2).run(x)
    session = Session(graph, threads=2, fuse=[schedule(graph, graph.ops[:2], 2, 2)] if fuse else False)
    at_once, cache = session.arena_bytes(9), 3 * session.arena_bytes(1)
    monkeypatch.setattr("jettison.plan._room_bytes", lambda: cache)
    monkeypatch.setattr("jettison.plan._head", lambda *_: 2)
    assert session.arena_bytes(9) < at_once
    np.testing.assert_array_equal(session.run(x), whole)
    assert [t.name for t in session.profile(x, runs=1)] == ["input:x", "a", "b", "c", "d", "output:yd"]


def test_portions_are_nearly_equal_and_keep_all_threads_busy(monkeypatch) -> None:
    graph = chain_with_skips(np.random.default_rng(1), (8, 8))
    one = plan(graph, 1, 0).arena_bytes
    for cached, want in ((9, 8), (3, 2), (1, 2), (16, 16), (15, 8)):
        monkeypatch.setattr("jettison.plan._room_bytes", lambda cached=cached: cached * one)
        assert portion(graph, 16, 2) == want
    assert portion(graph, 1, 2) == 1


def test_large_weights_see_the_whole_batch(monkeypatch) -> None:
    graph = chain_with_skips(np.random.default_rng(1), (8, 8))
    heavy = {f"op{i}": 1 << 20 for i in range(6, 12)}
    monkeypatch.setattr("jettison.plan._room_bytes", lambda: 256 * 14)
    assert plan(graph, 64, 256, 2, heavy).head == 6


def test_reshape_is_free() -> None:
    graph = graphs.small()
    x = TensorSpec("x", (2, 6))
    y = TensorSpec("y", (12,))
    op = Op("r", "reshape", ("x",), ("y",), {"shape": (12,)})
    flat = replace(graph, ops=(op,), tensors={"x": x, "y": y}, inputs=("x",), outputs=("y",), constants={}, layouts={})
    places = plan(flat, 1, 256).places
    assert places["x"] == places["y"]
    data = np.arange(12, dtype=np.float32).reshape(1, 2, 6)
    np.testing.assert_array_equal(Session(flat).run(data), data.reshape(1, 12))


def test_imports_without_torch() -> None:
    code = "import sys; sys.modules['torch'] = None; import jettison, jettison.runtime; print(jettison.Session.__name__)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "Session"


def test_native_refuses_operands_outside_the_arena() -> None:
    shape = [4]
    size = _native.Problem("reshape", 1, [shape], shape, {"shape": shape})
    packed = _native.Packed("reshape", ISAS[0], size, {})
    with pytest.raises(ValueError, match="arena"):
        _native.Program(_native.Pool(1), [(packed, size, [(0, 64)], (2, 0))], 64)
