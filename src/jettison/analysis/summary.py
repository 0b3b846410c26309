"""The analysis as plain data: what `--json` writes and the report shows. Milliseconds, bytes, operations (1 MAC = 2)."""

from __future__ import annotations

from dataclasses import asdict
from math import isfinite
from typing import Any

from .advice import advice
from .waterline import MODELS, Box, Limit, Waterline


def summary(analysis: Waterline) -> dict[str, Any]:
    """{"network": totals and the gap under both models, "kernels": a row each, "limits": the machine, "advice", "warnings"}."""
    return {
        "network": {
            "operations": analysis.operations,
            "macs_dense": analysis.macs_dense,
            "macs_kept": analysis.macs_kept,
            "arithmetic_ms": analysis.ideal_ms,
            "measured_ms": analysis.measured_ms,
            "efficiency": analysis.efficiency,
            **{model: _model(analysis, model) for model in MODELS},
        },
        "kernels": [_kernel(box) for box in analysis.boxes],
        "limits": {"threads": analysis.threads, **asdict(analysis.machine)},
        "advice": advice(analysis),
        "warnings": analysis.warnings(),
    }


def _model(analysis: Waterline, model: str) -> dict[str, Any]:
    gap = analysis.gap(model)
    return {
        "bytes": sum(_main(box, model).bytes for box in analysis.boxes),
        "bound_ms": analysis.bound_ms(model),
        "attainable": analysis.attainable(model),
        "roofline": analysis.roofline(model),
        "gap": {"memory_ms": gap.memory_ms, "kernel_ms": gap.kernel_ms, "idle_ms": gap.idle_ms} if gap else None,
    }


def _kernel(box: Box) -> dict[str, Any]:
    work = box.work
    return {
        "name": work.name,
        "layers": list(work.names),
        "kind": work.kind,
        "format": work.format,
        "element": work.element,
        "operations": work.operations,
        "macs_dense": work.macs_dense,
        "macs_kept": work.macs_kept,
        "look_ups": work.look_ups,
        "arithmetic_ms": box.arithmetic_ms,
        "measured_ms": box.measured_ms,
        **{
            model: {
                "bytes": _main(box, model).bytes,
                "intensity": _finite(box.intensity(model)),
                "bound_ms": box.bound_ms(model),
                "bound_by": box.bound_by(model),
                "attainable": box.attainable(model),
                "share_of_limit": box.share_of_limit(model),
            }
            for model in MODELS
        },
    }


def _main(box: Box, model: str) -> Limit:
    """What main memory sees."""
    return box.cold if model == "cold" else box.cached[-1]


def _finite(value: float) -> float | None:
    return value if isfinite(value) else None
