"""Block: whole blocks of weights are removed, equally many in every block-row; those that stay are N:M or dense inside.

W (k, r, s, c) is seen as a k × D matrix, D = r·s·c, channels innermost. A block is `rows` output channels × `cols` input
channels at one kernel position; a block-row has T = r·s·c / cols of them.

    every block-row has at most K = max(1, round(keep·T)) blocks with non-zeros, and each of them satisfies `inner`

     D →  ┌────┬────┬────┬────┐
     rows │ ▚▚ │    │ ▚▚ │    │   K = 2 of T = 4 in each block-row, at different columns: all rows of an accelerator, and all
          ├────┼────┼────┼────┤   threads of a processor, get equal work
     rows │    │ ▚▚ │ ▚▚ │    │   density = K/T · N/M
          └────┴────┴────┴────┘

Stored as `blocks`, the columns 0 … T−1 of each block-row's K blocks in ascending order, ⌈log2 T⌉ bits each, little-endian
bit stream without row pointers; and the parts of `inner` for the kept blocks side by side, a weight of shape (k, 1, K, cols).
A block-row with fewer non-zero blocks is filled up with zero blocks at its lowest free columns.

Source: Aggarwal et al. 2024, "CRISP" (arXiv 2311.14272), section III.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from ..errors import FormatError, PatternError
from .bits import pack_bits, stream_bytes, unpack_bits
from .dense import Dense
from .nm import NM

SIDES = (16, 32, 64)
KEEP_DIGITS = 5  # a share of blocks is rounded to these, so that it is written as it is
_TEXT = re.compile(r"(\d+)x(\d+)/([^@]+)(?:@([0-9.]+)%)?")


@dataclass(frozen=True, slots=True)
class Block:
    """rows, cols: 16, 32 or 64. keep: share of the blocks of a block-row, 0 < keep ≤ 1. Errors: PatternError."""

    rows: int
    cols: int
    inner: NM | Dense = field(default_factory=Dense)
    keep: float = 1.0
    kind: ClassVar[str] = "block"
    linear: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for name, side in (("rows", self.rows), ("columns", self.cols)):
            if not isinstance(side, int) or side not in SIDES:
                raise PatternError(f"blocks must have 16, 32 or 64 {name}, got {side!r}; for example 32x64/2:4@25%")
        if not isinstance(self.inner, NM | Dense):
            raise PatternError(f"inside blocks weights are N:M or dense, not {self.inner}")
        if isinstance(self.inner, NM) and self.cols % self.inner.m:
            raise PatternError(f"{self.inner} does not fit into blocks of {self.cols} columns; M must divide them")
        if isinstance(self.keep, bool) or not isinstance(self.keep, int | float) or not 10**-KEEP_DIGITS <= self.keep <= 1:
            raise PatternError(f"the share of blocks kept must be more than 0 and at most 100%, got {self.keep!r}")
        object.__setattr__(self, "keep", round(float(self.keep), KEEP_DIGITS))

    @classmethod
    def parse(cls, text: str) -> Block:
        """`32x64/2:4@25%`: blocks of 32 outputs × 64 inputs, a quarter of them kept, 2:4 inside; without `@…` all are kept."""
        found = _TEXT.fullmatch(text)
        if not found:
            raise PatternError(f"pattern {text!r} is not ROWSxCOLUMNS/INNER@KEEP%; for example 32x64/2:4@25% or 16x16/dense@50%")
        rows, cols, inner, keep = found.groups()
        try:
            share = float(keep) / 100 if keep else 1.0
        except ValueError:
            raise PatternError(f"pattern {text!r}: {keep!r} is not a number of percent") from None
        return cls(int(rows), int(cols), Dense() if inner == "dense" else NM.parse(inner), share)

    def __str__(self) -> str:
        return f"{self.rows}x{self.cols}/{self.inner}" + ("" if self.keep == 1 else f"@{round(100 * self.keep, KEEP_DIGITS - 2):g}%")

    @property
    def groups(self) -> tuple[int, int]:
        """(N, M) inside the blocks; dense is (1, 1)."""
        return (self.inner.n, self.inner.m) if isinstance(self.inner, NM) else (1, 1)

    def total(self, shape: tuple[int, ...]) -> int:
        """T, the blocks of a block-row."""
        return shape[1] * shape[2] * shape[3] // self.cols

    def kept(self, shape: tuple[int, ...]) -> int:
        """K; no layer is emptied."""
        return max(1, round(self.keep * self.total(shape)))

    def index_bits(self, shape: tuple[int, ...]) -> int:
        """⌈log2 T⌉."""
        return (self.total(shape) - 1).bit_length()

    def compact_shape(self, shape: tuple[int, ...]) -> tuple[int, int, int, int]:
        """(k, 1, K, cols), of the weights in kept blocks."""
        return shape[0], 1, self.kept(shape), self.cols

    def check(self, shape: tuple[int, ...], where: str) -> None:
        if len(shape) != 4:
            raise FormatError(f"{where}: weights must be (k, r, s, c), got shape {shape}")
        for what, size, side in (("output", shape[0], self.rows), ("input", shape[3], self.cols)):
            if size % side or size == 0:
                raise FormatError(
                    f"{where}: {self.rows}x{self.cols} blocks need {what} channels divisible by {side}, got {size}; "
                    "leave the layer dense or choose smaller blocks, the smallest are 16x16"
                )

    def block_sums(self, score: np.ndarray) -> np.ndarray:
        """Σ of `score` (k, r, s, c) over each block: (k / rows, T)."""
        k = score.shape[0]
        return score.reshape(k // self.rows, self.rows, -1, self.cols).sum(axis=(1, 3))

    def mask(self, w: np.ndarray) -> np.ndarray:
        """Bool (k, r, s, c): in each block-row the K blocks of largest Σ|w|, ties to the lowest column; `inner`'s mask inside."""
        self.check(w.shape, "mask")
        sums = self.block_sums(np.abs(w.astype(np.float32)))
        order = np.argsort(-sums, axis=1, kind="stable")[:, : self.kept(w.shape)]
        blocks = np.zeros(sums.shape, bool)
        np.put_along_axis(blocks, order, True, axis=1)
        inside = self.inner.mask(w) if isinstance(self.inner, NM) else True
        return self.expand(blocks, w.shape) & inside

    def expand(self, blocks: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """(k / rows, T) per block → (k, r, s, c) per weight."""
        return np.repeat(np.repeat(blocks, self.rows, axis=0), self.cols, axis=1).reshape(shape)

    def satisfied(self, w: np.ndarray) -> bool:
        if w.ndim != 4 or w.shape[0] % self.rows or w.shape[3] % self.cols or not self.inner.satisfied(w):
            return False
        return bool((np.count_nonzero(self.block_sums(w != 0), axis=1) <= self.kept(w.shape)).all())

    def encode(self, w: np.ndarray, where: str) -> dict[str, np.ndarray]:
        self.check(w.shape, where)
        kept, used = self.kept(w.shape), self.block_sums(w != 0) > 0
        most = int(used.sum(axis=1).max())
        if most > kept:
            raise FormatError(
                f"{where}: a block-row has {most} of {self.total(w.shape)} blocks, {self} keeps {kept}; prune the layer to it first"
            )
        blocks = np.sort(np.argsort(~used, axis=1, kind="stable")[:, :kept], axis=1)
        compact = self._matrix(w)[np.arange(len(blocks))[:, None], :, blocks]  # (k / rows, K, rows, cols)
        compact = np.ascontiguousarray(compact.transpose(0, 2, 1, 3)).reshape(self.compact_shape(w.shape))
        return {"blocks": pack_bits(blocks.astype(np.uint32), self.index_bits(w.shape)), **self.inner.encode(compact, where)}

    def columns(self, parts: Mapping[str, np.ndarray], shape: tuple[int, ...], where: str) -> np.ndarray:
        """uint32 (k / rows, K): the columns of each block-row's kept blocks; checked. Errors: FormatError."""
        self.check(shape, where)
        stream, bits = parts.get("blocks"), self.index_bits(shape)
        size = (shape[0] // self.rows, self.kept(shape))
        need = stream_bytes(size[0] * size[1], bits)
        if stream is None or stream.dtype != np.uint8 or stream.shape != (need,):
            got = "none" if stream is None else f"{stream.dtype} {stream.shape}"
            raise FormatError(f"{where}: 'blocks' must be uint8 ({need},), got {got}")
        blocks = unpack_bits(stream, bits, size[0] * size[1], np.uint32).reshape(size)
        if int(blocks.max(initial=0)) >= self.total(shape) or (np.diff(blocks.astype(np.int64), axis=1) <= 0).any():
            raise FormatError(f"{where}: 'blocks' are not ascending columns below {self.total(shape)}; the file is damaged")
        return blocks

    def decode(self, parts: Mapping[str, np.ndarray], shape: tuple[int, ...], where: str) -> np.ndarray:
        blocks = self.columns(parts, shape, where)
        compact = self.inner.decode(_inner_parts(parts), self.compact_shape(shape), where)
        w = np.zeros(shape, compact.dtype)
        placed = compact.reshape(-1, self.rows, blocks.shape[1], self.cols).transpose(0, 2, 1, 3)
        self._matrix(w)[np.arange(len(blocks))[:, None], :, blocks] = placed
        return w

    def verify(self, parts: Mapping[str, np.ndarray], shape: tuple[int, ...], where: str) -> np.dtype:
        return self.decode(parts, shape, where).dtype

    def positions(self, parts: Mapping[str, np.ndarray], shape: tuple[int, ...], where: str) -> tuple[np.ndarray, np.ndarray]:
        """What kernels take: the kept values (k, 1, K, cols·N/M) and their uint8 positions in their groups; checked."""
        rest, compact = _inner_parts(parts), self.compact_shape(shape)
        if isinstance(self.inner, NM):
            return rest["values"], self.inner.positions(rest, compact, where)
        values = self.inner.decode(rest, compact, where)
        return values, np.zeros(values.shape, np.uint8)

    def density(self, shape: tuple[int, ...]) -> float:
        return self.kept(shape) / self.total(shape) * self.inner.density(shape)

    def _matrix(self, w: np.ndarray) -> np.ndarray:
        """A view (k / rows, rows, T, cols)."""
        return w.reshape(w.shape[0] // self.rows, self.rows, -1, self.cols)


def _inner_parts(parts: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: array for name, array in parts.items() if name != "blocks"}
