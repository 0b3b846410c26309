"""Every PyTorch operation that export supports: the exported graph computes what the module computes."""

from __future__ import annotations

import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")
import torch.nn.functional as F  # noqa: E402
from torch import nn  # noqa: E402

from jettison import reference  # noqa: E402
from jettison.export import export  # noqa: E402
from jettison.graph import Graph  # noqa: E402
from jettison.spec import check  # noqa: E402


class Does(nn.Module):
    """A module from a function of its input, for operations without a module."""

    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, *xs):
        return self.function(*xs)


def images(*shapes: tuple[int, ...], batch: int = 3) -> list[torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    return [torch.randn(batch, *shape, generator=g) for shape in shapes]


def agree(model, *shapes: tuple[int, ...], tolerance: float = 1e-5) -> Graph:
    """Export with a batch of two, run with three; compare every output."""
    model = (model if isinstance(model, nn.Module) else Does(model)).eval()
    graph = check(export(model, tuple(images(*shapes, batch=2))))
    xs = images(*shapes)
    with torch.no_grad():
        want, _ = torch.utils._pytree.tree_flatten(model(*xs))
    got = reference.run(graph, *(x.numpy() for x in xs))
    assert len(got) == len(want)
    for g, w in zip(got, want):
        w = w.numpy()
        assert g.shape == w.shape or w.ndim == 1
        assert np.abs(g.reshape(w.shape) - w).max() <= tolerance * np.abs(w).max()
    return graph


def kinds(graph: Graph) -> list[str]:
    return [op.kind for op in graph.ops]


IMAGE = (6, 9, 7)

CONVS = {
    "plain": nn.Conv2d(6, 8, 3),
    "strided": nn.Conv2d(6, 8, 3, stride=(2, 1), padding=(1, 2), bias=False),
    "dilated": nn.Conv2d(6, 8, 3, dilation=(2, 1), padding=2),
    "grouped": nn.Conv2d(6, 9, 3, groups=3, padding=1),
    "depthwise": nn.Conv2d(6, 12, 5, groups=6, padding=2),
    "same": nn.Conv2d(6, 4, (4, 2), dilation=(1, 3), padding="same"),
    "valid": nn.Conv2d(6, 4, 2, padding="valid"),
}


@pytest.mark.parametrize("conv", CONVS.values(), ids=CONVS)
def test_conv(conv):
    assert kinds(agree(conv, IMAGE)) == ["conv"]


@pytest.mark.parametrize("shape", [(6,), (5, 6), (4, 5, 6)])
def test_linear_on_rank_2_to_4(shape):
    agree(nn.Linear(6, 5), shape)


def test_linear_written_as_matrix_products():
    w, b = torch.randn(6, 4), torch.randn(4)
    assert kinds(agree(lambda x: x @ w + b, (6,))) == ["linear"]
    agree(lambda x: torch.addmm(b, x, w), (6,))
    agree(lambda x: torch.matmul(x, w), (5, 6))


MODULES = {
    "batch norm": nn.BatchNorm2d(6),
    "batch norm without affine": nn.BatchNorm2d(6, affine=False),
    "group norm": nn.GroupNorm(3, 6),
    "layer norm of images": nn.LayerNorm((6, 9, 7)),
    "max pool": nn.MaxPool2d(3, 2, 1),
    "max pool, ceil": nn.MaxPool2d(2, 2, ceil_mode=True),
    "max pool, ceil, last window dropped": nn.MaxPool2d(2, 3, 1, ceil_mode=True),
    "avg pool": nn.AvgPool2d((3, 2), (2, 1), (1, 1)),
    "avg pool, ceil": nn.AvgPool2d(3, 2, 1, ceil_mode=True),
    "avg pool, ceil, padding left out": nn.AvgPool2d(3, 2, 1, ceil_mode=True, count_include_pad=False),
    "avg pool, divisor": nn.AvgPool2d(3, 2, 1, ceil_mode=True, divisor_override=5),
    "global avg pool": nn.AdaptiveAvgPool2d(1),
    "adaptive avg pool": nn.AdaptiveAvgPool2d((4, 3)),
    "adaptive avg pool, one side": nn.AdaptiveAvgPool2d((None, 2)),
    "global max pool": nn.AdaptiveMaxPool2d(1),
    "adaptive max pool": nn.AdaptiveMaxPool2d((3, 1)),
    "nearest by 2": nn.Upsample(scale_factor=2),
    "nearest by 1.5": nn.Upsample(scale_factor=1.5),
    "nearest to a size": nn.Upsample(size=(5, 13)),
    "bilinear by 2": nn.Upsample(scale_factor=2, mode="bilinear"),
    "bilinear by factors": nn.Upsample(scale_factor=(1.7, 0.8), mode="bilinear"),
    "bilinear to a size": nn.Upsample(size=(5, 13), mode="bilinear"),
    "bilinear, corners": nn.Upsample(size=(5, 13), mode="bilinear", align_corners=True),
    "dropout": nn.Sequential(nn.Dropout(), nn.Dropout2d(), nn.Identity(), nn.Sigmoid()),
    "channel shuffle": nn.ChannelShuffle(3),
    "pixel shuffle": nn.Sequential(nn.Conv2d(6, 12, 1), nn.PixelShuffle(2)),
    "pixel unshuffle": nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), nn.PixelUnshuffle(2)),
    "flatten": nn.Flatten(),
    "unflatten": nn.Unflatten(1, (2, 3)),
    "softmax of channels": nn.Softmax(1),
    "softmax of columns": nn.Softmax(-1),
    "negative padding": nn.ZeroPad2d((-1, 2, 1, -2)),
    "constant padding": nn.ConstantPad2d((1, 2, 0, 1), 0.5),
    "shared module": nn.Sequential(*[nn.Conv2d(6, 6, 3, padding=1)] * 3),
}


