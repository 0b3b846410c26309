"""Fitting tables, choosing layers, training tables: on small networks whose answers are known."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

from jettison import ptq, reference, tabconv  # noqa: E402
from jettison.compression import calibration_images, fitting_images  # noqa: E402
from jettison.errors import InputError, TabConvError  # noqa: E402
from jettison.export import export  # noqa: E402
from jettison.formats import Dense, Lut  # noqa: E402
from jettison.graph import Graph  # noqa: E402
from jettison.runtime import Session, isas  # noqa: E402
from jettison.tabconv import (  # noqa: E402
    descent,
    observe,
    tables,
    tree,
)
from jettison.tabconv.network import PULLED, Exact, TableNetwork  # noqa: E402
from jettison.training.data import DataSet, Split  # noqa: E402


class Net(nn.Module):
    """stem → residual block → stride 2 → grouped → classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, padding=1)
        self.a = nn.Conv2d(8, 8, 3, padding=1)
        self.b = nn.Conv2d(8, 8, 3, padding=1)
        self.down = nn.Conv2d(8, 12, 3, stride=2, padding=1)
        self.grouped = nn.Conv2d(12, 12, 3, padding=1, groups=2)
        self.point = nn.Conv2d(12, 16, 1)
        self.linear = nn.Linear(16, 5)

    def forward(self, x):
        x = self.stem(x).relu()
        x = (self.b(self.a(x).relu()) + x).relu()
        x = self.point(self.grouped(self.down(x).relu()).relu()).relu()
        return self.linear(x.mean((2, 3)))


