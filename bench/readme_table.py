"""Tables of README.md and docs/ from bench/results/*.json, between their `<!-- results: … -->` marks.

    python bench/readme_table.py            rewrite them
    python bench/readme_table.py --check    exit 1 if a page differs from the results

A function for each mark; it knows its files by a key at their top: "rows" is what `jettison bench --json` writes, "summary"
accuracy after training, "networks" in int8, "layers" single layers by table look-up, "steps" masks in training; else its own name.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any

from table_cells import machine, percent, ratio
from tables_accelerator import accelerator
from tables_crisp import change_of_mind, crisp, crisp_recipes
from tables_fusion import convfirst, fusion, fusion_bound
from tables_lookup import kmeans, lut, tabconv, table_compression, table_sensitivity

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "bench" / "results"
MARK = re.compile(r"(<!-- results: (\w+)[^>]*-->\n).*?(<!-- /results -->)", re.DOTALL)
NONE = "No result file has been committed yet.\n"


def main() -> None:
    stale = []
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        old = page.read_text()
        new = filled(old, read_results(RESULTS), "bench/results" if page.parent == ROOT else "../bench/results")
        if new == old:
            continue
        stale.append(str(page.relative_to(ROOT)))
        if "--check" not in sys.argv:
            page.write_text(new)
    if stale and "--check" in sys.argv:
        raise SystemExit(f"{', '.join(stale)}: tables differ from bench/results; run: make docs")


def read_results(folder: Path) -> dict[str, dict[str, Any]]:
    """Every result by its file name."""
    return {path.name: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}


def filled(page: str, results: dict[str, dict[str, Any]], folder: str) -> str:
    """`page` with a fresh table between each pair of marks; `folder` of the results as seen from the page."""
    linked = {f"{folder}/{name}": r for name, r in results.items()}
    tables = {
        "speed": speed, "accuracy": accuracy, "int8": int8, "lut": lut, "mask_cost": mask_cost,
        "fusion": fusion, "fusion_bound": fusion_bound, "convfirst": convfirst,
        "post_training": post_training, "waterline": waterline, "tabconv": tabconv, "table_compression": table_compression,
        "table_sensitivity": table_sensitivity, "kmeans": kmeans,
        "crisp": crisp, "change_of_mind": change_of_mind, "crisp_recipes": crisp_recipes,
        "density": density, "budget": budget, "accelerator": accelerator,
    }  # fmt: skip
    return MARK.sub(lambda m: m[1] + (tables[m[2]](linked) or NONE) + m[3], page)


def speed(results: dict[str, dict[str, Any]]) -> str:
    """One table for each machine, number of threads and batch size; a line for each pattern and element of a network."""
    groups: dict[str, list[str]] = {}
    for name, r in results.items():
        if "rows" in r:
            groups.setdefault(circumstances(r), []).extend(_speed_lines(name, r))
    head = (
        "| network | element | pattern | Jettison, median ms (p10 – p90) | over our own dense | fastest other engine, dense, ms "
        "| over that |\n|---|---|---|---|---|---|---|\n"
    )
    return "\n".join(f"{where}\n\n{head}{''.join(lines)}" for where, lines in groups.items())


def circumstances(r: dict[str, Any]) -> str:
    m = r["machine"]
    threads = f"{r['threads']} threads" if r["threads"] != 1 else "1 thread"
    return f"{m['processor']}, {r.get('isa') or m['isa'][0]}, {threads}, batch {r['batch']}:"


def _speed_lines(name: str, r: dict[str, Any]) -> Iterable[str]:
    for row in r["rows"]:
        if row["engine"] != "jettison":
            continue
        same = [o for o in r["rows"] if o["element"] == row["element"]]
        dense = next((o["median_ms"] for o in same if o["engine"] == "jettison" and o["pattern"] == "dense"), None)
        peer = min((o for o in same if o["engine"] != "jettison"), key=lambda o: o["median_ms"], default=None)
        cells = [
            f"[{r['model']}]({name})",
            row["element"],
            row["pattern"],
            f"{row['median_ms']:.2f} ({row['p10_ms']:.2f} – {row['p90_ms']:.2f})",
            ratio(dense, row["median_ms"]),
            f"{peer['median_ms']:.2f} ({peer['engine']})" if peer else "–",
            f"{1 / row['of_best'][0]:.2f}×" if row.get("of_best") else ratio(peer and peer["median_ms"], row["median_ms"]),
        ]
        yield f"| {' | '.join(cells)} |\n"


def accuracy(results: dict[str, dict[str, Any]]) -> str:
    """A table for each recipe, shorter ones first: a row for each method, a column for each pattern."""
    out = []
    tables = [(name, r) for name, r in results.items() if "summary" in r]
    for name, r in sorted(tables, key=lambda table: table[1]["epochs"]):
        rows = {(s["method"], s["pattern"]): s for s in r["summary"]}
        patterns = sorted({p for _, p in rows} - {"dense"}, key=lambda p: -_density(p))
        dense = rows.pop(("dense", "dense"), None)
        start = f", dense {percent(dense)}%" if dense else ""
        taught = ", distilled from the dense network" if r.get("distill") else ""
        lines = [f"[{r['model']}]({name}), {r['data']}, {r['epochs']} epochs{taught}{start}:\n\n"]
        lines += [f"| method | {' | '.join(patterns)} |\n", f"|---|{'---|' * len(patterns)}\n"]
        for method in dict.fromkeys(m for m, _ in rows):
            lines.append(f"| {method} | {' | '.join(_accuracy_cell(rows.get((method, p))) for p in patterns)} |\n")
        out.append("".join(lines))
    return "\n".join(out)


def _density(pattern: str) -> float:
    n, m = pattern.split(":")
    return int(n) / int(m)


def _accuracy_cell(row: dict[str, Any] | None) -> str:
    return "–" if row is None else f"{percent(row)} (−{row['lost_points']:.2f})".replace("−-", "+")


def int8(results: dict[str, dict[str, Any]]) -> str:
    """Mean over the seeds of each network, method and pattern."""
    out = []
    for name, r in results.items():
        groups: dict[tuple[str, str, str, str], list[dict[str, Any]]] = {}
        for n in r.get("networks", ()):
            groups.setdefault((n["network"], n["data"], n["method"], n["pattern"]), []).append(n)
        for (network, data, method, pattern), runs in groups.items():
            f32, ours, theirs = (sum(n["percent"][k] for n in runs) / len(runs) for k in ("f32", "int8", "onnxruntime_int8"))
            lost = sum(n["lost_points"] for n in runs) / len(runs)
            how = f"{'–' if pattern == 'dense' else method} | {pattern}"
            first = f"| [{network}]({name}) | {data} | {how} | {runs[0]['judged_images']} | {len(runs)} "
            out.append(f"{first}| {f32:.2f} | {ours:.2f} | {lost:.2f} | {theirs:.2f} |\n")
    head = (
        "| network | data | method | pattern | test images | seeds | float32, % | int8, % | lost, points | the same in ONNX Runtime, % |\n"
        "|---|---|---|---|---|---|---|---|---|---|\n"
    )
    return head + "".join(out) if out else ""


def mask_cost(results: dict[str, dict[str, Any]]) -> str:
    """One training step, by method and pattern."""
    out = []
    for name, r in results.items():
        if "steps" not in r:
            continue
        about = f"[{r['model']}]({name}), {r['size']}×{r['size']}, batch {r['batch']}, {r['threads']} thread, {r['machine']['processor']}:"
        out.append(f"{about}\n\n| method | pattern | ms a step, median (p10 – p90) | over dense |\n|---|---|---|---|\n")
        for s in r["steps"]:
            times = f"{s['median_ms']:.0f} ({s['p10_ms']:.0f} – {s['p90_ms']:.0f})"
            out.append(f"| {s['method']} | {s['pattern']} | {times} | {100 * s['over_dense']:+.1f}% |\n")
    return "".join(out)


def post_training(results: dict[str, dict[str, Any]]) -> str:
    """A table for each network: a row for each way of pruning, a column for each pattern."""
    out = []
    for name, r in results.items():
        networks: dict[str, dict[tuple[str, str], dict[str, Any]]] = {}
        for row in r.get("post_training", ()):
            networks.setdefault(row["network"], {})[row["way"], row["pattern"]] = row
        for network, rows in networks.items():
            dense = rows.pop(("dense", "dense"))
            patterns, ways = (list(dict.fromkeys(key[i] for key in rows)) for i in (1, 0))
            about = f"[{network}]({name}), {dense['data']}, {dense['images']} images, judged on {dense['judged_images']}"
            out.append(f"{about}, dense {dense['percent']:.2f}%:\n\n| | {' | '.join(patterns)} |\n|---|{'---|' * len(patterns)}\n")
            for way in ways:
                cells = (f"{rows[way, p]['percent']:.2f}" if (way, p) in rows else "–" for p in patterns)
                out.append(f"| {way} | {' | '.join(cells)} |\n")
            out.append("\n")
    return "".join(out).removesuffix("\n")


def budget(results: dict[str, dict[str, Any]]) -> str:
    """A line for each network, fastest first: dense, uniform N:M, N layer by layer, smaller dense ones."""
    out = []
    for name, r in results.items():
        if "budget" not in r:
            continue
        images = f"{r['images']} images an epoch, a first look only" if r["images"] else "all images"
        where = f"{r['machine']['processor']}, {r['time_threads']} thread, batch {r['batch']}"
        about = f"{r['epochs']} epoch{'s' * (r['epochs'] > 1)}, {images}; {where}"
        lines = [f"[{r['model']}]({name}), {about}:\n\n| network | kept | ms, median (p10 – p90) | MMACs | weights | accuracy, % |\n"]
        found: dict[str, list[float]] = {}
        for run in r["budget"]:
            found.setdefault(f"{run['case']}-{run['kept']:g}", []).append(100 * run["accuracy"])
        trained = {key: _of_seeds(values) for key, values in found.items()}
        if r["budget"]:
            trained["dense"] = f"{100 * r['budget'][0]['start']['accuracy']:.2f} (start)"
        for key, t in sorted(r["times"].items(), key=lambda item: item[1]["median_ms"]):
            case, _, share = key.partition("-")
            time = f"{t['median_ms']:.3f} ({t['p10_ms']:.3f} – {t['p90_ms']:.3f})"
            lines.append(f"| {case} | {share or '1'} | {time} | {t['macs'] / 1e6:.1f} | {t['parameters']} | {trained.get(key, '–')} |\n")
        out.append(f"{lines[0]}|---|---|---|---|---|---|\n{''.join(lines[1:])}\n{_over_uniform(r['budget'])}")
    return "\n".join(out)


def _over_uniform(runs: list[dict[str, Any]]) -> str:
    """Points gained by N layer by layer over the same N everywhere, at the same cost and from the same seed."""
    points = {(r["case"], r["kept"], r["seed"]): 100 * r["accuracy"] for r in runs}
    lines = []
    for case in ("macs", "latency"):
        gains = [v - points["uniform", *at] for (c, *at), v in points.items() if c == case and ("uniform", *at) in points]
        if len(gains) > 1:
            error, ahead = stdev(gains) / len(gains) ** 0.5, sum(g > 0 for g in gains)
            lines.append(f"| {case} | {mean(gains):+.2f} ± {error:.2f} | {ahead} of {len(gains)} |\n")
    head = "| at the same cost and seed | points over uniform, mean ± standard error | ahead in |\n|---|---|---|\n"
    return head + "".join(lines) if lines else ""


def _of_seeds(values: list[float]) -> str:
    """Mean ± standard deviation, and of how many."""
    if len(values) == 1:
        return percent({"accuracy_percent": values[0], "spread": None})
    return percent({"accuracy_percent": mean(values), "spread": stdev(values)}) + f" ({len(values)} seeds)"


def waterline(results: dict[str, dict[str, Any]]) -> str:
    """The probe beside another program, layers beside the whole, predictions beside measurements: medians of all runs."""
    found = [(name, r) for name, r in results.items() if "waterline" in r]
    return "\n".join(
        f"{machine(r)} [{name.rpartition('/')[2]}]({name})\n\n{_probed(r['waterline']['probe'])}\n{_predicted(r['waterline']['networks'])}"
        for name, r in found
    )


def _probed(runs: list[dict[str, Any]]) -> str:
    lines = ["| one core, G multiply-adds/s | `jettison probe` (of all runs) | microbenchmark | difference |\n|---|---|---|---|\n"]
    for key in runs[0]["microbenchmark"]:
        ours, theirs = ([run[part][key] for run in runs] for part in ("rates", "microbenchmark"))
        ours = [rate[0] for rate in ours]
        row = f"{_giga(median(ours))} ({_giga(min(ours))} – {_giga(max(ours))}) | {_giga(median(theirs))}"
        lines.append(f"| {key} | {row} | {100 * (median(ours) / median(theirs) - 1):+.1f}% |\n")
    return "".join(lines)


def _giga(rate: float) -> str:
    return f"{rate / 1e9:.1f}"


def _predicted(networks: dict[str, list[dict[str, Any]]]) -> str:
    head = "| network, float32, batch 1 | measured, ms | sum of its layers | E | E\\* |\n|---|---|---|---|---|\n"
    rows = "| network | change | limit, ms | predicted, ms | measured, ms | error (of all runs) |\n|---|---|---|---|---|---|\n"
    for network, runs in networks.items():
        whole, layers = (median(run[key] for run in runs) for key in ("end_to_end_ms", "layers_ms"))
        off = median(run["layers_ms"] / run["end_to_end_ms"] - 1 for run in runs)
        shares = " | ".join(f"{100 * median(run[key] for run in runs):.0f}%" for key in ("efficiency", "attainable"))
        head += f"| {network} | {whole:.2f} | {layers:.2f} ({100 * off:+.1f}%) | {shares} |\n"
        for cells in zip(*(run["what_if"][1:] for run in runs)):
            times = " | ".join(f"{median(c[key] for c in cells):.2f}" for key in ("bound_ms", "predicted_ms", "measured_ms"))
            errors = [100 * c["error"] for c in cells]
            spread = f"{median(errors):+.1f}% ({min(errors):+.1f} … {max(errors):+.1f})"
            rows += f"| {network} | {cells[0]['change']} | {times} | {spread} |\n"
    return f"{head}\n{rows}"


def _undisturbed(row: dict[str, Any] | None) -> str:
    """Time and ratio of turns beside no busy neighbour (src/jettison/bench/quiet.py)."""
    return f"{row['median_ms']:.2f}, {row['of_best'][0]:.3f}" if row and row["of_best"] else "–"


def density(results: dict[str, dict[str, Any]]) -> str:
    """Speed of every share of blocks beside its ceiling, then the sizes of files."""
    out = []
    for name, r in results.items():
        if "density" not in r:
            continue
        rows, left = r["density"]["rows"], r["density"]["left"]
        peer = min((o for o in rows if o["engine"] != "jettison"), key=lambda o: o["median_ms"])
        ours = {o["pattern"]: o for o in rows if o["engine"] == "jettison"}
        about = (
            f"[{r['model']}]({name}), {r['element']}, {machine(r)[:-1]}, batch {r['batch']}; {peer['engine']} {peer['median_ms']:.2f} ms:"
        )
        head = ["pattern", "weights left in sparse layers", "multiply-adds left", "median ms (p10 – p90)", "of our dense time"]
        head += [f"of {peer['engine']}'s", f"undisturbed: ms, of {peer['engine']}'s", "over our dense", "ceiling"]
        out.append(f"{about}\n\n| {' | '.join(head)} |\n{'|---' * len(head)}|\n")
        still = {q["pattern"]: q for q in r["density"].get("quiet", ()) if q and q["engine"] == "jettison"}
        for pattern, o in ours.items():
            ms, dense = o["median_ms"], ours["dense"]["median_ms"]
            shares = f"{left[pattern]['weights']:.2%} | {left[pattern]['macs']:.2%} | {ms:.2f} ({o['p10_ms']:.2f} – {o['p90_ms']:.2f})"
            gains = f"{ms / dense:.3f} | {ms / peer['median_ms']:.3f} | {_undisturbed(still.get(pattern))}"
            out.append(f"| {pattern} | {shares} | {gains} | {dense / ms:.2f}× | {1 / left[pattern]['macs']:.2f}× |\n")
        for f in r["files"]:
            ratio = f["state_bytes"] / f["file_bytes"]
            sizes = f"{f['file_bytes'] / 1e6:.2f} MB, 1/{ratio:.1f} of its float32 state ({f['state_bytes'] / 1e6:.1f} MB)"
            out.append(f"\nFile with {f['classes']} outputs, classifier {f['classifier']}: {sizes}.\n")
        out.append("\n")
    return "".join(out).removesuffix("\n")


if __name__ == "__main__":
    main()
