"""What if: the same network pruned, in int8, fused, in larger batches. Limits, predicted times, and the check of the prediction.

The change is really made to the graph (weights pruned at once by magnitude, ranges from random images, every block one
group), so that its limits are counted as any network's, and its kernels exist. Only accuracy is not looked at. Predicted is

    T' = T / Σ t_i · Σ t'_i        t'_i = apart'_i + (t_i − apart_i) · b'_i / b_i

apart: a kernel's time apart from the network, measured for the old and the new one (`Session.profile_apart`). What it took
beyond that in the old network, because its data came from elsewhere, is taken to follow its bytes b. A kernel that the
change brought in (a group, a conversion) takes beyond its time apart what all kernels do by byte. Idle time keeps its share.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..errors import FormatError, InputError
from ..formats import NM
from ..graph import Graph, Op, weight_shape
from ..planner import cheapest, stretches
from ..spec import IMAGE_CHANNELS, WEIGHTED
from .measure import Measured
from .waterline import Waterline
from .work import Work, fused, works


@dataclass(frozen=True, slots=True)
class Change:
    """What is changed; `batch` None: as it was. str(change) is what was typed."""

    pattern: NM | None = None
    int8: bool = False
    fuse: bool = False
    batch: int | None = None

    @classmethod
    def parse(cls, text: str) -> Change:
        """ "1:4", "int8", "fuse", "batch=16", or several joined by "+". Errors: InputError, PatternError."""
        change = cls()
        for word in (w.strip() for w in text.split("+")):
            if word in ("int8", "fuse"):
                change = replace(change, **{word: True})
            elif change.batch is None and word.startswith("batch=") and word[6:].isdecimal() and int(word[6:]) > 0:
                change = replace(change, batch=int(word[6:]))
            elif change.pattern is None and ":" in word:
                change = replace(change, pattern=NM.parse(word))
            else:
                raise InputError(
                    f"--what-if: {word!r} is not known or given twice; write N:M, int8, fuse or batch=N, several joined by '+'"
                )
        return change

    def __str__(self) -> str:
        words = (str(self.pattern or ""), "int8" * self.int8, "fuse" * self.fuse, f"batch={self.batch}" if self.batch else "")
        return "+".join(w for w in words if w)


def changed(graph: Graph, change: Change, seed: int = 0) -> Graph:
    """The network after `change`, as far as it is one of the graph. Errors: InputError when a pattern fits no layer."""
    from ..bench.target import in_element

    if change.pattern is not None:
        graph = pruned(graph, change.pattern)
    return in_element(graph, "int8", seed) if change.int8 else graph


def pruned(graph: Graph, fmt: NM) -> Graph:
    """Every layer that methods would prune unasked, pruned by magnitude: not stem, classifier, depthwise and grouped ones."""
    last = [op.name for op in graph.ops if op.kind in WEIGHTED][-1:]
    formats = {op.name: fmt for op in graph.ops if op.name not in last and _may_have(graph, op, fmt)}
    if not formats:
        raise InputError(f"--what-if {fmt}: no layer has input channels divisible by {fmt.m}; choose another pattern")
    return pruned_to(graph, formats)


def pruned_to(graph: Graph, formats: Mapping[str, NM]) -> Graph:
    """The ops named in `formats` pruned by magnitude, each to its own."""
    constants, ops = dict(graph.constants), []
    for op in graph.ops:
        fmt = formats.get(op.name)
        if fmt is not None:
            weight = graph.weight(op)
            for name in [k for k in constants if k == op.params["weight"] or k.startswith(op.params["weight"] + ".")]:
                del constants[name]
            parts = fmt.encode(np.where(fmt.mask(weight.astype(np.float32)), weight, 0).astype(weight.dtype), op.name)
            constants |= {f"{op.params['weight']}.{part}": array for part, array in parts.items()}
            op = replace(op, format=fmt)
        ops.append(op)
    return replace(graph, ops=tuple(ops), constants=constants)


def _may_have(graph: Graph, op: Op, fmt: NM) -> bool:
    if op.kind not in WEIGHTED or op.format.kind not in ("dense", "nm") or op.attrs.get("groups", 1) > 1:
        return False
    shape = weight_shape(graph, op)
    try:
        fmt.check(shape, op.name)
    except FormatError:
        return False
    return op.kind == "linear" or shape[3] > IMAGE_CHANNELS


def blocks(graph: Graph) -> tuple[tuple[str, ...], ...]:
    """Groups of ops that together move the fewest bytes, with at most one op that is wider than a pixel in each.

    So a residual block (1×1, 3×3, 1×1; expand, depthwise, project) becomes one group, and the halo is that of one layer.
    """
    ops, rows = graph.ops, {row.name: row for row in works(graph)}
    wide = [op.kind == "max_pool" or (op.kind == "conv" and max(op.attrs["kernel"]) > 1) for op in ops]
    found = {(i, j): fused([rows[op.name] for op in ops[i:j]]).bytes for i, j in stretches(graph) if sum(wide[i:j]) <= 1}
    alone = [rows[op.name].bytes if op.name in rows else 0 for op in ops]
    return tuple(tuple(op.name for op in ops[i:j]) for i, j in cheapest(alone, found))


@dataclass(frozen=True, slots=True)
class Baseline:
    """The network as it is: measured as a whole, and its kernels apart."""

    measured: Measured
    apart_ms: Mapping[str, float]
    works: Sequence[Work]

    @property
    def whole_over_parts(self) -> float:
        """T / Σ t_i."""
        return self.measured.median_ms / sum(self.measured.times_ms.values())

    def beyond_apart_ms(self, row: Work) -> float:
        """What a kernel of these bytes takes in the network beyond its time apart; a change of layout, nobody measured apart, all of it."""
        mine = [w for w in self.works if w.name == row.name] or [w for w in self.works if w.name in self.apart_ms]
        times = self.measured.times_ms
        beyond = sum(sum(times[name] for name in w.names) - self.apart_ms.get(w.name, 0.0) for w in mine)
        return beyond * row.bytes / max(sum(w.bytes for w in mine), 1)


def predicted_ms(baseline: Baseline, rows: Sequence[Work], apart_ms: Mapping[str, float]) -> dict[str, float]:
    """Milliseconds of each kernel of the changed network. apart_ms: of its kernels."""
    return {row.name: max(apart_ms.get(row.name, 0.0) + baseline.beyond_apart_ms(row), 0.0) for row in rows}


def row(change: str, analysis: Waterline, predicted: float | None, measured: float | None, kernels: Any = None) -> dict[str, Any]:
    """A line of the result. error: of the prediction, relative to the measurement."""
    return {
        "change": change,
        "operations": analysis.operations,
        "macs_kept": analysis.macs_kept,
        "bound_ms": analysis.bound_ms("cached"),
        "cold_bound_ms": analysis.bound_ms("cold"),
        "predicted_ms": predicted,
        "measured_ms": measured,
        "error": predicted / measured - 1 if predicted is not None and measured else None,
        "kernels": kernels or [],
    }
