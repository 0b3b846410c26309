"""Does the analysis tell the truth here? Its limits, its times and its predictions against independent measurements.

    python bench/waterline.py build                  networks and what the changes make of them, as files; minutes
    python bench/waterline.py probe --peak ./peak    what `jettison probe` finds, beside another program's rates; a minute
    python bench/waterline.py measure NETWORK        layers against the whole, predictions against measurements; seconds

Each call of the last two adds a run to bench/results/waterline.json. Nothing else may run meanwhile. `peak` is any program that
prints lines "NAME … RATE Gmac/s" of single instruction streams on one core; names as in `STREAMS`.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import time
from pathlib import Path
from typing import Any

from jettison import file
from jettison.analysis.machine import load, text
from jettison.analysis.probe import probe
from jettison.analysis.study import Study, measured
from jettison.analysis.whatif import Change, changed
from jettison.bench import processors
from jettison.bench.machine import describe, provenance
from jettison.bench.process import pinned
from jettison.bench.target import networks
from jettison.file import replace
from jettison.runtime import isas

ROOT = Path(__file__).resolve().parent.parent
RESULT = ROOT / "bench" / "results" / "waterline.json"
FILES = ROOT / "build" / "waterline"
NETWORKS = ("resnet18", "resnet50", "mobilenetv2_100", "convnext_atto")
CHANGES = ("1:4", "int8", "1:4+int8", "fuse", "batch=4")
STREAMS = {"fma zmm": ("f32", "dense"), "permps+fma": ("f32", "nm"), "dpbusd zmm": ("i8", "dense"), "pair permb+dpbusd": ("i8", "nm")}
THREADS = 2
PEAK_RUNS = 4
TRIES = 6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("what", choices=("build", "probe", "measure"))
    parser.add_argument("network", nargs="?", choices=NETWORKS)
    parser.add_argument("--peak", type=Path)
    parser.add_argument("--machine", type=Path, default=FILES / "here.toml", help="machine file; `probe` writes it, `measure` reads it")
    args = parser.parse_args()
    if args.what == "build":
        build()
        return
    if args.what == "measure" and not args.network:
        parser.error(f"measure which network? {', '.join(NETWORKS)}")
    found = json.loads(RESULT.read_text())["waterline"] if RESULT.exists() else {"probe": [], "networks": {}}
    if args.what == "probe":
        found["probe"].append(probed(args.peak, args.machine))
    else:
        found["networks"].setdefault(args.network, []).append(studied(args.network, args.machine))
    replace(RESULT, (json.dumps({"waterline": found, "threads": THREADS, **provenance()}, indent=1) + "\n").encode())


def build() -> None:
    FILES.mkdir(parents=True, exist_ok=True)
    for name in NETWORKS:
        graph = networks(f"timm:{name}", [], None, 0)[0].graph
        file.save(graph, FILES / f"{name}.jettison")
        for change in map(Change.parse, CHANGES):
            if change.pattern or change.int8:
                file.save(changed(graph, change), FILES / f"{name}.{change}.jettison")


def probed(peak: Path | None, out: Path) -> dict[str, Any]:
    cpus = processors(THREADS)
    with pinned(cpus):
        found = probe(describe()["processor"], [1, THREADS], isas())
    out.write_text(text(found.machine))
    rates = {f"{p.element} {p.format} {p.isa}": p.macs_per_s for p in found.machine.peaks}
    rates |= {f"{m.name}, bytes": m.bytes_per_s for m in found.machine.memories}
    others: dict[str, float] = {}
    if peak:
        with pinned(cpus[:1]):  # the best of a few, as the probe takes the best of its bursts
            printed = [subprocess.run([peak.absolute()], capture_output=True, text=True, check=True).stdout for _ in range(PEAK_RUNS)]
        for name, rate in re.findall(r"^(.+?) [\d.]+ G/s +([\d.]+) Gmac/s", "\n".join(printed), re.MULTILINE):
            if name in STREAMS:
                key = f"{' '.join(STREAMS[name])} avx512"
                others[key] = max(others.get(key, 0.0), float(rate) * 1e9)
    return {"rates": rates, "microbenchmark": others, "seconds": found.seconds, "clock_hz": found.clock_hz, "warnings": found.warnings}


def studied(name: str, machine: Path) -> dict[str, Any]:
    graph = file.load(FILES / f"{name}.jettison")
    changes = []
    for change in map(Change.parse, CHANGES):
        path = FILES / f"{name}.{change}.jettison"
        changes.append((change, file.load(path) if path.exists() else graph))
    start = time.perf_counter()
    with pinned(processors(THREADS)):
        disturbed = 0
        while True:  # what was measured while threads shared a core, or other programs ran, is not kept
            study: Study = measured(graph, load(machine), THREADS, 1, 20, changes, check=True)
            if not study.warnings:
                break
            disturbed += 1
            if disturbed == TRIES:
                raise SystemExit(f"{name}: the machine was disturbed {TRIES} times: {'; '.join(study.warnings)}")
    analysis = study.analysis
    layers = sum(box.measured_ms or 0.0 for box in analysis.boxes)
    print(name, f"{analysis.measured_ms:.3f} ms, layers {layers:.3f}", [(r["change"], r["error"]) for r in study.what_if])
    return {
        "end_to_end_ms": analysis.measured_ms,
        "layers_ms": layers,
        "efficiency": analysis.efficiency,
        "attainable": analysis.attainable("cached"),
        "what_if": [{k: v for k, v in row.items() if k != "kernels"} for row in study.what_if],
        "warnings": analysis.warnings(),
        "disturbed_before": disturbed,
        "seconds": time.perf_counter() - start,
    }


if __name__ == "__main__":
    main()
