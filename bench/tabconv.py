"""Table look-up on the paper's networks and on ResNet-20, and its rivals: operations saved, accuracy kept, storage, milliseconds.

    python bench/tabconv.py --data-dir DATA                                     the whole queue
    python bench/tabconv.py --data-dir DATA --list                              what is done and what is next
    python bench/tabconv.py --data-dir DATA --only NAME … [--epochs 0]          some rows; 0 epochs: fitted, not trained
    python bench/tabconv.py --data-dir DATA --time                              milliseconds of all finished rows

A row is one run of `jettison.compression.compress`: dense training where there are no weights yet, int8, tables, training of the
tables; accuracy of the last epoch on the whole test set. It may be killed at any moment and is resumed with the same command:

    runs/tabconv/NAME/          what an interrupted run goes on from, then dense_int8.jettison and trained.jettison
    runs/tabconv/NAME.json      a finished row
    bench/results/tabconv.json  all finished rows, committed; a row in it is not repeated on another machine

Rivals are CRISP's blocks with N:M inside (hybrid), trained on all classes from the same dense network for as many epochs.

Time: one test image, another in each run, dense int8, N:M int8, hybrid int8, tables, and dense int8 in ONNX Runtime, in turns in one run.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from accuracy import replace_json
from tabconv_cases import CASES, HYBRIDS, Case, Hybrid

from jettison import file, tabconv
from jettison.bench import Entrant, compare, processors
from jettison.bench.machine import provenance
from jettison.bench.target import SAMPLED
from jettison.cli.eval import session_score
from jettison.compression import Compressed, compress
from jettison.errors import JettisonError
from jettison.formats import NM, Dense
from jettison.graph import Graph, weight_shape
from jettison.runtime import Session
from jettison.settings import Settings
from jettison.spec import WEIGHTED, check
from jettison.training import device_of
from jettison.training.data import DataSet, load, normalise, test_batches

ROOT = Path(__file__).resolve().parent.parent
RESULT = ROOT / "bench" / "results" / "tabconv.json"
FOLDERS = {"cifar10": "cifar10-jpeg75", "mnist": "mnist", "tiny-imagenet": "tiny-imagenet-100"}
WEIGHTS = {
    ("resnet20_cifar", "cifar10"): ROOT / "bench" / "weights" / "resnet20_cifar-10-epochs" / "dense-seed0.safetensors",
    ("resnet18_strided", "tiny-imagenet"): ROOT / "runs" / "crisp" / "resnet18_strided-tiny.safetensors",  # left by bench/crisp.py
}
PRUNED = (NM(2, 4), NM(1, 4))
BATCH = 250


def main() -> None:
    args = arguments()
    torch.set_num_threads(args.threads)
    cases = [c for c in (*CASES, *HYBRIDS) if not args.only or c.name in args.only]
    if args.epochs is not None:
        cases = [replace(c, epochs=args.epochs) for c in cases]
    if args.list:
        done = finished(args)
        for case in cases:
            what = "tables" if isinstance(case, Case) else "int8"
            print(f"{case.name:40}", f"{done[case.name]['percent'][what]:.2f}" if case.name in done else "-")
        return
    for case in cases:
        if case.name not in finished(args):
            if isinstance(case, Case):
                work(case, args)
            else:
                work_hybrid(case, args)
            write(args)
        if args.time and isinstance(case, Case):
            time(case, args)
    write(args)


def settings_of(case: Case | Hybrid, args: argparse.Namespace) -> Settings:
    weights = WEIGHTS.get((case.network, case.data))
    if isinstance(case, Hybrid):
        made = {"weights": str(weights), "epochs": case.epochs, "element": "int8", "sparsity": case.sparsity}
        return Settings(case.network, case.pattern, "crisp", **made)
    return Settings(
        case.network,
        ",".join((case.pattern, *case.layers)),
        "tabconv",
        weights=str(weights) if weights else None,
        dense_epochs=0 if weights else case.dense_epochs,
        epochs=case.epochs,
        include=case.include,
        exclude=case.exclude,
        element="int8",
        budget_ops=case.budget,
        fit_images=case.fit_images,
        bf16=case.bf16,
    )


def compressed(case: Case | Hybrid, args: argparse.Namespace) -> Compressed:
    data = load(case.data, args.data_dir / FOLDERS[case.data])

    def tell(stage: str, epoch: Any) -> None:
        print(
            f"{case.name}  {stage} {epoch.epoch}  loss {epoch.loss:.4f}  accuracy {epoch.accuracy:.2%}  {epoch.seconds:.0f} s", flush=True
        )

    return compress(settings_of(case, args), data, args.state / case.name, resume=True, tell=tell, progress=False, device=args.device)


def work(case: Case, args: argparse.Namespace) -> None:
    """One row: its networks, then its numbers."""
    made_by, folder = provenance(), args.state / case.name
    result = compressed(case, args)
    dense, int8, tables = result.graphs.values()
    file.save(int8, folder / "dense_int8.jettison")
    file.save(tables, folder / "trained.jettison")
    record = described(case, result, {"f32": dense, "int8": int8, "tables": tables}, args) | made_by
    percent, operations = record["percent"], tabconv.operations(tables)
    record |= {
        "kept_percent": 100 * percent["tables"] / percent["f32"],
        "operations": asdict(operations) | {"saved_percent": 100 * operations.saved_paper},
        "storage_bytes": {"int8": tabconv.operations(int8).storage_bytes, "tables": operations.storage_bytes},
        "exact_layers": {r.name: r.reason for r in result.report if r.reason},
        "ms": None,
    }
    replace_json(args.state / f"{case.name}.json", record)


def work_hybrid(case: Hybrid, args: argparse.Namespace) -> None:
    """A rival: its network, then its accuracy in int8."""
    made_by, result = provenance(), compressed(case, args)
    dense, _, int8 = result.graphs.values()
    file.save(int8, args.state / case.name / "trained.jettison")
    record = described(case, result, {"f32": dense, "int8": int8}, args) | {"label": case.label} | made_by
    replace_json(args.state / f"{case.name}.json", record)


def described(case: Case | Hybrid, result: Compressed, graphs: dict[str, Graph], args: argparse.Namespace) -> dict[str, Any]:
    """What the rows of tables and their rivals' have in common."""
    return {
        "name": case.name,
        **asdict(case),
        "data": FOLDERS[case.data],
        "judged_images": len(result.data.test),
        "percent": {k: 100 * accuracy(g, result.data, args.threads) for k, g in graphs.items()},
        "history": {stage: [asdict(e) for e in epochs] for stage, epochs in result.history.items()},
        "device": str(args.device),
    }


