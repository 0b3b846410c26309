"""Run a `.jettison` file. Needs NumPy and the native extension, not PyTorch.

    session = Session("model.jettison", threads=2)
    scores = session.run(images)          # float32 (n, c, h, w) in, like the PyTorch model

Every layer's kernel is chosen at load (`jettison.choice`), by modelled cost or (`tune=True`) by measurement;
`Session.layers` says which and why. A large batch runs in portions that fit into the cache (`jettison.plan`).
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from . import _native, planner
from .arrays import accept, empty_outputs
from .bands import native_group
from .choice import ARENA, INPUT, OUTPUT, Candidate, Chooser, median_ms, noise, op_problem, signature, times_ms
from .errors import InputError, KernelError
from .formats import Cost
from .fusion import Schedule
from .graph import DTYPES, Graph, Op, Problem, TensorSpec, problem
from .intake import layout_step, quantize_first, quantizers, without
from .plan import Plan, apart, plan, portion
from .planner import Fusion, Work
from .spec import WEIGHTED, check

if TYPE_CHECKING:
    from .timings import Timings

Ends = tuple[tuple[str, ...], tuple[str, ...]]  # what comes in, what goes out

_PROGRAMS_KEPT = 4  # batch sizes that stay prepared


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
class _Prepared:
    """A program for one batch size. rows: the row of `profile` that each of its times counts for."""

    program: Any
    rows: tuple[str, ...]


def isas() -> list[str]:
    """Instruction sets that this machine can run, best first."""
    return _native.isas()


class Session:
    """A network ready to run.

    source: path of a `.jettison` file, or a Graph. threads: default, all processors this process may use.
    isa: "avx512", "avx2" or "scalar"; default the environment's JETTISON_ISA, then the best.
    kernels: {op name: kernel name} overrides. tune: measure the candidates of every layer instead of modelling them; True
    takes what was measured on this machine before, if it was, and `Timings.load(again=True)` does not.
    fuse: whether neighbouring ops may run as one group, band by band (`jettison.fusion`); or the groups: names of
    their ops, or schedules.

    Several Python threads may call `run`; calls wait for each other. Threads do not survive a fork: make a Session in the process that
    runs it.
    Errors: FileError, KernelError; GraphError, FormatError for a Graph that is not legal; InputError for threads.
    """

    def __init__(
        self,
        source: str | Path | Graph,
        *,
        threads: int | None = None,
        isa: str | None = None,
        kernels: Mapping[str, str] | None = None,
        tune: bool | Timings = False,
        fuse: bool | Sequence[Schedule | Sequence[str]] = True,
    ) -> None:
        if isinstance(source, Graph):
            self.graph = check(source)
        else:
            from .file import load

            self.graph = load(source)
        grouped = [] if isinstance(fuse, bool) else [name for group in fuse for name in _names(group)]
        self._running = quantize_first(self.graph, grouped)
        self._quantizers = quantizers(self._running, grouped)
        self._body = without(self._running, self._quantizers)
        self.threads = thread_count(threads)
        self.isa = _choose_isa(isa)
        self._pool, self._process = _pool(self.threads), os.getpid()
        self._lock = threading.RLock()
        self._programs: OrderedDict[int, _Prepared] = OrderedDict()
        overrides = dict(kernels or {})
        unknown = sorted(set(overrides) - {op.name for op in self._running.ops})
        if unknown:
            raise KernelError(f"kernels= names the unknown layer {unknown[0]!r}; `jettison explain` lists the layers")
        self._timings = _timings(tune)
        self._chooser = Chooser(self._running, self.isa, self._pool, self._timings)
        self._choices = {op.name: self._chooser.choose(op, overrides.get(op.name)) for op in self._running.ops if op.kind != "reshape"}
        self._fuse = fuse
        self._fusions: dict[int, Fusion] = {}  # by images of a portion
        self._fusion(1)

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

    def arena_bytes(self, batch: int = 1, fused: bool = True) -> int:
        """Memory of all activations between the steps at this batch size; not `fused`: as it would be layer by layer."""
        return self._layout(batch, self._portion(batch), self._steps(batch) if fused else self._body.ops).arena_bytes

    def workspace_bytes(self, batch: int = 1) -> int:
        """Memory of all threads for what is inside a step, such as the rows between fused ops."""
        return self._prepared(batch).program.workspace_bytes

    def run(self, *inputs: Any) -> np.ndarray | tuple[np.ndarray, ...]:
        """Outputs for a batch: float32 arrays, images as (n, c, h, w). Inputs: NumPy or anything with `__dlpack__`.

        A batch size seen for the first time is prepared first. Errors: InputError.
        """
        arrays, n = accept(self.graph, inputs)
        outputs = empty_outputs(self.graph, n)
        self._prepared(n).program.run(arrays, outputs)
        return outputs[0] if len(outputs) == 1 else tuple(outputs)

    def profile(self, *inputs: Any, runs: int = 20, warm: bool = True) -> list[LayerTime]:
        """Time of every step: the input's change of layout, each op, the outputs' change of layout. warm: run once before."""
        arrays, n = accept(self.graph, inputs)
        outputs = empty_outputs(self.graph, n)
        prepared = self._prepared(n)
        if warm:
            prepared.program.run(arrays, outputs)
        rows = [("input:" + t, "layout") for t in self._running.inputs if t not in self._quantizers]
        rows += [(op.name, op.kind) for op in self._running.ops if op.kind != "reshape"]
        rows += [("output:" + t, "layout") for t in self._running.outputs]
        number = {name: i for i, (name, _) in enumerate(rows)}
        places = [number[name] for name in prepared.rows]
        ms = np.zeros((runs, len(rows)))
        for sums in ms:  # a step that runs on every portion counts for one row
            np.add.at(sums, places, np.array(prepared.program.run(arrays, outputs, profile=True), np.float64) / 1e6)
        return [LayerTime(*row, *spread_ms(times)) for row, times in zip(rows, ms.T)]

    def profile_apart(self, batch: int = 1) -> dict[str, float]:
        """Milliseconds of each step's kernel apart from the network, in turns with the others: ops, and groups by their name.

        All read the same random numbers and write to the same place, so what they find in the caches is about what the network
        leaves there. Steps that compute the same with other weights are measured once.
        """
        todo = self._steps(batch)
        layout = self._layout(batch, self._portion(batch), todo)
        images = {s.name: layout.portion if i < layout.head else batch for i, s in enumerate(todo)}
        images |= {op.name: batch for op in self._quantizers.values()}
        running = [s for s in (*self._quantizers.values(), *todo) if isinstance(s, Schedule) or s.kind != "reshape"]
        keys = {s.name: (images[s.name], self._signature([s])) for s in running}
        distinct = {keys[s.name]: s for s in running}
        room = apart(self._running, [(images[s.name], s.inputs, s.outputs) for s in distinct.values()], _native.SLACK_BYTES)
        numbers = noise(room.f32_bytes, room.u8_bytes)
        size = _native.Problem("reshape", 1, [[numbers.size]], [numbers.size], {"shape": [numbers.size]})
        fill = (_native.Packed("reshape", self.isa, size, {}), size, [(INPUT, 0)], (ARENA, 0))
        steps = [self._step(s, images[s.name], places) for s, places in zip(distinct.values(), room.places)]
        program = _native.Program(self._pool, [fill, *steps], room.arena_bytes)
        ms = iter(np.median(times_ms(program, [numbers], [], 0.3), axis=0)[1:])  # one for each op of a group
        times = {key: sum(islice(ms, len(_ops(s)))) * batch / images[s.name] for key, s in distinct.items()}
        return {name: float(times[key]) for name, key in keys.items()}

    def groups(self, batch: int = 1) -> tuple[tuple[str, ...], ...]:
        """Ops that run together, band by band, at this batch size."""
        return tuple(tuple(op.name for op in group.ops) for group in self._fusion(batch).groups)

    def layers(self, batch: int = 1) -> list[Layer]:
        """Kernel, reason, candidates and cost of every op, in the order in which they run."""
        rows = []
        fusion, groups = self._fusion(batch), {name: group for group in self.groups(batch) for name in group}
        for op in self._running.ops:
            choice = self._choices.get(op.name)
            weighted = op.kind in WEIGHTED
            size = problem(self._running, op, batch) if weighted else None
            parts = sum(a.nbytes for a in self._running.weight_parts(op).values()) if weighted else 0
            rows.append(
                Layer(
                    name=op.name, kind=op.kind, format=str(op.format) if weighted else "", isa=self.isa,
                    kernel=choice.kernel if choice else "none", reason=choice.reason if choice else "same bytes, nothing runs",
                    candidates=choice.candidates if choice else (), problem=size, cost=self._cost(op, size, parts) if size else None,
                    group=groups.get(op.name, ()), fusion=fusion.reasons.get(op.name, ""),
                )
            )  # fmt: skip
        return rows

    def _cost(self, op: Op, size: Problem, weight_bytes: int) -> Cost:
        source, target = self._running.tensors[op.inputs[0]], self._running.tensors[op.outputs[0]]
        return size.cost(op.format, weight_bytes, DTYPES[source.dtype].itemsize, DTYPES[target.dtype].itemsize)

    # --- groups of ops that run band by band

    def _fusion(self, n: int) -> Fusion:
        """What is fused at batch n: the more images there are between two meetings of the threads, the less speaks for it."""
        with self._lock:
            images = self._portion(n)
            if images not in self._fusions:
                self._fusions[images] = self._decide(images)
                if self._timings:
                    self._timings.save()
            return self._fusions[images]

    def _portion(self, n: int) -> int:
        """Images of batch n that run between two meetings of the threads."""
        return portion(self._body, n, self.threads)

    def _decide(self, images: int) -> Fusion:
        if not self._fuse:
            return Fusion()
        work = {name: Work(choice.cycles, choice.packed.bytes) for name, choice in self._choices.items()}
        if not isinstance(self._fuse, bool):
            return planner.asked(self._body, self._fuse, work, planner.machine(self.threads, images))
        time = partial(self._known_time, images) if self._timings else None
        return planner.fuse(self._body, work, planner.machine(self.threads, images), time)

    def _known_time(self, n: int, steps: Sequence[Op | Schedule]) -> float:
        return self._timings.ms((n, *self._signature(steps)), lambda: self._time(n, steps)) if self._timings else self._time(n, steps)

    def _signature(self, steps: Sequence[Op | Schedule]) -> tuple:
        """All that the time of these steps depends on."""
        parts = []
        for s in steps:
            ops = _ops(s)
            kernels = tuple(self._choices[op.name].kernel if op.name in self._choices else "" for op in ops)
            places = {t: i for i, t in enumerate(dict.fromkeys(t for op in ops for t in (*op.inputs, *op.outputs)))}
            wires = tuple(tuple(places[t] for t in (*op.inputs, *op.outputs)) for op in ops)
            parts.append((s.band if isinstance(s, Schedule) else 0, kernels, wires, tuple(signature(self._running, op) for op in ops)))
        return self.isa, self.threads, tuple(parts)

    def _time(self, n: int, steps: Sequence[Op | Schedule]) -> float:
        """Median milliseconds of some steps, on zeros."""
        made = {t for s in steps for t in s.outputs}
        inputs = tuple(dict.fromkeys(t for s in steps for t in s.inputs if t not in made))
        layout = self._layout(n, n, steps, (inputs, steps[-1].outputs))
        return median_ms(_native.Program(self._pool, [self._step(s, n, layout.places) for s in steps], layout.arena_bytes), [], [])

    def _steps(self, n: int) -> list[Op | Schedule]:
        """What runs, in order: a group in the place of its last op."""
        groups = self._fusion(n).groups
        last = {group.ops[-1].name: group for group in groups}
        inside = {op.name for group in groups for op in group.ops}
        return [last.get(op.name, op) for op in self._body.ops if op.name in last or op.name not in inside]

    def _layout(self, n: int, images: int, steps: Sequence[Op | Schedule], ends: Ends | None = None) -> Plan:
        """Portions of `images`, and places in the arena; results inside a group need none. ends: inputs, outputs if not the graph's."""
        inputs, outputs = ends or (self._body.inputs, self._body.outputs)
        ops = tuple(Op(s.ops[-1].name, "group", s.inputs, s.outputs) if isinstance(s, Schedule) else s for s in steps)
        packed = {name: choice.packed.bytes for name, choice in self._choices.items()}
        weights = {_ops(s)[-1].name: sum(packed.get(op.name, 0) for op in _ops(s)) for s in steps}
        return plan(replace(self._running, ops=ops, inputs=inputs, outputs=outputs), n, _native.SLACK_BYTES, images, weights)

    # --- preparing a batch size

    def _prepared(self, n: int) -> _Prepared:
        if self.threads > 1 and os.getpid() != self._process:
            raise KernelError("this Session was made before the process forked, and its threads stayed behind; make it in the new process")
        with self._lock:
            if n not in self._programs:
                self._programs[n] = self._prepare(n)
            self._programs.move_to_end(n)
            if len(self._programs) > _PROGRAMS_KEPT:
                self._programs.popitem(last=False)
            return self._programs[n]

    def _prepare(self, n: int) -> _Prepared:
        todo = self._steps(n)
        layout = self._layout(n, self._portion(n), todo)
        steps, rows = [], []

        def add(part: Sequence[Op | Schedule], images: int, places: Mapping[str, int]) -> None:
            for s in part:
                if isinstance(s, Schedule) or s.kind != "reshape":
                    steps.append(self._step(s, images, places))
                    rows.extend(op.name for op in _ops(s))

        for i, t in enumerate(self._running.inputs):
            if op := self._quantizers.get(t):
                steps.append(
                    (self._choices[op.name].packed, op_problem(self._running, op, n), [(INPUT, i)], (ARENA, layout.places[op.outputs[0]]))
                )
            else:
                steps.append(layout_step(self._running, self.isa, t, n, (INPUT, i), (ARENA, layout.places[t]), to_user=False))
            rows.append(op.name if op else "input:" + t)
        for image, images in layout.portions():
            add(todo[: layout.head], images, layout.places_at(image))
        add(todo[layout.head :], n, layout.places)
        for i, t in enumerate(self._running.outputs):
            steps.append(layout_step(self._running, self.isa, t, n, (ARENA, layout.places[t]), (OUTPUT, i), to_user=True))
            rows.append("output:" + t)
        return _Prepared(_native.Program(self._pool, steps, layout.arena_bytes), tuple(rows))

    def _step(self, step: Op | Schedule, n: int, places: Mapping[str, int]) -> Any:
        if isinstance(step, Schedule):
            return native_group(self._running, step, n, places, {op.name: self._choices[op.name].packed for op in step.ops})
        operands = [(ARENA, places[t]) for t in step.inputs]
        return self._choices[step.name].packed, op_problem(self._running, step, n), operands, (ARENA, places[step.outputs[0]])


