"""What a machine permits: multiply-adds a second, bytes a second, cache sizes. Read from a TOML file, checked.

    name = "AMD EPYC, 2 cores"
    source = "jettison probe 0.1.0, 2026-11-25"
    threads = [1, 2]                   # what the columns of every rate below were measured with

    [[peak]]                           # one per element type, format and instruction set
    element = "f32"                    # "f32", "bf16" or "i8"
    format = "dense"                   # "nm": of kept weights, gathered first; "lut": look-ups in tables of 16 bytes; "2:4": where
                                       # hardware does only that pattern
    isa = "avx512"
    macs_per_s = [1.36e11, 2.72e11]

    [[memory]]                         # nearest first, main memory last
    name = "L2"
    size_bytes = 1048576               # of one core, or of all if shared; main memory has none
    shared = false
    bytes_per_s = [2.1e11, 4.2e11]     # reading; left out where nobody published it

`jettison probe` writes such a file; `machines/` holds a few named ones.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import MachineError

FOLDER = Path(__file__).parent / "machines"
ELEMENTS = ("f32", "bf16", "i8")
FORMATS = re.compile(r"dense|nm|lut|[1-9]\d*:[1-9]\d*")
MAC_RATES = (1e6, 1e18)  # what lies outside is surely a slip: from a microcontroller to a room of accelerators
BYTE_RATES = (1e6, 1e16)
MAX_THREADS = 1 << 16
NOISE = 1.1  # two measured rates that should be ordered may be the wrong way round by this factor


@dataclass(frozen=True, slots=True)
class Peak:
    """The most multiply-adds (or look-ups) per second, by number of threads, that any kernel could do; counted on kept weights."""

    element: str
    format: str
    isa: str
    macs_per_s: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Memory:
    """A cache or the main memory. size_bytes: of one core, or of all if `shared`; 0: main memory. bytes_per_s: () if unknown."""

    name: str
    size_bytes: int
    shared: bool
    bytes_per_s: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Machine:
    """P and β of METHODS, for one and more threads: rates are interpolated between the numbers of threads measured."""

    name: str
    source: str
    threads: tuple[int, ...]
    peaks: tuple[Peak, ...]
    memories: tuple[Memory, ...]

    @property
    def most_threads(self) -> int:
        return self.threads[-1]

    def macs_per_s(self, element: str, fmt: str, threads: int, isa: str | None = None) -> float | None:
        """The highest peak for this element and format, of one instruction set if `isa` names it; None if there is none."""
        found = [p for p in self.peaks if (p.element, p.format) == (element, fmt) and isa in (None, p.isa)]
        return max((self._at(p.macs_per_s, threads) for p in found), default=None)

    def bytes_per_s(self, memory: Memory, threads: int) -> float | None:
        return self._at(memory.bytes_per_s, threads) if memory.bytes_per_s else None

    def capacity_bytes(self, memory: Memory, threads: int) -> int:
        """Of all caches of this level that `threads` cores have."""
        return memory.size_bytes * (1 if memory.shared else threads)

    def check_threads(self, threads: int) -> int:
        """`threads`, if the rates cover it. Errors: MachineError."""
        if not 1 <= threads <= self.most_threads:
            raise MachineError(f"{self.name}: threads must lie between 1 and {self.most_threads}, which its rates cover; got {threads}")
        return threads

    def _at(self, rates: tuple[float, ...], threads: int) -> float:
        return float(np.interp(threads, (0, *self.threads), (0.0, *rates)))


def load(name: str | Path) -> Machine:
    """A machine by the name of a file in `machines/`, or from a file of one's own. Errors: MachineError naming the field."""
    path = FOLDER / f"{name}.toml" if str(name) in names() else Path(name)
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise MachineError(
            f"machine {str(name)!r} is neither a file nor one of {', '.join(names())}; `jettison probe` writes one"
        ) from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as e:
        raise MachineError(f"{path}: cannot be read as a machine file: {e}") from e
    try:
        return check(_machine(data))
    except MachineError as e:
        raise MachineError(f"{path}: {e}") from None


