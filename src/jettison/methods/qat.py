"""Quantisation-aware fine-tuning: train with the rounding that int8 will do, dense or with any sparsity method.

    handle = quantize_aware_(model)             # after sparsify_, if there is a sparsifier
    ... train as usual ...
    handle.finish(); sparsifier.finish()        # plain weights again, on the int8 grid and in their pattern

Each Conv2d and Linear computes with rounded weights and rounded inputs:

    ŵ = rint(w / s)·s,  s[k] = max |w[k]| / 127                        ∂L/∂w = ∂L/∂ŵ
    x̂ = (clamp(rint(x / s) + z, 0, 255) − z)·s                         ∂L/∂x = ∂L/∂x̂ inside the range, else 0

with the range of x a running mean of the batches' bounds. As s[k] follows the channel, rounding before a BatchNorm is
rounding after it is folded: s·ŵ grows with it. Zeros stay zeros. Post-training quantisation then chooses the final
ranges; the weights it meets are on its grid already.

Source: Krishnamoorthi 2018 (arXiv 1806.08342), section 3; straight-through gradient: Bengio et al. 2013 (arXiv 1308.3432).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from .method import straight_through

MOMENTUM = 0.1  # of the running bounds
NARROWEST = 1e-12  # range of an input that is zero everywhere
SLOT = "input_rounding"  # submodule of each layer that rounds its input


def quantize_aware_(model: nn.Module) -> QuantizeAware:
    """Make every Conv2d and Linear of `model` compute with rounded weights and inputs, from now on."""
    return QuantizeAware(model)


class QuantizeAware:
    """Handle of a model that trains with rounding. Made by `quantize_aware_`."""

    def __init__(self, model: nn.Module) -> None:
        self._layers = [m for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
        self._hooks = []
        for layer in self._layers:
            device = layer.weight.device
            parametrize.register_parametrization(layer, "weight", RoundedWeight(), unsafe=True)
            layer.add_module(SLOT, RoundedInput().to(device))
            self._hooks.append(layer.register_forward_pre_hook(_round_input))

    def finish(self) -> None:
        """Plain parameters again, holding the rounded weights. Calling it again changes nothing."""
        for hook in self._hooks:
            hook.remove()
        for layer in self._layers:
            if hasattr(layer, SLOT):
                delattr(layer, SLOT)
            if parametrize.is_parametrized(layer, "weight"):
                parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)


class RoundedWeight(nn.Module):
    """w → ŵ, symmetric int8 per output channel."""

    def forward(self, weight: Tensor) -> Tensor:
        with torch.no_grad():
            largest = weight.detach().abs().flatten(1).amax(1)
            scale = torch.where(largest > 0, largest / 127, 1.0).view(-1, *(1,) * (weight.dim() - 1))
            rounded = (weight / scale).round() * scale
        return straight_through(weight, rounded)


class RoundedInput(nn.Module):
    """x → x̂, u8 with running bounds `low` and `high`; they stand still in evaluation mode."""

    low: Tensor
    high: Tensor
    seen: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ("low", "high", "seen"):
            self.register_buffer(name, torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self._follow(x.detach())
        low, high = self.low.clamp(max=0), self.high.clamp(min=0)
        scale = ((high - low) / 255).clamp(min=NARROWEST)
        zero = (-low / scale).round()
        inside = torch.minimum(torch.maximum(x, -zero * scale), (255 - zero) * scale)
        rounded = (inside / scale).round() * scale
        return inside + (rounded - inside).detach()

    @torch.no_grad()
    def _follow(self, x: Tensor) -> None:
        low, high = torch.aminmax(x.float())
        share = torch.where(self.seen > 0, MOMENTUM, 1.0)
        self.low += share * (low - self.low)
        self.high += share * (high - self.high)
        self.seen.fill_(1.0)


def _round_input(layer: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    return (getattr(layer, SLOT)(inputs[0]), *inputs[1:])
