"""PyTorch model -> its ATen graph with a batch size that stays free, through `torch.export`.

What leaves this file: nodes in running order, in-place operations replaced by plain ones, every
parameter and buffer as a float32 tensor, and for each node the module it stands in.
"""

from __future__ import annotations

import copy
import io
import logging
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from ..errors import ExportError

Example = torch.Tensor | tuple[torch.Tensor, ...] | tuple[int, ...]

# In evaluation these return their input itself, though their schema does not say so.
PASS_THROUGH = {"dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout"}


@dataclass(frozen=True)
class Trace:
    """nodes: the whole ATen graph; constants: value of every placeholder that is not an input;
    outputs: nodes of the flattened output; batch: the symbol of the batch size; paths: of
    every module -> its first path, if it has several; leaves: paths of modules without children;
    classes: path -> class name."""

    nodes: tuple[fx.Node, ...]
    inputs: tuple[fx.Node, ...]
    constants: Mapping[fx.Node, torch.Tensor]
    outputs: tuple[fx.Node, ...]
    batch: Any
    paths: Mapping[str, str]
    leaves: frozenset[str]
    classes: Mapping[str, str]

    def module(self, node: fx.Node) -> str:
        """Path of the innermost module that `node` stands in; "" for the model itself."""
        stack = node.meta.get("nn_module_stack") or {}
        paths = [re.sub(r"@\d+", "", path) for path, _ in stack.values()]
        inside = [p for p in paths if ".parametrizations" not in p]
        return self.paths.get(inside[-1], inside[-1]) if inside else ""

    def where(self, node: fx.Node) -> str:
        """ "layer1.0.act (GELU)", for messages."""
        path = self.module(node)
        return f"{path or 'the model'} ({self.classes.get(path, '?')})"

    def sample_shape(self, value: torch.Tensor, where: str) -> tuple[int, ...]:
        """Shape without the batch. ExportError unless axis 0 is the batch and the others are fixed."""
        if value.ndim == 0 or not _is(value.shape[0], self.batch):
            raise ExportError(
                f"{where}: a result of shape {tuple(value.shape)} mixes the images of a batch, or fixes their number; "
                "keep the batch as the first axis of every tensor"
            )
        if not all(isinstance(d, int) for d in value.shape[1:]):
            raise ExportError(f"{where}: shape {tuple(value.shape)} changes with the batch size; only axis 0 may")
        if value.dtype != torch.float32:
            raise ExportError(f"{where}: computes in {value.dtype}, but networks run in float32; remove the conversion from the model")
        return tuple(value.shape[1:])


def trace(model: nn.Module, example: Example) -> Trace:
    """Trace a float32 copy of `model` in evaluation mode. Errors: ExportError."""
    inputs = examples(example)
    batch = torch.export.Dim("batch")
    shapes: Any = torch.export.ShapesCollection()
    for x in inputs:
        shapes[x] = {0: batch}
    try:
        with torch.no_grad(), _silence():
            model = getattr(model, "_orig_mod", model)  # what torch.compile wraps
            model = copy.deepcopy(model).cpu().float().eval()
            program = torch.export.export(model, inputs, dynamic_shapes=shapes, strict=False)
            if _shares_memory(program.graph):
                program = program.run_decompositions({})
    except Exception as e:  # torch.export raises many kinds: each means that the model cannot be traced
        first = next((line.strip() for line in str(e).splitlines() if line.strip()), type(e).__name__)
        reason = "its code fixes the batch size" if "Constraints violated" in first else first
        raise ExportError(
            f"{type(model).__name__}: torch.export cannot trace the model: {reason}; "
            "the forward pass must not depend on values, and must allow any batch size"
        ) from e
    for node in program.graph.nodes:
        _make_functional(node)
    return _collect(program, model)


@contextmanager
def _silence() -> Iterator[None]:
    """PyTorch explains failures on stderr at length; the exception says it in a line."""
    with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        before = logging.root.manager.disable
        logging.disable(logging.ERROR)
        try:
            yield
        finally:
            logging.disable(before)