def names() -> list[str]:
    """Of the machines that come with Jettison."""
    return sorted(p.stem for p in FOLDER.glob("*.toml"))


def text(machine: Machine) -> str:
    """The TOML file that `load` reads back as `machine`."""
    lines = [f"name = {_quoted(machine.name)}", f"source = {_quoted(machine.source)}", f"threads = {list(machine.threads)}"]
    for p in machine.peaks:
        lines += ["", "[[peak]]", *(f"{k} = {_quoted(getattr(p, k))}" for k in ("element", "format", "isa"))]
        lines.append(f"macs_per_s = {_rates(p.macs_per_s)}")
    for m in machine.memories:
        lines += ["", "[[memory]]", f"name = {_quoted(m.name)}"]
        lines += [f"size_bytes = {m.size_bytes}", f"shared = {str(m.shared).lower()}"] if m.size_bytes else []
        lines += [f"bytes_per_s = {_rates(m.bytes_per_s)}"] if m.bytes_per_s else []
    return "\n".join(lines) + "\n"


def only(machine: Machine, isa: str) -> Machine:
    """The same machine with the peaks of one instruction set, where it has any: what kernels of that set could reach."""
    peaks = tuple(p for p in machine.peaks if p.isa == isa)
    return replace(machine, peaks=peaks) if peaks else machine


# ---- reading: every field is checked by name


def _machine(data: Mapping[str, Any]) -> Machine:
    _fields(data, "the file", ("name", "source", "threads", "peak", "memory"))
    threads = data["threads"]
    ok = isinstance(threads, list) and threads and all(type(t) is int and 1 <= t <= MAX_THREADS for t in threads)
    _need(ok and threads == sorted(set(threads)), f"threads must be ascending whole numbers from 1, got {threads!r}")
    for key in ("peak", "memory"):
        ok = isinstance(data[key], list) and data[key] and all(isinstance(row, dict) for row in data[key])
        _need(ok, f"needs at least one [[{key}]]")
    return Machine(
        name=_word(data, "name", "the file"),
        source=_word(data, "source", "the file"),
        threads=tuple(threads),
        peaks=tuple(_peak(row, f"peak {i + 1}", len(threads)) for i, row in enumerate(data["peak"])),
        memories=tuple(_memory(row, i, len(data["memory"]), len(threads)) for i, row in enumerate(data["memory"])),
    )


def _peak(row: Mapping[str, Any], where: str, columns: int) -> Peak:
    _fields(row, where, ("element", "format", "isa", "macs_per_s"))
    _need(row["element"] in ELEMENTS, f"{where}: element must be one of {', '.join(ELEMENTS)}, got {row['element']!r}")
    fmt = row["format"]
    _need(
        isinstance(fmt, str) and FORMATS.fullmatch(fmt),
        f"{where}: format must be 'dense', 'nm', 'lut' or a pattern like '2:4', got {fmt!r}",
    )
    where = f"{where} ({row['element']}, {row['format']}, {row['isa']})"
    return Peak(row["element"], row["format"], _word(row, "isa", where), _rate_list(row, "macs_per_s", where, columns, MAC_RATES))


def _memory(row: Mapping[str, Any], place: int, count: int, columns: int) -> Memory:
    where, is_last = f"memory {place + 1}", place == count - 1
    _fields(row, where, ("name", "bytes_per_s") if is_last else ("name", "size_bytes", "shared"), ("bytes_per_s",))
    name = _word(row, "name", where)
    where = f"memory {name}"
    if not is_last:
        size = row["size_bytes"]
        _need(type(size) is int and 1 << 10 <= size <= 1 << 40, f"{where}: size_bytes must lie between 1 KiB and 1 TiB, got {size!r}")
        _need(isinstance(row["shared"], bool), f"{where}: shared must be true or false, got {row['shared']!r}")
    rates = _rate_list(row, "bytes_per_s", where, columns, BYTE_RATES) if "bytes_per_s" in row else ()
    return Memory(name, 0 if is_last else row["size_bytes"], not is_last and row["shared"], rates)


