"""Comparisons: processes of their own, checked outputs, honest rows."""

from __future__ import annotations

import io
import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from graphs import small
from jettison import file, reference
from jettison.bench import Entrant, compare, processors, provenance, worker
from jettison.bench.comparison import TURN, quiet_timings, relative_error, timings
from jettison.bench.pipe import receive, send
from jettison.bench.process import Worker, WorkerFailed
from jettison.bench.quiet import Probe
from jettison.bench.target import SAMPLED, densified, networks, pattern_of, random_graph, random_inputs, random_samples
from jettison.errors import FileError, InputError, KernelError, MissingExtra, VerificationError
from jettison.formats import NM, Dense
from jettison.peers import ENGINES

ONE = processors(1)


@pytest.fixture
def saved(tmp_path):
    """A small file and inputs for it."""
    path = tmp_path / "small.jettison"
    file.save(small(), path)
    return path, random_samples(small(), 2, seed=1)


def entrant(path, engine="jettison", element="f32", weights="w"):
    return Entrant(engine, element, "2:4", path, weights)


def test_a_message_arrives_as_it_was_sent():
    pipe = io.BytesIO()
    arrays = (np.arange(6, dtype=np.float32).reshape(2, 3), np.zeros((0, 4), np.int64))
    send(pipe, {"runs": 5}, arrays)
    send(pipe, {})
    pipe.seek(0)
    message, got = receive(pipe)
    assert message == {"runs": 5}
    assert [(g.dtype, g.tolist()) for g in got] == [(a.dtype, a.tolist()) for a in arrays]
    assert receive(pipe) == ({}, ())
    with pytest.raises(EOFError):
        receive(pipe)


def test_pickled_objects_do_not_pass():
    pipe = io.BytesIO()
    with pytest.raises(ValueError, match="pickle"):
        send(pipe, {}, (np.array([{}], dtype=object),))


def test_engines_are_timed_as_often_as_asked_and_agree(saved):
    pytest.importorskip("onnxruntime")
    path, inputs = saved
    told = []
    result = compare([entrant(path), entrant(path, "onnxruntime")], inputs, ONE, runs=7, tell=lambda what, done: told.append(done))
    assert [(r.engine, r.runs) for r in result.rows] == [("jettison", 7), ("onnxruntime", 7)]
    assert all(0 < r.p10_ms <= r.median_ms <= r.p90_ms for r in result.rows)
    assert max(result.errors) <= 1e-5
    assert not result.absent
    assert all(q is None or (q.engine == r.engine and q.runs <= r.runs) for q, r in zip(result.quiet, result.rows, strict=True))
    assert 0 <= min(told) <= max(told) <= 1


def test_the_ratio_to_the_best_other_engine_is_taken_round_by_round():
    """A machine twice as slow from the second round on changes medians by chance, the ratio not at all."""
    engines = [Entrant(e, "f32", "dense", Path(), "w") for e in ("jettison", "openvino", "onnxruntime")]
    slow = [1.0] * TURN + [2.0] * 2 * TURN
    rows = timings(engines, [[3 * v for v in slow], [4 * v for v in slow], [6 * v for v in slow]])
    assert [r.of_best for r in rows] == [(0.75, 0.75, 0.75), (1.0, 1.0, 1.0), (1.5, 1.5, 1.5)]
    assert timings(engines[:1], [slow])[0].of_best is None


def test_turns_beside_a_busy_neighbour_are_told_from_the_others():
    """Two processors, four turns; the best moment may come last."""
    probe = Probe([0, 1])
    looks = iter([1.3, 2.0, 1.0, 2.0, 1.0, 3.0, 1.09, 2.1, 1.0, 1.95])
    probe._time = lambda cpu: next(looks)
    before = [probe.look() for _ in range(4)]
    assert probe.quiet(before, [*before[1:], probe.look()]) == [False, False, False, True]


def test_patience_waits_for_a_neighbour_to_rest_but_not_for_ever():
    probe = Probe([0])
    looks = iter([1.0, 1.5, 1.5, 1.05])
    probe._time = lambda cpu: next(looks, 1.5)
    assert probe.look() == [1.0]
    assert probe.wait(60) == [1.05]
    assert probe.wait(0) == [1.5]
    assert probe.wait(0.01) == [1.5]


def test_the_undisturbed_ratio_is_of_rounds_in_which_neither_was_disturbed():
    """Three rounds; the neighbour slows one engine more than the other."""
    engines = [Entrant(e, "f32", "dense", Path(), "w") for e in ("jettison", "openvino")]
    times = [[3.0] * TURN + [4.0] * TURN + [9.0] * 2, [6.0] * TURN + [6.0] * TURN + [9.0] * 2]
    ours, other = quiet_timings(engines, times, [[True, True, False], [True, False, True]])
    assert (ours.median_ms, ours.runs, ours.of_best) == (3.5, 2 * TURN, (0.5, 0.5, 0.5))
    assert (other.median_ms, other.runs) == (6.0, TURN + 2)
    assert quiet_timings(engines, times, [[False] * 3, [True] * 3])[0] is None