def accuracy(graph: Graph, data: DataSet, threads: int) -> float:
    return session_score(Session(graph, threads=threads), data, BATCH, lambda what, done: None).accuracy


def time(case: Case, args: argparse.Namespace) -> None:
    """Milliseconds of a finished row whose networks are here."""
    folder, record = args.state / case.name, args.state / f"{case.name}.json"
    if not record.is_file():
        print(f"{case.name}: its networks are not on this machine")
        return
    int8 = folder / "dense_int8.jettison"
    graph = file.load(int8)
    with TemporaryDirectory(prefix="jettison-tabconv-") as there:
        pruned = {str(fmt): Path(there) / f"{i}.jettison" for i, fmt in enumerate(PRUNED)}
        for fmt in PRUNED:
            file.save(magnitude(graph, fmt), pruned[str(fmt)])
        networks = {"dense": int8, **pruned, case.pattern: folder / "trained.jettison"}
        rivals = {h.label: args.state / h.name / "trained.jettison" for h in HYBRIDS if (h.network, h.data) == (case.network, case.data)}
        networks |= {label: path for label, path in rivals.items() if path.is_file()}
        entrants = [Entrant("jettison", "int8", pattern, path, pattern) for pattern, path in networks.items()]
        entrants.append(Entrant("onnxruntime", "int8", "dense", int8, "dense"))
        found = compare(entrants, samples(case, args), processors(args.threads), args.runs)
    print(case.name, *(f"{r.engine} {r.pattern} {r.median_ms:.3f}" for r in found.rows))
    mine = {"ms": [asdict(r) for r in found.rows], "timed": {"threads": args.threads, "batch": 1, **provenance()}}
    replace_json(record, json.loads(record.read_text()) | mine)


