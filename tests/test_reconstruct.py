"""Post-training pruning: the best weights in the pattern for the given images, without labels or training."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from jettison import zoo
from jettison.compression import Settings, calibration_images, compress
from jettison.errors import FormatError
from jettison.formats import NM, Dense
from jettison.methods import ASP, Select, are_of_no_data, match_statistics_, nm_mask, reconstruct_, sparsify_, take_statistics_
from jettison.methods.mask import to_krsc
from jettison.methods.reconstruct import BATCH, pruned
from jettison.training.data import load

torch.set_num_threads(1)
EVERY = Select(stem=True, classifier=True, grouped=True)


def correlated(n: int, *shape: int) -> Tensor:
    """Images whose channels predict each other, as those of real layers do."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(n, *shape, generator=g)
    mix = torch.randn(shape[0], shape[0], generator=g) / 2 + torch.eye(shape[0])
    return torch.einsum("ij,nj...->ni...", mix, x)


def test_refitted_weights_are_the_least_squares_solution() -> None:
    """Of each row on its kept positions, computed one by one."""
    g = torch.Generator().manual_seed(1)
    w, x = torch.randn(1, 6, 16, generator=g), correlated(200, 16).t()
    other = x + 0.3 * torch.randn(16, 200, generator=g)  # what earlier pruned layers would give
    h, c = (other @ other.t())[None] / 200, (x @ other.t())[None] / 200
    out = pruned(w, h, c, NM(1, 4))[0]
    assert NM(1, 4).satisfied(out[:, None, None].numpy())
    damping = 0.01 * h[0].diagonal().mean()
    hd, cd = h[0] + damping * torch.eye(16), c[0] + damping * torch.eye(16)
    for row, before in zip(out, w[0]):
        kept = row != 0
        expected = torch.linalg.solve(hd[kept][:, kept].double(), (before @ cd)[kept].double())
        torch.testing.assert_close(row[kept].double(), expected, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(8, 12, 3, padding=1),
        nn.Conv2d(8, 6, (1, 3), stride=(2, 1), padding="valid", dilation=(1, 2)),
        nn.Conv2d(8, 8, 3, padding=(2, 1), groups=2, padding_mode="reflect"),
        nn.Linear(8, 5),
    ],
)
@pytest.mark.parametrize("fmt", [NM(2, 4), NM(1, 4)])
def test_a_layer_comes_closer_to_the_dense_one_than_by_magnitude(layer: nn.Module, fmt: NM) -> None:
    torch.manual_seed(0)
    layer.reset_parameters()  # type: ignore[operator]
    x = correlated(48, 8, 7, 6)
    x = x.movedim(1, -1) if isinstance(layer, nn.Linear) else x
    fitted, magnitude = copy.deepcopy(layer), copy.deepcopy(layer)
    assert reconstruct_(fitted, x, fmt, EVERY) == {"": fmt}
    sparsify_(magnitude, fmt, ASP(retrain=False), EVERY)
    assert fmt.satisfied(to_krsc(fitted.weight))
    with torch.no_grad():
        ours, theirs = ((net(x) - layer(x)).square().mean() for net in (fitted, magnitude))
    assert ours < 0.9 * theirs


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.norm = nn.Conv2d(8, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.twice, self.unused, self.head = nn.Conv2d(16, 16, 3, padding=1), nn.Linear(16, 16), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.stem(x)).relu()
        x = self.twice(self.twice(x).relu()).relu()
        return self.head(x.mean((2, 3)))


def test_a_whole_network_in_running_order() -> None:
    model = Net()
    x = correlated(64, 8, 6, 6)
    model.norm.momentum = None
    model(x)  # batch statistics
    dense = copy.deepcopy(model).eval()
    magnitude = copy.deepcopy(dense)
    sparsify_(magnitude, NM(2, 4), ASP(retrain=False))
    seen: list[str] = []
    formats = reconstruct_(model, x, NM(2, 4), tell=lambda name, done, count: seen.append(f"{name} {done}/{count}"))
    assert formats == dict.fromkeys(("stem", "twice", "unused"), NM(2, 4))
    assert seen == ["stem 0/2", "twice 1/2"]
    assert not model.training and type(model.stem) is nn.Conv2d
    for name in formats:
        assert NM(2, 4).satisfied(to_krsc(model.get_submodule(name).weight))
    with torch.no_grad():
        fresh = correlated(80, 8, 6, 6)[64:]
        ours, theirs = ((net(fresh) - dense(fresh)).square().mean() for net in (model, magnitude))
    assert ours < 0.6 * theirs
    assert torch.equal(model.head.weight, dense.head.weight)
    assert torch.equal(model.unused.weight, dense.unused.weight * nm_mask(dense.unused.weight, 2, 4))


