"""Channel permutation: before pruning, channels that would compete for the same N places are moved into different groups.

    maximise over π   Σ_rows Σ_groups (sum of the N largest of the group's M columns of |W|[:, π])

N:M chooses among M *neighbouring* input channels, and which channels are neighbours is an accident of training. Where every
reader and writer of a tensor can be permuted together the network computes the same as before, so the better order is free
at inference. Which tensors can, the exported graph says: a union-find over channel axes, in which whatever an operation
ties together is one class, and a class that anything fixes (inputs, outputs, concatenation, channel padding, grouped
convolutions, reshapes across channels) stays as it is.

The search takes the better of two starts, the order as it is and the channels dealt to groups by size, and swaps two
channels of different groups as long as the best swap gains.

Source: Pool and Yu 2021, "Channel permutations for N:M sparsity" (NeurIPS 34).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ..errors import FormatError, VerificationError
from ..export import Example
from ..export.convert import convert
from ..export.passes.encode_weights import module_path
from ..export.trace import examples, trace
from ..formats import NM
from ..graph import Graph, Op
from ..spec import WEIGHTED
from .select import Rule, Select, choose_layers

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.LayerNorm)
SAME_CHANNELS = ("add", "mul", "act", "max_pool", "avg_pool", "adaptive_avg_pool", "upsample", "softmax")  # one by one, in their order
SEARCHED_ROWS = 512  # of the magnitudes; a sample of more rows finds hardly better orders
TOLERANCE = 1e-4  # of the permuted network against itself before, relative to the largest output


@dataclass(frozen=True, slots=True)
class Permutation:
    """Channels that moved together. readers: the sparse layers that gained. kept: share of their magnitude that N:M keeps."""

    channels: int
    readers: tuple[str, ...]
    kept_before: float
    kept_after: float


def permute_(model: nn.Module, example: Example, fmt: NM, select: Rule | None = None) -> list[Permutation]:
    """Permute channels of `model` in place so that pruning to `fmt` keeps more. Call it before `sparsify_`, with the same `select`.

    example: as in `export`. Layers that cannot be pruned, or whose channels cannot move, are left alone; one entry for each class
    that could. Errors: ExportError, FormatError, and VerificationError if the outputs change; the weights are then as before.
    """
    if not isinstance(fmt, NM):
        raise FormatError(f"channels are permuted for N:M, not for {fmt}")
    sparse = {c.name for c in choose_layers(model, fmt, Select() if select is None else select, "dense") if c.format is not None}
    graph = convert(trace(model, example))
    x, training = [t.to(next(model.parameters()).device) for t in examples(example)], model.training
    state = {k: v.clone() for k, v in model.state_dict().items()}
    model.eval()
    with torch.no_grad():
        before = _flat(model(*x))
        done = [_permuted(group, fmt, sparse) for group in movable(model, graph) if sparse & set(group.readers)]
        error = (_flat(model(*x)) - before).abs().max() / before.abs().max()
    model.train(training)
    if not error <= TOLERANCE:
        model.load_state_dict(state)
        raise VerificationError(f"permuting channels changed the outputs by {error:.2g} of the largest; please report the model")
    return done


@dataclass(slots=True)
class Movable:
    """Modules whose channels move together: along axis 1 of the weights of `readers`, along axis 0 of everything of `writers`."""

    channels: int
    readers: dict[str, nn.Module] = field(default_factory=dict)
    writers: dict[str, nn.Module] = field(default_factory=dict)


def movable(model: nn.Module, graph: Graph) -> list[Movable]:
    """The classes of channel axes that nothing fixes."""
    classes = _Classes()
    modules = dict(model.named_modules())
    for name in (*graph.inputs, *graph.outputs):
        classes.fix(name)
    owners = {op.name: _owner(op, modules) for op in graph.ops}
    for op in graph.ops:
        _tie(classes, graph, op, owners[op.name])
    found: dict[str, Movable] = {}
    for op in graph.ops:
        module = owners[op.name]
        x, y = op.inputs[0], op.outputs[0]
        if op.kind in WEIGHTED and op.attrs.get("groups", 1) == 1 and not classes.fixed(x):
            group = found.setdefault(classes.root(x), Movable(graph.tensors[x].shape[-1]))
            group.readers.setdefault(module_path(op), module)  # type: ignore[arg-type]
        if isinstance(module, (nn.Conv2d, nn.Linear, *NORMS)) and op.params and not classes.fixed(y):
            group = found.setdefault(classes.root(y), Movable(graph.tensors[y].shape[-1]))
            group.writers.setdefault(module_path(op), module)
    return list(found.values())


def _owner(op: Op, modules: Mapping[str, nn.Module]) -> nn.Module | None:
    """The module whose parameters an op has: the one it is named after, or a normalization that does more than normalize."""
    path = module_path(op)
    parent = modules.get(path.rpartition(".")[0])
    return parent if op.kind in ("affine", "layer_norm") and isinstance(parent, NORMS) else modules.get(path)


def _tie(classes: _Classes, graph: Graph, op: Op, module: nn.Module | None) -> None:
    """What one operation says about the channels (last axis) of its inputs and its output."""
    tensors = (*op.inputs, *op.outputs)
    shapes = [graph.tensors[t].shape for t in tensors]
    same = [t for t, shape in zip(tensors, shapes) if shape[-1] == shapes[-1][-1]]
    if op.kind in WEIGHTED and isinstance(module, nn.Conv2d | nn.Linear):
        groups = op.attrs.get("groups", 1)
        for axis, tensor in (("in", op.inputs[0]), ("out", op.outputs[0])):
            classes.join(tensor, f"{axis} of {id(module.weight)}")  # a weight used twice ties its uses
        if groups > 1 and groups == shapes[0][-1] == shapes[-1][-1]:
            classes.join(*same)
        elif groups > 1:
            classes.fix(*tensors)
    elif op.kind in ("affine", "layer_norm") and isinstance(module, NORMS):
        classes.join(*same, f"out of {id(module)}")
    elif _keeps_channels(op, shapes):
        classes.join(*same)
    else:
        classes.fix(*tensors)


def _keeps_channels(op: Op, shapes: list[tuple[int, ...]]) -> bool:
    """True where channel i of the output depends on channel i of the inputs alone, or on all alike, and in the same way for every i."""
    last = len(shapes[0]) - 1
    if op.kind == "mean":
        return last not in op.attrs["axes"]
    if op.kind in ("concat", "slice"):
        return op.attrs["axis"] != last
    if op.kind == "pad":
        return not any(op.attrs["pads"][last])
    if op.kind == "reshape":
        return shapes[0][-1] == shapes[1][-1]
    return op.kind in SAME_CHANNELS


class _Classes:
    """Union-find over names; a class is fixed when any of its members is."""

    def __init__(self) -> None:
        self._parent: dict[str, str] = {}
        self._fixed: set[str] = set()

    def root(self, name: str) -> str:
        while (parent := self._parent.setdefault(name, name)) != name:
            self._parent[name] = name = self._parent.setdefault(parent, parent)
        return name

    def join(self, *names: str) -> None:
        first = self.root(names[0])
        for name in names[1:]:
            other = self.root(name)
            if other != first:
                self._parent[other] = first
                if other in self._fixed:
                    self._fixed.add(first)

    def fix(self, *names: str) -> None:
        self._fixed |= {self.root(name) for name in names}

    def fixed(self, name: str) -> bool:
        return self.root(name) in self._fixed


def _permuted(group: Movable, fmt: NM, sparse: set[str]) -> Permutation:
    readers = {name: m for name, m in group.readers.items() if name in sparse}
    rows = torch.cat([m.weight.detach().float().abs().movedim(1, -1).flatten(0, -2) for m in readers.values()])  # type: ignore[union-attr]
    order = search(rows, fmt.n, fmt.m)
    for tensor, axis in _moved(group):
        tensor.copy_(tensor.index_select(axis, order.to(tensor.device)))
    total = rows.sum().item() or 1.0
    before, after = (kept(r, fmt.n, fmt.m).item() / total for r in (rows, rows[:, order]))
    return Permutation(group.channels, tuple(readers), before, after)


def _moved(group: Movable) -> list[tuple[Tensor, int]]:
    """Every tensor with the axis to permute; one that several modules share is there once."""
    found: Mapping[tuple[int, int], tuple[Tensor, int]] = {
        (id(t), axis): (t, axis)
        for axis, modules in ((1, group.readers), (0, group.writers))
        for module in modules.values()
        for name, t in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False))
        if (t.dim() > axis) and (axis == 0 or name == "weight")
    }
    return list(found.values())


def kept(rows: Tensor, n: int, m: int) -> Tensor:
    """Σ of the N largest of every M neighbouring columns of the magnitudes `rows` (·, c)."""
    return rows.unflatten(1, (-1, m)).topk(n, dim=2).values.sum()


def search(rows: Tensor, n: int, m: int) -> Tensor:
    """An order of the columns of `rows` (·, c ≥ 0) that keeps more under N:M than the present one, or the present one.

    Swapping i with j changes their groups to  S_i + Σ_rows max(0, a_j − t_i)  and  S_j + Σ_rows max(0, a_i − t_j),  where S_i is the
    sum of the N largest of i's group without i, and t_i the smallest of these. Best swap first.
    """
    c = rows.shape[1]
    present = torch.arange(c, device=rows.device)
    if n == m or c == m:
        return present
    sample = rows
    if len(rows) > SEARCHED_ROWS:
        sample = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))[:SEARCHED_ROWS].to(rows.device)]
    dealt = sample.sum(0).argsort(descending=True, stable=True).view(m, -1).t().flatten()
    order = max((present, dealt), key=lambda o: kept(sample[:, o], n, m).item())
    groups = order.view(-1, m).clone()
    gain = torch.zeros(c, c, device=rows.device)  # [i, j]: value of i's group after j has replaced i
    value = torch.zeros(c, device=rows.device)  # of the group that channel i is in
    home = torch.zeros(c, dtype=torch.int64, device=rows.device)
    todo = list(range(len(groups)))
    for _ in range(4 * c):
        for g in todo:
            _refresh(sample, groups[g], g, n, gain, value, home)
        change = gain + gain.t() - value[:, None] - value
        change[home[:, None] == home] = 0
        best = int(change.argmax())
        i, j = divmod(best, c)
        if change[i, j] <= 1e-6 * value.max():
            break
        a, b = int(home[i]), int(home[j])
        at_i, at_j = groups[a] == i, groups[b] == j
        groups[a][at_i], groups[b][at_j] = j, i
        todo = [a, b]
    order = groups.flatten()
    return order if kept(rows[:, order], n, m) > kept(rows, n, m) else present


def _refresh(rows: Tensor, members: Tensor, g: int, n: int, gain: Tensor, value: Tensor, home: Tensor) -> None:
    home[members] = g
    value[members] = rows[:, members].topk(n, dim=1).values.sum()
    for i in members.tolist():
        others = rows[:, members[members != i]].topk(n, dim=1).values
        gain[i] = others.sum() + (rows - others[:, -1:]).clamp_(min=0).sum(0)


def _flat(outputs: Tensor | tuple[Tensor, ...]) -> Tensor:
    return outputs.flatten() if isinstance(outputs, Tensor) else torch.cat([o.flatten() for o in outputs])
