"""Weight formats: what a method produces, a file stores and a kernel consumes.

A format is a frozen dataclass with a `kind` and the verbs of `Format`. Weights are seen
as **(k, r, s, c)** arrays: output channels, kernel rows, kernel columns, input channels of
one group, channels innermost. A linear layer is (k, 1, 1, c).

To add a format: one file here, one line in `FORMATS`. Without a native kernel of its own
it runs decoded, as dense.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np

from ..errors import FormatError, PatternError
from .block import Block
from .cost import Cost
from .dense import Dense
from .element import ELEMENTS
from .lut import Lut
from .nm import NM
from .pixel_lut import PixelLut

__all__ = ["ELEMENTS", "FORMATS", "NM", "Block", "Cost", "Dense", "Format", "Lut", "PixelLut", "from_json", "parse", "to_json"]


@runtime_checkable
class Format(Protocol):
    """The contract of every format. `w` is a float32 or int8 array of shape (k, r, s, c)."""

    kind: ClassVar[str]
    linear: ClassVar[bool]  # False: the layer is no product with weights, so there is nothing to encode, decode or satisfy

    def check(self, shape: tuple[int, ...], where: str) -> None:
        """Raise FormatError naming `where` unless weights of this (k, r, s, c) can have the format."""
        ...

    def satisfied(self, w: np.ndarray) -> bool:
        """True when `w` already obeys the format, zeros counted by value."""
        ...

    def encode(self, w: np.ndarray, where: str) -> dict[str, np.ndarray]:
        """Named parts that `decode` turns back into exactly `w`; FormatError unless satisfied."""
        ...

    def decode(self, parts: Mapping[str, np.ndarray], shape: tuple[int, ...], where: str) -> np.ndarray:
        """The (k, r, s, c) weights; checks every part first (files are untrusted)."""
        ...

    def verify(self, parts: Mapping[str, np.ndarray], shape: tuple[int, ...], where: str) -> np.dtype:
        """The type of the stored numbers, after checking every part (files are untrusted). Errors: FormatError."""
        ...

    def density(self, shape: tuple[int, ...]) -> float:
        """Multiply-adds, or look-ups, over the multiply-adds of dense weights."""
        ...


FORMATS: dict[str, type] = {
    "dense": Dense,
    "nm": NM,
    "block": Block,
    "lut": Lut,
    "pixel_lut": PixelLut,
}


def parse(text: str) -> Format:
    """`"dense"`, `"N:M"`, `"ROWSxCOLUMNS/INNER@KEEP%"`, `"lutV"` or `"pixelV"` as typed on the command line. Errors: PatternError."""
    if text == "dense":
        return Dense()
    if text.startswith("lut"):
        return Lut.parse(text)
    if text.startswith("pixel"):
        return PixelLut.parse(text)
    if "/" in text:
        return Block.parse(text)
    if ":" in text:
        return NM.parse(text)
    raise PatternError(
        f"pattern {text!r} is not known; write 'dense' or 'N:M', for example '1:4', or blocks, for example '32x64/2:4@25%', "
        "or tables, 'lutV' or 'pixelV', for example 'lut9'"
    )


def to_json(fmt: Format) -> dict[str, Any]:
    """{"kind": "nm", "n": 1, "m": 4}: the kind and the dataclass fields, a format among them in the same way."""
    values = {f: getattr(fmt, f) for f in _field_names(type(fmt))}
    return {"kind": fmt.kind, **{f: to_json(v) if isinstance(v, Format) else v for f, v in values.items()}}


def from_json(obj: Any, where: str) -> Format:
    """Inverse of `to_json` on untrusted data. Errors: FormatError."""
    if not isinstance(obj, dict) or not isinstance(obj.get("kind"), str) or obj["kind"] not in FORMATS:
        known = ", ".join(FORMATS)
        raise FormatError(f"{where}: format {obj!r} is not known (known: {known}); was the file made by a newer Jettison?")
    cls = FORMATS[obj["kind"]]
    given = {k: v for k, v in obj.items() if k != "kind"}
    if set(given) != set(_field_names(cls)):
        raise FormatError(f"{where}: format {obj['kind']} needs fields {_field_names(cls)}, got {sorted(given)}")
    try:
        return cls(**{f: from_json(v, where) if isinstance(v, dict) else v for f, v in given.items()})
    except PatternError as e:
        raise FormatError(f"{where}: {e}") from e


def _field_names(cls: type) -> list[str]:
    return [f.name for f in fields(cls)]
