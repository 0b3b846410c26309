"""Quantized networks take float32 images as users have them, and keep no float32 image in memory."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import graphs
from jettison import reference
from jettison.graph import Graph, Op, TensorSpec
from jettison.intake import quantize_first, quantizers
from jettison.runtime import Session
from jettison.spec import check

USER = (8, 5, 6)  # (c, h, w)


def images(n: int) -> np.ndarray:
    return np.random.default_rng(n).standard_normal((n, *USER)).astype(np.float32)


def with_another_reader(graph: Graph) -> Graph:
    """The float32 image is an output's summand too."""
    end = Op("sum", "add", ("z", "x"), ("s",), {"act": "none", "alpha": 0.0})
    tensors = {**graph.tensors, "s": TensorSpec("s", graph.tensors["z"].shape)}
    return replace(graph, ops=(*graph.ops, end), tensors=tensors, outputs=("s",), layouts={"x": "nchw", "s": "nchw"})


def test_quantized_first_is_the_same_network() -> None:
    graph = graphs.quantized()
    early = check(quantize_first(graph))
    assert [(op.name, op.kind) for op in early.ops[:2]] == [("quantize", "quantize"), ("x/layout", "transpose")]
    x = images(3)
    np.testing.assert_array_equal(reference.run(early, x)[0], reference.run(graph, x)[0])


def test_names_that_are_taken_are_left_alone() -> None:
    graph = graphs.quantized()
    tensors = {{"yq": "x/chw"}.get(name, name): replace(t, name={"yq": "x/chw"}.get(name, name)) for name, t in graph.tensors.items()}
    rename = {"yq": "x/chw"}
    ops = tuple(
        replace(op, inputs=tuple(rename.get(t, t) for t in op.inputs), outputs=tuple(rename.get(t, t) for t in op.outputs))
        for op in graph.ops
    )
    taken = check(replace(graph, ops=ops, tensors=tensors))
    np.testing.assert_array_equal(reference.run(check(quantize_first(taken)), images(2))[0], reference.run(graph, images(2))[0])


@pytest.mark.parametrize("make", [graphs.small, lambda: with_another_reader(graphs.quantized())], ids=["float32", "read twice"])
def test_other_inputs_stay_as_they_are(make) -> None:
    graph = check(make())
    assert not quantizers(graph)
    assert quantize_first(graph) is graph


@pytest.mark.parametrize("n", [1, 2, 5])
@pytest.mark.parametrize("threads", [1, 2])
def test_the_runtime_equals_the_reference(n: int, threads: int) -> None:
    for graph in (graphs.quantized(), with_another_reader(graphs.quantized())):
        np.testing.assert_array_equal(Session(graph, threads=threads).run(images(n)), reference.run(graph, images(n))[0])


def test_an_image_that_is_not_an_image_is_read_directly_too() -> None:
    graph = graphs.quantized()
    plain = check(replace(graph, layouts={**graph.layouts, "x": "plain"}))
    x = np.ascontiguousarray(images(2).transpose(0, 2, 3, 1))
    np.testing.assert_array_equal(Session(plain, threads=1).run(x), reference.run(plain, x)[0])


def test_no_float32_image_lies_in_memory() -> None:
    graph = graphs.quantized()
    wide = Session(with_another_reader(graph), threads=1).arena_bytes(batch=64)
    assert Session(graph, threads=1).arena_bytes(batch=64) < wide
    rows = [(row.name, row.kind) for row in Session(graph, threads=1).profile(images(1), runs=2)]
    assert rows[:2] == [("quantize", "quantize"), ("x/layout", "transpose")]