def test_an_engine_that_cannot_run_is_named_with_the_reason(saved):
    path, inputs = saved
    result = compare([entrant(path), entrant(path, "onnxruntime", "bf16")], inputs, ONE, runs=1)
    assert [r.engine for r in result.rows] == ["jettison"]
    assert result.absent[0].engine == "onnxruntime"
    assert "bf16" in result.absent[0].reason or "not installed" in result.absent[0].reason


def test_all_engines_can_be_limited_to_an_instruction_set(saved):
    path, inputs = saved
    result = compare([entrant(path), entrant(path, "onnxruntime")], inputs, ONE, runs=1, isa="scalar")
    assert [r.engine for r in result.rows] == ["jettison"]
    assert "cannot be limited to scalar" in result.absent[0].reason or "not installed" in result.absent[0].reason
    with pytest.raises(WorkerFailed, match="'mmx' cannot run on this machine"):  # the limit reaches the engine
        Worker("jettison", "f32", path, inputs, ONE, {"JETTISON_ISA": "mmx"})


def test_the_processors_best_instruction_set_limits_no_engine(monkeypatch):
    engine = replace(ENGINES["onnxruntime"], packages=())
    monkeypatch.setattr("jettison.peers.isas", lambda: ["avx512", "avx2", "scalar"])
    assert engine.refusal("f32", "avx2") == "cannot be limited to avx2"
    monkeypatch.setattr("jettison.peers.isas", lambda: ["avx2", "scalar"])
    assert engine.refusal("f32", "avx2") is None


def test_nothing_to_measure_is_an_error(saved):
    path, inputs = saved
    with pytest.raises(MissingExtra, match="jettison: has no bf16"):
        compare([entrant(path, element="bf16")], inputs, ONE, runs=1)


def test_int8_is_exact_with_and_without_its_pattern_and_other_engines_join_in(saved, tmp_path):
    path, inputs = saved
    entrants = []
    for i, network in enumerate(networks(str(path), [], None, 0, "int8")):
        assert any(t.dtype == "u8" for t in network.graph.tensors.values())
        file.save(network.graph, tmp_path / f"{i}.jettison")
        entrants.append(entrant(tmp_path / f"{i}.jettison", element="int8"))
    with pytest.raises(InputError, match="write --element int8"):
        networks(str(tmp_path / "0.jettison"), [], None, 0)
    result = compare([*entrants, entrant(tmp_path / "0.jettison", "onnxruntime", "int8")], inputs, ONE, runs=1)
    assert len(entrants) == 2 and max(result.errors[:2]) <= 1e-6
    assert result.absent or 0 < result.errors[2] < 0.1


def test_other_outputs_are_refused(saved, tmp_path):
    """Two files that claim the same weights and do not have them."""
    path, inputs = saved
    other = tmp_path / "other.jettison"
    file.save(small(seed=5), other)
    with pytest.raises(VerificationError, match="gives other outputs"):
        compare([entrant(path), entrant(other)], inputs, ONE, runs=1)
    result = compare([entrant(path), entrant(other, weights="others")], inputs, ONE, runs=1)
    assert len(result.rows) == 2


def test_an_error_of_ours_is_not_hidden_in_a_row(saved, tmp_path, monkeypatch):
    path, inputs = saved
    monkeypatch.setenv("JETTISON_ISA", "mmx")
    with pytest.raises(KernelError, match="mmx"):
        compare([entrant(path)], inputs, ONE, runs=1)


def test_an_engine_that_dies_while_it_is_timed_leaves_the_others_their_times(saved, monkeypatch):
    path, inputs = saved
    times_ms, calls = Worker.times_ms, []

    def until_the_third(worker, runs):
        calls.append(worker)
        if len(calls) == 3:
            worker._process.kill()
        return times_ms(worker, runs)

    monkeypatch.setattr(Worker, "times_ms", until_the_third)
    pytest.importorskip("onnxruntime")
    result = compare([entrant(path), entrant(path, "onnxruntime")], inputs, ONE, runs=11)  # the order shifts: the second is third too
    assert ([r.engine for r in result.rows], [a.engine for a in result.absent]) == (["jettison"], ["onnxruntime"])
    assert result.rows[0].runs == 11 and len(result.errors) == 1 and "its process ended" in result.absent[0].reason


