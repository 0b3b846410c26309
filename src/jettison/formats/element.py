"""Element types of weights: independent of the structure that a format describes."""

import numpy as np

ELEMENTS = {"f32": np.dtype(np.float32), "i8": np.dtype(np.int8)}
WEIGHT_TYPES = tuple(ELEMENTS.values())


def weights(w: np.ndarray) -> np.ndarray:
    """`w`, contiguous; int8 stays int8, everything else becomes float32."""
    return np.ascontiguousarray(w, np.int8 if w.dtype == np.int8 else np.float32)
