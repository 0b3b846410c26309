"""Run a `.jettison` file. Needs NumPy and the native extension, not PyTorch.

    session = Session("model.jettison", threads=2)
    scores = session.run(images)          # float32 (n, c, h, w) in, like the PyTorch model

Every layer's kernel is chosen at load, among all that accept it and dense, by modelled cost or
(`tune=True`) by measurement; `Session.layers` says which and why.
"""

from __future__ import annotations

import os
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from . import _native, planner
from .arrays import to_array
from .bands import make_problem, native_group
from .errors import InputError, KernelError
from .formats import NM, Block, Cost
from .fusion import Schedule
from .graph import DTYPES, Graph, Op, Problem, TensorSpec, problem, weight_shape
from .plan import Plan, plan
from .planner import Fusion, Work
from .spec import check

_PROGRAMS_KEPT = 4  # batch sizes that stay prepared
_ARENA, _INPUT, _OUTPUT = 0, 1, 2
_WEIGHTED = ("conv", "linear")


@dataclass(frozen=True, slots=True)
class Candidate:
    """One kernel that accepts a layer: modelled cycles of one core, measured time if it was tuned."""

    kernel: str
    format: str
    cycles: float
    measured_ms: float | None = None


@dataclass(frozen=True, slots=True)
class Layer:
    """What runs for one op, and why. `problem` and `cost` only for conv and linear.

    group: the ops that it is fused with and itself, () if it runs alone; fusion: why so.
    """

    name: str
    kind: str
    format: str
    kernel: str
    isa: str
    reason: str
    candidates: tuple[Candidate, ...]
    problem: Problem | None
    cost: Cost | None
    group: tuple[str, ...]
    fusion: str


@dataclass(frozen=True, slots=True)
class LayerTime:
    """Time of one step, milliseconds over several runs."""

    name: str
    kind: str
    median_ms: float
    p10_ms: float
    p90_ms: float


@dataclass(frozen=True, slots=True)
class _Choice:
    kernel: str
    packed: Any
    cycles: float
    reason: str
    candidates: tuple[Candidate, ...]


def isas() -> list[str]:
    """Instruction sets that this machine can run, best first."""
    return _native.isas()