def examples(example: Any) -> tuple[torch.Tensor, ...]:
    """Tensors with a batch of two, so that nothing can rely on a batch of one."""
    if isinstance(example, (tuple, list)) and example and all(isinstance(d, int) for d in example):
        shape = tuple(example[1:]) if len(example) == 4 else tuple(example)
        return (torch.randn(2, *shape, generator=torch.Generator().manual_seed(0)),)
    tensors = (example,) if isinstance(example, torch.Tensor) else tuple(example) if isinstance(example, (tuple, list)) else ()
    for x in tensors:
        if isinstance(x, torch.Tensor) and not x.is_floating_point():
            raise ExportError(
                f"an input of {str(x.dtype).removeprefix('torch.')}: networks take float32, and looking rows up (nn.Embedding) has no "
                "place in the graph; export the part of the model behind it"
            )
    if not tensors or not all(isinstance(x, torch.Tensor) and x.ndim >= 2 and x.is_floating_point() and len(x) for x in tensors):
        raise ExportError(
            "example must be a float tensor with a batch axis, a tuple of such tensors, or the shape of one sample like (3, 224, 224)"
        )
    return tuple(x[:1].detach().cpu().float().repeat(2, *[1] * (x.ndim - 1)) for x in tensors)


def _mutable(node: fx.Node) -> bool:
    return isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable


def _views(node: fx.Node) -> bool:
    """True if the result may share memory with an argument."""
    if not isinstance(node.target, torch._ops.OpOverload):
        return node.op == "call_function"
    aliases = any(r.alias_info is not None for r in node.target._schema.returns)
    return aliases or node.target._opname in PASS_THROUGH


def _shares_memory(graph: fx.Graph) -> bool:
    """True if an in-place operation changes memory that another node sees.

    `bn -> relu_` is harmless: nobody else reads bn. Then the in-place operation is its plain twin.
    """
    for node in graph.nodes:
        if not _mutable(node):
            continue
        changed = node.args[0]
        seen_elsewhere = not isinstance(changed, fx.Node) or len(changed.users) > 1
        if seen_elsewhere or (_views(changed) and not _mutable(changed)):
            return True
    return False


def _make_functional(node: fx.Node) -> None:
    """relu_ -> relu; whole numbers among scalar arguments become floats, so that x + 3 is x + 3.0."""
    target: Any = node.target
    if _mutable(node):
        plain = getattr(torch.ops.aten, target._opname.removesuffix("_"), None)
        if target._opname.endswith("_") and plain is not None and target._overloadname in plain.overloads():
            node.target = target = getattr(plain, target._overloadname)
    if isinstance(target, torch._ops.OpOverload):
        scalar = [str(a.type) == "number" or str(a.real_type) == "Tensor" for a in target._schema.arguments]
        node.args = tuple(float(v) if type(v) is int and is_scalar else v for v, is_scalar in zip(node.args, scalar))


def _is(size: Any, batch: Any) -> bool:
    return isinstance(size, torch.SymInt) and size.node.expr == batch


def _collect(program: torch.export.ExportedProgram, model: nn.Module) -> Trace:
    nodes = tuple(program.graph.nodes)
    placeholders = [n for n in nodes if n.op == "placeholder"]
    kinds = torch.export.graph_signature
    stored: dict[str, Any] = {**program.constants, **program.state_dict}
    inputs, constants = [], {}
    for node, spec in zip(placeholders, program.graph_signature.input_specs):
        if spec.kind == kinds.InputKind.USER_INPUT:
            if isinstance(node.meta.get("val"), torch.Tensor):
                inputs.append(node)
        else:
            constants[node] = stored[str(spec.target)].detach()
    results: Any = next(n for n in nodes if n.op == "output").args[0]
    outputs = [
        node for node, spec in zip(results, program.graph_signature.output_specs) if spec.kind == kinds.OutputKind.USER_OUTPUT
    ]  # fmt: skip
    size = inputs[0].meta["val"].shape[0]
    modules = dict(model.named_modules())
    first = {module: path for path, module in modules.items()}
    return Trace(
        nodes=nodes,
        inputs=tuple(inputs),
        constants=constants,
        outputs=tuple(n for n in outputs if isinstance(n, fx.Node)),
        batch=size.node.expr if isinstance(size, torch.SymInt) else None,
        paths={path: first[module] for path, module in model.named_modules(remove_duplicate=False)},
        leaves=frozenset(p for p, m in modules.items() if not {n for n, _ in m.named_children()} - {"parametrizations"}),
        classes={p: type(m).__name__.removeprefix("Parametrized") for p, m in modules.items()},
    )
