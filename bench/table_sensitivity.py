"""Where codebooks do most good: each layer made tables alone, in each of several formats.

    python bench/table_sensitivity.py INT8 --name resnet20_cifar --data cifar10 --data-dir DATA --try 'layer3.*=pixel6x4096' …

INT8: a dense int8 network (`jettison compress --pattern dense --element int8`). Every layer whose name fits is fitted with everything
else exact. Its cost is how far that moves the scores z of test images from the exact network's,

    KL = mean of Σ p·log(p/q),  p = softmax(z_exact),  q = softmax(z)

and its worth the share of the network's operations that it saves. Codebooks belong where they lower KL most for what they cost.
"""

from __future__ import annotations

import argparse
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
import torch
from accuracy import replace_json
from torch.nn.functional import kl_div, log_softmax

from jettison import file, tabconv
from jettison.bench.machine import provenance
from jettison.compression import fitting_images
from jettison.errors import JettisonError
from jettison.formats import parse
from jettison.graph import Graph
from jettison.runtime import Session
from jettison.spec import WEIGHTED
from jettison.training.data import DataSet, load, normalise, test_batches

RESULT = Path(__file__).resolve().parent / "results" / "table_sensitivity.json"


def main() -> None:
    args = arguments()
    exact, data = file.load(args.file), load(args.data, args.data_dir)
    images, judges = fitting_images(data, args.fit_images, seed=0), test_images(data, args.judges)
    wanted = scores(exact, judges, args.threads)
    layers = [op.name for op in exact.ops if op.kind in WEIGHTED]
    rows = []
    tried = [(n, pattern) for named, _, pattern in (t.partition("=") for t in args.tried) for n in layers if fnmatchcase(n, named)]
    for layer, pattern in tried:
        others = [n for n in layers if n != layer]
        made, fits = tabconv.fit(exact, images, parse(pattern), others, [layer], threads=args.threads)  # type: ignore[arg-type]
        got = scores(made, judges, args.threads)
        rows.append(
            {
                "layer": layer,
                "pattern": pattern,
                "kl": float(kl_div(got, wanted, reduction="batchmean", log_target=True)),
                "changed_percent": 100 * float((got.argmax(1) != wanted.argmax(1)).float().mean()),
                "error": next(f.error for f in fits if f.name == layer),
                "saved_percent": 100 * tabconv.operations(made).saved_paper,
            }
        )
        print(
            "{layer:24} {pattern:16} KL {kl:.5f}  {changed_percent:.2f}% changed  {saved_percent:.3f}% saved".format(**rows[-1]), flush=True
        )
    about = {"what": (__doc__ or "").partition("\n")[0], "network": args.name, "data": data.name, "judged_images": len(judges)}
    replace_json(args.out, about | {"fit_images": len(images), "table_sensitivity": rows, **provenance()})


def test_images(data: DataSet, count: int) -> np.ndarray:
    images, _ = next(iter(test_batches(data, count)))
    return normalise(images, data).contiguous().numpy()


def scores(graph: Graph, images: np.ndarray, threads: int) -> torch.Tensor:
    return log_softmax(torch.from_numpy(np.asarray(Session(graph, threads=threads).run(images))), dim=1)


def arguments() -> argparse.Namespace:
    p = parser(__doc__, RESULT)
    p.add_argument("--try", dest="tried", nargs="+", required=True, metavar="LAYER=PATTERN", help="layers by name, * allowed")
    p.add_argument("--fit-images", type=int, default=12288)
    p.add_argument("--judges", type=int, default=10000, help="test images")
    return p.parse_args()


def parser(about: str | None, result: Path) -> argparse.ArgumentParser:
    """Of a bench on single layers: for the network and its data."""
    p = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("file", type=Path, help="dense int8 network")
    p.add_argument("--name", required=True, help="of the network, for the table")
    p.add_argument("--data", required=True)
    p.add_argument("--data-dir", required=True, type=Path)
    p.add_argument("--threads", type=int, default=1)
    p.add_argument("--out", type=Path, default=result)
    return p


if __name__ == "__main__":
    try:
        main()
    except JettisonError as e:
        raise SystemExit(f"table_sensitivity.py: {e}") from None
