"""Fused groups give what their ops give one by one, to the last bit: any block, border, band, element, pattern, instruction set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np
import pytest

from jettison import _native, planner, ptq, reference, spec
from jettison.choice import op_problem
from jettison.errors import KernelError
from jettison.formats import NM, Dense, Format
from jettison.fusion import Window, groupable, schedule, window
from jettison.graph import Graph, Op, TensorSpec
from jettison.runtime import Session, isas
from jettison.timings import Timings


@dataclass
class Chain:
    """A network written op by op; every op reads the one before it."""

    shape: tuple[int, int, int]
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))
    fmt: Format = field(default_factory=Dense)  # of 1×1 convolutions whose channels divide

    def __post_init__(self) -> None:
        self.tensors = {"x": TensorSpec("x", self.shape)}
        self.constants: dict[str, np.ndarray] = {}
        self.ops: list[Op] = []
        self.last = "x"

    def normal(self, *shape: int, scale: float = 1.0) -> np.ndarray:
        return (self.rng.standard_normal(shape) * scale).astype(np.float32)

    def add(self, kind: str, attrs: dict, params: dict[str, np.ndarray], residual: str | None = None, fmt: Format = Dense()) -> Chain:
        name = f"{kind}{len(self.ops)}"
        inputs = (self.last, residual) if residual else (self.last,)
        weight = params.pop("weight", None) if kind == "conv" else None
        roles = {role: f"{name}.{role}" for role in params}
        self.constants |= {f"{name}.{role}": a for role, a in params.items()}
        if weight is not None:
            parts = fmt.encode(weight, name)
            self.constants |= {f"{name}.weight" if fmt == Dense() else f"{name}.weight.{part}": a for part, a in parts.items()}
            roles["weight"] = f"{name}.weight"
        shape = spec.output_shape(kind, [self.tensors[t].shape for t in inputs], attrs, name)
        self.last = f"{name}.y"
        self.tensors[self.last] = TensorSpec(self.last, shape)
        self.ops.append(Op(name, kind, inputs, (self.last,), attrs, roles, fmt))
        return self

    def conv(self, k: int, taps: int = 1, stride: int = 1, width: int = 0, act: str = "none", residual: str | None = None) -> Chain:
        """width: input channels of a group, 0 for one group."""
        c = self.tensors[self.last].shape[-1]
        groups = c // width if width else 1
        weight = self.normal(k, taps, taps, c // groups, scale=(taps * taps * c / groups) ** -0.5)
        fmt = self.fmt if taps == 1 and groups == 1 and isinstance(self.fmt, NM) and c % self.fmt.m == 0 else Dense()
        if isinstance(fmt, NM):
            weight *= fmt.mask(weight)
        attrs = {"k": k, "kernel": (taps, taps), "stride": (stride, stride), "pad": (taps // 2,) * 4, "dilation": (1, 1), "groups": groups,
                 "act": act, "alpha": 0.0}  # fmt: skip
        return self.add("conv", attrs, {"weight": weight, "bias": self.normal(k)}, residual, fmt)

    def layer_norm(self) -> Chain:
        c = self.tensors[self.last].shape[-1]
        return self.add("layer_norm", {"eps": 1e-6}, {"weight": self.normal(c), "bias": self.normal(c)})

    def mbconv(self, k: int, expansion: int, taps: int = 3, stride: int = 1, width: int = 1, act: str = "relu6") -> Chain:
        start, c = self.last, self.tensors[self.last].shape[-1]
        self.conv(c * expansion, act=act).conv(c * expansion, taps, stride, width, act)
        return self.conv(k, residual=start if stride == 1 and k == c else None)

    def convfirst(self, expansion: int, taps: int, width: int, act: str = "relu") -> Chain:
        start, c = self.last, self.tensors[self.last].shape[-1]
        return self.conv(c, taps, 1, width).conv(c * expansion, act=act).conv(c, residual=start)

    def convnext(self, expansion: int = 4) -> Chain:
        start, c = self.last, self.tensors[self.last].shape[-1]
        return self.conv(c, 7, 1, 1).layer_norm().conv(c * expansion, act="gelu").conv(c, residual=start)

    def graph(self) -> Graph:
        return spec.check(Graph(tuple(self.ops), self.tensors, ("x",), (self.last,), self.constants, {"x": "nchw", self.last: "nchw"}))


def images(graph: Graph, n: int, seed: int = 0) -> np.ndarray:
    h, w, c = graph.tensors[graph.inputs[0]].shape
    return np.random.default_rng(seed).standard_normal((n, c, h, w)).astype(np.float32)


def rows_only(graph: Graph) -> list[Op]:
    """The longest run of ops that can be a group."""
    runs = [graph.ops[i:j] for i in range(len(graph.ops)) for j in range(i + 2, len(graph.ops) + 1)]
    return list(max((run for run in runs if groupable(graph, run)), key=len))


def check(graph: Graph, ops: Sequence[Op], bands: Sequence[int], jobs: Sequence[int], n: int = 2) -> None:
    """Fused equals unfused on every instruction set. A second input shows results left over from the first."""
    first, x = images(graph, n, 1), images(graph, n, 2)
    for isa in isas():
        want = Session(graph, threads=1, isa=isa, fuse=False).run(x)
        for band in bands:
            for count in jobs:
                fused = Session(graph, threads=2, isa=isa, fuse=[schedule(graph, ops, band, count)])
                fused.run(first)
                np.testing.assert_array_equal(fused.run(x), want, err_msg=f"{isa}, {band} rows, {count} jobs")


BLOCKS = {
    "MBConv 3×3": Chain((9, 7, 8)).mbconv(8, 6),
    "MBConv 3×3, stride 2": Chain((11, 8, 8)).mbconv(12, 4, stride=2),
    "MBConv 5×5": Chain((8, 9, 4)).mbconv(4, 3, taps=5),
    "MBConv 5×5, stride 2": Chain((13, 13, 4)).mbconv(4, 2, taps=5, stride=2),
    "MBConv 7×7": Chain((6, 6, 16)).mbconv(16, 1, taps=7),
    "MBConv, groups of 8": Chain((7, 6, 8)).mbconv(8, 2, width=8),
    "MBConv, groups of 16, stride 2": Chain((9, 9, 16)).mbconv(16, 2, stride=2, width=16),
    "MBConv, SiLU": Chain((8, 8, 8)).mbconv(8, 4, act="silu"),
    "ConvFirst 3×3, groups of 8": Chain((9, 8, 16)).convfirst(3, 3, 8),
    "ConvFirst 5×5, groups of 16": Chain((7, 8, 32)).convfirst(2, 5, 16),
    "ConvFirst 7×7, depthwise": Chain((10, 7, 12)).convfirst(6, 7, 1, act="silu"),
    "ConvNeXt": Chain((11, 9, 20)).convnext(),
    "depthwise and 1×1": Chain((9, 9, 20)).conv(20, 3, 2, 1, "relu").conv(33, act="relu"),
    "three blocks": Chain((14, 10, 8)).mbconv(8, 2).mbconv(12, 2, stride=2, taps=5).mbconv(12, 3),
    "ConvNeXt twice": Chain((9, 9, 12)).convnext(2).convnext(2),
    "one row": Chain((1, 9, 8)).mbconv(8, 2),
    "narrower than the kernel": Chain((5, 2, 8)).mbconv(8, 2, taps=5),
}


@pytest.mark.parametrize("name", BLOCKS)
def test_blocks_in_float32(name: str) -> None:
    graph = BLOCKS[name].graph()
    check(graph, graph.ops, (1, 2, 5, 64), (1, 3))
    x = images(graph, 1)
    fused = Session(graph, threads=1, fuse=[schedule(graph, graph.ops, 2, 2)])
    want = reference.run(graph, x)[0]
    np.testing.assert_allclose(fused.run(x), want, rtol=0, atol=2e-5 * np.abs(want).max())


@pytest.mark.parametrize("name", BLOCKS)
def test_blocks_in_int8(name: str) -> None:
    graph = BLOCKS[name].graph()
    q = ptq.quantize(graph, images(graph, 4, 3), ranges="minmax")
    ops = rows_only(q)
    assert len(ops) >= len(graph.ops)  # the conversions at both ends too
    check(q, ops, (1, 3), (1, 2))


@pytest.mark.parametrize("pattern", [NM(2, 4), NM(1, 4), NM(1, 8)], ids=str)
def test_one_by_one_convolutions_with_a_pattern(pattern: NM) -> None:
    graph = Chain((9, 7, 16), fmt=pattern).mbconv(16, 4).convfirst(2, 3, 8).graph()
    assert sum(op.format == pattern for op in graph.ops) == 4
    check(graph, graph.ops, (2,), (2,), n=1)
    q = ptq.quantize(graph, images(graph, 2), ranges="minmax")
    check(q, rows_only(q), (2,), (2,), n=1)


@pytest.mark.parametrize("seed", range(20))
def test_any_chain(seed: int) -> None:
    """Kernels, strides and one-sided padding at random."""
    rng = np.random.default_rng(seed)
    chain = Chain((int(rng.integers(5, 20)), int(rng.integers(5, 12)), 4), rng)
    for _ in range(int(rng.integers(2, 6))):
        taps, stride = int(rng.integers(1, 5)), int(rng.integers(1, 4))
        chain.conv(4, taps, stride, int(rng.integers(2)), "relu")
        op = chain.ops.pop()
        top, bottom = (int(v) for v in rng.integers(0, taps, 2))
        attrs = {**op.attrs, "pad": (top, taps // 2, bottom, taps // 2), "dilation": (int(rng.integers(1, 3)), 1)}
        try:
            shape = spec.output_shape("conv", [chain.tensors[op.inputs[0]].shape], attrs, op.name)
        except spec.GraphError:  # the kernel does not fit any more
            chain.last = op.inputs[0]
            del chain.tensors[op.outputs[0]], chain.constants[f"{op.name}.weight"], chain.constants[f"{op.name}.bias"]
            break
        chain.ops.append(replace(op, attrs=attrs))
        chain.tensors[chain.last] = TensorSpec(chain.last, shape)
    graph = chain.conv(4).graph()
    ops = rows_only(graph)
    check(graph, ops, (1, 2, 4), (1, 2), n=1)


@pytest.mark.parametrize("wrong", ["a row less above", "a row less below", "padding inside"])
def test_a_wrong_halo_is_noticed(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = BLOCKS["MBConv 3×3"].graph()
    check(graph, graph.ops, (2,), (2,))
    rows, padding = Window.rows, Window.padding

    def shifted(self: Window, first: int, last: int, height: int) -> tuple[int, int]:
        a, b = rows(self, first, last, height)
        return (a + (self.span > 1), b) if wrong == "a row less above" else (a, b - (self.span > 1))

    if wrong == "padding inside":
        monkeypatch.setattr(Window, "padding", lambda self, first, last, height: (self.pad, padding(self, first, last, height)[1]))
    else:
        monkeypatch.setattr(Window, "rows", shifted)
    with pytest.raises(AssertionError):
        check(graph, graph.ops, (2,), (2,))


def test_rows_are_computed_once_but_where_jobs_meet() -> None:
    graph = Chain((16, 4, 4)).mbconv(4, 2).graph()
    alone, shared = (schedule(graph, graph.ops, 2, jobs) for jobs in (1, 4))
    assert set(alone.recomputed().values()) == {0}
    assert list(shared.recomputed().values()) == [6, 0, 0]  # two rows of the expansion at each of three borders
    assert alone.inputs == ("x",) and alone.outputs == graph.outputs
    assert alone.buffers[graph.ops[0].outputs[0]] == 4 and alone.buffers[graph.ops[1].outputs[0]] == 2  # 3×3 around two rows


def test_what_can_be_a_group() -> None:
    chain = Chain((8, 8, 8)).mbconv(8, 2)
    inner = chain.ops[0].outputs[0]
    chain.add("mean", {"axes": (0, 1), "keepdims": True}, {})
    graph = chain.graph()
    assert groupable(graph, graph.ops[:3])
    assert window(graph, graph.ops[3]) is None and not groupable(graph, graph.ops)  # the mean needs the whole image
    assert not groupable(replace(graph, outputs=(inner,)), graph.ops[:3])  # a result in between is wanted


def test_a_band_outside_its_memory_is_refused() -> None:
    graph = BLOCKS["MBConv 3×3"].graph()
    session = Session(graph, fuse=[schedule(graph, graph.ops, 2, 1)])
    packed = [session._choices[op.name].packed for op in graph.ops]
    problem = op_problem(graph, graph.ops[0], 1)
    size = graph.tensors[graph.ops[0].outputs[0]].bytes
    for place, workspace in (((True, 0, 0), 64), ((True, -64, 0), 1 << 20), ((False, 1 << 20, 0), 64)):
        group = _native.Group(packed, [problem], [[(0, 0, [(False, 0, 0)], place, 0)]], 1, workspace)
        with pytest.raises(ValueError, match="outside its memory"):
            _native.Program(_native.Pool(1), [group], size)


# planning


def test_groups_of_a_network_do_not_overlap_and_are_told() -> None:
    chain = Chain((32, 32, 16))
    for stride in (1, 2, 1, 2, 1):
        chain.mbconv(16, 6, stride=stride)
    graph = chain.add("mean", {"axes": (0, 1), "keepdims": True}, {}).graph()
    session = Session(graph, threads=2)
    layers = {layer.name: layer for layer in session.layers()}
    grouped = [name for layer in layers.values() for name in layer.group[:1] if layer.name == name]
    assert grouped and all(layers[name].group == layers[other].group for layer in layers.values() for name, other in pairwise(layer.group))
    assert layers[graph.ops[-1].name].fusion.startswith("not fused: mean needs")
    assert all(layer.fusion for layer in layers.values())
    layer_by_layer = Session(graph, threads=2, fuse=False).arena_bytes()
    assert session.arena_bytes() < layer_by_layer == session.arena_bytes(fused=False)
    x = images(graph, 2)
    np.testing.assert_array_equal(session.run(x), Session(graph, threads=2, fuse=False).run(x))
    assert len(session.profile(x, runs=2)) == len(graph.ops) + 2  # a time for every op, fused or not


def test_the_planner_weighs_meetings_against_rows_computed_twice() -> None:
    graph = Chain((8, 8, 8)).mbconv(8, 2).graph()
    heavy = {op.name: planner.Work(1e9, 0) for op in graph.ops}
    light = {op.name: planner.Work(1e3, 0) for op in graph.ops}
    many = planner.Machine(threads=8, l2_bytes=1 << 20)  # one row each
    assert graph.ops[0] not in [op for p in planner.choose(graph, heavy, many)[0] for op in p.ops]
    chosen, _ = planner.choose(graph, light, many)
    assert [p.ops for p in chosen] == [graph.ops]
    assert planner.choose(graph, light, planner.Machine(8, 1 << 20, images=1000))[0] == []  # many images share a meeting


def test_weights_that_leave_the_cache_speak_against_a_group() -> None:
    graph = Chain((8, 8, 8)).mbconv(8, 2).graph()
    large = {op.name: planner.Work(1e5, 8 << 20) for op in graph.ops}
    small = {op.name: planner.Work(1e5, 1 << 10) for op in graph.ops}
    on = planner.Machine(threads=1, l2_bytes=1 << 20)
    assert planner.choose(graph, large, on)[0] == []
    assert planner.choose(graph, small, on)[0] != []


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ([["conv0", "nope"]], "unknown layer 'nope'"),
        (["conv0"], "takes groups"),
        ([[]], "takes groups"),
        ([["conv0", "conv1"], ["conv1", "conv2"]], "layer 'conv1' twice"),
        ([["conv1", "conv0"]], "cannot run as one group"),
    ],
)
def test_groups_that_cannot_be_are_refused(groups: list, message: str) -> None:
    with pytest.raises(KernelError, match=message):
        Session(Chain((8, 8, 8)).mbconv(8, 2).graph(), fuse=groups)


def test_measured_groups_are_kept_or_dropped_with_their_times() -> None:
    graph = Chain((24, 24, 16)).mbconv(16, 6).mbconv(16, 6).graph()
    session = Session(graph, threads=2, tune=Timings())
    assert any("measured" in layer.fusion for layer in session.layers())
    x = images(graph, 1)
    np.testing.assert_array_equal(session.run(x), Session(graph, threads=1, tune=False, fuse=False).run(x))
    never = planner.fuse(
        graph, {op.name: planner.Work(1e3, 0) for op in graph.ops}, planner.machine(2), time=lambda steps: float(len(steps) == 1)
    )
    assert never.groups == () and "instead of" in never.reasons[graph.ops[0].name]
