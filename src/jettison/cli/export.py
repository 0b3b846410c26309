"""`jettison export`: the network of a file as ONNX, for other engines."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .tables import Json, Output, byte_count, check_writable


def export(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A .jettison file.")],
    onnx: Annotated[Path, typer.Option(help="The .onnx file to write.")],
    batch: Annotated[int, typer.Option(help="Images per run; fixed in the ONNX file, as engines plan better with it.", min=1)] = 1,
    json: Json = None,
) -> None:
    """Write the network of a .jettison file as ONNX: the same weights, for ONNX Runtime, OpenVINO and others.

    Pruned weights become zeros. int8 networks become QDQ, which engines turn back into integer arithmetic; outputs
    then agree within a few quantisation steps. `jettison bench --against` gives other engines exactly this network.

    Examples:

        jettison export model.jettison --onnx model.onnx

        jettison export model.jettison --onnx model.onnx --batch 16
    """
    import onnx as library

    from ..file import load, replace
    from ..peers.onnx_model import onnx_model

    output = Output(json)
    check_writable(onnx)
    graph = load(file)
    model = onnx_model(graph, batch)
    library.checker.check_model(model)
    replace(onnx, model.SerializeToString())
    int8 = graph.element == "int8"
    size = onnx.stat().st_size
    output.say(f"{onnx}: {'int8 (QDQ)' if int8 else 'float32'}, batch {batch}, {len(model.graph.node)} nodes, {byte_count(size)}")
    output.save({"file": str(file), "onnx": str(onnx), "element": "int8" if int8 else "f32", "batch": batch, "onnx_bytes": size})
