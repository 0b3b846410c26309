"""Tables of bench/results/accelerator.json for bench/readme_table.py: totals, and what moves them."""

from __future__ import annotations

from typing import Any

SHOWN = 5  # numbers of the model, those that move the result most


def accelerator(results: dict[str, dict[str, Any]]) -> str:
    return "\n".join(_tables(name, r) for name, r in results.items() if "accelerator" in r)


def _tables(name: str, r: dict[str, Any]) -> str:
    *_, (last, base) = r["accelerator"].items()
    lines = [
        f"[{r['model']}]({name}), {r['pattern']}, int8, batch {r['batch']}:\n\n",
        f"| machine | latency, ms | over {last} | best layer | energy, mJ | over {last} | best layer "
        "| layers bound by arithmetic, buffer, DRAM |\n",
        "|---|---|---|---|---|---|---|---|\n",
    ]
    for machine, a in r["accelerator"].items():
        cells = [machine]
        for field, unit in (("seconds", "cycles"), ("joules", "pj")):
            gain, layer = max((b[unit] / l[unit], l["name"]) for l, b in zip(a["layers"], base["layers"]))
            best = f"{gain:.1f}×, {layer}" if a is not base else "–"
            cells += [f"{1e3 * a[field]:.2f}", f"{base[field] / a[field]:.2f}×", best]
        cells.append(", ".join(str(sum(layer["bound"] == bound for layer in a["layers"])) for bound in ("compute", "buffer", "DRAM")))
        lines.append(f"| {' | '.join(cells)} |\n")
    return "".join(lines) + "".join(_sensitivity(r, other) for other in list(r["sensitivity"])[::-1])


def _sensitivity(r: dict[str, Any], other: str) -> str:
    first, *_ = r["accelerator"]
    head = (
        f"\n{first} over {other}, each number halved and doubled in both, the {SHOWN} that move it most:\n\n"
        "| number | value | latency: halved, doubled | energy: halved, doubled | where the value is from |\n|---|---|---|---|---|\n"
    )
    return head + "".join(
        _row(s, r["numbers"][first][s["parameter"]], r["numbers"][other][s["parameter"]]) for s in r["sensitivity"][other][:SHOWN]
    )


def _row(s: dict[str, Any], ours: dict[str, Any], theirs: dict[str, Any]) -> str:
    same = ours["value"] == theirs["value"]
    value = f"{ours['value']:g}" if same else f"{ours['value']:g} against {theirs['value']:g}"
    gains = [", ".join(f"{v:.2f}×" for v in s[what]) for what in ("latency", "energy")]
    return f"| {s['parameter']} | {value} | {' | '.join(gains)} | {(ours if same else theirs)['source']} |\n"
