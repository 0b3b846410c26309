"""What users hand over as arrays, and what they get."""

from __future__ import annotations

from typing import Any

import numpy as np

from .errors import InputError
from .graph import Graph


def to_array(x: Any, name: str) -> np.ndarray:
    """`x` as it is, or through DLPack without a copy. Errors: InputError naming the input."""
    if isinstance(x, np.ndarray):
        return x
    if not hasattr(x, "__dlpack__"):
        raise InputError(f"input {name!r} must be a NumPy array or have __dlpack__, got {type(x).__name__}")
    try:
        return np.from_dlpack(x)
    except (BufferError, RuntimeError, TypeError, ValueError) as e:
        raise InputError(f"input {name!r} cannot be read through DLPack: {e}; detach it and move it to the CPU") from None


def empty_outputs(graph: Graph, n: int) -> list[np.ndarray]:
    return [np.empty((n, *graph.user_shape(t)), np.float32) for t in graph.outputs]


def accept(graph: Graph, inputs: tuple[Any, ...]) -> tuple[list[np.ndarray], int]:
    """Inputs as contiguous arrays and their batch size. Errors: InputError naming the input."""
    names = graph.inputs
    if len(inputs) != len(names):
        raise InputError(f"this network takes {len(names)} input(s) ({', '.join(names)}), got {len(inputs)}")
    arrays = [to_array(x, name) for x, name in zip(inputs, names)]
    n = arrays[0].shape[0] if arrays[0].ndim else 0
    for x, name in zip(arrays, names):
        want = (max(n, 1), *graph.user_shape(name))
        if x.shape != want or n < 1:
            shown = "(n, " + ", ".join(map(str, want[1:])) + ")"
            raise InputError(f"input {name!r} must have shape {shown} with n >= 1, the same for all inputs; got {x.shape}")
        if x.dtype != np.float32:
            raise InputError(f"input {name!r} must be float32, got {x.dtype}; convert it with .astype('float32')")
    return [np.ascontiguousarray(x) for x in arrays], n
