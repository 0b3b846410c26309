"""N:M: of every M consecutive input channels at one kernel position, at most N are not zero.

    W (k, r, s, c), groups g = c / M:   ‖W[k, r, s, gM : (g+1)M]‖₀ ≤ N   for all k, r, s, g

Stored as `values`, float32 or int8 (k, r, s, g·N), ordered by channel inside each group, and `indices`,
their positions 0 … M−1 inside the group, ⌈log2 M⌉ bits each, little-endian bit stream.
A group with fewer than N non-zeros is filled up with zeros at its lowest free positions.

Source: Zhou et al. 2021 (arXiv 2102.04010), section 3; the layout is NVIDIA's 2:4 one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..errors import FormatError, PatternError
from .bits import pack_bits, stream_bytes, unpack_bits
from .element import WEIGHT_TYPES, weights

M_MAX = 64


@dataclass(frozen=True, slots=True)
class NM:
    """N kept of every M, 1 ≤ n ≤ m ≤ 64. Errors: PatternError."""

    n: int
    m: int
    kind: ClassVar[str] = "nm"
    linear: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for name, v in (("N", self.n), ("M", self.m)):
            if isinstance(v, bool) or not isinstance(v, int):
                raise PatternError(f"pattern {self.n!r}:{self.m!r}: {name} must be a whole number, got {v!r}")
        if not 1 <= self.n <= self.m <= M_MAX:
            raise PatternError(f"pattern {self.n}:{self.m}: needs 1 <= N <= M <= {M_MAX}; for example 2:4 keeps 2 of every 4")

    @classmethod
    def parse(cls, text: str) -> NM:
        n, _, m = text.partition(":")
        if not (n.isdecimal() and m.isdecimal()):
            raise PatternError(f"pattern {text!r} is not N:M with two whole numbers; for example '1:4'")
        return cls(int(n), int(m))

    def __str__(self) -> str:
        return f"{self.n}:{self.m}"

    @property
    def index_bits(self) -> int:
        """⌈log2 M⌉."""
        return (self.m - 1).bit_length()

    def check(self, shape: tuple[int, ...], where: str) -> None:
        if len(shape) != 4:
            raise FormatError(f"{where}: weights must be (k, r, s, c), got shape {shape}")
        if shape[3] % self.m:
            raise FormatError(
                f"{where}: NM({self.n}, {self.m}) needs input channels divisible by {self.m}, got {shape[3]}; "
                "leave the layer dense or choose another M"
            )

    def mask(self, w: np.ndarray) -> np.ndarray:
        """Bool (k, r, s, c): the N largest |w| of each group, exactly N; ties go to the lowest index."""
        self.check(w.shape, "mask")
        a = np.abs(w).reshape(-1, self.m)
        order = np.argsort(-a, axis=1, kind="stable")[:, : self.n]
        mask = np.zeros(a.shape, bool)
        np.put_along_axis(mask, order, True, axis=1)
        return mask.reshape(w.shape)

    def satisfied(self, w: np.ndarray) -> bool:
        return w.ndim == 4 and w.shape[3] % self.m == 0 and bool((np.count_nonzero(w.reshape(-1, self.m), axis=1) <= self.n).all())

    def encode(self, w: np.ndarray, where: str) -> dict[str, np.ndarray]:
        self.check(w.shape, where)
        if not self.satisfied(w):
            over = int((np.count_nonzero(w.reshape(-1, self.m), axis=1) > self.n).sum())
            raise FormatError(
                f"{where}: {over} of {w.size // self.m} groups have more than {self.n} of {self.m} weights; prune the layer to {self} first"
            )
        k, r, s, c = w.shape
        flat = weights(w).reshape(-1, self.m)
        # kept first (nonzeros, then the lowest free positions), then back into channel order
        order = np.sort(np.argsort(flat == 0, axis=1, kind="stable")[:, : self.n], axis=1)
        values = np.take_along_axis(flat, order, axis=1).reshape(k, r, s, c // self.m * self.n)
        return {"values": values, "indices": pack_bits(order.astype(np.uint8), self.index_bits)}

    def positions(self, parts: Mapping[str, np.ndarray], shape: tuple[int, ...], where: str) -> np.ndarray:
        """uint8 positions inside the group, shaped like `values`; checks every part. Errors: FormatError."""
        self.check(shape, where)
        k, r, s, c = shape
        kept = (k, r, s, c // self.m * self.n)
        values, indices = parts.get("values"), parts.get("indices")
        if set(parts) != {"values", "indices"} or values is None or indices is None:
            raise FormatError(f"{where}: {self} needs parts 'values' and 'indices', got {sorted(parts)}")
        if values.shape != kept or values.dtype not in WEIGHT_TYPES:
            raise FormatError(f"{where}: 'values' must be float32 or int8 {kept}, got {values.dtype} {values.shape}")
        count = int(np.prod(kept))
        need = stream_bytes(count, self.index_bits)
        if indices.dtype != np.uint8 or indices.shape != (need,):
            raise FormatError(f"{where}: 'indices' must be uint8 ({need},), got {indices.dtype} {indices.shape}")
        pos = unpack_bits(indices, self.index_bits, count).reshape(-1, self.n)
        if pos.size and (pos.max(initial=0) >= self.m or (np.diff(pos.astype(np.int16), axis=1) <= 0).any()):
            raise FormatError(f"{where}: 'indices' are not ascending positions below {self.m}; the file is damaged")
        return pos.reshape(kept)

    def decode(self, parts: Mapping[str, np.ndarray], shape: tuple[int, ...], where: str) -> np.ndarray:
        pos = self.positions(parts, shape, where).reshape(-1, self.n)
        w = np.zeros((int(np.prod(shape)) // self.m, self.m), parts["values"].dtype)
        np.put_along_axis(w, pos.astype(np.int64), parts["values"].reshape(-1, self.n), axis=1)
        return w.reshape(shape)

    def verify(self, parts: Mapping[str, np.ndarray], shape: tuple[int, ...], where: str) -> np.dtype:
        return self.decode(parts, shape, where).dtype

    def density(self, shape: tuple[int, ...]) -> float:
        return self.n / self.m