def images(count: int, seed: int = 0) -> np.ndarray:
    """Smooth images: neighbours are alike, as in photographs."""
    coarse = torch.randn(count, 1, 4, 4, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(coarse, size=(10, 10), mode="bilinear").numpy()


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def exact() -> Graph:
    torch.manual_seed(0)
    net = Net().eval()
    for layer in net.children():
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    return ptq.quantize(export(net, (1, 10, 10)), images(64))


@pytest.fixture(scope="module")
def fitted(exact: Graph) -> tuple[Graph, list[tabconv.LayerFit]]:
    return tabconv.fit(exact, images(200), Lut(9), seed=1, threads=1)


def conv(weight: np.ndarray) -> Graph:
    """One 3×3 convolution without padding, in int8."""
    net = nn.Sequential(nn.Conv2d(weight.shape[1], weight.shape[0], 3))
    with torch.no_grad():
        net[0].weight.copy_(torch.from_numpy(weight))
    x = np.random.default_rng(5).choice(np.float32([0, 1]), (32, weight.shape[1], 8, 8))
    return ptq.quantize(export(net.eval(), (weight.shape[1], 8, 8)), x, "minmax", bias_correction=False)


# ---- trees and tables


def test_a_split_is_the_best_of_all_inputs_and_thresholds() -> None:
    rng = np.random.default_rng(0)
    x = rng.integers(0, 12, (60, 3)).astype(np.uint8)
    z = rng.standard_normal((60, 2)).astype(np.float32)

    def error(part: np.ndarray) -> float:
        return float(((part - part.mean(axis=0)) ** 2).sum()) if len(part) else 0.0

    best = min((error(z[x[:, d] > t]) + error(z[x[:, d] <= t]), d) for d in range(3) for t in range(12))
    (asked,), thresholds = tree._grow(x, z, 1)
    right = x[:, asked] > thresholds[0]
    assert error(z[right]) + error(z[~right]) == pytest.approx(best[0], rel=1e-4)
    assert asked == best[1]


def test_subspaces_follow_channels_and_cover_every_input_once() -> None:
    parts = tree.subspaces((4, 3, 3, 5), 9)
    assert [set(p % 5) for p in parts] == [{c} for c in range(5)]  # 9 taps of one channel
    for v in (1, 4, 7, 45, 100):
        flat = np.concatenate(tree.subspaces((4, 3, 3, 5), v))
        assert sorted(flat) == list(range(45))


def test_ridge_takes_back_what_codebooks_alone_get_wrong() -> None:
    rng = np.random.default_rng(0)
    code = rng.integers(0, 4, (5000, 3))
    code[:, 2] = code[:, 1]  # two codebooks that always agree
    truth = rng.standard_normal((3, 4, 2))
    wanted = np.stack([truth[0, a] + truth[1, b] for a, b, _ in code]).astype(np.float32)
    entries, constant = descent.solve(descent.Layer.of_rows(code, 2, 1), wanted[:, None], np.zeros((12, 2)), lambda done: None)
    found = entries.reshape(3, 4, 2).transpose(2, 0, 1)
    got = sum(found[:, j][:, code[:, j]].T for j in range(3)) + constant
    assert np.abs(got - wanted).max() < 0.05


def test_integers_are_as_near_as_a_step_allows() -> None:
    rng = np.random.default_rng(0)
    real, bias = rng.standard_normal((5, 7, 16)) + 3, rng.standard_normal(5)
    n = tables.integers(real, bias)
    code = rng.integers(0, 16, (40, 7))
    want = sum(real[:, j][:, code[:, j]].T for j in range(7)) + bias
    got = (sum(n.tables[:, j][:, code[:, j]].T.astype(int) for j in range(7)) + n.bias) * n.scale
    assert np.abs(got - want).max() <= 0.5 * 8 * n.scale.max() * 1.001
    assert np.abs(n.tables).max() == 127


# ---- fitting


def test_inputs_of_few_values_are_looked_up_exactly() -> None:
    """Zeros and ones, two inputs to a codebook: 16 leaves hold every case, so nothing is lost but int8."""
    graph = conv(np.random.default_rng(0).standard_normal((6, 2, 3, 3)).astype(np.float32))
    x = np.random.default_rng(1).choice(np.float32([0, 1]), (64, 2, 8, 8))
    made, fits = tabconv.fit(graph, x, Lut(2), include=[graph.ops[1].name], threads=1)
    assert fits[0].error is not None and fits[0].error < 1e-4
    want, got = Session(graph, threads=1).run(x), Session(made, threads=1).run(x)
    assert np.abs(got - want).max() < 0.02 * np.abs(want).max()


def test_every_layer_is_made_a_table_or_says_why_not(exact: Graph, fitted) -> None:
    made, fits = fitted
    assert {f.name: f.reason for f in fits} == {
        "stem": "stem", "a": "", "b": "", "down": "", "grouped": "grouped", "point": "too small to gain: 12 inputs for codebooks of 9",
        "linear": "final classifier",
    }  # fmt: skip
    formats = {op.name: op.format for op in made.ops if op.name in ("stem", "a", "b", "down")}
    assert formats == {"stem": Dense(), "a": Lut(9), "b": Lut(9), "down": Lut(9)}
    assert all(f.error is not None and f.error < 0.5 for f in fits if not f.reason)


def test_layers_may_have_formats_of_their_own(exact: Graph) -> None:
    made, _ = tabconv.fit(exact, images(200), Lut(9), seed=1, threads=1, formats={"b": Lut(6, 32), "point": Lut(4)})
    formats = {op.name: op.format for op in made.ops if op.name in ("a", "b", "down", "point")}
    assert formats == {"a": Lut(9), "b": Lut(6, 32), "down": Lut(9), "point": Lut(4)}  # of 4 inputs, 12 are enough
    (want,) = reference.run(made, images(5, seed=9))
    np.testing.assert_array_equal(Session(made, threads=1).run(images(5, seed=9)), want)
    with pytest.raises(TabConvError, match="no conv or linear layer 'c'"):
        tabconv.fit(exact, images(200), Lut(9), formats={"c": Lut(4)})
    budget = tabconv.Budget(ops=tabconv.operations(made).saved_paper)
    kept = tabconv.prioritised(exact, images(400), Lut(9), budget, seed=1, threads=1, formats={"b": Lut(6, 32), "point": Lut(4)}).graph
    assert {op.name: op.format for op in kept.ops if op.name in formats} == formats


def test_the_fitted_network_runs_to_the_same_bits_everywhere(exact: Graph, fitted) -> None:
    x = images(5, seed=9)
    (want,) = reference.run(fitted[0], x)
    for isa in isas():
        np.testing.assert_array_equal(Session(fitted[0], isa=isa, threads=1).run(x), want)
    plain = Session(exact, threads=1).run(x)
    assert np.abs(want - plain).max() < 0.5 * np.abs(plain).max()


def test_a_layer_is_to_add_what_its_residual_lacks(exact: Graph, fitted) -> None:
    """Of the block stem → a → b + stem, with a stem that is off: b's sums and residual together are to be the exact ones."""
    stem, b = exact.ops[1], next(op for op in exact.ops if op.name == "b")
    bias = exact.constants[stem.params["bias"]]
    off = replace(exact, constants={**exact.constants, stem.params["bias"]: bias + 500 * np.arange(len(bias), dtype=np.int32)})
    x = images(20, seed=2)
    _, same = observe.pixels_of(exact, exact, b, (x,), 1, lambda done: None)
    _, more = observe.pixels_of(exact, off, b, (x,), 1, lambda done: None)
    residual, lacking = (np.asarray(observe.tensor_observer(g, b.inputs[1], 1)(x)) for g in (exact, off))
    assert np.abs(residual - lacking).max() > 0.1
    np.testing.assert_allclose(more + lacking.reshape(more.shape), same + residual.reshape(same.shape), atol=1e-4)


def test_the_same_seed_gives_the_same_tables(exact: Graph, fitted) -> None:
    again, _ = tabconv.fit(exact, images(200), Lut(9), seed=1, threads=1)
    assert all(np.array_equal(a, again.constants[name]) for name, a in fitted[0].constants.items())


def test_more_inputs_per_codebook_lose_more(exact: Graph, fitted) -> None:
    _, coarse = tabconv.fit(exact, images(200), Lut(27), seed=1, threads=1)
    fine = {f.name: f.error for f in fitted[1]}
    assert all(f.error > fine[f.name] for f in coarse if f.error is not None)


def test_of_many_inputs_the_few_that_are_tried_do_nearly_as_well_as_all(exact: Graph, monkeypatch) -> None:
    def errors(most: int) -> list[float]:
        monkeypatch.setattr(tree, "TRIED", most)
        monkeypatch.setattr(tree, "DIRECTIONS", most)
        return [f.error for f in tabconv.fit(exact, images(200), Lut(36), seed=1, threads=1)[1] if f.error is not None]

    few, every = errors(8), errors(36)
    assert len(every) == 3 and max(a / b for a, b in zip(few, every)) < 1.1


def test_more_prototypes_lose_less(exact: Graph) -> None:
    few, many = (tabconv.fit(exact, images(60), Lut(9, k), seed=1, threads=1) for k in (4, 8))
    assert all(b.error < a.error for a, b in zip(few[1], many[1]) if a.error is not None)
    assert {op.format for op in many[0].ops if isinstance(op.format, Lut)} == {Lut(9, 8)}


def test_a_last_codebook_that_is_not_full_is_shown(exact: Graph) -> None:
    _, fits = tabconv.fit(exact, images(200), Lut(10), exact=["b", "down"], threads=1)
    assert next(f for f in fits if f.name == "a").padded == 8  # 72 inputs in 8 codebooks of 10
    assert next(f for f in fits if f.name == "b").reason == "asked for"


def test_constant_channels_and_dead_outputs_are_harmless(exact: Graph) -> None:
    """The stem gives nothing in some channels; `a` has an output of zeros."""
    constants = {k: v.copy() for k, v in exact.constants.items()}
    stem, a = exact.ops[1], next(op for op in exact.ops if op.name == "a")
    constants[stem.params["weight"]][:3] = 0
    constants[stem.params["bias"]][:3] = 0
    constants[a.params["weight"]][0] = 0
    made, fits = tabconv.fit(replace(exact, constants=constants), images(200), Lut(9), exact=["b", "down"], threads=1)
    assert np.isfinite(Session(made, threads=1).run(images(4))).all()
    assert next(f for f in fits if f.name == "a").error < 0.3


def test_too_few_images_are_refused_with_the_number_needed(exact: Graph) -> None:
    with pytest.raises(
        TabConvError, match=r"layer down: 128 prototypes of lut9 need at least 6 calibration images \(25 rows each\), got 2"
    ):
        tabconv.fit(exact, images(2), Lut(9))


def test_what_cannot_be_fitted_is_refused(exact: Graph) -> None:
    with pytest.raises(TabConvError, match="there is no conv or linear layer 'nose'; the layers are stem, a, b"):
        tabconv.fit(exact, images(9), Lut(9), exact=["nose"])
    with pytest.raises(TabConvError, match="no layer is left to make lut9: stem: stem; a: asked for"):
        tabconv.fit(exact, images(9), Lut(9), exact=["a", "b", "down"])
    with pytest.raises(TabConvError, match=r"no layer is left .* a: not dense int8 but dense f32"):
        tabconv.fit(export(Net().eval(), (1, 10, 10)), images(9), Lut(9))
    with pytest.raises(InputError, match="must have shape"):
        tabconv.fit(exact, images(9)[:, :, 1:], Lut(9))


# ---- accounting and priority


def test_operations_are_those_of_the_formulas(fitted) -> None:
    made = fitted[0]
    a = tabconv.layer_operations(made, next(op for op in made.ops if op.name == "a"))
    assert a.exact == 100 * 72 * 8
    assert a.paper == 100 * (8 * 4 + 7 * 8)
    assert a.kernel == 100 * (3 * 4 * 8 + 8 * 8)
    assert a.storage_bytes == 8 * 4 * 4 + 8 * 15 + 8 * 8 * 16
    whole = tabconv.operations(made)
    assert 0 < whole.saved_kernel <= whole.saved_paper < 1


@pytest.mark.parametrize("criterion", tabconv.CRITERIA)
def test_every_criterion_keeps_a_budget_of_operations(exact: Graph, criterion: str) -> None:
    most = tabconv.operations(tabconv.fit(exact, images(175), Lut(9), threads=1)[0]).saved_paper
    some = tabconv.prioritised(exact, images(200), Lut(9), tabconv.Budget(ops=most * 0.5), criterion, rows=2000, threads=1)
    assert most * 0.5 <= some.saved_ops < most and some.masked
    names = [name for name, _ in some.masked]
    assert {f.name for f in some.fits if f.reason == f"masked by {criterion}"} == set(names)
    assert all(op.format == Dense() for op in some.graph.ops if op.name in names)
    fitted = images(200)[25:]  # 25 judge
    again, _ = tabconv.fit(exact, fitted, Lut(9), names, rows=2000, threads=1)
    assert all(np.array_equal(array, some.graph.constants[name]) for name, array in again.constants.items())


def test_a_budget_of_accuracy_makes_layers_exact_until_it_holds(exact: Graph) -> None:
    none = tabconv.prioritised(exact, images(200), Lut(27), tabconv.Budget(accuracy=100.0), rows=2000, threads=1)
    assert not none.masked
    strict = tabconv.prioritised(exact, images(200), Lut(27), tabconv.Budget(accuracy=none.lost_points / 2), rows=2000, threads=1)
    assert strict.lost_points <= none.lost_points / 2
    assert strict.masked or none.lost_points == 0


def test_budgets_that_cannot_be_kept_are_named(exact: Graph) -> None:
    with pytest.raises(TabConvError, match=r"the budget cannot be kept: .* of the operations are saved, not 99.0%"):
        tabconv.prioritised(exact, images(200), Lut(9), tabconv.Budget(ops=0.99), rows=2000, threads=1)
    with pytest.raises(TabConvError, match="share saved must lie between 0 and 1"):
        tabconv.Budget(ops=36.5)
    with pytest.raises(TabConvError, match="criterion must be one of cosine, top1"):
        tabconv.prioritised(exact, images(200), Lut(9), tabconv.Budget(), "beauty")


# ---- training


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
    code, said = call(*command, "--resume")
    assert code == 0 and out.read_bytes() == first, said
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
    for options, words in (
        (["--pattern", "1:4"], "method tabconv makes pattern lutV"),
        (["--method", "srste", "--pattern", "lut9"], "pattern lut9 is made by method tabconv"),
        (["--element", "f32"], "write element int8"),
        (["--budget-ops", "36"], "must lie between 0 and 1"),
        (["--fit-images", "1"], "need at least"),
        (["--pattern", "lut9,3=1:4"], "only table look-up, lutV or pixelV, may differ from layer to layer"),
        (["--pattern", "lut9,3"], "'3' is not LAYER=PATTERN"),
        (["--pattern", "lut9,layer*=lut6"], "no conv or linear layer 'layer*'; the layers are 0, 3, 8"),
    ):
        code, said = call(*command, *options)
        assert code == 2 and words in said, said


def test_beyond_all_training_images_tables_are_fitted_to_augmented_ones() -> None:
    rng = np.random.default_rng(0)
    split = Split(rng.integers(0, 256, (20, 16, 16, 1), dtype=np.uint8), np.zeros(20, np.int64))
    data = DataSet("toy", split, split, ("one",), 16, (0.0,), (1.0,), flip=False)
    few, many = fitting_images(data, 12, seed=3), fitting_images(data, 50, seed=3)
    plain = {image.tobytes() for image in calibration_images(data, 20, seed=0)}
    assert len(few) == 12 and {image.tobytes() for image in few} <= plain
    assert len(many) == 50 and {image.tobytes() for image in many[:20]} == plain
    assert len({image.tobytes() for image in many[20:]} - plain) > 20  # but for those cut where they were
