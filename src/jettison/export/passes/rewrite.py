"""What passes share: who makes and who reads a tensor, and fusing two ops into one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

import numpy as np

from ...graph import Graph, Op

Constants = dict[str, np.ndarray]
Fuse = Callable[[Graph, Op, Op, int, Constants], Op | None]


def reads(graph: Graph) -> Counter[str]:
    """How often each tensor is read, as graph output too."""
    return Counter([name for op in graph.ops for name in op.inputs] + list(graph.outputs))


def rebuilt(graph: Graph, ops: Iterable[Op], constants: Mapping[str, np.ndarray]) -> Graph:
    """`graph` with other ops: those that no output needs, their tensors and unused constants are left out."""
    needed, kept = set(graph.outputs), []
    for op in reversed(list(ops)):
        if needed & set(op.outputs):
            needed |= set(op.inputs)
            kept.append(op)
    used = {name for op in kept for name in op.params.values()}
    return replace(
        graph,
        ops=tuple(reversed(kept)),
        tensors={name: t for name, t in graph.tensors.items() if name in needed or name in graph.inputs},
        constants={name: c for name, c in constants.items() if name in used},
    )


def fuse_pairs(graph: Graph, fuse: Fuse) -> Graph:
    """Offer every (op, reader) where nobody else reads the op's result to `fuse`.

    fuse(graph, op, reader, i, constants): i is the input of `reader` that `op` writes. It returns one op
    for both, writing the reader's output, or None; constants it needs go into `constants`. The new op
    runs where the reader ran, so all its inputs are there.
    """
    count = reads(graph)
    constants = dict(graph.constants)
    made: dict[str, Op] = {}  # by output tensor, in running order
    for reader in graph.ops:
        pending: Op | None = reader
        while pending is not None:
            reader, pending = pending, None
            for i, name in enumerate(reader.inputs):
                fused = fuse(graph, made[name], reader, i, constants) if name in made and count[name] == 1 else None
                if fused is not None:
                    del made[name]
                    pending = fused
                    break
        made[reader.outputs[0]] = reader
    return rebuilt(graph, made.values(), constants)


def with_params(op: Op, arrays: Mapping[str, np.ndarray], constants: Constants) -> Op:
    """`op` with new constants, each called op name.role."""
    constants.update({f"{op.name}.{role}": np.ascontiguousarray(a, np.float32) for role, a in arrays.items()})
    return replace(op, params={**op.params, **{role: f"{op.name}.{role}" for role in arrays}})