def spread_ms(ms: Any) -> tuple[float, float, float]:
    """(median, p10, p90)."""
    p10, median, p90 = (float(v) for v in np.percentile(ms, (10, 50, 90)))
    return median, p10, p90


def _ops(step: Op | Schedule) -> tuple[Op, ...]:
    return step.ops if isinstance(step, Schedule) else (step,)


def _names(group: Schedule | Sequence[str]) -> Sequence[str]:
    return [op.name for op in group.ops] if isinstance(group, Schedule) else group


def _timings(tune: bool | Timings) -> Timings | None:
    if not isinstance(tune, bool):
        return tune
    from .timings import Timings

    return Timings.load() if tune else None


def thread_count(threads: int | None) -> int:
    most = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if threads is None:
        return most
    if isinstance(threads, bool) or not isinstance(threads, int) or not 1 <= threads <= 1024:
        raise InputError(f"threads must be a whole number from 1 to 1024, got {threads!r}")
    return threads


def _pool(threads: int) -> _native.Pool:
    try:
        return _native.Pool(threads)
    except RuntimeError as e:
        raise InputError(f"the system does not permit {threads} threads ({e}); ask for fewer with threads=") from e


def _choose_isa(isa: str | None) -> str:
    have = _native.isas()
    wanted = isa or os.environ.get("JETTISON_ISA") or have[0]
    if wanted not in have:
        raise KernelError(f"instruction set {wanted!r} cannot run on this machine (JETTISON_ISA or isa=); it has {', '.join(have)}")
    return wanted
