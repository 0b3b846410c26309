"""The other end of a worker: starts it, pins it, asks it, ends it."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np

from ..peers import Sample
from .pipe import receive, send

# read by the thread pools of OpenMP, MKL, OpenBLAS and NumExpr when they are loaded
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")


class WorkerFailed(Exception):
    """The engine raised, or its process ended. Becomes a row's reason, or the error of the whole comparison.

    expected: the engine refused with an error of `jettison.errors`.
    """

    def __init__(self, reason: str, expected: bool = False) -> None:
        super().__init__(reason)
        self.expected = expected


class Worker:
    """One engine with one network, loaded and run once for each sample: `outputs`. One thread per processor in `cpus`.

    limits: environment that keeps the engine to an instruction set. Use as a context. Errors: WorkerFailed.
    """

    outputs: list[tuple[np.ndarray, ...]]

    def __init__(
        self,
        engine: str,
        element: str,
        graph: Path,
        samples: Sequence[Sample],
        cpus: Sequence[int],
        limits: Mapping[str, str] | None = None,
    ) -> None:
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 (`close` closes it)
        environment = {**os.environ, **dict.fromkeys(THREAD_VARIABLES, str(len(cpus))), **(limits or {})}
        with pinned(cpus):
            self._process = subprocess.Popen(
                [sys.executable, "-m", "jettison.bench.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._stderr,
                env=environment,
            )
        try:
            setup = {"engine": engine, "element": element, "graph": str(graph), "threads": len(cpus), "samples": len(samples)}
            _, arrays = self._ask(setup, [x for sample in samples for x in sample])
            each = len(arrays) // len(samples)
            self.outputs = [arrays[i : i + each] for i in range(0, len(arrays), each)]
        except BaseException:
            self.close()
            raise

    def times_ms(self, runs: int) -> list[float]:
        return self._ask({"runs": runs})[0]["ms"]

    def _ask(self, message: dict, arrays: Sequence[np.ndarray] = ()) -> tuple[dict, tuple[np.ndarray, ...]]:
        try:
            send(cast(BinaryIO, self._process.stdin), message, arrays)
            answer, results = receive(cast(BinaryIO, self._process.stdout))
        except (EOFError, BrokenPipeError):
            raise WorkerFailed(f"its process ended: {self._last_words()}") from None
        if "error" in answer:
            raise WorkerFailed(answer["error"], answer["expected"])
        return answer, results

    def _last_words(self) -> str:
        code = self._process.wait()
        self._stderr.seek(0)
        lines = self._stderr.read().decode(errors="replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), f"exit code {code}")

    def close(self) -> None:
        """End the process: closing its stdin is enough; one that does not react is killed."""
        for stream in (self._process.stdin, self._process.stdout):
            with suppress(OSError):
                cast(BinaryIO, stream).close()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._stderr.close()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@contextmanager
def pinned(cpus: Sequence[int]) -> Iterator[None]:
    """Processes and threads started inside inherit these processors and no others (where the system can pin)."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cpus)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
