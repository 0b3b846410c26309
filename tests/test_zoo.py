"""The zoo: published sizes, the keys of public checkpoints, and every way a name can be wrong."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from inspect import getmodule
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from jettison.errors import MissingExtra, ModelError  # noqa: E402
from jettison.zoo import MODELS, build, default_input  # noqa: E402

torch.set_num_threads(1)

# trainable parameters as published: by the papers' public implementations, torchvision and timm
PARAMETERS = {
    "resnet20_cifar": 269_722,
    "resnet32_cifar": 464_154,
    "resnet56_cifar": 853_018,
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "resnet18_strided": 11_181_642 + 4_224,  # ResNet-18 for 10 classes, and one more shortcut
    "resnet34_strided": 21_289_802 + 4_224,
    "vgg16_bn": 138_365_992,
    "mobilenetv1_100": 4_231_976,
    "mobilenetv2_100": 3_504_872,
    "convnext_atto": 3_695_520,
    "convfirst_xs": 1_738_184,  # ours: as built when it was chosen
    "convfirst_s": 4_122_424,
    "convfirst_m": 10_054_184,
    "nin": 966_986 + 1_408,  # batch normalization has one number per channel more than the paper's biases
}
IN_TIMM = ["resnet18", "resnet34", "resnet50", "mobilenetv1_100", "mobilenetv2_100", "convnext_atto"]


def scores(model: torch.nn.Module, shape: tuple[int, ...]) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(torch.randn(shape, generator=torch.Generator().manual_seed(0)))


@pytest.mark.parametrize("name", MODELS)
def test_parameter_count_is_the_published_one(name):
    with torch.device("meta"):  # no memory, no initialization
        model = build(name)
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[name]


def macs(name: str) -> int:
    """Multiply-accumulates of the convolutions and linear layers for one image of the default size."""
    counted = []

    def count(layer, _, out):
        counted.append(out.numel() * layer.weight[0].numel())

    with torch.device("meta"):
        model = build(name).eval()
        for layer in model.modules():
            if isinstance(layer, torch.nn.Conv2d | torch.nn.Linear):
                layer.register_forward_hook(count)
        model(torch.zeros(1, *default_input(name)))
    return sum(counted)


def test_the_table_in_the_docs_is_true():
    page = (Path(__file__).parent.parent / "docs" / "zoo.md").read_text(encoding="utf-8")
    rows = {cells[0].strip("`"): cells for cells in re.findall(r"^\| (`\w+`) \| (.+) \| (.+) \| (.+) \| (.+) \| (.+) \|$", page, re.M)}
    assert list(rows) == list(MODELS)
    for name, (_, paper, shape, classes, parameters, gmacs) in rows.items():
        entry = MODELS[name]
        assert shape == "×".join(str(n) for n in entry.input)
        assert classes == str(entry.num_classes)
        assert parameters == f"{PARAMETERS[name] / 1e6:.2f}", f"{name}: docs/zoo.md says {parameters} M parameters"
        assert gmacs == f"{macs(name) / 1e9:.3f}", f"{name}: docs/zoo.md says {gmacs} G multiply-accumulates"
        title, link = re.fullmatch(r"(?:.*: )?\[(.+)\]\((.+)\)", paper).groups()
        source = " ".join((getmodule(entry.builder).__doc__ or "").split())
        assert title in source and link in source, f"{name}: the paper in docs/zoo.md is not the one its file names"


@pytest.mark.parametrize("name", [n for n in MODELS if n != "vgg16_bn"])
def test_default_input_gives_the_published_number_of_classes(name):
    assert scores(build(name), (1, *default_input(name))).shape == (1, MODELS[name].num_classes)


@pytest.mark.parametrize("name", MODELS)
def test_small_grey_images_and_other_class_counts(name):
    out = scores(build(name, num_classes=7, in_channels=1, image_size=32), (2, 1, 32, 32))
    assert out.shape == (2, 7)
    assert torch.isfinite(out).all()


@pytest.mark.parametrize("name", ["resnet18", "vgg16_bn", "mobilenetv1_100", "mobilenetv2_100", "convnext_atto"])
def test_small_image_form_keeps_the_keys(name):
    with torch.device("meta"):
        assert list(build(name, small_image=True).state_dict()) == list(build(name, small_image=False).state_dict())


def test_image_size_chooses_the_form_unless_told():
    with torch.device("meta"):
        kernels = [build("resnet18", **kw).conv1.kernel_size for kw in ({}, {"image_size": 64}, {"image_size": 64, "small_image": False})]
    assert kernels == [(7, 7), (3, 3), (7, 7)]


def test_nin_for_photographs():
    out = scores(build("nin", num_classes=20, image_size=224), (1, 3, 224, 224))
    assert out.shape == (1, 20)


@pytest.mark.parametrize("name, size", [("resnet20_cifar", 33), ("resnet18", 32), ("mobilenetv2_100", 32), ("nin", 32), ("nin", 80)])
def test_exports_without_a_graph_break(name, size):
    model = build(name, num_classes=4, image_size=size).eval()
    x = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    exported = torch.export.export(model, (x,)).module()
    torch.testing.assert_close(exported(x), model(x))


def test_option_a_shortcut_is_every_second_pixel_and_zero_channels():
    block = build("resnet20_cifar").layer2[0]
    x = torch.rand(1, 16, 5, 5)
    y = block.shortcut(x)
    assert y.shape == (1, 32, 3, 3)
    assert torch.equal(y[:, 8:24], x[:, :, ::2, ::2])
    assert not y[:, :8].any() and not y[:, 24:].any()


def timm_or_skip(name: str, **options) -> torch.nn.Module:
    try:
        return build(f"timm:{name}", **options)
    except MissingExtra as e:
        pytest.skip(str(e))


@pytest.mark.parametrize("name", IN_TIMM)
def test_same_keys_and_outputs_as_timm(name):
    theirs = timm_or_skip(name)
    with torch.no_grad():
        for b in theirs.buffers():  # running statistics that would show a swapped normalization
            if b.is_floating_point():
                b.copy_(torch.rand(b.shape) + 0.5)
    ours = build(name)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.load_state_dict(theirs.state_dict())
    shape = (2, 3, 65, 65)
    torch.testing.assert_close(scores(ours, shape), scores(theirs, shape))
    assert default_input(name) == default_input(f"timm:{name}")


def test_vgg_has_torchvisions_keys():
    with torch.device("meta"):
        keys = build("vgg16_bn").state_dict()
    convs = {int(k.split(".")[1]) for k, v in keys.items() if v.dim() == 4}
    assert convs == {0, 3, 7, 10, 14, 17, 20, 24, 27, 30, 34, 37, 40}
    assert keys["features.41.running_var"].shape == (512,)
    assert {k: tuple(v.shape) for k, v in keys.items() if k.startswith("classifier") and k.endswith("weight")} == {
        "classifier.0.weight": (4096, 25088),
        "classifier.3.weight": (4096, 4096),
        "classifier.6.weight": (1000, 4096),
    }


def test_timm_options_and_unknown_timm_name():
    assert scores(timm_or_skip("mobilenetv2_035", num_classes=5, in_channels=1), (1, 1, 32, 32)).shape == (1, 5)
    with pytest.raises(ModelError, match=r"timm has no model 'resnet5O'.*timm:resnet50"):
        build("timm:resnet5O")


def stderr_of(code: str) -> str:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    return subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True, env=env).stderr


def test_timm_missing_is_said_plainly():
    code = "import sys; sys.modules['timm'] = None\nfrom jettison.zoo import build\nbuild('timm:resnet18')"
    err = stderr_of(code)
    assert "MissingExtra: timm:NAME needs timm" in err and "pip install timm" in err


def test_torch_missing_is_said_plainly():
    code = "import sys; sys.modules['torch'] = None\nimport jettison.zoo"
    err = stderr_of(code)
    assert "MissingExtra: building a network needs PyTorch" in err


def test_unknown_name_suggests_and_lists():
    with pytest.raises(
        ModelError, match=r"'resnet20' is not known; did you mean .*resnet20_cifar.*the zoo has: .*mobilenetv2_100.*file\.py:function"
    ):
        build("resnet20")
    with pytest.raises(ModelError, match="is not known"):
        default_input("zebra")


@pytest.mark.parametrize(
    "options, message",
    [
        ({"num_classes": 0}, "num_classes must be at least 1, got 0"),
        ({"in_channels": -1}, "in_channels must be at least 1, got -1"),
        ({"image_size": 28}, "vgg16_bn needs images of at least 32×32 pixels, got 28"),
    ],
)
def test_impossible_options(options, message):
    with pytest.raises(ModelError, match=message):
        build("vgg16_bn", **options)


# --- the user's own networks


OWN = """
from __future__ import annotations
from dataclasses import dataclass
import torch
from own_parts import KERNEL

