"""What users hand over as arrays."""

from __future__ import annotations

from typing import Any

import numpy as np

from .errors import InputError


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
