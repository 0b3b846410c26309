"""The zoo: published sizes, the keys of public checkpoints, and every way a name or a checkpoint can be wrong."""

from __future__ import annotations

import os
import pickle
import random
import re
import subprocess
import sys
from inspect import getmodule
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
from safetensors.torch import save_file  # noqa: E402

from jettison.errors import CheckpointError, MissingExtra, ModelError  # noqa: E402
from jettison.zoo import MODELS, build, default_input, load_weights  # noqa: E402

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


# --- checkpoints


@pytest.fixture(scope="module")
def trained():
    torch.manual_seed(1)
    return build("resnet20_cifar")


def assert_loads(path: Path, trained: torch.nn.Module) -> None:
    model = build("resnet20_cifar")
    load_weights(model, path)
    for (key, got), want in zip(model.state_dict().items(), trained.state_dict().values()):
        assert got.dtype == want.dtype and torch.equal(got, want), key


@pytest.mark.parametrize("place", [None, "state_dict", "model", "state_dict_ema"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod."])
def test_loads_wherever_the_state_dict_is(tmp_path, trained, place, prefix):
    state = {prefix + k: v for k, v in trained.state_dict().items()}
    torch.save(state if place is None else {place: state, "epoch": 3, "best": 0.9}, tmp_path / "c.th")
    assert_loads(tmp_path / "c.th", trained)


def test_loads_safetensors_and_the_old_torch_format(tmp_path, trained):
    save_file(trained.state_dict(), tmp_path / "c.safetensors")
    assert_loads(tmp_path / "c.safetensors", trained)
    torch.save(trained.state_dict(), tmp_path / "c.pt", _use_new_zipfile_serialization=False)
    assert_loads(tmp_path / "c.pt", trained)


def test_half_precision_becomes_the_models_dtype(tmp_path, trained):
    half = {k: v.half() if v.is_floating_point() else v for k, v in trained.state_dict().items()}
    save_file(half, tmp_path / "half.safetensors")
    model = build("resnet20_cifar")
    load_weights(model, tmp_path / "half.safetensors")
    assert model.conv1.weight.dtype == torch.float32
    assert torch.equal(model.conv1.weight, half["conv1.weight"].float())


def test_checkpoint_without_batch_counters_fits(tmp_path, trained):
    state = {k: v for k, v in trained.state_dict().items() if not k.endswith("num_batches_tracked")}
    torch.save(state, tmp_path / "old.pth")
    assert_loads(tmp_path / "old.pth", trained)


def test_misfit_lists_each_kind_and_changes_nothing(tmp_path, trained):
    state = trained.state_dict()
    for key in [k for k in state if k.startswith("layer3.2.conv") or k.startswith("layer3.1")][:9]:
        del state[key]
    state["head.weight"] = torch.zeros(2)
    state["linear.weight"] = torch.zeros(100, 64)
    torch.save(state, tmp_path / "other.pt")
    model = build("resnet20_cifar")
    before = model.conv1.weight.clone()
    with pytest.raises(CheckpointError) as error:
        load_weights(model, tmp_path / "other.pt")
    message = str(error.value)
    assert "missing: layer3.1.conv1.weight" in message and "more" in message
    assert "1 unexpected: head.weight" in message
    assert "1 misshapen: linear.weight (100, 64) instead of (10, 64)" in message
    assert torch.equal(model.conv1.weight, before)


class RunsCode:
    def __reduce__(self):
        return os.mkdir, (str(RunsCode.target),)


@pytest.mark.parametrize("how", ["zip", "zip_protocol_4", "old", "plain", "plain_protocol_5"])
def test_pickle_that_would_run_code_is_refused(tmp_path, how):
    RunsCode.target = tmp_path / "ran"
    path = tmp_path / "evil.pt"
    evil = {"state_dict": {"conv1.weight": torch.zeros(1)}, "extra": RunsCode()}
    if how.startswith("plain"):
        path.write_bytes(pickle.dumps(RunsCode(), protocol=5 if how.endswith("5") else 2))
    else:
        torch.save(evil, path, _use_new_zipfile_serialization=how != "old", pickle_protocol=4 if how.endswith("4") else 2)
    with pytest.raises(CheckpointError, match=r"evil\.pt: .*unsafe.*re-save .*safetensors"):
        load_weights(build("resnet20_cifar"), path)
    assert not RunsCode.target.exists()


def test_a_whole_pickled_model_is_refused_by_name(tmp_path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "whole.pt")
    with pytest.raises(CheckpointError, match=r"unsafe.*torch\.nn\.modules\.linear\.Linear"):
        load_weights(build("resnet20_cifar"), tmp_path / "whole.pt")


@pytest.mark.parametrize("content", [b"", b"hello world", b"<html>404</html>", bytes(512)])
@pytest.mark.parametrize("suffix", [".pt", ".pth", ".th", ".bin", ".safetensors"])
def test_a_file_that_is_no_checkpoint(tmp_path, content, suffix):
    path = tmp_path / f"c{suffix}"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="corrupt"):
        load_weights(build("resnet20_cifar"), path)


def test_missing_file_and_missing_state_dict(tmp_path):
    model = build("resnet20_cifar")
    with pytest.raises(CheckpointError, match=r"none\.pt: no such file"):
        load_weights(model, tmp_path / "none.pt")
    for content in ({"epoch": 3}, {}, torch.zeros(3), {"state_dict": {1: torch.zeros(1)}}):
        torch.save(content, tmp_path / "c.pt")
        with pytest.raises(CheckpointError, match="no state dict at the top or under state_dict"):
            load_weights(model, tmp_path / "c.pt")


@pytest.mark.parametrize("kind", ["zip", "old", "safetensors"])
def test_damage_never_escapes_as_another_error(tmp_path, kind):
    model = torch.nn.Linear(3, 2)
    good, bad = tmp_path / "good", tmp_path / ("bad.safetensors" if kind == "safetensors" else "bad.pt")
    if kind == "safetensors":
        save_file(model.state_dict(), good)
    else:
        torch.save(model.state_dict(), good, _use_new_zipfile_serialization=kind == "zip")
    data = good.read_bytes()
    for end in range(0, len(data) - 1, max(1, len(data) // 60)):
        bad.write_bytes(data[:end])
        with pytest.raises(CheckpointError, match=r"bad\."):
            load_weights(model, bad)
    rng = random.Random(0)
    for _ in range(300):
        damaged = bytearray(data)
        damaged[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        bad.write_bytes(damaged)
        try:  # a flip inside a weight's bits cannot be noticed
            load_weights(model, bad)
        except CheckpointError as e:
            assert str(e).startswith(str(bad))


@pytest.mark.skipif("JETTISON_DATA" not in os.environ, reason="JETTISON_DATA is not set")
@pytest.mark.parametrize(
    "name, file",
    [
        ("resnet20_cifar", "cifar10_resnet20-12fca82f.th"),
        ("resnet56_cifar", "cifar10_resnet56-4bfd9763.th"),
        ("resnet18", "imagenet_resnet18_fp16.safetensors"),
    ],
)
def test_public_checkpoints_load(name, file):
    path = Path(os.environ["JETTISON_DATA"]) / "checkpoints" / file
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    load_weights(build(name), path)