@dataclass
class Width:
    k: int = 4

def plain():
    return torch.nn.Conv2d(3, Width().k, KERNEL)

def classifier(num_classes=10, in_channels=3, image_size=8):
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(in_channels * image_size**2, num_classes))

def anything(**options):
    return torch.nn.Linear(options["num_classes"], options["in_channels"])

def needs_more(depth):
    return torch.nn.Linear(1, 1)

def text():
    return "not a network"

value = 3
"""


@pytest.fixture
def own(tmp_path):
    (tmp_path / "own_parts.py").write_text("KERNEL = 5\n")
    path = tmp_path / "own.py"
    path.write_text(OWN)
    return path


def test_own_function_gets_the_options_it_has_parameters_for(own):
    assert build(f"{own}:plain", num_classes=3).weight.shape == (4, 3, 5, 5)
    assert scores(build(f"{own}:classifier"), (1, 3, 8, 8)).shape == (1, 10)
    assert scores(build(f"{own}:classifier", num_classes=2, in_channels=1, image_size=6), (1, 1, 6, 6)).shape == (1, 2)
    assert build(f"{own}:anything", num_classes=2, in_channels=5).weight.shape == (5, 2)
    assert default_input(f"{own}:plain") == (3, 224, 224)


@pytest.mark.parametrize(
    "function, message",
    [
        ("missing", "has no function 'missing'"),
        ("value", "has no function 'value'"),
        ("needs_more", r"needs_more\(.*failed: TypeError.*depth"),
        ("text", "must return a torch.nn.Module, it returned str"),
    ],
)
def test_own_function_errors(own, function, message):
    with pytest.raises(ModelError, match=message):
        build(f"{own}:{function}")


def test_own_file_errors(tmp_path):
    with pytest.raises(ModelError, match=r"nowhere\.py: no such file"):
        build(f"{tmp_path}/nowhere.py:net")
    (tmp_path / "broken.py").write_text("def net(:\n")
    with pytest.raises(ModelError, match=r"broken\.py: running the file failed: SyntaxError"):
        build(f"{tmp_path}/broken.py:net")
