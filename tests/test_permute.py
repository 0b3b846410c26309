"""Channel permutation: the network stays the same, N:M keeps more, and what is tied together moves together."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn

from jettison import zoo
from jettison.errors import FormatError
from jettison.formats import NM, Dense
from jettison.methods import Select, nm_mask, permute_
from jettison.methods.permute import kept, search

torch.set_num_threads(1)


class Tangle(nn.Module):
    """Everything that ties or fixes channels, once."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        conv, norm = nn.Conv2d, nn.BatchNorm2d
        self.stem, self.stem_norm = conv(3, 16, 3, padding=1), norm(16)
        self.expand, self.depthwise, self.project = conv(16, 32, 1), conv(32, 32, 3, padding=1, groups=32), conv(32, 16, 1)
        self.expand_norm = norm(32)
        self.before, self.grouped, self.after = conv(16, 16, 1), conv(16, 16, 3, padding=1, groups=2), conv(16, 16, 1)
        self.left, self.right, self.after_concat = conv(16, 8, 1), conv(16, 8, 1), conv(16, 16, 3)
        self.gate, self.twice, self.hidden, self.head = conv(16, 16, 1), nn.Linear(16, 16), nn.Linear(16, 32), nn.Linear(32, 4)
        self.scale = nn.LayerNorm(16)
        for m in self.modules():
            if isinstance(m, norm):
                nn.init.uniform_(m.weight)
                nn.init.normal_(m.bias)
                nn.init.normal_(m.running_mean)
                nn.init.uniform_(m.running_var, 0.5, 2)
            elif isinstance(m, nn.LayerNorm):
                nn.init.uniform_(m.weight)
                nn.init.normal_(m.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem_norm(self.stem(x)).relu()
        x = x + self.project(self.depthwise(self.expand_norm(self.expand(x)).relu()))  # the residual stream moves as one
        x = x * self.gate(x.mean((2, 3), keepdim=True)).sigmoid()
        x = self.after(self.grouped(self.before(x)))
        x = self.after_concat(torch.cat([self.left(x), self.right(x)], 1))
        x = self.scale(x.mean((2, 3)))
        x = self.twice(self.twice(x).tanh())
        return self.head(self.hidden(x).relu())


def outputs(model: nn.Module, shape: tuple[int, ...]) -> Tensor:
    with torch.inference_mode():
        return model.eval()(torch.randn(3, *shape, generator=torch.Generator().manual_seed(7)))


def kept_share(model: nn.Module, names: set[str], fmt: NM) -> float:
    weights = [model.get_submodule(n).weight.detach().abs() for n in names]
    return float(sum((w * nm_mask(w, fmt.n, fmt.m)).sum() for w in weights) / sum(w.sum() for w in weights))


@pytest.mark.parametrize("fmt", [NM(2, 4), NM(1, 8)])
def test_the_network_is_the_same_and_pruning_keeps_more(fmt: NM) -> None:
    model = Tangle()
    weights = {k: v.clone() for k, v in model.state_dict().items()}
    before = outputs(model, (3, 8, 8))
    done = permute_(model, (3, 8, 8), fmt)
    torch.testing.assert_close(outputs(model, (3, 8, 8)), before, atol=1e-5, rtol=1e-4)
    assert {frozenset(p.readers) for p in done} == {
        frozenset({"expand", "gate", "before"}), frozenset({"project"}), frozenset({"left", "right"}), frozenset({"twice", "hidden"})
    }  # fmt: skip
    for p in done:
        assert p.kept_after >= p.kept_before
        assert p.kept_after == pytest.approx(kept_share(model, set(p.readers), fmt), abs=1e-5)
    for name in ("before.bias", "grouped.weight", "left.bias", "right.bias", "head.bias"):
        assert torch.equal(model.state_dict()[name], weights[name])


def test_shortcuts_that_pad_channels_fix_the_residual_stream() -> None:
    torch.manual_seed(0)
    model = zoo.build("resnet20_cifar", num_classes=10)
    before = outputs(model, (3, 32, 32))
    done = permute_(model, (3, 32, 32), NM(1, 16))
    torch.testing.assert_close(outputs(model, (3, 32, 32)), before, atol=1e-4, rtol=1e-3)
    assert sorted(name for p in done for name in p.readers) == [f"layer{i}.{j}.conv2" for i in (1, 2, 3) for j in range(3)]
    assert all(p.kept_after > p.kept_before for p in done if p.channels > 16)  # one group of 16 has no other group to swap with


def test_normalization_inside_a_larger_module_is_found() -> None:
    """timm's BatchNormAct2d."""
    torch.manual_seed(0)
    model = zoo.build("timm:efficientnet_lite0", num_classes=10, image_size=32)
    before = outputs(model, (3, 32, 32))
    done = permute_(model, (3, 32, 32), NM(1, 8), Select(exclude=("blocks.[2-6]*", "conv_head")))
    torch.testing.assert_close(outputs(model, (3, 32, 32)), before, atol=1e-4, rtol=1e-3)
    assert {"blocks.1.0.conv_pwl", "blocks.1.1.conv_pw", "blocks.1.1.conv_pwl"} <= {name for p in done for name in p.readers}


def test_swapping_goes_on_until_no_swap_gains() -> None:
    for seed, (n, m, c) in enumerate(((1, 2, 8), (2, 4, 8), (1, 4, 12), (3, 4, 8))):
        rows = torch.rand(20, c, generator=torch.Generator().manual_seed(seed)) ** 3
        order = search(rows, n, m)
        assert sorted(order.tolist()) == list(range(c))
        found = kept(rows[:, order], n, m)
        assert found > kept(rows, n, m)
        for i, j in itertools.combinations(range(c), 2):
            other = order.clone()
            other[[i, j]] = other[[j, i]]
            assert kept(rows[:, other], n, m) <= found * (1 + 1e-5)


def test_a_small_problem_is_solved() -> None:
    """Two strong and two weak channels, strong ones side by side: 1:2 wants one of each in a group."""
    rows = torch.tensor([[3.0, 2.9, 0.1, 0.2], [2.8, 3.1, 0.2, 0.1]])
    order = search(rows, 1, 2).tolist()
    assert {frozenset(order[:2]), frozenset(order[2:])} in ({frozenset({0, 2}), frozenset({1, 3})}, {frozenset({0, 3}), frozenset({1, 2})})
    assert search(rows, 2, 2).tolist() == [0, 1, 2, 3]


def test_what_cannot_be_permuted_is_refused() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2))
    with pytest.raises(FormatError, match="for N:M, not for dense"):
        permute_(model, (4,), Dense())  # type: ignore[arg-type]
    with pytest.raises(FormatError, match="no layer is left"):
        permute_(model, (4,), NM(1, 4), Select(exclude=("0",)))