@pytest.mark.parametrize("module", MODULES.values(), ids=MODULES)
def test_module(module):
    for norm in (m for m in module.modules() if hasattr(m, "reset_parameters") and not isinstance(m, nn.Conv2d)):
        for p in norm.parameters():
            nn.init.normal_(p)
    if isinstance(module, nn.BatchNorm2d):
        module.running_mean.normal_()
        module.running_var.uniform_(0.5, 2)
    agree(module, IMAGE)


ACTIVATIONS = {
    "relu": nn.ReLU(),
    "relu6": nn.ReLU6(inplace=True),
    "silu": nn.SiLU(),
    "hardswish": nn.Hardswish(),
    "hardsigmoid": nn.Hardsigmoid(),
    "gelu": nn.GELU(),
    "gelu_tanh": nn.GELU(approximate="tanh"),
    "sigmoid": nn.Sigmoid(),
    "tanh": nn.Tanh(),
    "leaky_relu": nn.LeakyReLU(0.2),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation_is_fused_into_the_layer_before(name):
    graph = agree(nn.Sequential(nn.Conv2d(6, 5, 1), ACTIVATIONS[name]), IMAGE)
    assert [(op.kind, op.attrs["act"]) for op in graph.ops] == [("conv", name)]


SPELLED = {
    "silu": [lambda x: x * torch.sigmoid(x), lambda x: x.sigmoid().mul(x)],
    "hardsigmoid": [lambda x: F.relu6(x + 3) / 6, lambda x: (x + 3).clamp(0, 6) / 6, lambda x: F.hardtanh(3 + x, 0, 6) * (1 / 6)],
    "hardswish": [lambda x: x * F.relu6(x + 3) / 6, lambda x: x * (F.relu6(x + 3.0) / 6.0), lambda x: x * F.hardsigmoid(x)],
    "gelu": [
        lambda x: 0.5 * x * (1 + torch.erf(x / math.sqrt(2))),
        lambda x: x * 0.5 * (1.0 + torch.erf(x * 0.7071067811865476)),
        lambda x: x * (torch.erf(x / 1.41421) + 1.0) * 0.5,
    ],
    "gelu_tanh": [lambda x: 0.5 * x * (1 + torch.tanh(0.7978845608 * (x + 0.044715 * x**3)))],
    "relu": [lambda x: x.clamp(min=0), lambda x: torch.clamp_min(x, 0)],
    "relu6": [lambda x: torch.clamp(x, 0, 6)],
}


@pytest.mark.parametrize("name,spelling", [(n, s) for n, spellings in SPELLED.items() for s in spellings])
def test_activation_written_out_is_recognised(name, spelling):
    graph = agree(spelling, IMAGE)
    assert [(op.kind, op.attrs["act"]) for op in graph.ops] == [("act", name)]


def test_clamps_between_any_bounds():
    agree(lambda x: x.clamp(-0.5, 0.7), IMAGE)
    agree(lambda x: x.clamp(min=-0.5), IMAGE)
    agree(lambda x: x.clamp(max=0.7), IMAGE)


@pytest.mark.parametrize("bounds", [(-1e4, 1e4), (-65504.0, 1.0), (-0.5, 1e6), (-1e4, None), (None, 1e4)])
def test_a_bound_far_away_costs_no_digits(bounds):
    graph = agree(lambda x: x.clamp(*bounds), IMAGE)
    x = np.random.default_rng(0).standard_normal((2, *IMAGE)).astype(np.float32)
    np.testing.assert_allclose(reference.run(graph, x)[0], np.clip(x, *bounds), rtol=1e-6, atol=0)


def test_arithmetic_with_numbers_and_constants():
    per_channel, map_, embedding = torch.rand(6, 1, 1) + 0.5, torch.randn(9, 7), torch.randn(1, 6, 9, 7)
    agree(lambda x: (x + 1) * 2 - 0.5, IMAGE)
    agree(lambda x: (1 - x) / 4, IMAGE)
    agree(lambda x: -(per_channel - x) / per_channel, IMAGE)
    assert kinds(agree(lambda x: x * per_channel + per_channel, IMAGE)) == ["affine"]
    agree(lambda x: x * map_ + embedding, IMAGE)
    agree(lambda x: torch.add(x, per_channel, alpha=3), IMAGE)
    agree(lambda x: torch.rsub(x, 2.0, alpha=3), IMAGE)


def test_arithmetic_of_two_tensors_repeats_the_smaller():
    agree(lambda x, y: x - 2 * y, IMAGE, IMAGE)
    agree(lambda x, y: y * x + y, (6, 1, 1), IMAGE)
    agree(lambda x, y: x * y[:, :, None, None].expand_as(x), IMAGE, (6,))
    agree(lambda x: x * x.mean(dim=1, keepdim=True), IMAGE)
    agree(lambda x, y: (x.expand(-1, -1, 9, 7) * y.expand(-1, -1, 9, 7)).flatten(1), (6, 1, 1), (6, 1, 1))
    agree(lambda x, y: x.expand(-1, -1, 9, 7) + y, (6, 1, 1), (6, 1, 1))
    agree(lambda x, y: x.expand(-1, -1, -1, 7) * y.expand(-1, -1, 9, -1), (6, 9, 1), (6, 1, 7))
    agree(lambda x: x * x.mean((2, 3)).view(-1, 6, 1, 1).sigmoid(), IMAGE)
    agree(lambda x: torch.cat([x, x.mean((2, 3), True).expand(-1, -1, 9, 7)], 1), IMAGE)


MOVES = {
    "cat": lambda x: torch.cat([x, x.relu(), x[:, :2]], dim=1),
    "cat of rows": lambda x: torch.cat([x, x[:, :, 2:5]], dim=-2),
    "stack": lambda x: torch.stack([x.mean((2, 3)), x.relu().mean((2, 3))], dim=1),
    "slice": lambda x: x[:, 1:5:2, 2:, :-1],
    "select": lambda x: x[:, 2] + x[:, :, -1].mean(-1, keepdim=True).mean(1, keepdim=True),
    "narrow": lambda x: x.narrow(2, 1, 4),
    "chunk": lambda x: x.chunk(4, dim=1)[1] * 2,
    "split": lambda x: tuple(part + 1 for part in x.split([1, 2, 3], dim=1)),
    "split evenly": lambda x: x.split(4, dim=-1)[1],
    "unbind": lambda x: x.unbind(2)[3] + x.unbind(-1)[0].mean(2, keepdim=True),
    "pad channels": lambda x: F.pad(x, (0, 0, 0, 0, 2, 1)),
    "mean of channels": lambda x: x.mean(1),
    "mean of everything": lambda x: x.mean((1, 2, 3)),
    "tokens": lambda x: x.flatten(2).transpose(1, 2),
    "tokens and back": lambda x: x.flatten(2).permute(0, 2, 1).relu().transpose(1, 2).reshape(-1, 6, 9, 7),
    "view by columns": lambda x: x.view(x.size(0), 6, 63).mean(2),
    "view across channels": lambda x: x.reshape(x.shape[0], 2, 27, 7).mean((2, 3)),
    "squeeze": lambda x: x.mean((2, 3), keepdim=True).squeeze(-1).squeeze(2),
    "unsqueeze": lambda x: x.mean(2).unsqueeze(3).sigmoid(),
    "shuffle": lambda x: x.view(x.shape[0], 2, 3, 9, 7).transpose(1, 2).contiguous().view(x.shape[0], 6, 9, 7),
    "swapped rows and columns": lambda x: x.transpose(2, 3).relu(),
    "to float": lambda x: x.to(torch.float32).clone().detach().contiguous(memory_format=torch.channels_last),
}


@pytest.mark.parametrize("move", MOVES.values(), ids=MOVES)
def test_moving_data(move):
    agree(move, IMAGE)


def test_a_channel_shuffle_is_one_op():
    assert kinds(agree(MOVES["shuffle"], IMAGE)) == ["channel_shuffle"]


class Block(nn.Module):
    """ConvNeXt's: depthwise conv, permute, LayerNorm, two linears, layer scale, permute back, add."""

    def __init__(self) -> None:
        super().__init__()
        self.dw, self.norm = nn.Conv2d(6, 6, 7, padding=3, groups=6), nn.LayerNorm(6)
        self.up, self.down, self.gamma = nn.Linear(6, 24), nn.Linear(24, 6), nn.Parameter(torch.rand(6))

    def forward(self, x):
        y = self.norm(self.dw(x).permute(0, 2, 3, 1))
        return x + (self.gamma * self.down(F.gelu(self.up(y)))).permute(0, 3, 1, 2)


def test_permuting_to_channels_last_and_back_costs_nothing():
    graph = agree(Block(), IMAGE)
    assert kinds(graph) == ["conv", "layer_norm", "linear", "linear"]
    assert [op.name for op in graph.ops] == ["dw", "norm", "up", "down"]
    assert len(graph.ops[-1].inputs) == 2  # the residual


class ChannelNorm(nn.Module):
    """LayerNorm over channels as ConvNeXt's authors write it."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.rand(6)), nn.Parameter(torch.rand(6))

    def forward(self, x):
        u = x.mean(1, keepdim=True)
        s = (x - u).pow(2).mean(1, keepdim=True)
        return self.weight[:, None, None] * ((x - u) / torch.sqrt(s + 1e-2)) + self.bias[:, None, None]


def test_layer_norm_over_channels_written_out():
    assert kinds(agree(ChannelNorm(), IMAGE)) == ["layer_norm", "affine"]


def test_flattening_an_image_keeps_pytorchs_order_and_costs_nothing():
    graph = agree(nn.Sequential(nn.Conv2d(6, 5, 3), nn.Flatten(), nn.Dropout(), nn.Linear(175, 4)), IMAGE)
    assert kinds(graph) == ["conv", "reshape", "linear"]


def test_in_place_operations_that_others_see():
    def read_after(x):
        y = x * 2
        z = y.relu_()
        return y + z

    agree(read_after, IMAGE)


def test_several_inputs_and_outputs_of_any_structure():
    def detector(x, y):
        a = torch.cat([x, y], 1)
        return {"boxes": [a.flatten(2).transpose(1, 2), a], "scores": a.mean((2, 3)), "rows": a.permute(0, 2, 3, 1), "same": x}

    graph = agree(detector, IMAGE, (2, 9, 7))
    assert len(graph.inputs) == 2
    assert len(graph.outputs) == 5


def test_parametrized_weights_and_constant_arithmetic_are_computed_once():
    conv = nn.utils.parametrizations.weight_norm(nn.Conv2d(6, 4, 3))
    graph = agree(conv, IMAGE)
    assert kinds(graph) == ["conv"]


def test_half_precision_checkpoints_run_in_float32():
    model = nn.Sequential(nn.Conv2d(6, 4, 3), nn.BatchNorm2d(4)).half()
    graph = export(model, IMAGE)
    assert model[0].weight.dtype == torch.float16
    x = images(IMAGE)[0]
    want = model.float().eval()(x).detach().numpy()
    assert np.abs(reference.run(graph, x.numpy())[0] - want).max() <= 1e-5 * np.abs(want).max()
