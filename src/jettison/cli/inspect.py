"""`jettison inspect`: what is in a file, without running it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..spec import WEIGHTED
from .tables import Json, Output, byte_count, units

if TYPE_CHECKING:
    from ..graph import Graph, Op

BRIEF = 300  # characters of a note


def inspect(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A .jettison file.")],
    layers: Annotated[bool, typer.Option("--layers", help="List every layer too.")] = False,
    json: Json = None,
) -> None:
    """Show what is in a .jettison file: inputs, layers, formats, sizes and what its maker noted.

    The file is read and checked, nothing is run; PyTorch and the native runtime are not needed.

    Examples:

        jettison inspect model.jettison --layers

        jettison inspect model.jettison --json - | jq .formats
    """
    from ..file import load, load_meta

    output = Output(json)
    graph, meta = load(file), load_meta(file)
    data = {
        "file": str(file),
        "file_bytes": file.stat().st_size,
        "version": graph.version,
        "inputs": {name: list(graph.tensors[name].shape) for name in graph.inputs},
        "outputs": {name: list(graph.tensors[name].shape) for name in graph.outputs},
        "kinds": dict(Counter(op.kind for op in graph.ops)),
        "formats": _formats(graph),
        "layers": [_layer(graph, op) for op in graph.ops],
        "meta": meta,
    }
    _show(output, data, layers)
    output.save(data)


def _layer(graph: Graph, op: Op) -> dict[str, Any]:
    from ..graph import problem, weight_shape

    row: dict[str, Any] = {"name": op.name, "kind": op.kind, "output": list(graph.tensors[op.outputs[0]].shape)}
    if op.kind in WEIGHTED:
        shape, stored = weight_shape(graph, op), sum(a.nbytes for a in graph.weight_parts(op).values())
        size = problem(graph, op)
        kept = size.cost(op.format, stored).macs
        row |= {"format": str(op.format), "weight": list(shape), "weight_bytes": stored, "macs_dense": size.macs, "macs_kept": kept}
    return row


def _formats(graph: Graph) -> dict[str, dict[str, int]]:
    """Sums over the conv and linear layers of each format."""
    sums: dict[str, dict[str, int]] = {}
    for op in graph.ops:
        if op.kind in WEIGHTED:
            row = _layer(graph, op)
            total = sums.setdefault(row["format"], {"layers": 0, "weight_bytes": 0, "macs_dense": 0, "macs_kept": 0})
            total["layers"] += 1
            for key in ("weight_bytes", "macs_dense", "macs_kept"):
                total[key] += row[key]
    return sums


def _show(output: Output, data: dict[str, Any], layers: bool) -> None:
    tensors = [("file", f"{data['file']}, {byte_count(data['file_bytes'])}, version {data['version']}")]
    tensors += [("input", f"{name} {_shape(shape)}") for name, shape in data["inputs"].items()]
    tensors += [("output", f"{name} {_shape(shape)}") for name, shape in data["outputs"].items()]
    tensors += [("layers", ", ".join(f"{count} {kind}" for kind, count in data["kinds"].items()))]
    tensors += [(key, _brief(value)) for key, value in data["meta"].items()]
    output.table("", ("", ""), tensors)
    columns = ("format", ">layers", ">MACs dense", ">MACs kept", ">weight bytes")
    rows = [
        (name, f["layers"], units(f["macs_dense"]), units(f["macs_kept"]), byte_count(f["weight_bytes"]))
        for name, f in data["formats"].items()
    ]
    output.table("Formats of convolutions and linear layers, one image; 1 MAC = 2 operations", columns, rows)
    if layers:
        columns = ("layer", "kind", "output", "format", "weight (k, r, s, c)", ">bytes")
        rows = [
            (
                r["name"],
                r["kind"],
                _shape(r["output"]),
                r.get("format"),
                _shape(r.get("weight", ())),
                byte_count(r["weight_bytes"]) if "weight" in r else "",
            )
            for r in data["layers"]
        ]
        output.table("Layers", columns, rows)


def _shape(shape: Any) -> str:
    return "×".join(map(str, shape))


def _brief(value: Any) -> str:
    if isinstance(value, dict):
        value = [f"{k} {v}" for k, v in value.items() if v not in (None, [], "")]
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return text if len(text) <= BRIEF else text[: BRIEF - 1] + "…"
