"""The analysis: its invariants on random networks and machines, and what it says of known ones."""

from __future__ import annotations

from dataclasses import replace
from math import isclose

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphs import quantized, small
from jettison.analysis import Access, Machine, Work, advice, waterline, works
from jettison.analysis.machine import Memory, Peak
from jettison.analysis.traffic import cached, cold
from jettison.analysis.work import fused
from jettison.formats import NM, Block, Dense
from jettison.graph import problem
from test_lut import graph as look_up_graph

MODELS = ("cold", "cached")
rates = st.floats(1e9, 1e13)
sizes = st.integers(1, 1 << 20)


@st.composite
def machines(draw) -> Machine:
    caches = sorted(draw(st.sets(st.integers(1 << 10, 1 << 21), max_size=3)))
    bandwidths = sorted(draw(st.lists(st.floats(1e8, 1e12), min_size=len(caches) + 1, max_size=len(caches) + 1)), reverse=True)
    memories = [Memory(f"L{i}", size, draw(st.booleans()), (rate,)) for i, (size, rate) in enumerate(zip(caches, bandwidths))]
    peaks = [Peak(e, f, "any", (draw(rates),)) for e in ("f32", "i8") for f in ("dense", "nm")]
    return Machine("drawn", "drawn", (1,), tuple(peaks), (*memories, Memory("memory", 0, False, (bandwidths[-1],))))


@st.composite
def networks(draw) -> tuple[Work, ...]:
    """Kernels that read any tensors made before them (residuals, too), weights of their own, and write one."""
    rows, tensors = [], [Access("x", draw(sizes))]
    for i in range(draw(st.integers(1, 9))):
        inputs = draw(st.lists(st.sampled_from(tensors), min_size=1, max_size=2))
        out = Access(f"t{i}", draw(sizes))
        dense = draw(st.integers(0, 1 << 26))
        kept = dense // draw(st.sampled_from((1, 4)))
        reads = (Access(f"weight:{i}", draw(sizes)), *inputs)
        rows.append(
            Work(
                f"k{i}",
                "conv",
                "",
                draw(st.sampled_from(("f32", "i8"))),
                dense,
                kept,
                draw(sizes),
                reads,
                (out,),
                (("dense", dense), ("nm", kept)),
            )
        )
        tensors.append(out)
    return tuple(rows)


@given(networks(), machines())
def test_the_waterline_never_exceeds_the_roofline_of_the_totals(rows, machine):
    found = waterline(rows, machine)
    for model in MODELS:
        assert found.attainable(model) <= found.roofline(model) * (1 + 1e-12)
        assert found.attainable(model) <= 1


@given(networks(), machines())
def test_the_area_of_the_boxes_is_one_over_the_efficiency(rows, machine):
    found = waterline(rows, machine)
    for model in MODELS:
        area = sum(b.arithmetic_ms * max(1, b.bound_ms(model) / b.arithmetic_ms) for b in found.boxes)
        assert isclose(area / found.ideal_ms, 1 / found.attainable(model), rel_tol=1e-9)


@given(networks(), machines(), st.data())
def test_the_parts_of_the_gap_add_up_to_it(rows, machine, data):
    ms = st.floats(1e-3, 1e3)
    times = {row.name: data.draw(ms) for row in rows}
    found = waterline(rows, machine, times_ms=times, measured_ms=data.draw(ms))
    for model in MODELS:
        gap = found.gap(model)
        assert isclose(gap.total_ms, found.measured_ms, rel_tol=1e-9)
        assert isclose(gap.total_ms / gap.ideal_ms, 1 / found.efficiency, rel_tol=1e-9)
        assert gap.memory_ms >= -1e-12


@given(networks(), machines(), st.data())
def test_a_time_below_its_bound_is_never_passed_over(rows, machine, data):
    """Faster than the cached bound: the figures are wrong, and the kernels are named; than the cold one alone: why that can be."""
    ms = st.floats(1e-9, 1e3)
    times = {row.name: data.draw(ms) for row in rows}
    found = waterline(rows, machine, times_ms=times, measured_ms=data.draw(ms))
    said = "\n".join(found.warnings())
    below_cached = [b for b in found.boxes if times[b.work.name] < b.bound_ms("cached")]
    below_cold = [b for b in found.boxes if b.bound_ms("cached") <= times[b.work.name] < b.bound_ms("cold")]
    assert ("faster than their cached bound" in said) == bool(below_cached)
    assert all(b.work.name in said for b in below_cached[:3])
    assert (f"faster than the cold bound: {len(below_cold)} kernel" in said) == bool(below_cold)
    assert ("exceeds 1" in said) == (found.efficiency > 1)


