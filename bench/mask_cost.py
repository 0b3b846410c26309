"""What sparse training costs: time of one training step of ResNet-18, dense and with each method, in turns.

    python bench/mask_cost.py          writes bench/results/mask_cost.json

32×32 images, batch 128, bfloat16, channels-last, one thread: of the usual settings the one where masks weigh most, as
their cost is per weight and step, whatever the images.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from jettison import file, zoo
from jettison.bench.machine import provenance
from jettison.formats import NM
from jettison.methods import METHODS, Sparsifier, sparsify_
from jettison.runtime import spread_ms
from jettison.training import Recipe, make_optimizer

RESULT = Path(__file__).resolve().parent / "results" / "mask_cost.json"
MODEL, BATCH, SIZE = "resnet18", 128, 32
ENTRANTS = (("dense", "dense"), *((m, p) for m in ("srste", "maxq") for p in ("2:4", "1:16")))


class Trainee:
    """One network that trains; `step` is the body of `training.loop`."""

    def __init__(self, method: str, pattern: str, batch: int, size: int) -> None:
        torch.manual_seed(0)
        self.model = zoo.build(MODEL, num_classes=10, image_size=size).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.handle: Sparsifier | None = None if method == "dense" else sparsify_(self.model, NM.parse(pattern), METHODS[method]())
        self.optimizer = make_optimizer(self.model, Recipe())
        self.x = torch.randn(batch, 3, size, size).contiguous(memory_format=torch.channels_last)
        self.y = torch.arange(batch) % 10
        self.times: list[float] = []

    def step(self) -> None:
        start = time.perf_counter()
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16):
            scores = self.model(self.x)
        nn.functional.cross_entropy(scores.float(), self.y).backward()
        if self.handle is not None:
            self.handle.advance(0.0)
            self.handle.step()
        self.optimizer.step()
        self.times.append(1e3 * (time.perf_counter() - start))


def main() -> None:
    args = arguments()
    torch.set_num_threads(args.threads)
    trainees = {entrant: Trainee(*entrant, args.batch, args.size) for entrant in ENTRANTS}
    for i in range(args.rounds):
        order = list(trainees.values())
        for trainee in order[i % len(order) :] + order[: i % len(order)]:
            trainee.step()
    rows = [row(*entrant, trainee.times[1:]) for entrant, trainee in trainees.items()]
    for r in rows:
        r["over_dense"] = round(r["median_ms"] / rows[0]["median_ms"] - 1, 4)
        print(f"{r['method']:6} {r['pattern']:6} {r['median_ms']:8.1f} ms  {r['over_dense']:+.1%}")
    about = {"model": MODEL, "batch": args.batch, "size": args.size, "bf16": True, "threads": args.threads}
    content = {"what": "milliseconds of one training step", "steps": rows, **about, **provenance()}
    file.replace(RESULT, (json.dumps(content, indent=1) + "\n").encode())


def row(method: str, pattern: str, times: list[float]) -> dict[str, Any]:
    median, p10, p90 = (round(v, 2) for v in spread_ms(times))
    return {"method": method, "pattern": pattern, "median_ms": median, "p10_ms": p10, "p90_ms": p90, "runs": len(times)}


def arguments() -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--rounds", type=int, default=5, help="steps of each, the first not counted")
    p.add_argument("--batch", type=int, default=BATCH)
    p.add_argument("--size", type=int, default=SIZE, help="height and width of the images")
    p.add_argument("--threads", type=int, default=1)
    return p.parse_args()


if __name__ == "__main__":
    main()
