"""Dense: every weight is stored. Always legal, always a candidate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..errors import FormatError
from .element import WEIGHT_TYPES, weights


@dataclass(frozen=True, slots=True)
class Dense:
    """One part, `weight`, float32 or int8 (k, r, s, c)."""

    kind: ClassVar[str] = "dense"
    linear: ClassVar[bool] = True

    def __str__(self) -> str:
        return "dense"

    def check(self, shape: tuple[int, ...], where: str) -> None:
        if len(shape) != 4:
            raise FormatError(f"{where}: weights must be (k, r, s, c), got shape {shape}")

    def satisfied(self, w: np.ndarray) -> bool:
        return True

    def encode(self, w: np.ndarray, where: str) -> dict[str, np.ndarray]:
        self.check(w.shape, where)
        return {"weight": weights(w)}

    def decode(self, parts: Mapping[str, np.ndarray], shape: tuple[int, ...], where: str) -> np.ndarray:
        w = parts.get("weight")
        if set(parts) != {"weight"} or w is None or w.shape != tuple(shape) or w.dtype not in WEIGHT_TYPES:
            got = {k: (v.shape, str(v.dtype)) for k, v in parts.items()}
            raise FormatError(f"{where}: dense needs one float32 or int8 part 'weight' of shape {tuple(shape)}, got {got}")
        return w

    def verify(self, parts: Mapping[str, np.ndarray], shape: tuple[int, ...], where: str) -> np.dtype:
        return self.decode(parts, shape, where).dtype

    def density(self, shape: tuple[int, ...]) -> float:
        return 1.0
