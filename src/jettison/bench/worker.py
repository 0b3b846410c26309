"""One engine in a process of its own: `python -m jettison.bench.worker`, spoken to through stdin and stdout.

First message: {engine, element, threads, samples: how many, graph: path of a .jettison file} and the inputs of all samples, one after
the other; answer: {} and their outputs. Then {runs: n} as often as wanted; answer: {ms: [n times]}. Every run takes the next sample.
Any failure: {error: text, expected: is it a JettisonError}, and the end.
"""

from __future__ import annotations

import os
import sys
import time
from itertools import cycle
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from ..errors import JettisonError
from .pipe import receive, send

if TYPE_CHECKING:
    from ..peers import Run

# A turn starts with runs that are not timed, at least so many and for so long: they wake threads, refill the caches and let the clock
# rise. Equally long for all, or a fast network would be timed at a lower clock than a slow one.
UNTIMED, UNTIMED_S = 2, 0.05


def main() -> None:
    requests, answers = _private_streams()
    try:
        serve(requests, answers)
    except EOFError:
        pass  # the other side has what it wanted
    except Exception as e:
        expected = isinstance(e, JettisonError)
        send(answers, {"error": str(e) if expected else f"{type(e).__name__}: {e}", "expected": expected})


def serve(requests: BinaryIO, answers: BinaryIO) -> None:
    from .. import file
    from ..peers import ENGINES

    setup, arrays = receive(requests)
    each = len(arrays) // setup["samples"]
    samples = [arrays[i : i + each] for i in range(0, len(arrays), each)]
    prepare = ENGINES[setup["engine"]].prepare()
    run = prepare(file.load(setup["graph"]), samples, setup["element"], setup["threads"])
    send(answers, {}, [np.copy(y) for i in range(len(samples)) for y in run(i)])
    numbers = cycle(range(len(samples)))
    while True:
        request, _ = receive(requests)
        start, untimed = time.perf_counter(), 0
        while untimed < UNTIMED or time.perf_counter() - start < UNTIMED_S:
            run(next(numbers))
            untimed += 1
        send(answers, {"ms": [_time(run, next(numbers)) for _ in range(request["runs"])]})


def _time(run: Run, number: int) -> float:
    start = time.perf_counter_ns()
    run(number)
    return (time.perf_counter_ns() - start) / 1e6


def _private_streams() -> tuple[BinaryIO, BinaryIO]:
    """Our ends of the two pipes. Engines that print to stdout then print to stderr instead."""
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    return requests, answers


if __name__ == "__main__":
    main()