def samples(case: Case, args: argparse.Namespace) -> list[tuple[np.ndarray, ...]]:
    """Test images, one to a run: of random ones codes would be others, and with one alone all that is looked up would be in the caches."""
    data = load(case.data, args.data_dir / FOLDERS[case.data])
    images, _ = next(iter(test_batches(data, SAMPLED)))
    return [(image[None],) for image in normalise(images, data).numpy()]


def magnitude(graph: Graph, fmt: NM) -> Graph:
    """The int8 network with its largest weights kept, where channels allow: for its time, not for its accuracy."""
    constants, ops = dict(graph.constants), []
    layers = [op for op in graph.ops if op.kind in WEIGHTED]
    for op in graph.ops:
        if op in layers[1:-1] and op.element == "i8" and op.format == Dense() and weight_shape(graph, op)[3] % fmt.m == 0:
            weight, base = graph.weight(op), op.params["weight"]
            del constants[base]
            constants |= {f"{base}.{part}": array for part, array in fmt.encode(weight * fmt.mask(weight), op.name).items()}
            op = replace(op, format=fmt)
        ops.append(op)
    return check(replace(graph, ops=tuple(ops), constants=constants))


def finished(args: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Name → numbers of every finished row: those committed before, and over them this machine's."""
    content = json.loads(args.result.read_text()) if args.result.is_file() else {"tabconv": []}
    committed = (*content["tabconv"], *content.get("hybrids", []))
    here = [json.loads(p.read_text()) for p in sorted(args.state.glob("*.json"))]
    found: dict[str, dict[str, Any]] = {}
    for row in (*committed, *here):
        known = found.get(row["name"], {})
        found[row["name"]] = known | {k: v for k, v in row.items() if v is not None or k not in known}
    return found


def write(args: argparse.Namespace) -> None:
    order, rivals = [c.name for c in CASES], [h.name for h in HYBRIDS]
    found = finished(args)
    rows = {name: r for name, r in found.items() if name in order}  # others are first looks
    if not rows:
        return
    content = {
        "what": "convolutions by table look-up: accuracy on whole test sets after the last epoch, operations by the paper's count",
        "tabconv": sorted(rows.values(), key=lambda r: order.index(r["name"])),
        "hybrids": [found[name] for name in rivals if name in found],
        "missing": [name for name in order if name not in rows],
    }
    replace_json(args.result, content)
    for r in content["tabconv"]:
        p = r["percent"]
        print(f"{r['name']:40} {r['operations']['saved_percent']:.1f}% saved, {p['f32']:.2f} → {p['tables']:.2f}%")


def arguments() -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--data-dir", required=True, type=Path, help="folder with cifar10-jpeg75, mnist, tiny-imagenet-100")
    p.add_argument("--only", nargs="*", default=[], metavar="NAME", help="rows; default: all")
    p.add_argument("--epochs", type=int, help="of training the tables, in the place of the rows' own: a first look")
    p.add_argument("--threads", type=int, default=1)
    p.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="what trains; auto: a GPU if there is one")
    p.add_argument("--runs", type=int, default=60, help="of each network that is timed")
    p.add_argument("--state", type=Path, default=ROOT / "runs" / "tabconv", help="where unfinished and finished rows are kept")
    p.add_argument("--result", type=Path, default=RESULT, help="the table to read and to write")
    p.add_argument("--time", action="store_true", help="measure milliseconds of the rows too")
    p.add_argument("--list", action="store_true", help="only show the queue")
    args = p.parse_args()
    args.device = device_of(args.device)
    return args


if __name__ == "__main__":
    try:
        main()
    except JettisonError as e:
        raise SystemExit(f"tabconv.py: {e}") from None