@given(networks(), st.data())
def test_fusing_never_raises_bytes(rows, data):
    i = data.draw(st.integers(0, len(rows) - 1))
    if i + 1 == len(rows) or any(a.name in {w.name for w in rows[i].writes} for row in rows[i + 2 :] for a in row.reads):
        return  # nothing after it, or somebody else reads its result
    merged = (*rows[:i], fused(rows[i : i + 2]), *rows[i + 2 :])
    capacity = data.draw(sizes)
    assert sum(cold(merged)) <= sum(cold(rows))
    assert sum(cached(merged, [capacity])[0]) <= sum(cached(rows, [capacity])[0])


@given(networks(), sizes, sizes)
def test_a_cache_never_adds_bytes_and_a_larger_one_saves_more(rows, a, b):
    less, more = cached(rows, sorted((a, b)))
    assert all(m <= s <= c for m, s, c in zip(more, less, cold(rows)))


def test_a_cache_that_holds_everything_leaves_no_traffic_and_none_keeps_it_all():
    rows = works(small(), batch=3)
    assert sum(cached(rows, [1 << 30])[0]) == 0
    assert sum(cached(rows, [0])[0]) == sum(a for a in cold(rows)) - 4 * 3 * 3  # nobody reads the caller's output again


def test_reuse_distance_counts_what_was_touched_in_between():
    x, y, w = Access("x", 10), Access("y", 20), Access("w", 100)
    rows = (Work("a", "act", "", "f32", 0, 0, 1, (x,), (y,)), Work("b", "conv", "", "f32", 1, 1, 0, (w, y), (Access("z", 5),)))
    # y is read at distance w + y = 120, then it is dead, as z is at once; x comes back after w: 110; w after x and y: 130
    assert cached(rows, [109, 110, 120, 130]) == [[10 + 20, 100 + 20], [20, 100 + 20], [0, 100], [0, 0]]


@pytest.mark.parametrize("batch", [1, 3])
def test_work_counts_what_the_graph_says(batch):
    graph = small(NM(2, 4))
    rows = {row.name: row for row in works(graph, batch)}
    assert list(rows) == ["input:x", "a", "b", "c", "d", "output:yd"]
    for op in graph.ops[:2]:
        assert rows[op.name].macs_dense == problem(graph, op, batch).macs
    assert rows["b"].macs_kept * 2 == rows["b"].macs_dense
    assert rows["b"].operations == 2 * rows["b"].macs_kept
    assert rows["c"].steps == batch * 5 * 6 * 8
    stored = 8 * 9 * 8 // 2 * (4 + 2 / 8) + 8 * 4  # values, two-bit indices, bias
    assert rows["b"].bytes == stored + 2 * batch * 4 * 30 * 8  # ya, which is input and residual, counts once


def test_a_group_is_one_kernel_and_what_passes_inside_it_is_in_no_memory():
    graph = small(Dense())
    apart = {row.name: row for row in works(graph)}
    together = works(graph, groups=[("a", "b")])
    assert [row.name for row in together] == ["input:x", "a … b", "c", "d", "output:yd"]
    group = together[1]
    assert group.bytes == apart["a"].bytes + apart["b"].bytes - 2 * 4 * 240  # ya, written and read
    assert (group.operations, group.names) == (apart["a"].operations + apart["b"].operations, ("a", "b"))
    found = waterline(together, MACHINE, 1, dict.fromkeys(apart, 1.0), 6.0)
    assert found.boxes[1].measured_ms == 2.0 and found.gap("cached").idle_ms == 0
    assert found.boxes[1].arithmetic_ms == pytest.approx(sum(b.arithmetic_ms for b in waterline(apart.values(), MACHINE, 1).boxes[1:3]))


def test_table_look_ups_are_counted_with_their_encoder_and_tables():
    row = works(look_up_graph(), batch=2)[2]
    pixels, codebooks, k = 2 * 30, 8, 7
    assert (row.macs_dense, row.macs_kept, row.look_ups) == (pixels * 72 * k, 0, pixels * codebooks * k)
    assert row.steps == pixels * codebooks * 2 * 4  # a comparison and an addition for each level of a tree
    assert row.operations == row.look_ups + row.steps
    assert next(a.bytes for a in row.reads if a.name == "weight:w") == codebooks * (4 * 4 + 15 + 16 * k)
    assert works(look_up_graph(), 2, "i8")[2].reads == row.reads
    peaks = (*MACHINE.peaks, Peak("i8", "dense", "any", (1e9, 2e9)))
    for more, rate in ((), 1e9), ((Peak("i8", "lut", "any", (0.5e9, 1e9)),), 0.5e9):
        found = waterline([row], replace(MACHINE, peaks=(*peaks, *more)), 1)
        assert found.ideal_ms == pytest.approx((row.look_ups / rate + row.steps / 2e9) * 1e3)


