"""Whole networks against other engines: every table of speed in README.md, one `jettison bench` for each row below.

    python bench/speed.py                        all of them, on a quiet machine: about 20 minutes on two cores
    python bench/speed.py resnet50_int8 …        these only
    python bench/speed.py --list                 the commands, nothing is run

Writes bench/results/NAME.json. Weights are random, images 224×224.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

RESULTS = Path(__file__).resolve().parent / "results"


@dataclass(frozen=True, slots=True)
class Case:
    network: str
    element: str
    patterns: str = "dense"
    batch: int = 1
    isa: str | None = None
    against: str = "all"
    runs: int = 40

    def command(self, name: str) -> list[str]:
        words = ["bench", self.network, "--element", self.element, "--pattern", self.patterns, "--batch", str(self.batch)]
        words += ["--against", self.against, "--threads", "2", "--runs", str(self.runs)]
        return [*words, *(("--isa", self.isa) if self.isa else ()), "--json", os.path.relpath(RESULTS / f"{name}.json")]


ENGINES = "openvino,onnxruntime"  # where Inductor, far behind, would only take time
CASES = {
    "resnet50": Case("resnet50", "f32", "2:4,1:4,1:16"),
    "resnet50_int8": Case("resnet50", "int8", "2:4,1:4,1:16"),
    "resnet50_batch16": Case("resnet50", "f32", "2:4,1:4,1:16", batch=16, runs=10, against=ENGINES),
    "resnet50_int8_batch16": Case("resnet50", "int8", "2:4,1:4,1:16", batch=16, runs=15, against=ENGINES),
    "resnet50_avx2": Case("resnet50", "f32", "2:4,1:4,1:16", isa="avx2", runs=60),
    "resnet50_int8_avx2": Case("resnet50", "int8", "2:4,1:4", isa="avx2", runs=60),
    "resnet18_int8": Case("resnet18", "int8", "1:4"),
    "vgg16_bn_int8": Case("vgg16_bn", "int8", "1:4", runs=20),
    "mobilenetv2_100_f32": Case("timm:mobilenetv2_100", "f32"),
    "mobilenetv2_100_int8": Case("timm:mobilenetv2_100", "int8"),
    "efficientnet_b0_f32": Case("timm:efficientnet_b0", "f32", runs=20),
    "efficientnet_b0_int8": Case("timm:efficientnet_b0", "int8", runs=20),
    "convnext_atto_f32": Case("timm:convnext_atto", "f32", runs=20),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(CASES))
    parser.add_argument("--list", action="store_true", help="only show the commands")
    args = parser.parse_args()
    unknown = [name for name in args.names if name not in CASES]
    if unknown:
        parser.error(f"{unknown[0]!r} is not one of {', '.join(CASES)}")
    for name in args.names or CASES:
        command = CASES[name].command(name)
        print("jettison", *command, flush=True)
        if not args.list:
            subprocess.run([sys.executable, "-m", "jettison", *command], check=True)


if __name__ == "__main__":
    main()
