"""Statistics of BatchNorm: given back after pruning (`match_statistics_`), taken anew before training (`take_statistics_`).

After pruning without training: every BatchNorm channel gets back the mean and the variance that it had in the dense network.

    μ' = m̂ − r·(m − μ),   √(σ'² + ε) = r·√(σ² + ε),   r = √(v̂ / v)

m, v: mean and variance of the channel's input in the dense network, m̂, v̂: in the pruned one, over the same images; μ, σ²: the
running statistics of before, μ', σ'²: those of after. So what leaves the channel has the mean and variance that it had on these images.

Where μ = m and σ² = v this is re-estimation of BatchNorm on the images. Elsewhere it is not, and re-estimation ruins the network:
frozen or folded running statistics (0 and 1, say) are constants like any other, to which γ and β belong. It is also steadier: what is
particular about few images stands in m and in m̂, and goes away.

Training normalises by the batch, so it ruins a network with such constants just as well. Before it, they become true ones:

    μ' = m,   σ'² = v,   γ' = γ·√((v + ε) / (σ² + ε)),   β' = β + γ·(m − μ) / √(σ² + ε)

and the network does what it did, in evaluation mode; in training mode too, but for the chance of the batch.

Source: Frantar and Alistarh 2022 (arXiv 2208.11580), section 6, "statistics correction"; Jordan et al. 2023, "REPAIR" (arXiv 2211.08403).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

FLAT = 1e-6  # share of the variance below which a pruned channel is constant, and is not blown up

Norms = dict[str, nn.modules.batchnorm._BatchNorm]


@torch.no_grad()
def match_statistics_(model: nn.Module, dense: nn.Module, batches: Sequence[Tensor]) -> None:
    """Correct the running statistics of `model`, `dense` pruned, in place. Both are left in evaluation mode.

    batches: images as the network is fed, each batch large enough to have a variance. A norm that runs several times is corrected
    for all its runs together.
    """
    norms, theirs = _norms(model.eval()), _norms(dense.eval())
    before = {name: (m.running_mean.clone(), m.running_var.clone()) for name, m in norms.items()}  # type: ignore[union-attr]
    total: dict[str, Tensor] = {}  # name → of both networks, Σ over the batches: count times mean and mean square, and count
    for x in batches:
        seen: dict[str, list[Tensor]] = {}
        _watched(dense, theirs, x, lambda name, z, seen=seen: seen.setdefault(name, []).append(_moments(z)))

        def correct(name: str, z: Tensor, seen: dict[str, list[Tensor]] = seen) -> None:
            pair = torch.stack((seen[name].pop(0), _moments(z)))
            total[name] = total.get(name, 0) + _counted(pair, z)
            _set(norms[name], before[name], pair)  # the layers behind see corrected inputs already in this batch

        _watched(model, norms, x, correct)
    for name, summed in total.items():
        _set(norms[name], before[name], summed[:, :2] / summed[:, 2:])


def are_of_no_data(model: nn.Module) -> bool:
    """Whether the running statistics of some norm are those that it was made with, 0 and 1: folded, or never trained."""
    return any((m.running_mean == 0).all() and (m.running_var == 1).all() for m in _norms(model).values())


@torch.no_grad()
def take_statistics_(model: nn.Module, batches: Sequence[Tensor]) -> None:
    """Running statistics of `model`, in place, become those of these images, and γ and β make up for it. It is left in evaluation mode.

    batches: as for `match_statistics_`. A norm without γ and β stays as it is.
    """
    norms = {name: m for name, m in _norms(model.eval()).items() if m.affine}
    total: dict[str, Tensor] = {}  # name → Σ over the batches: count times mean and mean square, and count

    def add(name: str, z: Tensor) -> None:
        total[name] = total.get(name, 0) + _counted(_moments(z), z)

    for x in batches:
        _watched(model, norms, x, add)
    for name, summed in total.items():
        norm: Any = norms[name]
        mean, square = summed[:2] / summed[2]
        var, std = (square - mean.square()).clamp(min=0), (norm.running_var.double() + norm.eps).sqrt()
        norm.bias.copy_(norm.bias + norm.weight * (mean - norm.running_mean) / std)
        norm.weight.copy_(norm.weight * (var + norm.eps).sqrt() / std)
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(var)


def _norms(model: nn.Module) -> Norms:
    kind = nn.modules.batchnorm._BatchNorm
    return {name: m for name, m in model.named_modules() if isinstance(m, kind) and m.track_running_stats}


def _watched(model: nn.Module, norms: Norms, x: Tensor, see: Any) -> None:
    """Run `model` on x; see(name, input) before each norm."""
    hooks = [m.register_forward_pre_hook(lambda _, given, name=name: see(name, given[0])) for name, m in norms.items()]
    try:
        model(x)
    finally:
        for hook in hooks:
            hook.remove()


def _moments(z: Tensor) -> Tensor:
    """(2, c): mean and mean square."""
    var, mean = torch.var_mean(z.float(), [0, *range(2, z.dim())], correction=0)
    return torch.stack((mean, var + mean.square())).double()


def _counted(moments: Tensor, z: Tensor) -> Tensor:
    """Moments (…, 2, c) of z as what adds up over batches, (…, 3, c): count times mean and mean square, and count."""
    count = z.numel() / z.shape[1]
    return torch.cat((moments * count, torch.full_like(moments[..., :1, :], count)), -2)


def _set(norm: Any, before: tuple[Tensor, Tensor], pair: Tensor) -> None:
    """pair (2, 2, c): moments in the dense and in the pruned network."""
    (m, v), (m_hat, v_hat) = ((p[0], (p[1] - p[0].square()).clamp(min=0)) for p in pair)
    r = torch.where((v_hat > FLAT * v) & (v > 0), v_hat / v, 1.0).sqrt()
    mean, var = before
    norm.running_mean.copy_(m_hat - r * (m - mean))
    norm.running_var.copy_((r.square() * (var + norm.eps) - norm.eps).clamp(min=0))
