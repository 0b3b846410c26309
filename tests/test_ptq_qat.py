"""Training with int8's rounding: what the layers compute, what is left afterwards, with and without a sparsity method."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

from jettison import compression, ptq, reference  # noqa: E402
from jettison.errors import QuantizationError  # noqa: E402
from jettison.export import export  # noqa: E402
from jettison.formats import NM, Dense  # noqa: E402
from jettison.methods import ASP, SRSTE, sparsify_  # noqa: E402
from jettison.methods.qat import quantize_aware_  # noqa: E402
from jettison.training.data import load  # noqa: E402

NET = """
from torch import nn

def net(num_classes=10, in_channels=1):
    return nn.Sequential(
        nn.Conv2d(in_channels, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1, groups=2), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, num_classes),
    )
"""


def net() -> nn.Module:
    torch.manual_seed(0)
    scope: dict = {}
    exec(NET, scope)
    return scope["net"]()


def train(model, handle=None, steps=5, rate=0.05):
    optimizer = torch.optim.SGD(model.parameters(), rate)
    losses = []
    x, y = torch.randn(32, 1, 8, 8), torch.randint(0, 10, (32,))
    for _ in range(steps):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        if handle is not None:
            handle.step()
        optimizer.step()
        losses.append(loss.item())
    return losses


def test_the_loss_falls_and_plain_parameters_are_left():
    model, keys = net(), list(net().state_dict())
    handle = quantize_aware_(model)
    losses = train(model.train(), steps=40, rate=0.5)
    handle.finish()
    handle.finish()
    assert losses[-1] < 0.8 * losses[0]
    assert sorted(model.state_dict()) == sorted(keys)


def test_weights_end_on_the_grid_that_post_training_quantisation_uses():
    model = net()
    handle = quantize_aware_(model)
    train(model.train())
    handle.finish()
    graph = export(model.eval(), (1, 8, 8))
    x = np.random.default_rng(0).standard_normal((64, 1, 8, 8)).astype(np.float32)
    q = ptq.quantize(graph, x, bias_correction=False)
    for op in q.ops:
        if op.element == "i8":
            exact = graph.weight(next(o for o in graph.ops if o.name == op.name))
            scale = np.abs(exact).max(axis=(1, 2, 3), keepdims=True) / 127
            np.testing.assert_allclose(q.weight(op) * scale, exact, atol=2e-6 * np.abs(exact).max())


def test_the_model_trains_with_what_int8_will_compute():
    model = net()
    handle = quantize_aware_(model)
    train(model.train(), steps=20)
    x = torch.randn(64, 1, 8, 8)
    with torch.no_grad():
        rounded = model.eval()(x).numpy()
    handle.finish()
    q = ptq.quantize(export(model.eval(), (1, 8, 8)), x.numpy(), "minmax", bias_correction=False)
    int8 = reference.run(q, x.numpy())[0]
    assert np.abs(rounded - int8).max() < 0.1 * np.abs(rounded).max()


@pytest.mark.parametrize("method", [SRSTE(), ASP(retrain=True)], ids=lambda m: m.kind)
@pytest.mark.parametrize("first", ["rounding", "sparsity"])
def test_patterns_survive_whoever_finishes_first(method, first):
    model = net()
    sparsity = sparsify_(model, NM(1, 4), method, remainder="dense")
    rounding = quantize_aware_(model)
    train(model.train(), sparsity)
    for handle in (rounding, sparsity) if first == "rounding" else (sparsity, rounding):
        handle.finish()
    formats = sparsity.finish()
    q = ptq.quantize(export(model.eval(), (1, 8, 8), formats), torch.randn(32, 1, 8, 8).numpy())
    assert NM(1, 4) in {op.format for op in q.ops if op.element == "i8"}


def test_inputs_outside_the_range_give_no_gradient_and_evaluation_moves_no_bounds():
    layer = nn.Linear(4, 4)
    quantize_aware_(layer)
    layer.train()(torch.tensor([[-1.0, 0.0, 0.5, 1.0]]))
    layer.eval()
    bounds = layer.input_rounding.low.item(), layer.input_rounding.high.item()
    x = torch.tensor([[-9.0, 0.1, 0.5, 9.0]], requires_grad=True)
    layer(x).sum().backward()
    assert (layer.input_rounding.low.item(), layer.input_rounding.high.item()) == bounds == (-1.0, 1.0)
    assert x.grad[0, 0] == x.grad[0, 3] == 0 and x.grad[0, 1] != 0


def test_the_whole_job_with_patterns_and_rounding(tmp_path: Path):
    (tmp_path / "net.py").write_text(NET)
    settings = compression.Settings(
        f"{tmp_path / 'net.py'}:net", "1:4", dense_epochs=2, epochs=1, element="int8", calibrate=64, qat_epochs=1, remainder="dense"
    )
    data = load("digits")
    result = compression.compress(settings, data, tmp_path / "state", progress=False)
    assert list(result.history) == ["dense", "sparse", "qat"] and len(result.history["qat"]) == 1
    assert list(result.graphs) == ["dense", "1:4", "1:4 int8"]
    assert {str(op.format) for op in result.graphs["1:4 int8"].ops if op.element == "i8"} == {"dense", "1:4"}
    again = compression.compress(settings, data, tmp_path / "state", resume=True, progress=False)
    assert all(torch.equal(a, again.weights[k]) for k, a in result.weights.items())


def test_dense_int8_needs_no_pattern_and_rounding_needs_int8():
    compression.Settings("resnet18", "dense", weights="w.pt", epochs=0, element="int8")
    assert compression.Settings("resnet18", "dense", weights="w.pt", element="int8").format == Dense()
    with pytest.raises(QuantizationError, match="element int8"):
        compression.Settings("resnet18", weights="w.pt", qat_epochs=1)
    with pytest.raises(QuantizationError, match="one of f32, int8"):
        compression.Settings("resnet18", weights="w.pt", element="int4")
