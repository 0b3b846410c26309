"""Whole numbers of few bits, one after another in a little-endian bit stream."""

import numpy as np


def stream_bytes(count: int, bits: int) -> int:
    """⌈count·bits / 8⌉."""
    return (count * bits + 7) // 8


def pack_bits(v: np.ndarray, bits: int) -> np.ndarray:
    """uint8 stream of the low `bits` of each unsigned value."""
    planes = (v.ravel()[:, None] >> np.arange(bits, dtype=v.dtype)) & 1
    return np.packbits(planes.astype(np.uint8).ravel(), bitorder="little")


def unpack_bits(stream: np.ndarray, bits: int, count: int, dtype: type = np.uint8) -> np.ndarray:
    """The first `count` values of `stream`, as unsigned `dtype`."""
    planes = np.unpackbits(stream, count=count * bits, bitorder="little").reshape(count, bits)
    return (planes.astype(dtype) << np.arange(bits, dtype=dtype)).sum(axis=1, dtype=dtype)
