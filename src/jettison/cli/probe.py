"""`jettison probe`: what this machine permits, measured, into a machine file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .tables import Json, Output, byte_count, check_writable, units

if TYPE_CHECKING:
    from ..analysis.machine import Machine
    from ..analysis.probe import Probe


def probe(
    out: Annotated[Path | None, typer.Option("-o", "--out", metavar="FILE", help="Machine file to write, TOML.")] = None,
    name: Annotated[str | None, typer.Option(help="What to call the machine. Default: its processor.")] = None,
    threads: Annotated[int | None, typer.Option(help="Most threads, each on a core of its own. Default: every core.")] = None,
    json: Json = None,
) -> None:
    """Measure what this machine permits: multiply-adds a second, bytes a second from every cache and from memory.

    Multiply-adds are measured for float32 and int8, each instruction set, dense and gathered (what N:M kernels do to
    kept weights); everything with 1, 2, 4 … threads up to all cores. It takes less than a minute. Let nothing else run
    meanwhile: the command warns if other programs did, or if the clock drifted.

    Examples:

        jettison probe -o here.toml

        jettison waterline resnet50 --machine here.toml
    """
    from ..analysis.machine import text
    from ..analysis.probe import probe as measure
    from ..bench import processors
    from ..bench.machine import describe, provenance
    from ..bench.process import pinned
    from ..file import replace
    from ..runtime import isas

    output = Output(json)
    if out is not None:
        check_writable(out)
    cpus = processors(threads)
    with pinned(cpus), output.progress() as tell:
        found = measure(name or describe()["processor"], _counts(len(cpus)), isas(), tell=tell)
    _show(output, found)
    if out is not None:
        replace(out, text(found.machine).encode())
        output.say(f"written to {out}; for the analysis of a network: jettison waterline TARGET --machine {out}")
    output.save({**_json(found), **provenance()})


def _counts(cores: int) -> list[int]:
    """1, 2, 4 … and all."""
    return sorted({*(1 << i for i in range(cores.bit_length()) if 1 << i <= cores), cores})


def _show(output: Output, found: Probe) -> None:
    machine = found.machine
    columns = tuple(f">{t} thread{'s' if t > 1 else ''}" for t in machine.threads)
    rows = [(p.element, p.format, p.isa, *(units(v, "MAC/s") for v in p.macs_per_s)) for p in machine.peaks]
    note = "1 MAC = 2 operations; nm: kept weights, gathered by a permute; clock " + units(found.clock_hz, "Hz")
    output.table(f"{machine.name}: multiply-adds", ("element", "format", "instructions", *columns), rows, note)
    rows = [(m.name, _size(m), *(units(v, "B/s") for v in m.bytes_per_s)) for m in machine.memories]
    output.table("Reading", ("memory", ">size", *columns), rows, f"{found.seconds:.0f} s in all")
    for line in found.warnings:
        output.say(f"warning: {line}")


def _size(memory: Any) -> str:
    return f"{byte_count(memory.size_bytes)}{' shared' if memory.shared else ' a core'}" if memory.size_bytes else ""


def _json(found: Probe) -> dict[str, Any]:
    from dataclasses import asdict

    machine: Machine = found.machine
    return {"probe": asdict(machine), "warnings": list(found.warnings), "clock_hz": found.clock_hz, "seconds": found.seconds}
