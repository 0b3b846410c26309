"""Training tables, and the commands that make and measure them."""

from __future__ import annotations

import json

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from jettison import tabconv  # noqa: E402
from jettison.formats import Lut  # noqa: E402
from jettison.graph import Graph  # noqa: E402
from jettison.runtime import Session  # noqa: E402
from jettison.tabconv.network import PULLED, Exact, TableNetwork  # noqa: E402
from tabconv_nets import exact_net, images  # noqa: E402

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def exact() -> Graph:
    return exact_net()


@pytest.fixture(scope="module")
def fitted(exact: Graph) -> tuple[Graph, list[tabconv.LayerFit]]:
    return tabconv.fit(exact, images(200), Lut(9), seed=1, threads=1)


def test_the_trainable_network_computes_what_the_kernels_compute(exact: Graph, fitted) -> None:
    net = TableNetwork(fitted[0]).eval()
    x = images(40, seed=3)
    with torch.no_grad():
        got = net(torch.from_numpy(x)).numpy()
    want = Session(fitted[0], threads=1).run(x)
    assert np.median(np.abs(got - want)) < 1e-3 * np.abs(want).max()  # float32 may round to another step, and then to another leaf
    again = net.trained()
    assert all(np.array_equal(a, again.constants[name]) for name, a in fitted[0].constants.items() if not name.endswith("multiplier"))


def test_normalised_sums_start_and_end_as_they_are(fitted) -> None:
    """The first training batch changes nothing but what normalising by another batch would; folding gives what evaluation gives."""
    net, x = TableNetwork(fitted[0]), torch.from_numpy(images(40, seed=5))
    with torch.no_grad():
        before = net.eval()(x)
        first = net.train()(x)
        for _ in range(60):
            net(x)
        after = net.eval()(x)
    assert (first - before).abs().mean() < 0.02 * before.abs().max()
    assert (after - first).abs().mean() < 0.02 * before.abs().max()
    folded = Session(net.trained(), threads=1).run(x.numpy())
    assert np.abs(folded - after.numpy()).mean() < 0.02 * np.abs(folded).max()


def test_thresholds_that_training_moves_out_of_range_are_asked_as_kernels_ask_them(fitted) -> None:
    """After ReLU most inputs are 0: a threshold below it would be always yes, which u8 cannot say."""
    net, x = TableNetwork(fitted[0]).eval(), images(40, seed=3)
    with torch.no_grad():
        for step in net.steps:
            if hasattr(step, "thresholds"):
                step.thresholds -= 0.1  # 25 steps of u8: most of the small ones
        got = net(torch.from_numpy(x)).numpy()
    want = Session(net.trained(), threads=1).run(x)
    assert np.median(np.abs(got - want)) < 1e-3 * np.abs(want).max()


def test_training_brings_the_network_nearer_to_the_exact_one(exact: Graph) -> None:
    made, _ = tabconv.fit(exact, images(200), Lut(27), seed=1, threads=1)
    x = images(96, seed=4)
    want = torch.from_numpy(Session(exact, threads=1).run(x))

    def error(graph: Graph) -> float:
        return float(((torch.from_numpy(Session(graph, threads=1).run(x)) - want) ** 2).mean())

    net = TableNetwork(made).train()
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3, weight_decay=0.0)
    for _ in range(25):
        optimizer.zero_grad()
        ((net(torch.from_numpy(x)) - want) ** 2).mean().backward()
        optimizer.step()
    assert error(net.trained()) < 0.6 * error(made)


def test_each_layer_is_drawn_to_the_exact_one(exact: Graph, fitted) -> None:
    """Without a loss of the scores, gradients are those of Σ_layers mean((y − wanted)²)/var(wanted)."""
    made, x = fitted[0], torch.from_numpy(images(40, seed=5))
    drawn, plain = TableNetwork(made, Exact(exact)).train(), TableNetwork(made).train()
    assert drawn.state_dict().keys() == plain.state_dict().keys()  # the exact network is not stored
    (drawn(x) * 0).sum().backward()
    got, wanted = plain.tensors(x), TableNetwork(exact).eval().tensors(x)
    tabulated = [op.outputs[0] for op in made.ops if isinstance(op.format, Lut)]
    sum((got[t] - wanted[t]).square().mean() / wanted[t].var(correction=0) for t in tabulated).backward()  # type: ignore[union-attr]
    gradients = {name: p.grad for name, p in plain.named_parameters() if p.grad is not None}
    assert any(g.abs().max() > 0 for g in gradients.values())
    for name, p in drawn.named_parameters():
        if name in gradients:
            torch.testing.assert_close(p.grad, gradients[name])
    drawn.zero_grad()
    drawn.advance(PULLED)
    (drawn(x) * 0).sum().backward()
    assert all(not p.grad.any() for p in drawn.parameters() if p.grad is not None)  # near the end scores alone decide


def test_the_exact_network_teaches_each_batch_its_own(exact: Graph) -> None:
    """Its scores are those of the network alone, whichever batch it saw before, and whoever asked for it."""
    teacher, alone, batches = Exact(exact), TableNetwork(exact).eval(), [torch.from_numpy(images(8, seed=s)) for s in (6, 7)]
    for x in (*batches, batches[0]):
        tensors = teacher.tensors(x)
        torch.testing.assert_close(teacher(x), alone(x))
        assert teacher.tensors(x) is tensors  # of one run
        assert not teacher(x).requires_grad


