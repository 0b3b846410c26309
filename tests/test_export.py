"""What export makes of whole models: names, folding, formats, refusals, and every network of `nets`."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
import torch.nn.functional as F  # noqa: E402
from torch import nn  # noqa: E402

from jettison import reference  # noqa: E402
from jettison.errors import ExportError, FormatError, MissingExtra  # noqa: E402
from jettison.export import export  # noqa: E402
from jettison.formats import NM, Dense  # noqa: E402
from jettison.graph import Graph  # noqa: E402
from jettison.spec import check  # noqa: E402
from nets import NETS, settled  # noqa: E402


class Residual(nn.Module):
    """A bottleneck-like block whose shortcut is a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(8, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.conv2, self.bn2 = nn.Conv2d(16, 8, 1, bias=False), nn.BatchNorm2d(8)
        self.shortcut = nn.Sequential(nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8))
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        y += self.shortcut(x)
        return self.relu(y)


IMAGE = (8, 7, 9)


def block() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return settled(nn.Sequential(Residual(), Residual()), IMAGE)


def error(model: nn.Module, graph: Graph, shape: tuple[int, ...]) -> float:
    """Largest difference to PyTorch, over the largest magnitude of the output."""
    x = torch.randn(1, *shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        want = model(x).numpy()
    (got,) = reference.run(graph, x.numpy())
    return float(np.abs(got - want).max() / np.abs(want).max())


def test_a_residual_block_is_its_convolutions():
    model = block()
    graph = export(model, IMAGE)
    assert {op.kind for op in graph.ops} == {"conv"}
    assert sorted(op.name for op in graph.ops) == sorted(f"{i}.{name}" for i in (0, 1) for name in ("conv1", "conv2", "shortcut.0"))
    by_name = {op.name: op for op in graph.ops}
    assert by_name["0.conv2"].attrs["act"] == "relu"
    assert len(by_name["0.conv2"].inputs) == 2
    assert by_name["0.conv1"].params == {"weight": "0.conv1.weight", "bias": "0.conv1.bias"}
    assert graph.constants["0.conv1.weight"].shape == (16, 3, 3, 8)
    assert error(model, graph, IMAGE) < 1e-5


def test_export_leaves_the_model_alone():
    model = block().train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    export(model, torch.randn(1, *IMAGE))
    assert model.training
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize("example", [IMAGE, (4, *IMAGE), torch.zeros(1, *IMAGE), (torch.zeros(5, *IMAGE),)])
def test_examples(example):
    graph = export(nn.Conv2d(8, 4, 1), example)
    assert graph.tensors[graph.inputs[0]].shape == (7, 9, 8)
    assert set(graph.layouts.values()) == {"nchw"}


@pytest.mark.parametrize("example", ["x", (), 3, [torch.zeros(1, 3), 4], torch.zeros(0, 3)])
def test_bad_examples(example):
    with pytest.raises(ExportError, match="shape of one sample"):
        export(nn.Linear(3, 3), example)


def test_a_shared_layer_becomes_two_ops():
    conv = nn.Conv2d(8, 8, 3, padding=1)
    model = settled(nn.Sequential(conv, nn.BatchNorm2d(8), conv, nn.ReLU()), IMAGE)
    graph = export(model, IMAGE)
    assert [op.name for op in graph.ops] == ["0", "0#2"]
    assert error(model, graph, IMAGE) < 1e-5


def test_normalisation_of_the_input_moves_into_a_layer_without_padding():
    class Normalised(nn.Module):
        def __init__(self, padding: int) -> None:
            super().__init__()
            self.conv = nn.Conv2d(8, 4, 3, padding=padding, groups=2)

        def forward(self, x):
            return self.conv((x - torch.full((8, 1, 1), 0.4)) / torch.linspace(0.5, 2, 8)[:, None, None])

    for padding, expected in ((0, ["conv"]), (1, ["affine", "conv"])):
        model = Normalised(padding)
        graph = export(model, IMAGE)
        assert [op.kind for op in graph.ops] == expected
        assert error(model, graph, IMAGE) < 1e-5


def test_explicit_padding_moves_into_convolution_and_pooling():
    layers = [nn.ZeroPad2d((0, 1, 2, 3)), nn.Conv2d(8, 8, 4, 2), nn.ConstantPad2d(1, -float("inf")), nn.MaxPool2d(2, 1), nn.ZeroPad2d(1)]
    model = nn.Sequential(*layers, nn.AvgPool2d(3, 1))
    graph = export(model, IMAGE)
    assert [(op.kind, tuple(op.attrs["pad"])) for op in graph.ops] == [
        ("conv", (2, 0, 3, 1)),
        ("max_pool", (1, 1, 1, 1)),
        ("avg_pool", (1, 1, 1, 1)),
    ]
    assert error(model, graph, IMAGE) < 1e-5


def pruned(model: nn.Module, fmt: NM, paths: list[str]) -> nn.Module:
    for path in paths:
        weight = model.get_submodule(path).weight
        krsc = weight.detach().reshape(*weight.shape[:2], -1).movedim(1, -1).numpy()[:, None]
        mask = torch.from_numpy(fmt.mask(krsc))[:, 0].movedim(-1, 1).reshape(weight.shape)
        weight.data *= mask
    return model


@pytest.mark.parametrize("fmt", [NM(1, 4), NM(2, 4), NM(3, 8)])
def test_the_pattern_survives_folding(fmt):
    paths = ["0.conv1", "0.conv2", "1.conv1", "1.shortcut.0"]
    model = pruned(block(), fmt, paths)
    graph = check(export(model, IMAGE, dict.fromkeys(paths, fmt)))
    formats = {op.name: op.format for op in graph.ops}
    assert {name for name, f in formats.items() if f == fmt} == set(paths)
    assert formats["1.conv2"] == Dense()
    op = next(op for op in graph.ops if op.name == "0.conv1")
    assert np.count_nonzero(graph.weight(op)) == np.count_nonzero(model.get_submodule("0.conv1").weight.detach().numpy())
    assert error(model, graph, IMAGE) < 1e-5


def test_weights_outside_their_format_are_refused_by_name():
    with pytest.raises(FormatError, match=r"0\.conv1: .*2 of 4"):
        export(block(), IMAGE, {"0.conv1": NM(2, 4)})
    with pytest.raises(FormatError, match=r"0\.conv1: .*divisible by 16, got 8"):
        export(block(), IMAGE, {"0.conv1": NM(1, 16)})
    with pytest.raises(FormatError, match=r"\['conv7'\].*0\.conv1"):
        export(block(), IMAGE, {"conv7": NM(2, 4)})


def test_a_sparse_layer_after_flatten_keeps_its_pattern():
    fmt, shape = NM(1, 4), (8, 3, 2)
    model = pruned(nn.Sequential(nn.ReLU(), nn.Flatten(), nn.Linear(48, 5)), fmt, ["2"])
    graph = export(model, shape, {"2": fmt})
    assert [op.kind for op in graph.ops] == ["act", "transpose", "reshape", "linear"]
    assert graph.ops[-1].format == fmt
    assert error(model, graph, shape) < 1e-5
    assert "transpose" not in [op.kind for op in export(model, shape).ops]


class Within(nn.Module):
    """`function` (or a module) under the name "odd"."""

    def __init__(self, function) -> None:
        super().__init__()
        self.odd = function if isinstance(function, nn.Module) else nn.Module()
        self.odd.forward = function.forward if isinstance(function, nn.Module) else function

    def forward(self, x):
        return self.odd(x)


REFUSED = {
    "unknown op": (lambda x: torch.fft.fft(x).real, r"odd \(Module\): operation fft_fft has no place .* jettison\.export\.aten\.OPS"),
    "unknown op with a hint": (lambda x: F.conv_transpose2d(x, torch.ones(8, 2, 2, 2)), r"odd .*conv_transpose2d .*nn\.Upsample"),
    "batch mixed": (lambda x: x.reshape(-1, 9), r"odd .*mixes the images of a batch"),
    "mean of the batch": (lambda x: x - x.mean(0, keepdim=True), r"odd .*mean: .*batch"),
    "batch moved": (lambda x: x.transpose(0, 1).relu().transpose(0, 1), r"odd .*batch"),
    "batch counted": (lambda x: x / x.shape[0], r"odd .*number of images"),
    "batch fixed": (lambda x: x.reshape(2, -1), "fixes the batch size"),
    "statistics of the batch": (nn.BatchNorm2d(8, track_running_stats=False), "statistics of the batch"),
    "half precision": (lambda x: x.half() * 2, r"odd .*float16"),
    "values decide": (lambda x: x if x.sum() > 0 else -x, "cannot trace"),
    "constant output": (lambda x: torch.ones(3), "computed from the input"),
    "reflection": (lambda x: F.pad(x, (1, 1, 1, 1), "reflect"), r"odd .*'reflect'"),
    "division": (lambda x: x / x.relu(), r"odd .*div"),
}


@pytest.mark.parametrize("function,message", REFUSED.values(), ids=REFUSED)
def test_refusals_name_operation_and_module(function, message, capfd):
    with pytest.raises(ExportError, match=message) as caught:
        export(Within(function), IMAGE)
    assert "\n" not in str(caught.value)
    assert not capfd.readouterr().err


def test_writing_into_a_part_of_a_tensor_is_refused_not_ignored():
    def assign(x):
        y = x * 2
        y[:, :3].add_(1)
        return y

    with pytest.raises(ExportError, match=r"slice_scatter .*torch\.cat"):
        export(Within(assign), IMAGE)


def built(name: str) -> nn.Module:
    try:
        return NETS[name].build()
    except MissingExtra as e:
        pytest.skip(str(e))


# One of each kind, small images: the reference is slow. Tests of the runtime take every network at real sizes.
NAMES = ["resnet20_cifar", "nin", "shufflenet", "unet", *(name for name in NETS if name.startswith("timm:"))]
SMALLEST = (33, 47)


@pytest.mark.parametrize("name", NAMES)
def test_networks(name):
    model = built(name)
    shape = (3, *SMALLEST)
    graph = check(export(model, shape))
    assert not {op.kind for op in graph.ops} & {"transpose"}
    bound = {type(m) for m in model.modules()} & {nn.BatchNorm2d}
    if bound and not name.endswith("densenet121"):  # there BatchNorm stands before the convolutions
        assert "affine" not in {op.kind for op in graph.ops}
    assert error(model, graph, shape) < 5e-5
