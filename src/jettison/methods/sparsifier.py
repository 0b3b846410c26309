"""The verb `sparsify_` and its handle: a model made sparse in place, to be trained in any loop.

    handle = sparsify_(model, NM(1, 4), method=SRSTE())
    for x, y in batches:
        optimizer.zero_grad()
        scaler.scale(loss(model(x), y)).backward()   # once or, accumulating, several times
        scaler.unscale_(optimizer)                   # with a gradient scaler
        clip_grad_norm_(model.parameters(), 1.0)     # if wanted
        handle.step()                                # ← here: last before the optimizer
        scaler.step(optimizer); scaler.update()
    handle.finish()

DistributedDataParallel and `torch.compile` wrap the model after `sparsify_`; an optimizer may be
built before or after, the parameters stay the same objects.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ..errors import CheckpointError, FormatError
from ..formats import Dense, Format, to_json
from .mask import keep_mask, to_krsc
from .method import Method, Parametrization
from .select import REMAINDERS, LayerChoice, Rule, Select, choose_layers
from .srste import SRSTE


@dataclass(frozen=True, slots=True)
class Change:
    """Positions whose keep/prune state differs: `count` of `total`."""

    count: int
    total: int

    @property
    def fraction(self) -> float:
        return self.count / self.total


@dataclass(frozen=True, slots=True)
class SAD:
    """Sparse architecture divergence ‖E_j − E_i‖₁ between two times, in total and per layer."""

    total: Change
    layers: Mapping[str, Change]


@dataclass(frozen=True, slots=True)
class LayerReport:
    """A weight as in `LayerChoice`: its name and shape, its format and, where it stayed dense, why."""

    name: str
    shape: tuple[int, ...]
    format: Format
    reason: str


def sparsify_(
    model: nn.Module,
    fmt: Format | Mapping[str, Format],
    method: Method | None = None,
    select: Rule | None = None,
    remainder: Literal["refuse", "dense", "inner"] = "refuse",
) -> Sparsifier:
    """Make the selected layers of `model` compute with weights that satisfy `fmt`, from now on.

    fmt: one for all selected layers, or {layer: format} (`jettison.budget` makes one); then `select` is not asked.
    method: `SRSTE()` unless given. select: a `Select` or a function (name, module) → bool.
    remainder: what to do with a selected layer whose channels do not divide: "refuse", leave it "dense", or, where blocks do
    not fit, make it what is "inner" to blocks (dense if that does not fit either).
    The model is changed only if every layer fits. Errors: FormatError.
    """
    if remainder not in REMAINDERS:
        raise FormatError(f"remainder must be one of {', '.join(REMAINDERS)}, got {remainder!r}")
    choices = choose_layers(model, fmt, Select() if select is None else select, remainder)
    method = SRSTE() if method is None else method
    handle = Sparsifier(method, fmt, choices)
    if not method.retrain:
        handle.finish()
    return handle


class Sparsifier:
    """Handle of a sparsified model. Made by `sparsify_`."""

    def __init__(self, method: Method, fmt: Format | Mapping[str, Format], choices: list[LayerChoice]) -> None:
        self.method = method
        self.format = fmt
        self.finished = False
        self._choices = choices
        self._layers = {c.name: c for c in choices if c.format is not None}
        # one entry per parameter: a weight that several modules share is decayed and counted once
        self._weights: dict[str, tuple[nn.Parameter, Parametrization]] = {}
        self._masking: dict[str, Parametrization] = {}  # of every layer
        shared: dict[int, Parametrization] = {}
        for c in self._layers.values():
            weight = c.weight
            if id(weight) not in shared:
                shared[id(weight)] = method.parametrization(weight, c.format)  # type: ignore[arg-type]
                self._weights[c.name] = (weight, shared[id(weight)])
            self._masking[c.name] = shared[id(weight)]
        for name, c in self._layers.items():  # only now, when no layer was refused
            parametrize.register_parametrization(c.module, c.parameter, self._masking[name], unsafe=True)
        self._snapshot = self.masks()

    @torch.no_grad()
    def step(self) -> None:
        """Add the method's gradient term to `.grad`. Call once per optimizer step: after the last
        backward, after averaging over processes, `scaler.unscale_` and clipping, before `optimizer.step`.

        Parameters without a gradient (frozen, unused) are left alone, as the optimizer leaves them.
        """
        if self.finished:
            return
        for weight, p in self._weights.values():
            if weight.grad is None:
                continue
            term = self.method.gradient_term(weight, p.mask(weight) if p.used is None else p.used)
            if term is not None:
                weight.grad.add_(term)

    def advance(self, epoch: float) -> None:
        """Tell a method with a schedule where training stands, in epochs from 0, parts included. Call before each step, or each epoch."""
        if not self.finished:
            for weight, p in self._weights.values():
                p.advance(weight, epoch)

    @torch.no_grad()
    def masks(self) -> dict[str, Tensor]:
        """Bool mask per layer, True where a weight is kept, shaped like the weight. A shared weight appears once."""
        if self.finished:
            return {name: keep_mask(weight, p.fmt) for name, (weight, p) in self._weights.items()}
        return {name: p.mask(weight).clone() for name, (weight, p) in self._weights.items()}

    def layer_masks(self) -> dict[str, Tensor]:
        """`masks` under the name of every layer: a shared weight appears once for each that has it."""
        own, first = self.masks(), {id(p): name for name, (_, p) in self._weights.items()}
        return {name: own[first[id(p)]] for name, p in self._masking.items()}

    def sad(self, since: Mapping[str, Tensor] | None = None) -> SAD:
        """Divergence of the masks since the last call (first call: since `sparsify_`) or since the given `masks()`."""
        now = self.masks()
        before = self._snapshot if since is None else since
        if since is None:
            self._snapshot = now
        layers = {n: Change(int((now[n] != before[n].to(now[n].device)).sum()), now[n].numel()) for n in now}
        total = Change(sum(c.count for c in layers.values()), sum(c.total for c in layers.values()))
        return SAD(total, layers)

    def sparsity(self) -> float:
        """Share of the sparse layers' weights that is pruned now."""
        masks = self.masks().values()
        return 1 - sum(int(m.sum()) for m in masks) / sum(m.numel() for m in masks)

    def digests(self) -> dict[str, Tensor]:
        """A 64-bit hash of each layer's mask: Σ of h(i) over the kept positions i. Equal masks have equal hashes on every device."""
        return {name: _digest(mask) for name, mask in self.masks().items()}

    def report(self) -> list[LayerReport]:
        """One entry per weight of two axes or more, in order of definition."""
        formats = self.formats()
        return [LayerReport(c.name, c.shape, formats.get(c.name, Dense()), c.reason) for c in self._choices]

    def formats(self) -> dict[str, Format]:
        """Of every sparse layer, as it is now: a method may keep fewer blocks as training goes on."""
        return {name: p.fmt for name, p in self._masking.items()}

    def weights(self) -> dict[str, tuple[nn.Parameter, Parametrization]]:
        """The trained weight W of every sparse layer and what makes Ŵ of it. A shared weight appears once."""
        return dict(self._weights)

    def finish(self) -> dict[str, Format]:
        """Turn the weights back into plain parameters that satisfy the format, and verify it. Returns {layer: format}.

        Calling it again only verifies. Errors: FormatError naming the first layer that breaks the pattern; one that has not
        reached it yet (a schedule that has not ended) stays as it is and can be trained on.
        """
        for name, c in self._layers.items():
            if not self.finished and not self._masking[name].fmt.satisfied(to_krsc(c.weight)):
                raise FormatError(
                    f"{name}: weights do not satisfy {self._masking[name].fmt} yet; train to the end of {self.method.kind}'s schedule "
                    "and tell the handle: advance(epoch)"
                )
        for c in self._layers.values():
            if parametrize.is_parametrized(c.module, c.parameter):
                parametrize.remove_parametrizations(c.module, c.parameter, leave_parametrized=True)
        self.finished = True
        formats = self.formats()
        for name, c in self._layers.items():
            if not formats[name].satisfied(to_krsc(c.weight)):
                raise FormatError(f"{name}: weights do not satisfy {formats[name]} after finish(); were they changed from outside?")
        return formats

    def state_dict(self) -> dict[str, Any]:
        """What `model.state_dict()` does not hold: the settings, and the masks `sad` compares with."""
        return {"format": self._format(), "method": self._settings(), "snapshot": self._snapshot}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`; load the model's state first. Errors: CheckpointError if the settings differ."""
        for key, mine in (("format", self._format()), ("method", self._settings())):
            if state.get(key) != mine:
                raise CheckpointError(
                    f"the checkpoint was made with {key} {state.get(key)}, this run uses {mine}; start anew or use the same"
                )
        if set(state["snapshot"]) != set(self._snapshot):
            raise CheckpointError("the checkpoint has other sparse layers than this run; use the same select=")
        self._snapshot = {n: m.clone() for n, m in state["snapshot"].items()}

    def _format(self) -> dict[str, Any]:
        if isinstance(self.format, Mapping):
            return {name: to_json(fmt) for name, fmt in self.format.items()}
        return to_json(self.format)

    def _settings(self) -> dict[str, Any]:
        return {"kind": self.method.kind, **asdict(self.method)}  # type: ignore[call-overload]


def _digest(mask: Tensor) -> Tensor:
    """int64 (), modulo 2⁶⁴; h(i) = (i + 1)·2⁶⁴/φ, its upper half mixed into the lower (Knuth, The Art of Computer Programming 6.4)."""
    h = torch.arange(1, mask.numel() + 1, device=mask.device) * -0x61C8864680B583EB
    return ((h ^ (h >> 32)) * mask.flatten()).sum()
