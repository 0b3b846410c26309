"""The handle inside a user's own loop: gradient scaler, accumulation, shared weights, torch.compile, saving and resuming."""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest
import torch
from torch import nn

from jettison.formats import NM
from jettison.methods import ASP, SRSTE, STE, MaxQ, Select, nm_mask, sparsify_

torch.set_num_threads(1)
DECAY = 0.5  # large, so that a term added twice or scaled is seen


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(4, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 25, 4))


def batch(seed: int, n: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(n, 4, 5, 5, generator=g), torch.randint(0, 4, (n,), generator=g)


def sparse(method: Any = None) -> tuple[nn.Sequential, Any]:
    model = net().eval()  # eval: batch statistics would make accumulated batches differ from one
    return model, sparsify_(model, NM(1, 4), method or SRSTE(DECAY), Select(stem=True))


def gradients(model: nn.Module) -> list[torch.Tensor]:
    return [p.grad.clone() for p in model.parameters() if p.grad is not None]


def test_under_a_gradient_scaler_the_term_is_not_scaled() -> None:
    x, y = batch(1)
    model, handle = sparse()
    nn.functional.cross_entropy(model(x), y).backward()
    handle.step()
    expected = gradients(model)

    model, handle = sparse()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)  # type: ignore[attr-defined]
    scaler.scale(nn.functional.cross_entropy(model(x), y)).backward()
    scaler.unscale_(optimizer)
    handle.step()
    for a, b in zip(gradients(model), expected):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)
    before = model[0].parametrizations.weight.original.detach().clone()
    scaler.step(optimizer)
    torch.testing.assert_close(model[0].parametrizations.weight.original, before - 0.1 * expected[_index(model)])


def _index(model: nn.Module) -> int:
    return [n for n, _ in model.named_parameters()].index("0.parametrizations.weight.original")


def test_accumulated_batches_get_the_term_once() -> None:
    (x, y), parts = batch(1, 6), 3
    model, handle = sparse()
    nn.functional.cross_entropy(model(x), y).backward()
    handle.step()
    expected = gradients(model)
    model, handle = sparse()
    for xs, ys in zip(x.chunk(parts), y.chunk(parts)):
        (nn.functional.cross_entropy(model(xs), ys) / parts).backward()
    handle.step()
    for a, b in zip(gradients(model), expected):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)


class Tied(nn.Module):
    """`a` runs twice, and `b` holds the very same Parameter."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.head = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 2)
        self.b.weight = self.a.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.b(torch.tanh(self.a(torch.tanh(self.a(x))))))


@pytest.mark.parametrize("method", [SRSTE(DECAY), STE(), ASP(), MaxQ(DECAY)])
def test_a_shared_weight_is_decayed_and_counted_once(method: Any) -> None:
    model = Tied()
    w = model.a.weight.detach().clone()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)  # built before: parameters stay the same objects
    handle = sparsify_(model, NM(2, 4), method)
    assert torch.equal(model.a.weight, model.b.weight)
    assert list(handle.masks()) == ["a"]
    assert handle.sad().total.total == 64
    model(torch.randn(3, 8)).sum().backward()
    before = gradients(model)
    handle.step()
    terms = [a - b for a, b in zip(gradients(model), before)]
    changed = [t for t in terms if t.any()]
    if method in (SRSTE(DECAY), MaxQ(DECAY)):
        assert len(changed) == 1
        torch.testing.assert_close(changed[0], DECAY * w * ~nm_mask(w, 2, 4), atol=1e-6, rtol=1e-4)
    else:
        assert not changed
    optimizer.step()
    assert not torch.equal(model.a.weight, w * nm_mask(w, 2, 4))  # the optimizer moved it
    assert set(handle.finish()) == {"a", "b"}
    assert model.a.weight is model.b.weight
    assert len(list(model.parameters())) == len(list(Tied().parameters()))


def test_frozen_and_unused_layers_are_left_alone() -> None:
    model, handle = sparse()
    handle.step()  # before any backward
    assert gradients(model) == []
    model, handle = sparse()
    model[0].parametrizations.weight.original.requires_grad_(False)
    x, y = batch(1)
    nn.functional.cross_entropy(model(x), y).backward()
    handle.step()
    assert model[0].parametrizations.weight.original.grad is None


@pytest.mark.parametrize("method", [SRSTE(DECAY), ASP(), MaxQ(DECAY, end=1)])
def test_compiled_training_is_the_same_training(method: Any) -> None:
    results = []
    for compiled in (False, True):
        model, handle = sparse(method)
        run = torch.compile(model, backend="aot_eager") if compiled else model
        optimizer = torch.optim.SGD(model.parameters(), 0.05)
        for i in range(3):
            x, y = batch(i)
            handle.advance(i / 2)
            optimizer.zero_grad()
            nn.functional.cross_entropy(run(x), y).backward()
            handle.step()
            optimizer.step()
        handle.finish()
        results.append(model.state_dict())
    for k in results[0]:
        torch.testing.assert_close(results[1][k], results[0][k], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("method", [SRSTE(), STE(), ASP(), MaxQ(end=6)])
def test_saving_and_resuming_is_bit_identical(method: Any) -> None:
    def start() -> tuple[nn.Sequential, Any, torch.optim.Optimizer]:
        model = net()
        handle = sparsify_(model, NM(1, 4), method, Select(stem=True))
        return model, handle, torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, weight_decay=1e-3)

    def train(model: nn.Module, handle: Any, optimizer: torch.optim.Optimizer, seeds: range) -> list[int]:
        changes = []
        for seed in seeds:
            x, y = batch(seed)
            handle.advance(seed)
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            handle.step()
            optimizer.step()
            changes.append(handle.sad().total.count)
        return changes

    whole = start()
    expected = train(*whole, range(8))
    first = start()
    train(*first, range(5))
    file = io.BytesIO()
    torch.save([part.state_dict() for part in first], file)
    file.seek(0)
    second = start()
    for part, state in zip(second, torch.load(file, weights_only=True)):
        part.load_state_dict(state)
    assert train(*second, range(5, 8)) == expected[5:]
    for a, b in zip(second[0].state_dict().values(), whole[0].state_dict().values()):
        assert torch.equal(a, b)


def test_bf16_autocast_keeps_zeros_and_float32_gradients() -> None:
    model, handle = sparse()
    x, y = batch(2)
    with torch.autocast("cpu", torch.bfloat16):
        loss = nn.functional.cross_entropy(model(x).float(), y)
    loss.backward()
    handle.step()
    weight = model[0].parametrizations.weight.original
    assert weight.dtype == weight.grad.dtype == torch.float32
    assert (model[0].weight != 0).sum() == weight.numel() // 4


def test_a_copy_of_the_model_computes_the_same() -> None:
    model, _ = sparse()
    assert torch.equal(copy.deepcopy(model)(batch(1)[0]), model(batch(1)[0]))
