"""Tables of bench/readme_table.py: convolution by table look-up."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lut_kernels import PROTOTYPES
from table_cells import machine


def lut(results: dict[str, dict[str, Any]]) -> str:
    """A line for each layer, times in µs."""
    tables = []
    for r in (r for r in results.values() if "layers" in r):
        where = f"{r['machine']['processor']}, {r['isa']}, 1 thread, batch 1:"
        more = " | ".join(f"K = {k}" for k in PROTOTYPES[1:])
        lines = [f"{where}\n\n| layer | v | dense int8, median µs (p10 – p90) | K = 16 | gain | {more} |\n{9 * '|---'}|\n"]
        for row in r["layers"]:
            layer = f"{row['h']}×{row['w']}, {row['c']} → {row['k']}, {row['r']}×{row['s']}"
            dense, look_up = ("{:.1f} ({:.1f} – {:.1f})".format(*row[f"{name}_us_median_p10_p90"]) for name in ("dense", "lut16"))
            gain = " | ".join(f"{row['gain'][f'lut{k}']:.2f}×" if f"lut{k}" in row["gain"] else "–" for k in PROTOTYPES)
            lines.append(f"| {layer} | {row['v']} | {dense} | {look_up} | {gain} |\n")
        tables.append("".join(lines))
    return "\n".join(tables)


def table_pattern(row: dict[str, Any]) -> str:
    return row["pattern"] + ", by layer" * bool(row.get("layers"))


def tabconv(results: dict[str, dict[str, Any]]) -> str:
    """A line for each network; in brackets what the paper reports. Below: patterns that differ from layer to layer."""
    out = []
    for name, r in results.items():
        if "tabconv" not in r:
            continue
        out.append(
            "| network | data | pattern | operations saved | accuracy, % | kept | weights or tables, KB "
            f"| ms: dense int8 | 1:4 int8 | tables | ONNX Runtime int8 |\n{11 * '|---'}|\n"
        )
        for row in r["tabconv"]:
            p, saved, kept = row["percent"], f"{row['operations']['saved_percent']:.1f}%", f"{row['kept_percent']:.1f}%"
            saved, kept = (f"{mine} ({paper})" if paper else mine for mine, paper in ((saved, row["saved"]), (kept, row["kept"])))
            storage = " → ".join(f"{row['storage_bytes'][k] / 1000:.0f}" for k in ("int8", "tables"))
            ms = {(t["engine"], t["pattern"]): f"{t['median_ms']:.3f}" for t in row["ms"] or []}
            wanted = (("jettison", "dense"), ("jettison", "1:4"), ("jettison", row["pattern"]), ("onnxruntime", "dense"))
            pattern = table_pattern(row)
            cells = f"[{row['network']}]({name}) | {row['data']} | {pattern}, {row['epochs']} epochs | {saved}"
            out.append(
                f"| {cells} | {p['f32']:.2f} → {p['tables']:.2f} | {kept} | {storage} | {' | '.join(ms.get(w, '–') for w in wanted)} |\n"
            )
        timed = [row["timed"] for row in r["tabconv"] if row["ms"]]
        fitted = [f"{row['network']} {table_pattern(row)}" for row in r["tabconv"] if row["ms"] and row["timed"].get("network")]
        for where in dict.fromkeys(machine(t).rstrip(":") for t in timed):
            out.append(f"\nMilliseconds: {where}, another test image in each run.\n")
        if fitted:
            out.append(f"\nTimed as fitted anew, in the same formats, as the trained networks are no longer there: {'; '.join(fitted)}.\n")
        for row in r["tabconv"]:
            if row.get("layers"):
                exact = f", exact `{','.join(row['exclude'])}`" if row.get("exclude") else ""
                out.append(f"\n{row['network']} on {row['data']} by layer: `{','.join((row['pattern'], *row['layers']))}`{exact}\n")
        if r["missing"]:
            out.append(f"\nNot run yet: {', '.join(r['missing'])}.\n")
    return "".join(out)


def table_compression(results: dict[str, dict[str, Any]]) -> str:
    """A line for each form and share that is kept."""
    out = []
    for name, r in results.items():
        if "table_compression" not in r:
            continue
        out.append(
            f"[{r['data']}]({name}), layers of tables only:\n\n| form | kept | accuracy, % | KB | operations, M |\n|---|---|---|---|---|\n"
        )
        for row in r["table_compression"]:
            numbers = f"{row['percent']:.2f} | {row['bytes'] / 1000:.0f} | {row['operations'] / 1e6:.2f}"
            out.append(f"| {row['form']} | {row['kept']:.0%} | {numbers} |\n")
    return "".join(out)


def table_sensitivity(results: dict[str, dict[str, Any]]) -> str:
    """A line for each layer and format that it had alone."""
    head = "| layer | pattern | operations saved | KL from the exact scores | answers changed |\n|---|---|---|---|---|\n"
    return _by_layer(
        results,
        "table_sensitivity",
        lambda r: f"fitted to {r['fit_images']:,} images, judged on {r['judged_images']:,}:\n\n{head}",
        lambda o: f"{o['layer']} | {o['pattern']} | {o['saved_percent']:.2f}% | {o['kl']:.4f} | {o['changed_percent']:.2f}%",
    )


def kmeans(results: dict[str, dict[str, Any]]) -> str:
    """Errors of layers whose codes are a tree's or the nearest prototype's, and what finding that one costs."""
    head = "| layer | K | hash tree | nearest prototype | its distances, of the exact layer |\n|---|---|---|---|---|\n"
    return _by_layer(
        results,
        "kmeans",
        lambda r: f"v = {r['v']}, error on {r['judged_images']:,} images not fitted to:\n\n{head}",
        lambda o: f"{o['layer']} | {o['prototypes']} | {o['tree']:.3f} | {o['nearest']:.3f} | {o['distances'] / o['exact']:.0%}",
    )


def _by_layer(
    results: dict[str, dict[str, Any]], key: str, about: Callable[[dict[str, Any]], str], cells: Callable[[dict[str, Any]], str]
) -> str:
    """A table for each result that has `key`: what it is about, with the table's head, and a line for each row."""
    found = {name: r for name, r in results.items() if key in r}
    tables = (
        f"[{r['network']}]({name}), {r['data']}, {about(r)}" + "".join(f"| {cells(row)} |\n" for row in r[key]) for name, r in found.items()
    )
    return "\n".join(tables)
