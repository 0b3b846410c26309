"""Tables of bench/readme_table.py: block fusion, and networks made for it."""

from __future__ import annotations

from typing import Any

from table_cells import machine, percent, ratio


def fusion(results: dict[str, dict[str, Any]]) -> str:
    """Networks fused and layer by layer, then the groups."""
    found = [(name, r) for name, r in results.items() if "fusion" in r]
    return "\n".join(f"{machine(r)}\n\n{_fused_networks(name, r)}\n{_fused_groups(r)}" for name, r in found)


def _fused_networks(name: str, r: dict[str, Any]) -> str:
    head = "| network | element | batch | layer by layer, ms | fused, ms (p10 – p90) | gain | E layer by layer | E fused "
    lines = [f"{head}| activations, MB | fused, MB |\n|---|---|---|---|---|---|---|---|---|---|\n"]
    for n in r["fusion"]:
        a, b = n["unfused"], n["fused"]
        before, after = (sum(n[f"{k}_bytes"].values()) / 1e6 for k in ("unfused", "fused"))
        fused = f"{b['median_ms']:.2f} ({b['p10_ms']:.2f} – {b['p90_ms']:.2f})"
        lines.append(
            f"| [{n['network']}]({name}) | {n['element']} | {n['batch']} | {a['median_ms']:.2f} | {fused} "
            f"| {ratio(a['median_ms'], b['median_ms'])} | {n['ideal_ms'] / a['median_ms']:.0%} | {n['ideal_ms'] / b['median_ms']:.0%} "
            f"| {before:.2f} | {after:.2f} |\n"
        )
    return "".join(lines)


def _fused_groups(r: dict[str, Any]) -> str:
    """Groups of at least three layers: whole blocks."""
    lines = ["| network, element, batch | group | layers | layer by layer, ms | fused, ms | gain |\n|---|---|---|---|---|---|\n"]
    for n in r["fusion"]:
        if "efficientnet" in n["network"]:
            continue  # cut by squeeze-excitation into many small groups
        for g in n["groups"]:
            if len(g["layers"]) >= 3:
                where = f"{n['network']}, {n['element']}, {n['batch']}"
                ends = f"{g['layers'][0]} … {g['layers'][-1]}"
                gain = ratio(g["unfused_ms"], g["fused_ms"])
                lines.append(f"| {where} | {ends} | {len(g['layers'])} | {g['unfused_ms']:.3f} | {g['fused_ms']:.3f} | {gain} |\n")
    return "".join(lines)


def fusion_bound(results: dict[str, dict[str, Any]]) -> str:
    """Groups layer by layer, where memory costs nothing, and fused."""
    found = [(name, r) for name, r in results.items() if "fusion_bound" in r]
    head = "| network, element | group | layer by layer, ms (p10 – p90) | memory free | fused | gain if memory free | gained |\n"
    out = []
    for name, r in found:
        out.append(f"{r['machine']['processor']}, {r['machine']['isa'][0]}, 1 thread, batch 1:\n\n{head}|---|---|---|---|---|---|---|\n")
        for n in r["fusion_bound"]:
            for g in n["groups"]:
                times = [g[f"{k}_ms"] for k in ("unfused", "near", "fused")]
                cells = " | ".join(f"{median:.3f} ({low:.3f} – {high:.3f})" for median, low, high in times)
                unfused, near, fused = (median for median, _, _ in times)
                ends = f"{g['layers'][0]} … {g['layers'][-1]}"
                gains = f"{ratio(unfused, near)} | {ratio(unfused, fused)}"
                out.append(f"| [{n['network']}]({name}), {n['element']} | {ends} | {cells} | {gains} |\n")
    return "".join(out)


def convfirst(results: dict[str, dict[str, Any]]) -> str:
    """A line for each network, size and engine; over ConvNeXt in Inductor, as the paper has it. Then accuracies, where trained."""
    out = []
    for name, r in results.items():
        rows = r.get("convfirst_speed")
        if not rows:
            continue
        about = r["speed_about"]
        where = f"{about['machine']['processor']}, {about['machine']['isa'][0]}, {about['threads']} threads, batch {about['batch']}"
        out.append(f"[{where}]({name}):\n\n")
        out.append(
            "| network | images | engine | element | median ms (p10 – p90) | over ConvNeXt in Inductor |\n|---|---|---|---|---|---|\n"
        )
        base = {row["size"]: row["median_ms"] for row in rows if row["network"].startswith("convnext") and row["engine"] == "inductor"}
        for row in rows:
            ms, size = f"{row['median_ms']:.2f} ({row['p10_ms']:.2f} – {row['p90_ms']:.2f})", f"{row['size']}×{row['size']}"
            gain = ratio(base[row["size"]], row["median_ms"])
            out.append(f"| {row['network']} | {size} | {row['engine']} | {row['element']} | {ms} | {gain} |\n")
        out.append(_convfirst_accuracy(r))
    return "".join(out)


def _convfirst_accuracy(r: dict[str, Any]) -> str:
    if not r.get("convfirst_accuracy"):
        return ""
    run = r["runs"][0]
    about = f"Trained from scratch on {run['data']}, {run['recipe']['epochs']} epochs, one recipe, whole test set, last epoch"
    lines = [f"\n{about}:\n\n| network | seeds | float32, % | int8, % |\n|---|---|---|---|\n"]
    for row in r["convfirst_accuracy"]:
        lines.append(f"| {row['network']} | {row['seeds']} | {percent(row)} | {percent(row, 'int8_percent', 'int8_spread')} |\n")
    return "".join(lines)