def test_kept_blocks_are_what_is_computed_and_read():
    row = works(small(Block(16, 16, NM(2, 4), 0.5)))[2]
    assert row.macs_dense == 4 * row.macs_kept == 30 * 32 * 9 * 32
    assert dict(row.ways) == {"dense": 2 * row.macs_kept, "nm": row.macs_kept}
    kept = 32 * 9 * 16 // 2  # weights: half of those in 9 of 18 blocks
    assert row.reads[0].bytes == kept * 4 + kept * 2 // 8 + -(-2 * 9 * 5 // 8)  # values, positions of 2 bits, columns of 5 bits


def test_int8_layers_move_bytes_and_compute_in_int8():
    rows = {row.name: row for row in works(quantized(Dense()))}
    assert (rows["quantize"].element, rows["conv"].element) == ("f32", "i8")
    activations = 30 * 8
    assert rows["conv"].bytes == 2 * activations + 8 * 9 * 8 + 2 * 4 * 8
    as_int8 = {row.name: row for row in works(small(Dense()), element="i8")}
    assert as_int8["a"].bytes * 4 == pytest.approx(next(row for row in works(small(Dense())) if row.name == "a").bytes, rel=0.1)


MACHINE = Machine(
    "made up", "by hand", (1, 2),
    (Peak("f32", "dense", "any", (1e9, 2e9)), Peak("f32", "nm", "any", (0.75e9, 1.5e9))),
    (Memory("cache", 1 << 12, False, (1e9, 2e9)), Memory("memory", 0, False, (1e8, 1e8))),
)  # fmt: skip


def conv(kept: int, dense: int, weight_bytes: int = 1) -> Work:
    return Work(
        "conv",
        "conv",
        "",
        "f32",
        dense,
        kept,
        0,
        (Access("weight:w", weight_bytes), Access("x", 1)),
        (Access("y", 1),),
        (("dense", dense), ("nm", kept)),
    )


def test_a_sparse_layer_is_limited_by_gathering_or_by_computing_everything():
    quarter, most = (waterline([conv(kept, 1_000_000)], MACHINE, threads=1).boxes[0] for kept in (250_000, 900_000))
    assert quarter.arithmetic_ms == pytest.approx(250_000 / 0.75e9 * 1e3)
    assert most.arithmetic_ms == pytest.approx(1.0)  # 900 000 gathered would take 1.2 ms
    assert waterline([conv(1_000_000, 1_000_000)], MACHINE, threads=2).ideal_ms == pytest.approx(0.5)


def test_the_bound_names_the_memory_that_takes_longest():
    near = waterline([conv(1, 1, weight_bytes=1 << 10)], MACHINE, threads=1).boxes[0]
    far = waterline([conv(1, 1, weight_bytes=1 << 14)], MACHINE, threads=1).boxes[0]
    assert (near.bound_by("cold"), near.bound_by("cached")) == ("memory", "arithmetic")  # it stays in the cache
    assert far.bound_by("cached") == "memory"
    assert far.bound_ms("cached") == pytest.approx((1 << 14) / 1e8 * 1e3, rel=0.01)


def test_figures_that_cannot_be_true_are_warned_of():
    row = conv(1_000_000, 1_000_000)
    assert not waterline([row], MACHINE, 1, {"conv": 1.5}, 1.6).warnings()
    assert any("exceeds 1" in w for w in waterline([row], MACHINE, 1, {"conv": 0.5}, 0.5).warnings())
    cold_row = conv(1, 1, weight_bytes=1 << 10)
    assert any("cold bound: 1 kernel;" in w for w in waterline([cold_row], MACHINE, 1, {"conv": 0.005}, 0.01).warnings())


def test_advice_fits_the_limit():
    rows = [conv(1_000_000, 1_000_000)]
    near = advice(waterline(rows, MACHINE, 1, {"conv": 1.1}, 1.1))["conv"]
    assert "only less work" in near and "1:4 would lower its limit to 0.333 ms" in near
    assert "better kernel" in advice(waterline(rows, MACHINE, 1, {"conv": 3.0}, 3.0))["conv"]
    group = fused([conv(500_000, 500_000), replace(conv(500_000, 500_000), name="next", reads=(Access("y", 1),))])
    assert "fused already" in advice(waterline([group], MACHINE, 1, {"conv": 1.5, "next": 1.5}, 3.0))["conv … next"]
    weights = advice(waterline([conv(1, 1, weight_bytes=1 << 14)], MACHINE, 1))["conv"]
    assert "through memory" in weights and "mostly weights" in weights


def test_networks_without_arithmetic_have_no_gap_to_explain():
    move = Work("move", "concat", "", "f32", 0, 0, 0, (Access("x", 8),), (Access("y", 8),))
    found = waterline([move], MACHINE, 1, {"move": 1.0}, 1.0)
    assert (found.ideal_ms, found.attainable("cold"), found.efficiency) == (0, 0, 0)
    assert np.isfinite(found.gap("cold").total_ms)
