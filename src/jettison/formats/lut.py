"""Lut: a layer without weights. Codebooks of K prototypes replace inputs, tables replace products.

    x ∈ u8^D      one row of the im2col matrix, D = r·s·c, ordered (r, s, c); padding holds the zero point
    C = ⌈D / v⌉   codebooks; each stands for v inputs
    code[j]       the leaf, 0 … K − 1, that x reaches in the hash tree of codebook j
    acc[k]        Σ_j tables[k, j, code[j]]

The tree of a codebook has L = log2 K levels. Level l asks one input, splits[j, l], an index into the D inputs, and has
2^l thresholds; those of all levels stand one after the other, level l from 2^l − 1 on:

    bit_l = x[splits[j, l]] > thresholds[j, 2^l − 1 + Σ_{i<l} bit_i·2^i],    code = Σ_l bit_l·2^l

A split may lie anywhere in the D inputs. `splits` int32 (C, L), `thresholds` u8 (C, K − 1), `tables` int8 (k, C, K).

Sources: product quantisation, Jégou et al. 2011; hash trees instead of nearest prototypes, Blalock & Guttag 2021
(MADDNESS, arXiv 2106.10860), section 4.1; convolutions by table look-up, Gupta et al. 2024 (TabConv, arXiv 2404.05872).
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import ClassVar, Self

import numpy as np

from ..errors import FormatError, PatternError

V_MAX = 65536  # layers of one pixel have a few thousand inputs and want few codebooks
PROTOTYPES = tuple(1 << levels for levels in range(1, 17))  # codes have 16 bits
DEFAULT_PROTOTYPES = 16  # one table of bytes is one shuffle register


class LookUp(ABC):
    """What the formats without weights share. They have `v`, `prototypes` and `codebooks`, the look-ups of one output.

    word, usual: `lut9` is typed for v = 9 and the usual number of prototypes, `lut9x32` for 32 of them. counted: what v is a number of.
    """

    __slots__ = ()
    linear: ClassVar[bool] = False
    word: ClassVar[str]
    usual: ClassVar[int]
    counted: ClassVar[str]
    v: int
    prototypes: int

    def __post_init__(self) -> None:
        if isinstance(self.v, bool) or not isinstance(self.v, int) or not 1 <= self.v <= V_MAX:
            example = f"for example {self.word}9"
            raise PatternError(f"table look-up {self.word}: v, the {self.counted}, must be 1 to {V_MAX}, got {self.v!r}; {example}")
        if isinstance(self.prototypes, bool) or self.prototypes not in PROTOTYPES:
            most = PROTOTYPES[-1]
            raise PatternError(f"table look-up {self.word}: prototypes must be a power of two from 2 to {most}, got {self.prototypes!r}")

    @classmethod
    def parse(cls, text: str) -> Self:
        """`lut9`, `lut9x32`. Errors: PatternError."""
        found = re.fullmatch(rf"{cls.word}(\d+)(?:x(\d+))?", text)
        if not found:
            word = cls.word
            raise PatternError(f"pattern {text!r} is not {word}V or {word}VxK with whole numbers; for example '{word}9'")
        return cls(int(found[1]), int(found[2] or cls.usual))  # type: ignore[call-arg]

    def __str__(self) -> str:
        return f"{self.word}{self.v}" + ("" if self.prototypes == self.usual else f"x{self.prototypes}")

    @property
    def levels(self) -> int:
        """log2 K."""
        return self.prototypes.bit_length() - 1

    @abstractmethod
    def codebooks(self, shape: tuple[int, ...]) -> int:
        """C, the look-ups of one output. shape: (k, r, s, c), here and below."""

    @abstractmethod
    def padded(self, shape: tuple[int, ...]) -> int:
        """Inputs that the last codebook lacks."""

    def check(self, shape: tuple[int, ...], where: str) -> None:
        if len(shape) != 4:
            raise FormatError(f"{where}: weights must be (k, r, s, c), got shape {shape}")

    def satisfied(self, w: np.ndarray) -> bool:
        return False

    def encode(self, w: np.ndarray, where: str) -> dict[str, np.ndarray]:
        raise FormatError(f"{where}: tables cannot be made from weights alone, they are fitted to images: jettison.tabconv.fit")

    def decode(self, parts: Mapping[str, np.ndarray], shape: tuple[int, ...], where: str) -> np.ndarray:
        raise FormatError(f"{where}: a table look-up has no weights; other engines cannot run it: take the file it was made from")

    def need(self, parts: Mapping[str, np.ndarray], want: Mapping[str, tuple[type, tuple[int, ...]]], where: str) -> None:
        """Errors: FormatError unless `parts` are those of `want`, each of its type and shape."""
        if set(parts) != set(want):
            raise FormatError(f"{where}: {self} needs parts {', '.join(want)}, got {sorted(parts)}")
        for name, (kind, size) in want.items():
            dtype, got = np.dtype(kind), parts[name]
            if got.dtype != dtype or got.shape != size:
                raise FormatError(f"{where}: '{name}' must be {dtype} {size}, got {got.dtype} {got.shape}")

    def density(self, shape: tuple[int, ...]) -> float:
        """Look-ups over multiply-adds, C / D."""
        return self.codebooks(shape) / prod(shape[1:])


@dataclass(frozen=True, slots=True)
class Lut(LookUp):
    """v inputs per codebook, 1 ≤ v ≤ 65536; prototypes a power of two up to 65536. Errors: PatternError."""

    v: int
    prototypes: int = DEFAULT_PROTOTYPES
    kind: ClassVar[str] = "lut"
    word: ClassVar[str] = "lut"
    usual: ClassVar[int] = DEFAULT_PROTOTYPES
    counted: ClassVar[str] = "inputs per codebook"

    def codebooks(self, shape: tuple[int, ...]) -> int:
        """⌈r·s·c / v⌉; the last codebook may stand for fewer inputs."""
        return -(-prod(shape[1:]) // self.v)

    def padded(self, shape: tuple[int, ...]) -> int:
        return -prod(shape[1:]) % self.v

    def verify(self, parts: Mapping[str, np.ndarray], shape: tuple[int, ...], where: str) -> np.dtype:
        self.check(shape, where)
        count, depth = self.codebooks(shape), prod(shape[1:])
        want = {
            "splits": (np.int32, (count, self.levels)),
            "thresholds": (np.uint8, (count, self.prototypes - 1)),
            "tables": (np.int8, (shape[0], count, self.prototypes)),
        }
        self.need(parts, want, where)
        splits = parts["splits"]
        if splits.min(initial=0) < 0 or splits.max(initial=0) >= depth:
            raise FormatError(f"{where}: 'splits' must name inputs 0 to {depth - 1}; the file is damaged")
        return parts["tables"].dtype


def codes(rows: np.ndarray, splits: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """(n, C) int64 leaves, 0 … K − 1, of u8 rows (n, D); splits (C, L), thresholds (C, K − 1)."""
    code = np.zeros((len(rows), len(splits)), np.int64)
    every = np.arange(len(splits))
    for level in range(splits.shape[1]):
        bit = rows[:, splits[:, level]] > thresholds[every, (1 << level) - 1 + code]
        code += bit.astype(np.int64) << level
    return code


def look_up(code: np.ndarray, tables: np.ndarray) -> np.ndarray:
    """acc[n, k] = Σ_j tables[k, j, code[n, j]], exactly; int64."""
    acc = np.zeros((len(code), len(tables)), np.int64)
    for j in range(code.shape[1]):
        acc += tables[:, j].T[code[:, j]]
    return acc
