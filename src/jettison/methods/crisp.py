"""CRISP: whole blocks removed where the user's classes need them least, N:M inside those that stay.

    ḡ = mean over minibatches of |∂L/∂w|, L on images of the user's classes only          class-aware saliency s = |w ⊙ ḡ|
    Ŵ = B⊙E⊙W;  ∂L/∂W = ∂L/∂Ŵ                                                              straight through, also where Ŵ = 0

B, the block mask, and E, the N:M mask, are chosen by `Hybrid.select`, a few times with training in between:

1. Block scores: Σ s over each block, on weights that are not pruned yet. Each block-row of a layer is sorted by them, ascending.
2. Rank-column scores q_l[j] = Σ over block-rows of the j-th smallest score of layer l, over the weights that go with it. Dropping rank j
   takes one block out of every block-row, at different columns: all rows keep equally many (load balance).
3. The ranks of all layers compete: in the order of q, ties in the order of the layers, ranks are dropped until the target sparsity is
   reached. So each layer's share follows from one global threshold. The last `least` ranks of a layer are never dropped.
4. E keeps the N largest s of every M inside the blocks that are left.

B only ever loses blocks; E is chosen anew each time, so a pruned weight inside a kept block that has grown comes back. The target rises in
steps (`schedule`) of a tenth of the blocks, in the first part of training; the rest of it trains the final masks.

The paper compares plain sums q ("sum"). A rank of a layer with many outputs is many blocks, so its sum is larger, and layers with few
outputs lose all they have for almost no sparsity. What counts under a budget of weights is the saliency that a weight of it buys ("mean").

`use` says which s: "class" as above; for comparison "magnitude", s = |w|, which knows nothing of classes. Saliency that is
blind to classes is "class" with images of all classes.

Source: Aggarwal et al. 2024, "CRISP: Hybrid Structured Sparsity for Class-aware Model Pruning" (DATE 2024, arXiv 2311.14272), section III.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from ..errors import FormatError, TrainingError
from ..formats import NM, Block, Format
from .mask import block_sums, expand_blocks, keep_mask, krsc_shape, largest_blocks, nm_mask
from .method import Parametrization, straight_through
from .sparsifier import Sparsifier

USES = ("class", "magnitude")
RANKS = ("mean", "sum")


@dataclass(frozen=True, slots=True)
class CRISP:
    """use: the saliency. rank: how ranks of different layers compare, their "mean" score per weight or the "sum", as published.
    step: share of what N:M leaves that one selection may drop. settle: share of the epochs after the last selection. least: blocks of a
    block-row that always stay.

    In a training loop without `select` the masks are those of the weights' magnitudes at the start, and stay. Errors: TrainingError.
    """

    use: str = "class"
    rank: str = "mean"
    step: float = 0.1
    settle: float = 0.5
    least: int = 1
    kind: ClassVar[str] = "crisp"

    def __post_init__(self) -> None:
        if self.use not in USES:
            raise TrainingError(f"CRISP: use must be one of {', '.join(USES)}, got {self.use!r}")
        if self.rank not in RANKS:
            raise TrainingError(f"CRISP: rank must be one of {', '.join(RANKS)}, got {self.rank!r}")
        if not 0 <= self.settle < 1:
            raise TrainingError(f"CRISP: settle must be at least 0 and less than 1, got {self.settle}")
        if not 0 < self.step <= 1:
            raise TrainingError(f"CRISP: step must lie between 0 and 1, got {self.step}")
        if isinstance(self.least, bool) or not isinstance(self.least, int) or self.least < 1:
            raise TrainingError(f"CRISP: least must be a whole number from 1, got {self.least!r}")

    @property
    def retrain(self) -> bool:
        return True

    def parametrization(self, weight: Tensor, fmt: Format) -> HybridMask:
        return HybridMask(weight, fmt)

    def gradient_term(self, weight: Tensor, mask: Tensor) -> None:
        return None


class HybridMask(Parametrization):
    """Ŵ = keep⊙W with the straight-through gradient. `keep` is a buffer, so a checkpoint carries it."""

    keep: Tensor

    def __init__(self, weight: Tensor, fmt: Format) -> None:
        super().__init__(fmt)
        self.register_buffer("keep", keep_mask(weight, fmt))

    def forward(self, weight: Tensor) -> Tensor:
        with torch.no_grad():
            pruned = weight * self.keep
        return straight_through(weight, pruned)

    def mask(self, weight: Tensor) -> Tensor:
        return self.keep


@dataclass(frozen=True, slots=True)
class Rank:
    """One rank of one layer that may be dropped: its score q and the weights that go with it."""

    q: float
    layer: int
    weights: float


class Hybrid:
    """Chooses the masks of a network that was made sparse with `CRISP`, all blocks kept.

    masks: what the network computes with until the first `select`, by layer, True where a weight is kept; by default all are.
    They do not bind `select`, for which every weight is there.
    """

    def __init__(self, handle: Sparsifier, method: CRISP, masks: Mapping[str, Tensor] | None = None) -> None:
        self.method = method
        self._layers = handle.weights()
        self._blocks = {
            name: torch.ones(_blocks_shape(weight, p.fmt), dtype=torch.bool, device=weight.device)
            for name, (weight, p) in self._layers.items()
            if isinstance(p.fmt, Block)
        }
        if not self._blocks:
            raise FormatError("CRISP needs layers with whole blocks; write a pattern such as 16x16/2:4")
        self._bound = False  # by the masks that are there: only by those of a selection
        for name, (_, p) in self._layers.items():
            p.keep.copy_(masks[name] if masks is not None else torch.ones_like(p.keep))  # type: ignore[operator,arg-type]

    def sparsities(self) -> tuple[float, float]:
        """The least and the largest sparsity that `select` can reach, over all weights of the sparse layers."""
        total = sum(w.numel() for w, _ in self._layers.values())
        dense, emptied = 0.0, 0.0
        for name, (weight, p) in self._layers.items():
            kept = weight.numel() * _inner_density(p.fmt)
            dense += kept
            share = min(self.method.least, self._blocks[name].shape[1]) / self._blocks[name].shape[1] if name in self._blocks else 1.0
            emptied += kept * share
        return 1 - dense / total, 1 - emptied / total

    def check(self, sparsity: float) -> None:
        """Errors: FormatError with what can be reached."""
        low, high = self.sparsities()
        if not low - 1e-9 <= sparsity <= high + 1e-9:
            why = "N:M alone removes the first" if sparsity < low else "one block of every block-row stays, so that no layer is emptied"
            bounds = f"{math.ceil(low * 1e4 - 1e-5) / 100:.2f}% to {math.floor(high * 1e4 + 1e-5) / 100:.2f}%"  # both can be had as written
            raise FormatError(
                f"sparsity {sparsity:.2%} cannot be reached with this pattern, only {bounds} ({why}); "
                "choose a sparsity between them, smaller blocks or another N:M"
            )

    def sparsity_at(self, keep: float) -> float:
        """Sparsity of all sparse layers together with this share of the blocks kept; layers of N:M alone keep all that N:M leaves."""
        low, _ = self.sparsities()
        total = sum(w.numel() for w, _ in self._layers.values())
        blocks = sum(w.numel() * _inner_density(p.fmt) for n, (w, p) in self._layers.items() if n in self._blocks)
        return low + (1 - keep) * blocks / total

    def schedule(self, sparsity: float, epochs: int) -> list[tuple[float, int]]:
        """(sparsity, epochs of training after it) of every selection: of what N:M leaves, in all sparse layers together, at most `step`
        goes each time, as far as there are epochs. The last has `settle` of all epochs, and those left over.
        """
        low, _ = self.sparsities()
        drop = 1 - (1 - sparsity) / (1 - low)  # share of what N:M leaves
        rising = max(1, round(epochs * (1 - self.method.settle)))
        count = max(1, min(math.ceil(drop / self.method.step - 1e-9), rising))
        each = min(epochs, rising) // count
        targets = [1 - (1 - low) * (1 - drop * (i + 1) / count) for i in range(count)]
        return [(t, each) for t in targets[:-1]] + [(sparsity, epochs - each * (count - 1))]

    @torch.no_grad()
    def select(self, gradients: Mapping[str, Tensor], sparsity: float) -> None:
        """Drop ranks until `sparsity`, then choose N:M. gradients: ḡ by layer on any device, see `mean_gradients`. Errors: FormatError."""
        self.check(sparsity)
        magnitude = self.method.use == "magnitude"
        scores = {n: w.abs() if magnitude else (w * gradients[n].to(w.device)).abs() for n, (w, _) in self._layers.items()}
        left = {n: p.mask(w) if self._bound else torch.ones_like(w) for n, (w, p) in self._layers.items()}
        sums = {n: block_sums(scores[n] * left[n], _block(self._layers[n][1].fmt)) for n in self._blocks}
        names = list(self._blocks)
        kept = {n: int(b[0].sum()) for n, b in self._blocks.items()}
        ranks = [_ranks(sums[n], self._blocks[n], self.method, i, self._per_rank(n)) for i, n in enumerate(names)]
        for layer, count in enumerate(drops(ranks, self._surplus(sparsity))):
            kept[names[layer]] -= count
        for n in names:
            self._keep_blocks(n, sums[n], kept[n])
        for n, (w, p) in self._layers.items():
            inner = p.fmt.inner if isinstance(p.fmt, Block) else p.fmt
            keep = nm_mask(scores[n], inner.n, inner.m) if isinstance(inner, NM) else torch.ones_like(w, dtype=torch.bool)
            p.keep.copy_(keep & expand_blocks(self._blocks[n], w, _block(p.fmt)) if n in self._blocks else keep)  # type: ignore[operator]
        self._bound = True

    @torch.no_grad()
    def follow(self) -> None:
        """Go on with the masks as they are. A checkpoint brings those of its run; on another machine rounding may have chosen others."""
        for name in self._blocks:
            weight, p = self._layers[name]
            blocks = self._blocks[name] = block_sums(p.mask(weight), _block(p.fmt)) > 0
            p.fmt = replace(_block(p.fmt), keep=int(blocks[0].sum()) / blocks.shape[1])
        self._bound = True

    def _per_rank(self, name: str) -> float:
        """Kept weights in one block of every block-row."""
        weight, p = self._layers[name]
        return weight.numel() * _inner_density(p.fmt) / self._blocks[name].shape[1]

    def _surplus(self, sparsity: float) -> float:
        """Kept weights that have to go."""
        total = sum(w.numel() for w, _ in self._layers.values())
        free = sum(w.numel() * _inner_density(p.fmt) for n, (w, p) in self._layers.items() if n not in self._blocks)
        return free + sum(self._per_rank(n) * int(b[0].sum()) for n, b in self._blocks.items()) - (1 - sparsity) * total

    def _keep_blocks(self, name: str, sums: Tensor, kept: int) -> None:
        """Of every block-row the `kept` blocks with the largest scores among those still there; ties go to the lowest column."""
        p, blocks = self._layers[name][1], self._blocks[name]
        self._blocks[name] = largest_blocks(torch.where(blocks, sums, -1.0), kept)
        p.fmt = replace(_block(p.fmt), keep=kept / blocks.shape[1])


def drops(ranks: Sequence[Sequence[Rank]], surplus: float) -> list[int]:
    """How many ranks each layer loses. ranks: of each layer in ascending order of q.

    In the order of q over all layers (ties: the earlier layer) ranks go until weights ≥ `surplus` have gone.
    """
    counts = [0] * len(ranks)
    gone = 0.0
    for rank in sorted((r for layer in ranks for r in layer), key=lambda r: (r.q, r.layer)):
        if gone >= surplus - 1e-6:
            break
        gone += rank.weights
        counts[rank.layer] += 1
    return counts


def mean_gradients(handle: Sparsifier, model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    """ḡ by layer: mean over `batches` (inputs, labels) of |∂L/∂w|, L the mean cross-entropy; pruned weights have gradients too.

    BatchNorm uses its running statistics. Modes and gradients of the model are left as they were found. Errors: TrainingError.
    """
    weights = {name: w for name, (w, _) in handle.weights().items()}
    sums = {name: torch.zeros_like(w) for name, w in weights.items()}
    device, count = next(iter(weights.values())).device, 0
    modes = {module: module.training for module in model.modules()}
    model.eval()
    for x, y in batches:
        loss = nn.functional.cross_entropy(model(x.to(device)), y.to(device))
        gradients = torch.autograd.grad(loss, list(weights.values()), allow_unused=True)
        for name, g in zip(sums, gradients):
            if g is not None:
                sums[name] += g.abs()
        count += 1
    for module, training in modes.items():
        module.training = training
    if count == 0:
        raise TrainingError("CRISP: there are no images to measure saliency on")
    if not all(bool(torch.isfinite(s).all()) for s in sums.values()):
        raise TrainingError("CRISP: the gradients are not finite; lower the learning rate or check the data")
    return {name: s / count for name, s in sums.items()}


def _ranks(sums: Tensor, blocks: Tensor, method: CRISP, layer: int, weights: float) -> list[Rank]:
    """The ranks of a layer that may still go, ascending: blocks that are gone sort first, the last `least` stay."""
    kept, each = int(blocks[0].sum()), weights if method.rank == "mean" else 1.0
    q = torch.where(blocks, sums.double(), -1.0).sort(dim=1).values.sum(0) / each
    return [Rank(float(q[j]), layer, weights) for j in range(blocks.shape[1] - kept, blocks.shape[1] - min(method.least, kept))]


def _block(fmt: Format) -> Block:
    """Errors: FormatError."""
    if not isinstance(fmt, Block):
        raise FormatError(f"CRISP chooses among whole blocks, and {fmt} has none; make the layer sparse with a pattern such as 16x16/2:4")
    return fmt


def _blocks_shape(weight: Tensor, fmt: Format) -> tuple[int, int]:
    block = _block(fmt)
    return weight.shape[0] // block.rows, block.total(krsc_shape(weight))


def _inner_density(fmt: Format) -> float:
    inner = fmt.inner if isinstance(fmt, Block) else fmt
    return inner.n / inner.m if isinstance(inner, NM) else 1.0
