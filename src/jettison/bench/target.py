"""What is measured: a `.jettison` file, or a network by name with random weights in the pattern."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from .. import file, ptq
from ..errors import InputError, MissingExtra
from ..formats import Dense, Format
from ..graph import Graph
from ..peers import Sample


@dataclass(frozen=True, slots=True)
class Network:
    """A graph as it is written for the workers. Networks with equal `weights` compute the same function."""

    pattern: str
    graph: Graph
    weights: str


def networks(target: str, patterns: list[Format], image_size: int | None, seed: int, element: str = "f32") -> list[Network]:
    """Dense first, then one network per pattern, all in `element`.

    A file gives itself, and itself with the weights decoded, which tables do not have; `patterns` are for names. Errors: those of
    `file.load`, of the zoo, of export; FormatError when a pattern fits no layer; InputError for an int8 file in another element.
    """
    if _is_file(target):
        graph = in_element(file.load(target), element, seed)
        own = pattern_of(graph)
        mine = [] if own == "dense" else [Network(own, graph, "file")]
        if not all(op.format.linear for op in graph.ops):
            return mine
        return [Network("dense", densified(graph), "file"), *mine]
    graphs = {str(f): random_graph(target, f, image_size, seed) for f in _dense_first(patterns)}
    return [Network(pattern, in_element(graph, element, seed), pattern) for pattern, graph in graphs.items()]


def check_options(target: str, pattern: str, image_size: int | None) -> None:
    """Errors: InputError for what is said of networks by name beside a file, which has its own."""
    for option, given in (("--pattern", pattern != str(Dense())), ("--size", image_size is not None)):
        if given and _is_file(target):
            raise InputError(f"{option} is for networks by name; {target} is a file, which has its own: leave it out")


SAMPLED = 64  # images that runs of one measurement take in turns
CALIBRATED = 8  # random images that decide the ranges of activations when int8 is only timed


def in_element(graph: Graph, element: str, seed: int) -> Graph:
    """With int8 arithmetic if that is asked for, calibrated on random images: for timing, not for accuracy.

    Errors: InputError when an int8 file is to run in another arithmetic.
    """
    already = graph.element == "int8"
    if already and element != "int8":
        raise InputError(f"the file is int8 and cannot run in {element}; write --element int8")
    if already or element != "int8":
        return graph
    return ptq.quantize(graph, random_inputs(graph, CALIBRATED, seed), ranges="minmax")


def _is_file(target: str) -> bool:
    return target.endswith(".jettison") or Path(target).is_file()


def _dense_first(patterns: list[Format]) -> list[Format]:
    return [Dense(), *dict.fromkeys(f for f in patterns if f != Dense())]


def pattern_of(graph: Graph) -> str:
    """ "dense", or the patterns of its sparse layers: "1:4", "1:4+2:4"."""
    found = {str(op.format) for op in graph.ops if op.format != Dense()}
    return "+".join(sorted(found)) or "dense"


def densified(graph: Graph) -> Graph:
    """The same network with every weight decoded: pruned weights are stored zeros."""
    constants = dict(graph.constants)
    ops = []
    for op in graph.ops:
        if op.format != Dense():
            for part in graph.weight_parts(op):
                del constants[f"{op.params['weight']}.{part}"]
            constants[op.params["weight"]] = graph.weight(op)
            op = replace(op, format=Dense())
        ops.append(op)
    return replace(graph, ops=tuple(ops), constants=constants)


def random_graph(
    name: str, fmt: Format, image_size: int | None, seed: int, num_classes: int | None = None, classifier: bool = False
) -> Graph:
    """The network `name` with random weights, one-shot pruned to `fmt`, and activations of ordinary size.

    Weights of convolutions are Laplace-distributed with the variance that ReLU keeps (He et al. 2015, arXiv 1502.01852).
    As in trained networks the largest is many standard deviations from 0, and int8 scales follow it; of normally
    distributed weights it is not. One pass over random images sets the statistics of BatchNorm. Layers whose channels do
    not fit stay dense. classifier: it is pruned too, to what is inside the blocks where they do not fit.
    Errors: InputError when it does not run on its images; those of the zoo, of pruning and of export.
    """
    try:
        import torch
        from torch import nn
    except ImportError as e:
        raise MissingExtra(
            f"building {name} needs PyTorch; install it with: pip install 'jettison[train]', or give a .jettison file"
        ) from e
    from ..export import export
    from ..methods import ASP, Select, sparsify_
    from ..zoo import build, default_input

    c, h, w = default_input(name)
    h, w = (image_size, image_size) if image_size else (h, w)
    torch.manual_seed(seed)
    model = build(name, num_classes, image_size=h, in_channels=c)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            with torch.no_grad():
                sign = torch.randint(0, 2, module.weight.shape) * 2.0 - 1
                module.weight.exponential_().mul_(sign * module.weight[0].numel() ** -0.5)  # variance 2 / fan-in
    formats = {}
    if fmt != Dense():
        select, remainder = Select(classifier=classifier), "inner" if classifier else "dense"
        formats = sparsify_(model, fmt, ASP(retrain=False), select, remainder).finish()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the plain average of the batches seen
    try:
        with torch.no_grad():
            model.train()(torch.randn(4, c, h, w))
    except Exception as e:  # code of the user's
        raise InputError(f"{name} does not run on images {c}×{h}×{w}: {type(e).__name__}: {e}; choose another --size or mend it") from e
    return export(model.eval(), (c, h, w), formats)


def random_samples(graph: Graph, batch: int, seed: int) -> list[Sample]:
    """Inputs of as many runs as together have `SAMPLED` images."""
    return [random_inputs(graph, batch, seed + i) for i in range(max(1, SAMPLED // batch))]


def random_inputs(graph: Graph, batch: int, seed: int) -> tuple[np.ndarray, ...]:
    """Normally distributed float32 inputs in the user's layout."""
    rng = np.random.default_rng(seed)
    return tuple(rng.standard_normal((batch, *graph.user_shape(name)), np.float32) for name in graph.inputs)
