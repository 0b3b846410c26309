"""What if: changes are read, made to the graph, fused into blocks, and predicted from the parts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from graphs import small
from jettison.analysis import Access, Work, works
from jettison.analysis.measure import Measured
from jettison.analysis.study import limits_only, measured
from jettison.analysis.whatif import Baseline, Change, blocks, changed, predicted_ms, pruned
from jettison.errors import InputError, KernelError, PatternError
from jettison.formats import NM, Dense
from jettison.graph import Graph, Op, TensorSpec
from jettison.runtime import LayerTime, Session
from jettison.spec import check

LINE = {"groups": 1, "dilation": (1, 1), "stride": (1, 1), "act": "relu", "alpha": 0.0, "k": 8}


def bottleneck() -> Graph:
    """Image (6, 6, 8) → stem 3×3 → block (1×1, 3×3, 1×1 + input) → 3×3 → mean."""
    sizes = {"stem": 3, "reduce": 1, "spatial": 3, "expand": 1, "next": 3}
    reads = {"stem": ("x",), "reduce": ("stem",), "spatial": ("reduce",), "expand": ("spatial", "stem"), "next": ("expand",)}
    ops = [
        Op(name, "conv", reads[name], (name,), {**LINE, "kernel": (r, r), "pad": (r // 2,) * 4}, {"weight": f"{name}.w"})
        for name, r in sizes.items()
    ]
    ops.append(Op("mean", "mean", ("next",), ("mean",), {"axes": (0, 1), "keepdims": False}))
    rng = np.random.default_rng(0)
    constants = {f"{name}.w": rng.standard_normal((8, r, r, 8)).astype(np.float32) for name, r in sizes.items()}
    tensors = {name: TensorSpec(name, (8,) if name == "mean" else (6, 6, 8)) for name in ("x", *sizes, "mean")}
    return check(Graph(tuple(ops), tensors, ("x",), ("mean",), constants, {"x": "nchw", "mean": "plain"}))


@pytest.mark.parametrize("text", ["1:4", "int8", "fuse", "batch=16", "1:4+int8+batch=2", "2:8+fuse"])
def test_a_change_says_what_was_typed(text):
    assert str(Change.parse(text)) == text


@pytest.mark.parametrize(
    ("text", "error"), [("1:4+int4", InputError), ("1:4+2:4", InputError), ("batch=0", InputError), ("", InputError), ("5:4", PatternError)]
)
def test_changes_that_do_not_exist_are_refused(text, error):
    with pytest.raises(error):
        Change.parse(text)


def test_pruning_leaves_stem_and_classifier_and_keeps_the_largest():
    graph = small(Dense())
    new = check(pruned(graph, NM(1, 4)))
    formats = {op.name: str(op.format) for op in new.ops}
    assert formats == {"a": "dense", "b": "1:4", "c": "dense", "d": "dense"}
    old = graph.weight(graph.ops[1])
    np.testing.assert_array_equal(new.weight(new.ops[1]), old * NM(1, 4).mask(old))
    with pytest.raises(InputError, match="no layer has input channels divisible by 7"):
        pruned(graph, NM(1, 7))


def test_a_changed_network_runs_and_needs_less():
    graph = small(Dense())
    new = changed(graph, Change.parse("1:4+int8"))
    assert Session(new, threads=1).run(np.zeros((1, 4, 5, 6), np.float32)).shape == (1, 3)
    before, after = ({row.name: row for row in works(g)} for g in (graph, new))
    assert after["b"].macs_kept * 4 == before["b"].macs_kept and after["b"].bytes * 3 < before["b"].bytes


def test_a_residual_block_becomes_one_kernel():
    graph = bottleneck()
    assert blocks(graph) == (("reduce", "spatial", "expand"),)
    rows = works(graph, groups=blocks(graph))
    assert [row.name for row in rows] == ["input:x", "stem", "reduce … expand", "next", "mean", "output:mean"]
    weights = 4 * 8 * 8 * (1 + 9 + 1)
    assert rows[2].bytes == weights + 2 * 4 * 36 * 8  # the input, which is also the residual, and the output
    assert rows[2].macs_dense == 36 * 8 * 8 * 11
    session = Session(graph, threads=1, fuse=blocks(graph))
    assert session.groups() == blocks(graph)
    x = np.ones((2, 8, 6, 6), np.float32)
    np.testing.assert_array_equal(session.run(x), Session(graph, threads=1, fuse=False).run(x))
    with pytest.raises(KernelError, match=r"stem … reduce cannot run as one group"):
        Session(graph, threads=1, fuse=[("stem", "reduce")])


def test_kernels_are_timed_apart_by_step():
    graph = bottleneck()
    apart, fused = (Session(graph, threads=1, fuse=fuse).profile_apart(2) for fuse in (False, blocks(graph)))
    assert list(apart) == ["stem", "reduce", "spatial", "expand", "next", "mean"]
    assert apart["stem"] == apart["next"]  # alike but for their weights, so measured once
    assert list(fused) == ["stem", "reduce … expand", "next", "mean"]
    assert min(*apart.values(), *fused.values()) > 0


def test_a_prediction_adds_what_a_kernel_took_beyond_its_time_apart():
    x, y, w = Access("x", 100), Access("y", 100), Access("weight:w", 200)
    old = Work("conv", "conv", "", "f32", 8, 8, 0, (w, x), (y,))
    new = Work("conv", "conv", "", "i8", 8, 8, 0, (Access("weight:w", 50), Access("x", 25)), (Access("y", 25),))
    found = Measured((LayerTime("conv", "conv", 5.0, 5.0, 5.0),), 6.0, 6.0, 6.0)
    baseline = Baseline(found, {"conv": 3.0}, (old,))
    assert baseline.whole_over_parts == 1.2
    assert predicted_ms(baseline, [old], {"conv": 3.0}) == {"conv": 5.0}
    assert predicted_ms(baseline, [new], {"conv": 1.0}) == {"conv": 1.0 + 2.0 / 4}
    assert predicted_ms(baseline, [replace(new, name="a … b")], {"a … b": 1.0}) == {"a … b": 1.0 + 2.0 / 4}


def test_a_study_compares_limits_prediction_and_measurement():
    graph = bottleneck()
    from jettison.analysis.machine import load

    machine = load("epyc-zen5")
    changes = [(change, changed(graph, change)) for change in map(Change.parse, ("1:4", "fuse", "batch=2"))]
    only = limits_only(graph, machine, 1, 1, changes=changes).what_if
    assert [r["change"] for r in only] == ["as it is", "1:4", "fuse", "batch=2"]
    assert only[1]["macs_kept"] < only[0]["macs_kept"] == only[2]["macs_kept"]
    assert only[2]["cold_bound_ms"] <= only[0]["cold_bound_ms"]
    assert only[3]["operations"] == 2 * only[0]["operations"]
    here = measured(graph, machine, 1, 1, 3, changes, check=True).what_if
    for row in here[1:]:
        assert row["error"] == pytest.approx(row["predicted_ms"] / row["measured_ms"] - 1)
    assert "reduce … expand" in [kernel["name"] for kernel in here[2]["kernels"]]