# ---- the command line


def test_compress_makes_trains_and_measures_tables(tmp_path, capsys) -> None:
    from jettison import cli, file

    (tmp_path / "net.py").write_text(
        "from torch import nn\n\n\ndef net(num_classes, in_channels, image_size):\n"
        "    return nn.Sequential(nn.Conv2d(in_channels, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 16, 3, padding=1),"
        " nn.BatchNorm2d(16), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(64, num_classes))\n"
    )
    out = tmp_path / "net.jettison"
    command = ["compress", f"{tmp_path / 'net.py'}:net", "--data", "digits", "--method", "tabconv", "--dense-epochs", "2", "--epochs", "1",
               "--calibrate", "64", "--fit-images", "300", "--threads", "1", "--runs", "1", "-o", str(out)]  # fmt: skip

    def call(*args: str) -> tuple[int, str]:
        with pytest.raises(SystemExit) as e:
            cli.main(args)
        said = capsys.readouterr()
        return int(e.value.code or 0), said.out + said.err

    code, said = call(*command, "--json", str(tmp_path / "c.json"))
    assert code == 0, said
    assert "1 of 3 layers are lut9; dense: 0 (stem); 8 (final classifier)" in said
    data = json.loads((tmp_path / "c.json").read_text())
    layer = next(r for r in data["layers"] if r["format"] == "lut9")
    assert 0 < layer["look_up"]["fit_error"] < 1 and layer["look_up"]["padded_inputs"] == 0
    assert "error of the fit" in said and 0 < data["look_up"]["saved_paper"] < layer["look_up"]["saved_paper"]
    assert list(data["accuracy"]) == ["dense", "dense int8", "lut9"] and list(data["history"]) == ["dense", "tables"]
    assert {str(op.format) for op in file.load(out).ops if op.kind == "conv"} == {"dense", "lut9"}
    first = out.read_bytes()
    code, said = call(*command[:-2], "--pattern", "lut9,*=lut6x32", "--epochs", "0", "-o", str(tmp_path / "own.jettison"))
    assert code == 0 and {str(op.format) for op in file.load(tmp_path / "own.jettison").ops if op.kind == "conv"} == {"dense", "lut6x32"}
    assert "1 of 3 layers are lut9,*=lut6x32" in said, said
    pixels = tmp_path / "pixels.jettison"
    code, said = call(*command[:-2], "--pattern", "pixel4x64", "-o", str(pixels))
    assert code == 0 and {str(op.format) for op in file.load(pixels).ops if op.kind == "conv"} == {"dense", "pixel4x64"}, said
    code, said = call("explain", str(pixels), "--threads", "1", "--runs", "1")
    assert code == 0 and "pixel4x64" in said, said
    code, said = call(*command, "--resume", "--json", str(tmp_path / "again.json"))
    assert code == 0 and out.read_bytes() == first, said
    assert json.loads((tmp_path / "again.json").read_text())["layers"] == data["layers"]
    code, said = call("explain", str(out), "--threads", "1", "--runs", "1", "--json", str(tmp_path / "e.json"))
    assert code == 0 and "lut9" in said, said
    code, said = call("bench", str(out), "--element", "int8", "--threads", "1", "--runs", "1")
    assert code == 0 and "lut9" in said, said
    for command_of_weights, words in (
        (("bench", str(out), "--element", "int8", "--against", "onnxruntime"), "which other engines cannot run"),
        (("simulate", str(out)), "table look-ups, which these machines cannot run"),
    ):
        code, said = call(*command_of_weights)
        assert code == 2 and words in said, said
    layer = next(r for r in json.loads((tmp_path / "e.json").read_text())["layers"] if r["format"] == "lut9")
    assert layer["look_up"]["operations_paper"] == 64 * (8 * 4 + 7 * 16)
    started = set((tmp_path / "net.jettison.checkpoints").iterdir())
    for options, words in (
        (["--pattern", "1:4"], "method tabconv makes pattern lutV"),
        (["--method", "srste", "--pattern", "lut9"], "pattern lut9 is made by method tabconv"),
        (["--element", "f32"], "write element int8"),
        (["--budget-ops", "36"], "must be at least 0 and below 1, got 36; write 0.36 for 36%"),
        (["--fit-images", "1"], "layer 3: 128 prototypes of lut9 need at least 2 images to be fitted to (64 rows each), got 1; give more"),
        (["--fit-images", "2", "--budget-ops", "0.1"], "at least 2 images to be fitted to beside the 1 that judge (64 rows each), got 1"),
        (["--pattern", "lut9,0=lut3"], "the pattern of 0 is that of no layer: 0 stays exact (stem); add --include '0'"),
        (["--pattern", "lut9,3=1:4"], "only table look-up, lutV or pixelV, may differ from layer to layer"),
        (["--pattern", "lut9,3"], "'3' is not LAYER=PATTERN"),
        (["--pattern", "lut9,layer*=lut6"], "no conv or linear layer 'layer*'; the layers are 0, 3, 8"),
    ):
        code, said = call(*command, *options)
        assert code == 2 and words in said, said
    assert set((tmp_path / "net.jettison.checkpoints").iterdir()) == started  # all was refused before any training
