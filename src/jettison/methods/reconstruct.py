"""Post-training pruning: a layer at a time, the kept weights are refitted to what the dense network computes. No labels, no training.

    Ŵ = argmin ‖W X − Ŵ X̂‖²   over Ŵ in the pattern

X: inputs of the layer (im2col columns, D = r·s·c of them) in the dense network, X̂: in the network whose earlier layers are
pruned already, both over the given images. Per layer, with H = X̂ X̂ᵀ + damping and C = X X̂ᵀ:

 1. which weights stay: M-group by M-group in the order of the columns, the N with the largest w² / [U]ⱼⱼ², where UᵀU = H⁻¹;
    what pruning a weight costs is carried over to the columns that follow (optimal brain surgeon, a column at a time);
 2. what their values are: the normal equations (Ŵ H)_S = (W C)_S on the kept positions S, by conjugate gradients, all rows at once.

At the end BatchNorm is corrected (`statistics`). A weight that the network reads without calling its layer, as MultiheadAttention does, has
no inputs to look at: it is pruned by magnitude.

Source: OBC, Frantar and Alistarh 2022 (arXiv 2208.11580); its column-wise form for N:M: SparseGPT, 2023 (arXiv 2301.00774), section 3;
refitting: AdaPrune, Hubara et al. 2021 (arXiv 2102.08124), section 4. Errors that accumulate over layers are part of the target here.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import FormatError
from ..formats import NM, Format
from .mask import nm_mask
from .select import Rule, Select, choose_layers
from .statistics import match_statistics_

BATCH = 32  # images at a time
DAMPING = 0.01  # of the mean of H's diagonal
REFITS = 50  # conjugate-gradient steps
CONVERGED = 1e-5  # residual left of the first one

Tell = Callable[[str, int, int], None]


@torch.no_grad()
def reconstruct_(
    model: nn.Module,
    images: Tensor,
    fmt: NM,
    select: Rule | None = None,
    remainder: Literal["refuse", "dense"] = "refuse",
    tell: Tell = lambda name, done, count: None,
) -> dict[str, Format]:
    """Prune the selected layers of `model` to `fmt` in place. Returns {layer: format}.

    images: a few hundred (n, …), as the network is fed. select, remainder: as in `sparsify_`. tell: called before each layer,
    in running order. The model is left in evaluation mode.
    Errors: FormatError.
    """
    if not isinstance(fmt, NM):
        raise FormatError(f"layers are reconstructed in N:M, not in {fmt}")
    if len(images) == 0:
        raise FormatError("reconstruction needs images, got none")
    choices = choose_layers(model, fmt, Select() if select is None else select, remainder)
    sparse = [c for c in choices if c.format is not None]
    model.eval()
    dense = copy.deepcopy(model)
    device = next(model.parameters()).device
    batches = [x.to(device) for x in images.split(BATCH)]
    uses = _uses(model, batches[0][:1], [c.name for c in sparse if c.parameter == "weight"])
    for i, name in enumerate(uses):
        tell(name, i, len(uses))
        layer: Any = model.get_submodule(name)
        h, c = _moments(model, dense, name, uses[name], batches)
        if not h.isfinite().all():
            raise FormatError(f"{name}: its inputs are not finite on the given images; are they normalised as the network needs?")
        layer.weight.copy_(_as_weight(pruned(_as_columns(layer), h, c, fmt), layer))
    for c in sparse:
        c.weight.mul_(nm_mask(c.weight, fmt.n, fmt.m))  # changes only what no layer was called with
    match_statistics_(model, dense, batches)
    return {c.name: fmt for c in sparse}


def pruned(w: Tensor, h: Tensor, c: Tensor, fmt: NM) -> Tensor:
    """Ŵ (groups, k, D) of W for H and C (groups, D, D); columns in the order (r, s, c), D divisible by M."""
    damping = DAMPING * h.diagonal(dim1=1, dim2=2).mean(1)
    dead = h.diagonal(dim1=1, dim2=2) == 0  # inputs that are always zero: their weights may be anything
    eye = torch.eye(h.shape[-1], dtype=h.dtype, device=h.device)
    damped = h + eye * (damping[:, None, None] + dead.to(h.dtype)[:, :, None])
    target = w.to(h.dtype) @ (c + eye * damping[:, None, None])  # damping pulls Ŵ towards W, not towards 0
    mask = torch.stack([_surgeon(rows, hessian, fmt) for rows, hessian in zip(w.to(h.dtype), damped)])
    return _refit(w.to(h.dtype) * mask, mask, damped, target).to(w.dtype)


def _surgeon(w: Tensor, h: Tensor, fmt: NM) -> Tensor:
    """Bool (k, D): step 1."""
    w = w.clone()
    u = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(h)), upper=True)
    mask = torch.zeros_like(w, dtype=torch.bool)
    for start in range(0, w.shape[1], fmt.m):
        block = slice(start, start + fmt.m)
        mask[:, block] = nm_mask((w[:, block] / u.diagonal()[block]).square(), fmt.n, fmt.m)
        errors = torch.zeros_like(w[:, block])
        for j in range(start, start + fmt.m):
            error = w[:, j] * ~mask[:, j] / u[j, j]
            w[:, j : start + fmt.m] -= error[:, None] * u[j, j : start + fmt.m]
            errors[:, j - start] = error
        w[:, start + fmt.m :] -= errors @ u[block, start + fmt.m :]
    return mask


def _refit(w: Tensor, mask: Tensor, h: Tensor, target: Tensor) -> Tensor:
    """Step 2: conjugate gradients on the kept positions, each row a system of its own."""
    residual = (target - w @ h) * mask
    direction = residual
    size = residual.square().sum(-1, keepdim=True)
    least = size * CONVERGED**2
    for _ in range(REFITS):
        if (size <= least).all():
            break
        curved = (direction @ h) * mask
        step = size / (direction * curved).sum(-1, keepdim=True).clamp(min=torch.finfo(h.dtype).tiny)
        w = w + step * direction
        residual = residual - step * curved
        former, size = size, residual.square().sum(-1, keepdim=True)
        direction = residual + size / former.clamp(min=torch.finfo(h.dtype).tiny) * direction
    return w


def _uses(model: nn.Module, x: Tensor, names: list[str]) -> dict[str, int]:
    """How often each layer runs, in the order of first uses."""
    uses: dict[str, int] = {}

    def count(name: str) -> Callable[..., None]:
        return lambda *_: uses.update({name: uses.get(name, 0) + 1})

    hooks = [model.get_submodule(name).register_forward_pre_hook(count(name)) for name in names]
    model(x)
    for hook in hooks:
        hook.remove()
    return uses


def _moments(model: nn.Module, dense: nn.Module, name: str, uses: int, batches: list[Tensor]) -> tuple[Tensor, Tensor]:
    """H = X̂ X̂ᵀ and C = X X̂ᵀ (groups, D, D), over all images and all uses of the layer, divided by the number of images."""
    h = c = 0.0
    count = sum(len(x) for x in batches)
    for x in batches:
        for mine, theirs in zip(*(_inputs(net, name, uses, x) for net in (model, dense))):
            h = h + mine @ mine.transpose(1, 2) / count
            c = c + theirs @ mine.transpose(1, 2) / count
    return h, c  # type: ignore[return-value]


class _Stop(Exception):
    """The layer has been seen; the rest of the network need not run."""


def _inputs(net: nn.Module, name: str, uses: int, x: Tensor) -> list[Tensor]:
    """im2col (groups, D, columns) of every input that the layer gets."""
    layer, seen = net.get_submodule(name), []

    def see(_: nn.Module, inputs: tuple[Any, ...]) -> None:
        seen.append(_im2col(inputs[0].float(), layer))
        if len(seen) == uses:
            raise _Stop

    hook = layer.register_forward_pre_hook(see)
    try:
        net(x)
    except _Stop:
        pass
    finally:
        hook.remove()
    return seen


def _im2col(x: Tensor, layer: Any) -> Tensor:
    """(groups, r·s·c, columns)."""
    if isinstance(layer, nn.Linear):
        return x.flatten(0, -2).t()[None]
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    x = F.pad(x, layer._reversed_padding_repeated_twice, mode=mode)
    columns = F.unfold(x, layer.kernel_size, layer.dilation, stride=layer.stride)
    c, taps = layer.in_channels // layer.groups, layer.kernel_size[0] * layer.kernel_size[1]
    return columns.unflatten(1, (layer.groups, c, taps)).permute(1, 3, 2, 0, 4).flatten(3).flatten(1, 2)


def _as_columns(layer: Any) -> Tensor:
    """(groups, k, r·s·c) of a Conv2d's or Linear's weight."""
    return layer.weight.movedim(1, -1).flatten(1).unflatten(0, (getattr(layer, "groups", 1), -1))


def _as_weight(columns: Tensor, layer: Any) -> Tensor:
    shape = layer.weight.movedim(1, -1).shape
    return columns.reshape(shape).movedim(-1, 1)