def test_a_worker_is_pinned_and_ends_with_its_context(saved):
    path, inputs = saved
    with Worker("jettison", "f32", path, inputs, ONE) as other:
        pid = other._process.pid
        if hasattr(os, "sched_getaffinity"):
            assert os.sched_getaffinity(pid) == set(ONE)
            assert os.sched_getaffinity(0) != set(ONE) or len(processors(None)) == 1
        assert len(other.times_ms(3)) == 3
        assert len(other.outputs) == len(inputs) == SAMPLED // 2
        for got, sample in zip(other.outputs, inputs):
            assert relative_error(got, reference.run(small(), *sample)) <= 1e-5
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_runs_take_one_sample_after_the_other(monkeypatch):
    """Look-ups on one input alone would find their tables in the caches."""
    graph, seen = small(), []
    samples = random_samples(graph, 30, seed=0)

    class Spy:
        def prepare(self):
            return lambda graph, samples, element, threads: lambda i: seen.append(i) or (samples[i][0],)

    monkeypatch.setitem(ENGINES, "jettison", Spy())
    monkeypatch.setattr(worker, "UNTIMED_S", 0.0)
    monkeypatch.setattr(file, "load", lambda path: graph)
    requests, answers = io.BytesIO(), io.BytesIO()
    setup = {"engine": "jettison", "element": "f32", "graph": "", "threads": 1, "samples": len(samples)}
    send(requests, setup, [x for sample in samples for x in sample])
    send(requests, {"runs": 3})
    requests.seek(0)
    with pytest.raises(EOFError):
        worker.serve(requests, answers)
    assert len(samples) == 2 and seen == [0, 1, 0, 1, 0, 1, 0]


def test_a_worker_that_dies_leaves_its_last_words(saved):
    path, inputs = saved
    with Worker("jettison", "f32", path, inputs, ONE) as other:
        other._process.kill()
        with pytest.raises(WorkerFailed, match="its process ended: exit code -9"):
            other.times_ms(1)


def test_a_damaged_file_is_the_users_error_in_the_worker_too(tmp_path):
    path = tmp_path / "bad.jettison"
    path.write_bytes(b"not a file")
    with pytest.raises(WorkerFailed, match=r"is not a \.jettison file") as e:
        Worker("jettison", "f32", path, random_samples(small(), 1, 0), ONE)
    assert e.value.expected


def test_relative_error_is_of_the_largest_output():
    want = [np.array([1.0, -4.0])]
    assert relative_error([np.array([1.0, -4.4])], want) == pytest.approx(0.1)
    assert relative_error([np.array([1.0])], want) == float("inf")
    assert relative_error([*want, np.array([np.nan, 0.0])], want * 2) == float("inf")


def test_processors_are_distinct_and_counted():
    assert len(set(processors(None))) == len(processors(None))
    with pytest.raises(InputError, match="threads must lie between 1 and"):
        processors(0)
    with pytest.raises(InputError, match="got 100000"):
        processors(100_000)


def test_provenance_is_json_and_says_what_a_timing_depends_on():
    data = json.loads(json.dumps(provenance()))
    assert {"machine", "commit", "date"} == set(data)
    assert {"processor", "isa", "cores", "memory_gib", "governor", "os", "versions"} == set(data["machine"])
    assert "numpy" in data["machine"]["versions"]


def test_densified_is_the_same_function_without_formats():
    graph = small()
    dense = densified(graph)
    assert (pattern_of(graph), pattern_of(dense)) == ("2:4", "dense")
    x = random_inputs(graph, 2, 0)
    assert np.array_equal(reference.run(graph, *x)[0], reference.run(dense, *x)[0])


def test_a_file_brings_its_dense_twin(saved):
    path, _ = saved
    found = networks(str(path), [Dense()], None, 0)
    assert [(n.pattern, n.weights) for n in found] == [("dense", "file"), ("2:4", "file")]


def test_a_missing_file_is_not_taken_for_a_network():
    with pytest.raises(FileError, match="there is no such file"):
        networks("nowhere.jettison", [Dense()], None, 0)


def test_random_networks_obey_their_pattern_and_have_ordinary_activations():
    pytest.importorskip("torch")
    found = networks("resnet20_cifar", [NM(1, 4), NM(1, 4)], 16, seed=0)
    assert [n.pattern for n in found] == ["dense", "1:4"]
    graph = found[1].graph
    sparse = [op for op in graph.ops if op.format == NM(1, 4)]
    assert len(sparse) == 18
    assert all(op.format.satisfied(graph.weight(op)) for op in sparse)
    scores = reference.run(graph, *random_inputs(graph, 4, 0))[0]
    assert 0.01 < scores.std() < 100
    again = random_graph("resnet20_cifar", NM(1, 4), 16, seed=0)
    assert np.array_equal(reference.run(again, *random_inputs(graph, 4, 0))[0], scores)
