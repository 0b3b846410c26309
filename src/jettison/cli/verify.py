"""`jettison verify`: is a file whole, and does it compute what it should, everywhere?"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer

from ..errors import ModelError, VerificationError
from .tables import Json, Output

if TYPE_CHECKING:
    from ..graph import Graph

CONCURRENT_RUNS = 20


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was checked."""

    name: str
    passed: bool
    detail: str


def verify(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A .jettison file.")],
    model: Annotated[
        str | None, typer.Option(help="The PyTorch network the file was made from: zoo name, timm:NAME or file.py:function.")
    ] = None,
    weights: Annotated[Path | None, typer.Option(help="Its weights, as they were exported (compress --save-weights).")] = None,
    seed: Annotated[int, typer.Option(help="Of the random inputs.", min=0)] = 0,
    json: Json = None,
) -> None:
    """Check a .jettison file: whole and legal, patterns kept, and right outputs on every instruction set of this machine.

    Outputs are compared with the slow NumPy reference and, given --model and --weights, with PyTorch: the largest
    error must be at most 1e-4 of the largest output. Where float32 layers come before rounding to int8, 0.05 of it; int8 against
    PyTorch, which does not round, 0.5 of it.
    Two Python threads on one Session must get the bits that one gets.

    Examples:

        jettison verify model.jettison

        jettison verify model.jettison --model resnet20_cifar --weights sparse.safetensors
    """
    from ..file import load

    if (model is None) != (weights is None):
        raise ModelError("--model and --weights belong together: the network, and the weights it was exported with")
    output = Output(json)
    graph = load(file)
    checks = [
        Check("file", True, "checksum, sizes, shapes and index ranges agree"),
        _patterns(graph),
        *_outputs(graph, model, weights, seed),
    ]
    output.table(str(file), ("check", "result", "detail"), [(c.name, "ok" if c.passed else "FAILED", c.detail) for c in checks])
    output.save({"file": str(file), "checks": [asdict(c) for c in checks], "passed": all(c.passed for c in checks)})
    failed = [f"{c.name}: {c.detail}" for c in checks if not c.passed]
    if failed:
        raise VerificationError(f"{file}: {'; '.join(failed)}")


def _patterns(graph: Graph) -> Check:
    """Every weight, decoded, satisfies the format it is stored in."""
    sparse = [op for op in graph.ops if op.format.kind != "dense"]
    broken = [op.name for op in sparse if op.format.linear and not op.format.satisfied(graph.weight(op))]
    found = ", ".join(sorted({str(op.format) for op in sparse})) or "dense"
    return Check(
        "patterns", not broken, f"broken in {', '.join(broken)}" if broken else f"{found}; {len(sparse)} of {len(graph.ops)} operations"
    )


def _outputs(graph: Graph, model: str | None, weights: Path | None, seed: int) -> Iterator[Check]:
    from .. import reference
    from ..bench.comparison import TOLERANCE, relative_error, tolerance
    from ..bench.target import random_inputs
    from ..runtime import Session, isas

    inputs = random_inputs(graph, 1, seed)
    int8 = graph.element == "int8"
    allowed = {"the reference": tolerance(graph), "PyTorch": TOLERANCE["int8" if int8 else "f32"]}
    truth = {"the reference": reference.run(graph, *inputs)}
    if model is not None and weights is not None:
        truth["PyTorch"] = _pytorch(graph, model, weights, inputs)
    for isa in isas():
        session = Session(graph, isa=isa)
        got = _tuple(session.run(*inputs))
        for name, want in truth.items():
            error = relative_error(got, want)
            yield Check(f"{isa}, {name}", error <= allowed[name], f"relative error {error:.1e}, allowed {allowed[name]:.0e}")
        yield _threads(session, isa, graph, seed)


def _threads(session, isa: str, graph: Graph, seed: int) -> Check:
    """Two Python threads with different inputs on one Session, against one thread alone."""
    from ..bench.target import random_inputs

    inputs = [random_inputs(graph, 1, seed + i) for i in range(2)]
    alone = [_tuple(session.run(*x)) for x in inputs]
    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(lambda i: (i, _tuple(session.run(*inputs[i]))), [0, 1] * CONCURRENT_RUNS))
    same = all(np.array_equal(y, a) for i, ys in both for y, a in zip(ys, alone[i]))
    return Check(f"{isa}, two threads", same, f"{len(both)} runs, {'the same bits as alone' if same else 'OTHER bits than alone'}")


def _pytorch(graph: Graph, model: str, weights: Path, inputs: tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...]:
    """What the original network computes. Errors: ModelError, CheckpointError."""
    import torch

    from ..zoo import build, load_weights

    c, h = inputs[0].shape[1:3]
    net = build(model, num_classes=graph.tensors[graph.outputs[0]].shape[-1], in_channels=c, image_size=h).eval()
    load_weights(net, weights)
    with torch.inference_mode():
        out = net(*map(torch.from_numpy, inputs))
    return tuple(y.numpy() for y in (out if isinstance(out, tuple) else (out,)))


def _tuple(out) -> tuple[np.ndarray, ...]:
    return out if isinstance(out, tuple) else (out,)