class Session:
    """A network ready to run.

    source: path of a `.jettison` file, or a Graph. threads: default, all processors this process may use.
    isa: "avx512", "avx2" or "scalar"; default the environment's JETTISON_ISA, then the best.
    kernels: {op name: kernel name} overrides. tune: measure the candidates of every layer instead of modelling them.
    fuse: whether neighbouring ops may run as one group, band by band (`jettison.fusion`); or the groups, as schedules.

    Several Python threads may call `run`; calls wait for each other. Errors: FileError, KernelError.
    """

    def __init__(
        self,
        source: str | Path | Graph,
        *,
        threads: int | None = None,
        isa: str | None = None,
        kernels: Mapping[str, str] | None = None,
        tune: bool = False,
        fuse: bool | Sequence[Schedule] = True,
    ) -> None:
        if isinstance(source, Graph):
            self.graph = check(source)
        else:
            from .file import load

            self.graph = load(source)
        self.threads = _thread_count(threads)
        self.isa = _choose_isa(isa)
        self._pool = _native.Pool(self.threads)
        self._lock = threading.Lock()
        self._programs: OrderedDict[int, tuple[Any, int]] = OrderedDict()
        overrides = dict(kernels or {})
        unknown = sorted(set(overrides) - {op.name for op in self.graph.ops})
        if unknown:
            raise KernelError(f"kernels= names the unknown layer {unknown[0]!r}; `jettison explain` lists the layers")
        self._choices = {op.name: self._choose(op, overrides.get(op.name), tune) for op in self.graph.ops if op.kind != "reshape"}
        self._fusion = self._fuse(fuse, tune)

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """Inputs per sample, in storage order (h, w, c)."""
        return tuple(self.graph.tensors[t] for t in self.graph.inputs)

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        return tuple(self.graph.tensors[t] for t in self.graph.outputs)

    @property
    def packed_bytes(self) -> int:
        """Memory of all weights in their kernels' layouts."""
        return sum(c.packed.bytes for c in self._choices.values())

    def arena_bytes(self, batch: int = 1) -> int:
        """Memory of all activations between the steps at this batch size."""
        return self._layout(batch, self._steps(), self.graph.inputs, self.graph.outputs).arena_bytes

    def workspace_bytes(self, batch: int = 1) -> int:
        """Memory of all threads for what is inside a step, such as the rows between fused ops."""
        return self._program(batch).workspace_bytes

    def run(self, *inputs: Any) -> np.ndarray | tuple[np.ndarray, ...]:
        """Outputs for a batch: float32 arrays, images as (n, c, h, w). Inputs: NumPy or anything with `__dlpack__`.

        A batch size seen for the first time is prepared first. Errors: InputError.
        """
        arrays, n = self._accept(inputs)
        outputs = self._empty_outputs(n)
        self._program(n).run(arrays, outputs)
        return outputs[0] if len(outputs) == 1 else tuple(outputs)

    def profile(self, *inputs: Any, runs: int = 20) -> list[LayerTime]:
        """Time of every step: the input's change of layout, each op, the outputs' change of layout."""
        arrays, n = self._accept(inputs)
        outputs = self._empty_outputs(n)
        program = self._program(n)
        program.run(arrays, outputs)
        ms = np.array([program.run(arrays, outputs, profile=True) for _ in range(runs)], np.float64) / 1e6
        p10, mid, p90 = np.percentile(ms, [10, 50, 90], axis=0)
        steps = [("input:" + t, "layout") for t in self.graph.inputs]
        steps += [(op.name, op.kind) for op in self.graph.ops if op.kind != "reshape"]
        steps += [("output:" + t, "layout") for t in self.graph.outputs]
        return [LayerTime(name, kind, float(b), float(a), float(c)) for (name, kind), a, b, c in zip(steps, p10, mid, p90)]

    def profile_apart(self, batch: int = 1) -> dict[str, float]:
        """Milliseconds of each op's kernel apart from the network: on random numbers of its own, in turns with the others.

        Ops that compute the same with other weights are measured once.
        """
        keys: dict[str, Any] = {}
        trials: dict[Any, tuple[Any, list[np.ndarray], list[np.ndarray]]] = {}
        for op in self.graph.ops:
            if op.kind != "reshape":
                choice, specs = self._choices[op.name], tuple(replace(self.graph.tensors[t], name="") for t in (*op.inputs, *op.outputs))
                keys[op.name] = key = (op.kind, tuple(op.attrs.items()), op.format, choice.kernel, specs)
                if key not in trials:
                    trials[key] = self._trial(op, self._problem(op, batch), choice.packed, batch)
        times: dict[Any, list[float]] = {key: [] for key in trials}
        start, rounds = time.perf_counter(), 0
        while rounds < 5 or (time.perf_counter() - start < 0.3 and rounds < 200):
            for key, (program, inputs, outputs) in trials.items():
                times[key].append(program.run(inputs, outputs, profile=True)[0] / 1e6)
            rounds += 1
        return {name: median(times[key]) for name, key in keys.items()}

    @property
    def groups(self) -> tuple[tuple[str, ...], ...]:
        """Ops that run together, band by band."""
        return tuple(tuple(op.name for op in group.ops) for group in self._fusion.groups)

    def layers(self, batch: int = 1) -> list[Layer]:
        """Kernel, reason, candidates and cost of every op, in the order in which they run."""
        rows = []
        groups = {name: group for group in self.groups for name in group}
        for op in self.graph.ops:
            choice = self._choices.get(op.name)
            weighted = op.kind in _WEIGHTED
            size = problem(self.graph, op, batch) if weighted else None
            parts = sum(a.nbytes for a in self.graph.weight_parts(op).values()) if weighted else 0
            rows.append(
                Layer(
                    name=op.name, kind=op.kind, format=str(op.format) if weighted else "", isa=self.isa,
                    kernel=choice.kernel if choice else "none", reason=choice.reason if choice else "same bytes, nothing runs",
                    candidates=choice.candidates if choice else (), problem=size, cost=self._cost(op, size, parts) if size else None,
                    group=groups.get(op.name, ()), fusion=self._fusion.reasons.get(op.name, ""),
                )
            )  # fmt: skip
        return rows

    def _cost(self, op: Op, size: Problem, weight_bytes: int) -> Cost:
        source, target = self.graph.tensors[op.inputs[0]], self.graph.tensors[op.outputs[0]]
        return size.cost(op.format, weight_bytes, DTYPES[source.dtype].itemsize, DTYPES[target.dtype].itemsize)

    # --- choosing kernels

    def _choose(self, op: Op, wanted: str | None, tune: bool) -> _Choice:
        if len(op.inputs) > _native.MAX_INPUTS:
            raise KernelError(f"layer {op.name}: {op.kind} of {len(op.inputs)} tensors; split it: {_native.MAX_INPUTS} is the most")
        size = self._problem(op, 1)
        found, computed = [], "conv" if op.kind == "linear" else op.kind
        for name, kind, fmt, isa, dtype in _native.kernels():
            if isa != self.isa or kind != computed or dtype != self.graph.tensors[op.inputs[0]].dtype:
                continue
            constants = self._constants(op, fmt)
            if constants is None or not _native.accepts(name, isa, size, *constants):
                continue
            found.append((name, fmt, constants, _native.cost(name, isa, size, *constants)))
        if wanted is not None:
            kept = [f for f in found if f[0] == wanted]
            if not kept:
                raise KernelError(f"layer {op.name}: kernel {wanted!r} does not accept it; these do: {', '.join(f[0] for f in found)}")
            return self._pack(op, size, kept[0], "asked for", found, {})
        if not found:
            raise KernelError(
                f"layer {op.name}: no {self.isa} kernel computes {op.kind} with {len(op.inputs)} inputs; please report the model"
            )
        if len(found) == 1:
            return self._pack(op, size, found[0], "the only kernel for it", found, {})
        if tune:
            times = {f[0]: self._measure(op, size, f) for f in found}
            best = min(found, key=lambda f: times[f[0]])
            return self._pack(op, size, best, "measured fastest", found, times)
        best = min(found, key=lambda f: f[3])
        return self._pack(op, size, best, "lowest modelled cost", found, {})

    def _pack(self, op: Op, size: Any, row: tuple, reason: str, found: list, times: Mapping[str, float]) -> _Choice:
        name, _, constants, cycles = row
        candidates = tuple(Candidate(f[0], f[1] or "", f[3], times.get(f[0])) for f in found)
        return _Choice(name, _native.Packed(name, self.isa, size, *constants), cycles, reason, candidates)

    def _constants(self, op: Op, fmt: str) -> tuple[dict[str, np.ndarray], tuple[int, int]] | None:
        """Constants by role for a kernel of format `fmt`, and (n, m); None if the op cannot be given in that format."""
        parts = {role: self.graph.constants[name] for role, name in op.params.items() if not (role == "weight" and op.kind in _WEIGHTED)}
        if op.kind not in _WEIGHTED:
            return parts, (0, 0)
        if fmt == "dense" and op.format.linear:
            return {**parts, "weight": np.ascontiguousarray(self.graph.weight(op))}, (0, 0)
        if not op.format.linear:
            return ({**parts, **self.graph.weight_parts(op)}, (0, 0)) if fmt == op.format.kind else None
        if isinstance(op.format, NM) and fmt == "nm":
            encoded = self.graph.weight_parts(op)
            positions = op.format.positions(encoded, weight_shape(self.graph, op), op.name)
            return {**parts, "values": encoded["values"], "positions": positions}, (op.format.n, op.format.m)
        if isinstance(op.format, Block) and fmt == "block":
            shape, encoded = weight_shape(self.graph, op), self.graph.weight_parts(op)
            values, positions = op.format.positions(encoded, shape, op.name)
            columns = op.format.columns(encoded, shape, op.name)
            return {**parts, "values": values, "positions": positions, "blocks": columns}, op.format.groups
        return None

    def _measure(self, op: Op, size: Any, row: tuple) -> float:
        """Median milliseconds of one candidate alone, on random numbers."""
        return self._median_ms(*self._trial(op, size, _native.Packed(row[0], self.isa, size, *row[2])))

    def _trial(self, op: Op, size: Any, packed: Any, n: int = 1) -> tuple[Any, list[np.ndarray], list[np.ndarray]]:
        """A program of one kernel, n samples of random numbers for it, and room for the result."""
        rng = np.random.default_rng(0)
        inputs = [_random(self.graph.tensors[t], rng, n) for t in op.inputs]
        target = self.graph.tensors[op.outputs[0]]
        step = (packed, size, [(_INPUT, i) for i in range(len(inputs))], (_OUTPUT, 0))
        return _native.Program(self._pool, [step], 0), inputs, [np.empty((n, *target.shape), DTYPES[target.dtype])]

    def _median_ms(self, program: Any, inputs: list[np.ndarray], outputs: list[np.ndarray]) -> float:
        times = []
        start = time.perf_counter()
        while len(times) < 5 or (time.perf_counter() - start < 0.02 and len(times) < 200):
            times.append(sum(program.run(inputs, outputs, profile=True)) / 1e6)
        return median(times)

    # --- groups of ops that run band by band

    def _fuse(self, fuse: bool | Sequence[Schedule], tune: bool) -> Fusion:
        if not isinstance(fuse, bool):
            return Fusion(tuple(fuse), {op.name: "fused as asked for" for group in fuse for op in group.ops})
        if not fuse:
            return Fusion()
        work = {name: Work(choice.cycles, choice.packed.bytes) for name, choice in self._choices.items()}
        return planner.fuse(self.graph, work, planner.machine(self.threads), self._time if tune else None)

    def _time(self, steps: Sequence[Op | Schedule]) -> float:
        """Median milliseconds of some steps, on zeros."""
        inputs = {t for s in steps for t in s.inputs} - {t for s in steps for t in s.outputs}
        layout = self._layout(1, steps, tuple(inputs), steps[-1].outputs)
        return self._median_ms(_native.Program(self._pool, [self._step(s, 1, layout.places) for s in steps], layout.arena_bytes), [], [])

    def _steps(self) -> list[Op | Schedule]:
        """What runs, in order: a group in the place of its last op."""
        last = {group.ops[-1].name: group for group in self._fusion.groups}
        inside = {op.name for group in self._fusion.groups for op in group.ops}
        return [last.get(op.name, op) for op in self.graph.ops if op.name in last or op.name not in inside]

    def _layout(self, n: int, steps: Sequence[Op | Schedule], inputs: tuple[str, ...], outputs: tuple[str, ...]) -> Plan:
        """Places in the arena; results inside a group need none."""
        ops = tuple(Op(s.ops[-1].name, "group", s.inputs, s.outputs) if isinstance(s, Schedule) else s for s in steps)
        return plan(replace(self.graph, ops=ops, inputs=inputs, outputs=outputs), n, _native.SLACK_BYTES)

    # --- preparing a batch size

    def _problem(self, op: Op, n: int) -> Any:
        shapes = [self.graph.tensors[t].shape for t in (*op.inputs, *op.outputs)]
        return make_problem(self.graph, op, n, shapes[:-1], shapes[-1], op.attrs)

    def _program(self, n: int) -> Any:
        with self._lock:
            if n in self._programs:
                self._programs.move_to_end(n)
                return self._programs[n]
            program = self._prepare(n)
            self._programs[n] = program
            if len(self._programs) > _PROGRAMS_KEPT:
                self._programs.popitem(last=False)
            return program

    def _prepare(self, n: int) -> Any:
        layout = self._layout(n, self._steps(), self.graph.inputs, self.graph.outputs)
        steps = []
        for i, t in enumerate(self.graph.inputs):
            steps.append(self._layout_step(t, n, (_INPUT, i), (_ARENA, layout.places[t]), to_user=False))
        steps += [self._step(s, n, layout.places) for s in self._steps() if isinstance(s, Schedule) or s.kind != "reshape"]
        for i, t in enumerate(self.graph.outputs):
            steps.append(self._layout_step(t, n, (_ARENA, layout.places[t]), (_OUTPUT, i), to_user=True))
        return _native.Program(self._pool, steps, layout.arena_bytes)

    def _step(self, step: Op | Schedule, n: int, places: Mapping[str, int]) -> Any:
        if isinstance(step, Schedule):
            return native_group(self.graph, step, n, places, {op.name: self._choices[op.name].packed for op in step.ops})
        operands = [(_ARENA, places[t]) for t in step.inputs]
        return self._choices[step.name].packed, self._problem(step, n), operands, (_ARENA, places[step.outputs[0]])

    def _layout_step(self, tensor: str, n: int, source: tuple[int, int], target: tuple[int, int], *, to_user: bool) -> tuple:
        """(c, h, w) to (h, w, c) or back for images, a plain copy for the rest."""
        stored = list(self.graph.tensors[tensor].shape)
        if self.graph.layouts.get(tensor) != "nchw":
            size = _native.Problem("reshape", n, [stored], stored, {"shape": stored})
            return _native.Packed("reshape", self.isa, size, {}), size, [source], target
        user = [stored[2], stored[0], stored[1]]
        shapes, perm = ((stored, user), [2, 0, 1]) if to_user else ((user, stored), [1, 2, 0])
        size = _native.Problem("transpose", n, [shapes[0]], shapes[1], {"perm": perm})
        return _native.Packed("transpose", self.isa, size, {}), size, [source], target

    # --- arrays in and out

    def _user_shape(self, tensor: str, n: int) -> tuple[int, ...]:
        shape = self.graph.tensors[tensor].shape
        return (n, shape[2], shape[0], shape[1]) if self.graph.layouts.get(tensor) == "nchw" else (n, *shape)

    def _empty_outputs(self, n: int) -> list[np.ndarray]:
        return [np.empty(self._user_shape(t, n), np.float32) for t in self.graph.outputs]

    def _accept(self, inputs: tuple[Any, ...]) -> tuple[list[np.ndarray], int]:
        """Inputs as contiguous arrays and their batch size. Errors: InputError naming the input."""
        names = self.graph.inputs
        if len(inputs) != len(names):
            raise InputError(f"this network takes {len(names)} input(s) ({', '.join(names)}), got {len(inputs)}")
        arrays = [to_array(x, name) for x, name in zip(inputs, names)]
        n = arrays[0].shape[0] if arrays[0].ndim else 0
        for x, name in zip(arrays, names):
            want = self._user_shape(name, max(n, 1))
            if x.shape != want or n < 1:
                shown = "(n, " + ", ".join(map(str, want[1:])) + ")"
                raise InputError(f"input {name!r} must have shape {shown} with n >= 1, the same for all inputs; got {x.shape}")
            if x.dtype != np.float32:
                raise InputError(f"input {name!r} must be float32, got {x.dtype}; convert it with .astype('float32')")
        return [np.ascontiguousarray(x) for x in arrays], n


def _random(spec: TensorSpec, rng: np.random.Generator, n: int) -> np.ndarray:
    """n samples of noise, followed by the bytes that a kernel may read past its end."""
    size = n * spec.size
    room = size + _native.SLACK_BYTES
    noise = rng.integers(0, 256, room, np.uint8) if spec.dtype == "u8" else rng.standard_normal(room, np.float32)
    return noise[:size].reshape(n, *spec.shape)


def _thread_count(threads: int | None) -> int:
    most = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if threads is None:
        return most
    if isinstance(threads, bool) or not isinstance(threads, int) or not 1 <= threads <= 1024:
        raise InputError(f"threads must be a whole number from 1 to 1024, got {threads!r}")
    return threads


def _choose_isa(isa: str | None) -> str:
    wanted = isa or os.environ.get("JETTISON_ISA") or None
    have = _native.isas()
    if wanted is None:
        return have[0]
    if wanted not in have:
        raise KernelError(f"instruction set {wanted!r} cannot run on this machine (JETTISON_ISA or isa=); it has {', '.join(have)}")
    return wanted
