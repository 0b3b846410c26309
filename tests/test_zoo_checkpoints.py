"""Checkpoints for the networks of the zoo: every place their weights may stand, and every way a file can be wrong."""

from __future__ import annotations

import os
import pickle
import random
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
from safetensors.torch import save_file  # noqa: E402

from jettison.errors import CheckpointError  # noqa: E402
from jettison.zoo import build, load_backbone, load_weights  # noqa: E402

torch.set_num_threads(1)


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


def test_a_backbone_leaves_only_what_does_not_fit_as_it_was(tmp_path, trained):
    state = {f"module.{k}": v.half() if v.is_floating_point() else v for k, v in trained.state_dict().items()}
    state["module.head.weight"] = torch.zeros(2)
    torch.save(state, tmp_path / "ten.pt")
    model = build("resnet20_cifar", num_classes=7)
    before = model.linear.weight.clone()
    assert load_backbone(model, tmp_path / "ten.pt") == ["linear.weight", "linear.bias"]
    assert torch.equal(model.linear.weight, before)
    assert torch.equal(model.layer3[2].conv2.weight, trained.layer3[2].conv2.weight.half().float())
    assert torch.equal(model.bn1.running_var, trained.bn1.running_var)


def test_a_file_with_less_than_half_of_the_model_is_no_backbone(tmp_path, trained):
    torch.save({k: v for k, v in trained.state_dict().items() if not k.startswith(("layer2", "layer3"))}, tmp_path / "part.pt")
    model = build("resnet20_cifar")
    before = model.conv1.weight.clone()
    with pytest.raises(CheckpointError, match=r"part.pt is no backbone for the model; it has no fitting layer2.0.conv1.weight"):
        load_backbone(model, tmp_path / "part.pt")
    assert torch.equal(model.conv1.weight, before)
    with pytest.raises(CheckpointError, match=r"none.pt: no such file"):
        load_backbone(model, tmp_path / "none.pt")


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
