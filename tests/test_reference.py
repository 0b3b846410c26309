"""The reference against PyTorch: every kind, every attribute, odd sizes."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from jettison import quantized, reference
from jettison.errors import GraphError, InputError
from jettison.graph import Graph, Op, TensorSpec
from jettison.spec import ACTIVATIONS, KINDS, check, output_shape

torch = pytest.importorskip("torch")
F = torch.nn.functional

N = 2
NO_ACT = {"act": "none", "alpha": 0.0}
PADS = (0, 0, 0, 0)


def tensor(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def stored(x: torch.Tensor) -> np.ndarray:
    """A PyTorch image as it is stored: channels innermost."""
    return x.movedim(1, -1).contiguous().numpy() if x.ndim == 4 else x.numpy()


def agree(kind: str, xs: list[torch.Tensor], attrs: dict, want: torch.Tensor, params: dict | None = None) -> None:
    arrays = [stored(x) for x in xs]
    got = reference.compute(kind, arrays, attrs, params or {})
    want = stored(want)
    assert got.dtype == np.float32
    assert got.shape == want.shape
    assert np.abs(got - want).max() <= 1e-5 * max(1.0, np.abs(want).max())
    assert output_shape(kind, [a.shape[1:] for a in arrays], attrs, "test") == got.shape[1:]


def test_the_reference_has_every_kind_and_activation_of_the_grammar():
    converts = {"quantize", "dequantize"}  # defined, like all u8 arithmetic, in quantized.py
    assert set(reference.OPS) | converts == set(KINDS)
    assert set(quantized.OPS) - {"quantize"} == {kind for kind, row in KINDS.items() if row.quantized}
    assert set(reference.ACTS) == set(ACTIVATIONS)


CONVS = [
    # c, k, kernel, stride, pad (t l b r), dilation, groups
    (3, 8, (3, 3), (1, 1), (1, 1, 1, 1), (1, 1), 1),
    (6, 4, (1, 1), (2, 2), PADS, (1, 1), 1),
    (6, 9, (3, 2), (2, 1), (1, 0, 2, 3), (1, 2), 3),
    (5, 5, (7, 7), (1, 1), (3, 3, 3, 3), (1, 1), 5),
    (4, 8, (3, 3), (2, 2), (2, 2, 2, 2), (2, 2), 4),
]


@pytest.mark.parametrize("case", CONVS)
def test_conv(case):
    c, k, kernel, stride, pad, dilation, groups = case
    x, w, b = tensor(N, c, 11, 9), tensor(k, c // groups, *kernel, seed=1), tensor(k, seed=2)
    top, left, bottom, right = pad
    want = F.conv2d(F.pad(x, (left, right, top, bottom)), w, b, stride, 0, dilation, groups)
    residual = torch.randn_like(want)
    attrs = {"k": k, "kernel": kernel, "stride": stride, "pad": pad, "dilation": dilation, "groups": groups, "act": "relu", "alpha": 0.0}
    params = {"weight": w.permute(0, 2, 3, 1).numpy(), "bias": b.numpy()}
    agree("conv", [x, residual], attrs, F.relu(want + residual), params)


@pytest.mark.parametrize("shape", [(7,), (5, 7), (3, 5, 7)])
def test_linear_works_on_the_last_axis(shape):
    x, w = torch.randn(N, *shape, generator=torch.Generator().manual_seed(0)).numpy(), tensor(4, 7, seed=1)
    got = reference.compute("linear", [x], {"k": 4, "act": "leaky_relu", "alpha": 0.1}, {"weight": w[:, None, None].numpy()})
    want = F.leaky_relu(F.linear(torch.from_numpy(x), w), 0.1).numpy()
    assert np.abs(got - want).max() <= 1e-5


TORCH_ACTS = {
    "none": lambda x: x,
    "relu": F.relu,
    "relu6": F.relu6,
    "silu": F.silu,
    "hardswish": F.hardswish,
    "hardsigmoid": F.hardsigmoid,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "leaky_relu": lambda x: F.leaky_relu(x, 0.2),
}


@pytest.mark.parametrize("act", ACTIVATIONS)
def test_act(act):
    x = torch.cat([torch.linspace(-8, 8, 60), torch.tensor([-1e4, -100.0, 100.0, 1e4])]).reshape(1, -1)
    agree("act", [x], {"act": act, "alpha": 0.2}, TORCH_ACTS[act](x))


@pytest.mark.parametrize("pad", [(0, 0), (1, 2)])
@pytest.mark.parametrize("ceil", [False, True])
@pytest.mark.parametrize("stride", [(1, 1), (2, 3), (4, 4)])
@pytest.mark.parametrize("size", [(9, 11), (10, 7)])
def test_pools(pad, ceil, stride, size):
    x, kernel = tensor(N, 3, *size), (3, 4)
    want = F.max_pool2d(x, kernel, stride, pad, ceil_mode=ceil)
    grown = tuple(pad[i] + max(0, (want.shape[2 + i] - 1) * stride[i] + kernel[i] - size[i] - 2 * pad[i]) for i in (0, 1))
    attrs = {"kernel": kernel, "stride": stride, "pad": (*pad, *grown)}
    agree("max_pool", [x], attrs, want)
    for include, count_pad in ((True, (*pad, *pad)), (False, PADS)):
        want = F.avg_pool2d(x, kernel, stride, pad, ceil_mode=ceil, count_include_pad=include)
        agree("avg_pool", [x], {**attrs, "count_pad": count_pad}, want)


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (7, 7), (9, 20)])
def test_adaptive_avg_pool(size):
    x = tensor(N, 3, 9, 13)
    agree("adaptive_avg_pool", [x], {"size": size}, F.adaptive_avg_pool2d(x, size))


def test_mean():
    x = tensor(N, 4, 5, 6)
    agree("mean", [x], {"axes": (0, 1), "keepdims": True}, x.mean((2, 3), keepdim=True))
    agree("mean", [x], {"axes": (0, 1), "keepdims": False}, x.mean((2, 3)))
    agree("mean", [x], {"axes": (2,), "keepdims": True}, x.mean(1, keepdim=True))
    agree("mean", [tensor(N, 5)], {"axes": (0,), "keepdims": False}, tensor(N, 5).mean(1, keepdim=True))


@pytest.mark.parametrize("shape", [(4, 5, 6), (4, 1, 1), (1, 5, 6), (1, 1, 6)])
def test_add_and_mul_repeat_the_second_operand(shape):
    x, y = tensor(N, 4, 5, 6), tensor(N, *shape, seed=1)
    agree("add", [x, y], {"act": "relu", "alpha": 0.0}, F.relu(x + y))
    agree("mul", [x, y], NO_ACT, x * y)


def test_affine_softmax_and_layer_norm_work_on_the_last_axis():
    x, a, b = tensor(N, 7, 3, 5), tensor(7, seed=1), tensor(7, seed=2)
    per_channel = (a[:, None, None], b[:, None, None])
    params = {"scale": a.numpy(), "shift": b.numpy()}
    agree("affine", [x], {"act": "silu", "alpha": 0.0}, F.silu(x * per_channel[0] + per_channel[1]), params)
    agree("softmax", [30 * x], {"axis": 2}, F.softmax(30 * x, 1))
    want = F.layer_norm(x.permute(0, 2, 3, 1), (7,), a, b, 1e-3).permute(0, 3, 1, 2)
    agree("layer_norm", [x], {"eps": 1e-3}, want, {"weight": a.numpy(), "bias": b.numpy()})


def test_moving_data():
    x, y = tensor(N, 6, 5, 4), tensor(N, 2, 5, 4, seed=1)
    agree("concat", [x, y], {"axis": 2}, torch.cat([x, y], 1))
    agree("slice", [x], {"axis": 2, "start": 1, "stop": 6, "step": 2}, x[:, 1:6:2])
    agree("slice", [x], {"axis": 0, "start": 2, "stop": 5, "step": 1}, x[:, :, 2:5])
    agree("pad", [x], {"pads": ((1, 2), (0, 3), (0, 1)), "value": 0.5}, F.pad(x, (0, 3, 1, 2, 0, 1), value=0.5))
    agree("channel_shuffle", [x], {"groups": 3}, F.channel_shuffle(x, 3))
    agree("transpose", [x], {"perm": (1, 0, 2)}, x.transpose(2, 3))
    sequence = x.flatten(2).transpose(1, 2)
    agree("reshape", [x], {"shape": (20, 6)}, sequence)


SIZES = list(itertools.product([(7, 5), (1, 4)], [(14, 10), (13, 11), (3, 2), (7, 5), (1, 1)]))


@pytest.mark.parametrize("size,out", SIZES)
def test_upsample_to_a_size(size, out):
    x = tensor(N, 3, *size)
    scale = [i / o for i, o in zip(size, out)]
    attrs = {"mode": "nearest", "size": out, "scale": scale, "align_corners": False}
    agree("upsample", [x], attrs, F.interpolate(x, out, mode="nearest"))
    agree("upsample", [x], {**attrs, "mode": "bilinear"}, F.interpolate(x, out, mode="bilinear"))
    corners = [(i - 1) / (o - 1) if o > 1 and i > 1 else 1.0 for i, o in zip(size, out)]
    attrs = {**attrs, "mode": "bilinear", "scale": corners, "align_corners": True}
    agree("upsample", [x], attrs, F.interpolate(x, out, mode="bilinear", align_corners=True))


@pytest.mark.parametrize("factor", [2.0, 1.5, 3.0, 0.6])
@pytest.mark.parametrize("mode", ["nearest", "bilinear"])
def test_upsample_by_a_factor_keeps_the_factor(factor, mode):
    x = tensor(N, 3, 7, 5)
    want = F.interpolate(x, scale_factor=factor, mode=mode)
    attrs = {"mode": mode, "size": tuple(want.shape[2:]), "scale": (1 / factor, 1 / factor), "align_corners": False}
    agree("upsample", [x], attrs, want)


def _graph() -> Graph:
    tensors = {t.name: t for t in (TensorSpec("x", (4, 5, 6)), TensorSpec("y", (4, 5, 6)), TensorSpec("z", (6,)))}
    ops = (
        Op("relu", "act", ("x",), ("y",), {"act": "relu", "alpha": 0.0}),
        Op("pool", "mean", ("y",), ("z",), {"axes": (0, 1), "keepdims": False}),
    )
    return check(Graph(ops, tensors, ("x",), ("y", "z"), {}, {"x": "nchw", "y": "nchw", "z": "plain"}))


def test_run_takes_and_gives_images_as_pytorch_has_them():
    x = tensor(N, 6, 4, 5)
    image, vector = reference.run(_graph(), x.numpy())
    np.testing.assert_array_equal(image, F.relu(x).numpy())
    np.testing.assert_allclose(vector, F.relu(x).mean((2, 3)).numpy(), atol=1e-6)


def test_run_names_the_input_that_does_not_fit():
    with pytest.raises(InputError, match=r"'x' needs shape \(n, 6, 4, 5\), got \(2, 4, 5, 6\)"):
        reference.run(_graph(), np.zeros((2, 4, 5, 6), np.float32))
    with pytest.raises(InputError, match="1 inputs"):
        reference.run(_graph())


def test_an_unknown_kind_is_named():
    with pytest.raises(GraphError, match="'fft'"):
        reference.compute("fft", [], {}, {})
