"""Places of tensors in the arena, and portions of a batch: simulated step by step on random graphs."""

from __future__ import annotations

from unittest.mock import patch

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from jettison.graph import Graph, Op, TensorSpec
from jettison.plan import ALIGN_BYTES, Plan, plan, portion, roots

SLACK_BYTES = 256


@st.composite
def random_graphs(draw: st.DrawFn) -> Graph:
    """Ops of one to three inputs and reshapes, on tensors of odd sizes; several inputs and outputs, results that nobody reads."""
    even, odd = [(16,), (64,), (4, 4, 8)], [(1,), (8,), (5, 7), (3, 3, 17)]  # where all are odd, portions are of 64 images
    shapes = st.sampled_from(even + odd if draw(st.booleans()) else even)
    dtypes = st.sampled_from(["f32", "u8"])
    tensors = {f"x{i}": TensorSpec(f"x{i}", draw(shapes), draw(dtypes)) for i in range(draw(st.integers(1, 3)))}
    inputs, ops = tuple(tensors), []
    for i in range(draw(st.integers(1, 10))):
        name, known = f"t{i}", st.sampled_from(list(tensors))
        if draw(st.integers(0, 3)) == 0:
            source = tensors[draw(known)]
            op = Op(f"op{i}", "reshape", (source.name,), (name,))
            tensors[name] = TensorSpec(name, (source.size,), source.dtype)
        else:
            op = Op(f"op{i}", "concat", tuple(draw(st.lists(known, min_size=1, max_size=3))), (name,))
            tensors[name] = TensorSpec(name, draw(shapes), draw(dtypes))
        ops.append(op)
    outputs = tuple(draw(st.lists(st.sampled_from(list(tensors)), min_size=1, max_size=3, unique=True)))
    return Graph(tuple(ops), tensors, inputs, outputs)


class Arena:
    """Of every byte: which value lies there, (root tensor, image, byte of it)."""

    def __init__(self, graph: Graph, layout: Plan) -> None:
        self.graph, self.layout, self.root = graph, layout, roots(graph)
        self.number = {t: i for i, t in enumerate(graph.tensors)}
        self.bytes = np.full((layout.arena_bytes, 3), -1)

    def values(self, tensor: str, first: int, images: int) -> np.ndarray:
        size = self.graph.tensors[tensor].bytes
        image, byte = np.divmod(np.arange(images * size), size)
        return np.stack([np.full(images * size, self.number[self.root[tensor]]), first + image, byte], axis=1)

    def span(self, tensor: str, first: int, images: int) -> slice:
        """first, images: of the portion, or of the whole batch."""
        start = self.layout.places_at(first)[tensor]
        assert start % ALIGN_BYTES == 0
        end = start + images * self.graph.tensors[tensor].bytes
        assert start >= 0 and end + SLACK_BYTES <= self.layout.arena_bytes
        return slice(start, end)

    def write(self, tensor: str, first: int, images: int) -> None:
        self.bytes[self.span(tensor, first, images)] = self.values(tensor, first, images)

    def read(self, tensor: str, first: int, images: int) -> None:
        np.testing.assert_array_equal(self.bytes[self.span(tensor, first, images)], self.values(tensor, first, images), err_msg=tensor)

    def step(self, op: Op, first: int, images: int) -> None:
        """A kernel may write its result in any order: all that it reads must still be there afterwards."""
        if op.kind != "reshape":
            self.write(op.outputs[0], first, images)
        for t in op.inputs:
            self.read(t, first, images)


@settings(deadline=None, max_examples=300)
@given(random_graphs(), st.integers(1, 9), st.integers(1, 5), st.integers(0, 10))
def test_every_value_is_where_it_was_written(graph: Graph, n: int, images: int, head: int) -> None:
    with patch("jettison.plan._head", lambda *_: min(head, len(graph.ops))):
        layout = plan(graph, n, SLACK_BYTES, images)
    arena = Arena(graph, layout)
    for t in graph.inputs:
        arena.write(t, 0, n)
    portions = list(layout.portions())
    assert [i for first, count in portions for i in range(first, first + count)] == (list(range(n)) if layout.head else [])
    for first, count in portions:
        for op in graph.ops[: layout.head]:
            arena.step(op, first, count)
    for op in graph.ops[layout.head :]:
        arena.step(op, 0, n)
    for t in graph.outputs:
        arena.read(t, 0, n)
    apart = sum(n * spec.bytes + SLACK_BYTES + ALIGN_BYTES for spec in graph.tensors.values())
    assert layout.arena_bytes <= apart


@given(random_graphs(), st.integers(1, 64), st.integers(1, 9), st.integers(0, 1 << 16))
def test_a_portion_is_the_batch_or_keeps_all_threads_busy(graph: Graph, n: int, threads: int, cache_bytes: int) -> None:
    with patch("jettison.plan._room_bytes", lambda: cache_bytes):
        images = portion(graph, n, threads)
    assert images == n or (images < n and images % threads == 0)
