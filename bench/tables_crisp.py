"""Tables of what bench/crisp.py measured, for bench/readme_table.py: accuracy among chosen classes, a change of mind, recipes."""

from __future__ import annotations

from statistics import mean, stdev
from typing import Any

CRISP_COLUMNS = {
    "dense": "dense", "dense-tuned": "dense, trained on them", "crisp": "crisp", "magnitude": "saliency \\|w\\|",
    "blind": "saliency of all classes", "block": "blocks alone",
    "maxq": "N:M alone", "srste": "N:M alone, at once",
}  # fmt: skip
CHANGE_COLUMNS = {
    "dense": "dense", "crisp": "started over, all epochs", "half": "started over, half of them",
    "from": "from a network with one class replaced, half", "from-others": "from one for other classes, half",
}  # fmt: skip
RECIPE_COLUMNS = {"epochs": "epochs", "batch": "batch", "lr": "rate", "dropout": "dropout"}  # of every recipe
STARTS = {"crisp": "dense", "half": "dense", "from": "one class replaced", "from-others": "other classes"}


def crisp(results: dict[str, dict[str, Any]]) -> str:
    return _of_classes(results, CRISP_COLUMNS, set(CRISP_COLUMNS), "correlation")


def change_of_mind(results: dict[str, dict[str, Any]]) -> str:
    return _of_classes(results, CHANGE_COLUMNS, {"from", "from-others"}, "cross_entropy")


def _of_classes(results: dict[str, dict[str, Any]], columns: dict[str, str], counted: set[str], measure: str) -> str:
    """Accuracy among the chosen classes; a row for each network, number of classes and way of comparing layers, a column for each variant.

    counted: variants whose draws are shown. measure: shown beside accuracy, where all runs have it.
    """
    head = f"| network | classes | draws | layers compared by | {' | '.join(columns.values())} |\n|{'---|' * (4 + len(columns))}\n"
    lines = []
    for name, r in results.items():
        for network, count in dict.fromkeys((x["network"], x["count"]) for x in r.get("crisp", ())):
            runs = [x for x in r["crisp"] if (x["network"], x["count"]) == (network, count)]
            dense = {x["draw"]: x["accuracy"] for x in runs if x["variant"] == "dense"}
            for ranks, label in (("mean", "mean score per weight"), ("sum", "sum, as published")):
                mine = [x for x in runs if x["method"] is None or x["method"]["rank"] == ranks]
                draws = {x["draw"] for x in mine if x["method"] and x["variant"] in counted} & set(dense)
                if draws:
                    of = {v: {x["draw"]: x for x in mine if x["variant"] == v and x["draw"] in draws} for v in columns}
                    cells = " | ".join(_drawn(found, dense if v != "dense" else {}, len(draws), measure) for v, found in of.items())
                    whole = next((f", {x['dense']['accuracy']:.1%} on all classes" for x in mine if "dense" in x), "")
                    lines.append(f"| [{network}]({name}), {mine[0]['data']}{whole} | {count} | {len(draws)} | {label} | {cells} |\n")
    return head + "".join(lines) if lines else ""


def _drawn(found: dict[int, dict[str, Any]], dense: dict[int, float], draws: int, measure: str) -> str:
    """Mean over the draws in percent, then how far it is from dense in the same draws (± standard error), and their number if not all."""
    if not found:
        return "–"
    gaps = [100 * (x["accuracy"] - dense[d]) for d, x in found.items() if d in dense]
    spread = f" ± {stdev(gaps) / len(gaps) ** 0.5:.2f}" if len(gaps) > 1 else ""
    gap = f", {mean(gaps):+.2f}{spread}".replace("-", "−") if gaps else ""
    known = all(measure in x for x in found.values())  # older runs have none
    more = f"; {mean(x[measure] for x in found.values()):.3f}" if known else ""
    return f"{100 * mean(x['accuracy'] for x in found.values()):.2f}{gap}{more}{f' ({len(found)})' if len(found) < draws else ''}"


def crisp_recipes(results: dict[str, dict[str, Any]]) -> str:
    """Each recipe of the networks that trials were made of, draw by draw: only equal draws can be compared."""
    found = [(name, x) for name, r in results.items() for x in (*r.get("crisp", ()), *r.get("crisp_trials", ())) if "network" in x]
    dense = {(x["network"], x["count"], x["draw"]): x["accuracy"] for _, x in found if x["variant"] == "dense"}
    rows: dict[tuple[Any, ...], dict[int, dict[str, Any]]] = {}
    for name, x in found:
        changes = dict(x.get("changes", ()))  # older runs have none
        others = ", ".join(f"{k} {v}" for k, v in changes.items() if k not in RECIPE_COLUMNS) or "–"
        if x["variant"] in STARTS and "correlation" in x:
            all_of_it = {"dropout": 1.0} | x["recipe"]  # older runs do not say
            recipe = tuple(all_of_it[k] for k in RECIPE_COLUMNS)
            rows.setdefault((x["network"], x["count"], STARTS[x["variant"]], recipe, others, name), {})[x["draw"]] = x
    tried = {row[:2] for row, runs in rows.items() if any(x.get("changes") for x in runs.values())}
    measured = ["draws", "accuracy − dense", "cross-entropy", "correlation"]
    head = ["network", "classes", "starts from", *RECIPE_COLUMNS.values(), "other settings", *measured]
    lines = [f"| {' | '.join(head)} |\n{'|---' * len(head)}|\n"]
    for (network, count, start, recipe, others, name), runs in sorted(rows.items()):
        if (network, count) in tried:
            drawn = [runs[d] for d in sorted(runs)]
            gaps = (f"{100 * (x['accuracy'] - dense[network, count, x['draw']]):+.1f}".replace("-", "−") for x in drawn)
            measures = [", ".join(f"{x[of]:.3f}" for x in drawn) for of in ("cross_entropy", "correlation")]
            about = [f"[{network}]({name})", count, start, *(f"{v:g}" for v in recipe), others]
            cells = [*about, ", ".join(map(str, sorted(runs))), ", ".join(gaps), *measures]
            lines.append(f"| {' | '.join(map(str, cells))} |\n")
    return "".join(lines) if tried else ""
