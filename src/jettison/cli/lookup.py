"""What layers of tables save and how well they were fitted: a table and JSON, for `explain` and `compress`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .tables import Output, byte_count, units

if TYPE_CHECKING:
    from ..graph import Graph
    from ..tabconv import LayerFit


def look_ups(
    graph: Graph, kernels: Mapping[str, str] | None = None, isa: str = "", fits: Sequence[LayerFit] = ()
) -> dict[str, dict[str, Any]]:
    """By layer of tables, and under "" the whole network; nothing for a network without. Of one image.

    kernels: by layer, what runs. fits: of those just fitted.
    """
    from ..formats.lut import LookUp
    from ..tabconv import layer_operations, operations

    runs, fitted = kernels or {}, {f.name: {"fit_error": f.error, "padded_inputs": f.padded} for f in fits}
    rows = {o.name: layer_operations(graph, o, runs.get(o.name, ""), isa) for o in graph.ops if isinstance(o.format, LookUp)}
    whole = {"": operations(graph, runs, isa)} if rows else {}
    return {
        name: {
            "operations_exact": o.exact, "operations_paper": o.paper, "operations_kernel": o.kernel, "storage_bytes": o.storage_bytes,
            "saved_paper": o.saved_paper, "saved_kernel": o.saved_kernel, **fitted.get(name, {}),
        }
        for name, o in {**rows, **whole}.items()
    }  # fmt: skip


def show_look_ups(output: Output, look_up: Mapping[str, Mapping[str, Any]]) -> None:
    if not look_up:
        return
    fitted = any("fit_error" in o for o in look_up.values())
    rows: list[Any] = [
        (
            name or "network", units(o["operations_exact"]), units(o["operations_paper"]), f"{o['saved_paper']:.1%}",
            units(o["operations_kernel"]), f"{o['saved_kernel']:.1%}", byte_count(o["storage_bytes"]), *(_fit(o) if fitted else ()),
        )
        for name, o in look_up.items()
    ]  # fmt: skip
    columns = ("layer", ">exact", ">paper's count", ">saved", ">kernel's count", ">saved", ">storage")
    note = "network: all conv and linear layers; a multiply-add, a comparison and an added table entry are one operation each"
    if fitted:
        columns += (">error of the fit", ">inputs the last codebook lacks")
        note += "; error: share of the variance of a layer's sums, before training"
    rows.insert(-1, None)
    output.table("Table look-up: operations of one image", columns, rows, note)


def _fit(o: Mapping[str, Any]) -> tuple[str, str]:
    return (f"{o['fit_error']:.4f}" if o.get("fit_error") is not None else "", str(o.get("padded_inputs") or ""))