def normed(folded: bool) -> nn.Sequential:
    """Two BatchNorms that standardise what they get; folded: the same network with running statistics 0 and 1."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(8, 16, 1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 1), nn.BatchNorm2d(16))
    for norm in (model[1], model[4]):
        norm.momentum = None
    model(3 + correlated(500, 8, 5, 5))
    for norm in (model[1], model[4]) if folded else ():
        with torch.no_grad():
            scale = norm.weight / (norm.running_var + norm.eps).sqrt()
            norm.bias.sub_(norm.running_mean * scale)
            norm.weight.copy_(scale * (1 + norm.eps) ** 0.5)
        norm.reset_running_stats()
    return model.eval()


@pytest.mark.parametrize("folded", [False, True])
def test_statistics_become_those_of_the_dense_network(folded: bool) -> None:
    """Also where the running statistics are those of no data, in which case re-estimation would change the network."""
    model, dense = normed(folded), normed(folded)
    x = 3 + correlated(64, 8, 5, 5)
    sparsify_(model, NM(1, 4), ASP(retrain=False), EVERY)
    with torch.no_grad():
        assert (model(x).std((0, 2, 3)) / dense(x).std((0, 2, 3)) - 1).abs().max() > 0.1
        match_statistics_(model, dense, [x])
        for depth in (2, 5):
            ours, theirs = model[:depth](x), dense[:depth](x)
            torch.testing.assert_close(ours.mean((0, 2, 3)), theirs.mean((0, 2, 3)), rtol=1e-3, atol=1e-3)
            torch.testing.assert_close(ours.var((0, 2, 3)), theirs.var((0, 2, 3)), rtol=1e-3, atol=1e-3)
        again = copy.deepcopy(model)
        match_statistics_(again, model, list(x.split(16)))  # nothing was pruned: nothing changes, in how many batches ever
    for name, tensor in again.state_dict().items():
        torch.testing.assert_close(tensor, model.state_dict()[name], rtol=1e-4, atol=1e-5)


def test_folded_statistics_are_taken_anew_before_training_and_the_network_stays_as_it_is() -> None:
    model, x = normed(folded=True), 3 + correlated(64, 8, 5, 5)
    assert are_of_no_data(model) and not are_of_no_data(normed(folded=False))
    with torch.no_grad():
        before = model(x)
        assert (model.train()(x) - before).abs().max() > before.std()  # training would have begun from something else
        model = normed(folded=True)
        take_statistics_(model, x.split(16))
        torch.testing.assert_close(model(x), before, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(model.train()(x), before, rtol=1e-3, atol=1e-3)
    assert not are_of_no_data(model)


def test_statistics_of_constant_channels_stay_finite() -> None:
    dense = nn.Sequential(nn.Conv2d(4, 2, 1), nn.BatchNorm2d(2)).eval()
    model = copy.deepcopy(dense)
    with torch.no_grad():
        model[0].weight[0] = 0
    match_statistics_(model, dense, [correlated(16, 4, 3, 3)])
    out = model(correlated(16, 4, 3, 3))
    assert out.isfinite().all()
    torch.testing.assert_close(out[:, 0].mean(), dense(correlated(16, 4, 3, 3))[:, 0].mean(), rtol=1e-4, atol=1e-5)


def test_dead_inputs_and_bad_images() -> None:
    layer = nn.Linear(8, 4)
    x = torch.randn(40, 8)
    x[:, 3] = 0
    reconstruct_(layer, x, NM(1, 4), EVERY)
    assert layer.weight.isfinite().all() and NM(1, 4).satisfied(to_krsc(layer.weight))
    for images, words in ((torch.full((4, 8), torch.nan), "not finite"), (x[:0], "got none")):
        with pytest.raises(FormatError, match=words):
            reconstruct_(nn.Linear(8, 4), images, NM(1, 4), EVERY)
    with pytest.raises(FormatError, match="not in dense"):
        reconstruct_(nn.Linear(8, 4), x, Dense(), EVERY)  # type: ignore[arg-type]


def test_compress_matches_the_statistics_where_no_training_follows(tmp_path: Path) -> None:
    torch.manual_seed(0)
    dense = zoo.build("resnet20_cifar", num_classes=10, in_channels=1)
    save_file(dense.state_dict(), tmp_path / "w.safetensors")
    data = load("digits")
    settings = Settings("resnet20_cifar", "1:4", "asp", weights=str(tmp_path / "w.safetensors"), epochs=0, calibrate=64)
    result = compress(settings, data, tmp_path / "state", progress=False)
    expected = copy.deepcopy(dense)
    sparsify_(expected, NM(1, 4), ASP(retrain=False))
    match_statistics_(expected, dense, torch.from_numpy(calibration_images(data, 64, settings.seed)).split(BATCH))
    for name, tensor in expected.state_dict().items():
        torch.testing.assert_close(result.weights[name], tensor, rtol=1e-4, atol=1e-5)
    assert expected.layer1[0].bn2.running_var.mean() < 0.9 * dense.layer1[0].bn2.running_var.mean()  # type: ignore[operator, union-attr]
