"""What the cells of several tables of bench/readme_table.py share."""

from __future__ import annotations

from typing import Any


def ratio(theirs: float | None, ours: float) -> str:
    return f"{theirs / ours:.2f}×" if theirs else "–"


def machine(r: dict[str, Any]) -> str:
    return f"{r['machine']['processor']}, {r['machine']['isa'][0]}, {r['threads']} threads:"


def percent(row: dict[str, Any], mean: str = "accuracy_percent", spread: str = "spread") -> str:
    return f"{row[mean]:.2f}" + ("" if row[spread] is None else f" ± {row[spread]:.2f}")