def _fields(row: Mapping[str, Any], where: str, must: tuple[str, ...], may: tuple[str, ...] = ()) -> None:
    missing, extra = [k for k in must if k not in row], [k for k in row if k not in must and k not in may]
    _need(not missing, f"{where}: field {', '.join(missing)} is missing")
    _need(not extra, f"{where}: field {', '.join(extra)} is not known; it has {', '.join((*must, *may))}")


def _word(row: Mapping[str, Any], key: str, where: str) -> str:
    value = row[key]
    _need(isinstance(value, str) and bool(value.strip()) and value.isprintable(), f"{where}: {key} must be text, got {value!r}")
    return value


def _rate_list(row: Mapping[str, Any], key: str, where: str, columns: int, limits: tuple[float, float]) -> tuple[float, ...]:
    values = row[key]
    _need(
        isinstance(values, list) and len(values) == columns,
        f"{where}: {key} must be {columns} numbers, one for each of threads; got {values!r}",
    )
    for v in values:
        number = isinstance(v, (int, float)) and not isinstance(v, bool) and isfinite(v)
        _need(number and limits[0] <= v <= limits[1], f"{where}: {key} must lie between {limits[0]:.0e} and {limits[1]:.0e}, got {v!r}")
    _need(all(b * NOISE >= a for a, b in pairwise(values)), f"{where}: {key} must not fall with more threads, got {values}")
    return tuple(float(v) for v in values)


# ---- what the figures must be to each other


def check(machine: Machine) -> Machine:
    """`machine`, unless its figures contradict each other. Errors: MachineError naming the field."""
    rates = {(p.element, p.format, p.isa): p.macs_per_s for p in machine.peaks}
    _need(len(rates) == len(machine.peaks), "two [[peak]] have the same element, format and isa")
    for (element, fmt, isa), rate in rates.items():
        where = f"peak ({element}, {fmt}, {isa}): macs_per_s"
        slow = rates.get((element, fmt, "scalar"), ())
        _need(
            all(fast * NOISE >= s for fast, s in zip(rate, slow)),
            f"{where} {max(rate):.3g} is below that of scalar, {max(slow, default=0):.3g}; vectors are not slower",
        )
        dense = rates.get((element, "dense", isa), ())
        _need(bool(dense), f"{where}: there is no dense peak of {element} and {isa} beside it")
        if fmt != "lut":  # look-ups are no multiply-adds
            below = all(g <= NOISE * d for g, d in zip(rate, dense))
            _need(below, f"{where} of kept weights exceeds the dense peak; gathering costs extra")
    _check_memories(machine.memories)
    return machine


def _check_memories(memories: tuple[Memory, ...]) -> None:
    _need(len({m.name for m in memories}) == len(memories), "two [[memory]] have the same name")
    caches = memories[:-1]
    for near, far in pairwise(caches):
        _need(near.size_bytes < far.size_bytes, f"memory {far.name}: size_bytes must exceed that of {near.name}; list the nearest first")
    known = [m for m in memories if m.bytes_per_s]
    for near, far in pairwise(known):
        _need(
            all(f <= NOISE * n for n, f in zip(near.bytes_per_s, far.bytes_per_s)),
            f"memory {far.name}: bytes_per_s exceeds that of {near.name}, which is nearer",
        )


def _need(ok: Any, what: str) -> None:
    if not ok:
        raise MachineError(what)


def _quoted(value: str) -> str:
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _rates(values: tuple[float, ...]) -> str:
    return "[" + ", ".join(f"{v:.4e}" for v in values) + "]"
