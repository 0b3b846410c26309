"""Fitting tables and choosing layers: on small networks whose answers are known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from jettison import reference, tabconv  # noqa: E402
from jettison.analysis.measure import Measured  # noqa: E402
from jettison.compression import calibration_images, fitting_images  # noqa: E402
from jettison.errors import InputError, TabConvError  # noqa: E402
from jettison.export import export  # noqa: E402
from jettison.formats import Dense, Lut, PixelLut  # noqa: E402
from jettison.graph import Graph  # noqa: E402
from jettison.runtime import Session, isas  # noqa: E402
from jettison.tabconv import descent, observe, priority, tables, tree  # noqa: E402
from jettison.training.data import DataSet, Split  # noqa: E402
from tabconv_nets import Net, conv, exact_net, images  # noqa: E402

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def exact() -> Graph:
    return exact_net()


@pytest.fixture(scope="module")
def fitted(exact: Graph) -> tuple[Graph, list[tabconv.LayerFit]]:
    return tabconv.fit(exact, images(200), Lut(9), seed=1, threads=1)


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


@pytest.mark.parametrize("fmt", [Lut(9), PixelLut(4, 16)], ids=str)
def test_constant_channels_and_dead_outputs_are_harmless(exact: Graph, fmt: Lut | PixelLut) -> None:
    """The stem gives nothing in some channels; `a` has an output of zeros."""
    constants = {k: v.copy() for k, v in exact.constants.items()}
    stem, a = exact.ops[1], next(op for op in exact.ops if op.name == "a")
    constants[stem.params["weight"]][:3] = 0
    constants[stem.params["bias"]][:3] = 0
    constants[a.params["weight"]][0] = 0
    made, fits = tabconv.fit(replace(exact, constants=constants), images(200), fmt, exact=["b", "down"], threads=1)
    assert np.isfinite(Session(made, threads=1).run(images(4))).all()
    assert next(f for f in fits if f.name == "a").error < 0.3


def test_too_few_images_are_refused_with_the_number_needed(exact: Graph) -> None:
    with pytest.raises(
        TabConvError,
        match=r"layer down: 128 prototypes of lut9 need at least 6 images to be fitted to \(25 rows each\), got 2; .*--fit-images",
    ):
        tabconv.fit(exact, images(2), Lut(9))
    with pytest.raises(TabConvError, match=r"layer point: 48 prototypes of pixel4x16 need at least 2 images .* got 1"):
        tabconv.fit(exact, images(1), PixelLut(4, 16), exact=["a", "b", "down"])
    with pytest.raises(TabConvError, match=r"at least 6 images to be fitted to beside the 1 that judge \(25 rows each\), got 5"):
        tabconv.prioritised(exact, images(6), Lut(9), tabconv.Budget(ops=0.1))


def test_what_cannot_be_fitted_is_refused(exact: Graph) -> None:
    with pytest.raises(TabConvError, match="there is no conv or linear layer 'nose'; the layers are stem, a, b"):
        tabconv.fit(exact, images(9), Lut(9), exact=["nose"])
    with pytest.raises(TabConvError, match="no layer is left to make lut9: stem: stem; a: asked for"):
        tabconv.fit(exact, images(9), Lut(9), exact=["a", "b", "down"])
    with pytest.raises(TabConvError, match=r"no layer is left .* a: not dense int8 but dense f32"):
        tabconv.fit(export(Net().eval(), (1, 10, 10)), images(9), Lut(9))
    with pytest.raises(InputError, match="must have shape"):
        tabconv.fit(exact, images(9)[:, :, 1:], Lut(9))
    with pytest.raises(TabConvError, match="rows must be at least 1, got -5"):
        tabconv.fit(exact, images(9), Lut(9), rows=-5)


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


def tables_of(graph: Graph) -> int:
    return sum(isinstance(op.format, Lut) for op in graph.ops)


def lose_by_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each table costs a point."""
    monkeypatch.setattr(priority._Judge, "lost", lambda self, graph: float(tables_of(graph)))


def cost_by_tables(monkeypatch: pytest.MonkeyPatch, exact_ms: float, table_ms: float) -> None:
    """One image takes `exact_ms` with no table, and `table_ms` more with each."""

    def measured(session: Session, samples: object, runs: int) -> Measured:
        ms = exact_ms + table_ms * tables_of(session.graph)
        return Measured((), ms, ms, ms)

    monkeypatch.setattr(priority, "measure", measured)


@pytest.mark.parametrize(("points", "left"), [(100.0, 4), (3.5, 3), (1.0, 1)])
def test_a_budget_of_accuracy_makes_layers_exact_until_it_holds(exact: Graph, monkeypatch, points: float, left: int) -> None:
    lose_by_tables(monkeypatch)
    made = tabconv.prioritised(exact, images(200), Lut(6), tabconv.Budget(accuracy=points), rows=2000, threads=1)
    assert tables_of(made.graph) == left == made.lost_points
    assert len(made.masked) == 4 - left


@pytest.mark.parametrize(("table_ms", "left"), [(1.0, 1), (-1.0, 2)])
def test_a_budget_of_milliseconds_is_kept_whether_tables_win_or_lose(exact: Graph, monkeypatch, table_ms: float, left: int) -> None:
    """Four layers may be tables. Where each takes a millisecond more only one may stay, where it takes one less two must."""
    cost_by_tables(monkeypatch, 3.0, table_ms)
    budget = tabconv.Budget(ms=4.5 if table_ms > 0 else 1.5)
    made = tabconv.prioritised(exact, images(200), Lut(9), budget, rows=2000, threads=1)
    assert tables_of(made.graph) == left


def test_budgets_that_cannot_be_kept_are_named(exact: Graph, monkeypatch) -> None:
    most = tabconv.operations(tabconv.fit(exact, images(200), Lut(36), rows=2000, threads=1)[0]).saved_paper
    for budget, words in (
        (tabconv.Budget(ops=0.99), r"the budget cannot be kept: .* of the operations are saved, not 99.0%; include more layers"),
        (tabconv.Budget(accuracy=0.5), r"the budget cannot be kept: 1.00 points are lost with one layer left, not 0.50; lower v"),
        (tabconv.Budget(ops=most, accuracy=2.0), r"the budget cannot be kept: .* of the operations are saved, not .*; allow more points"),
        (tabconv.Budget(ms=3.5), r"the budget cannot be kept: one image takes 4.0000 ms, not 3.5000; raise v"),
    ):
        cost_by_tables(monkeypatch, 3.0, 1.0)
        lose_by_tables(monkeypatch)
        with pytest.raises(TabConvError, match=words):
            tabconv.prioritised(exact, images(200), Lut(36), budget, rows=2000, threads=1)
    with pytest.raises(TabConvError, match=r"share saved must be at least 0 and below 1, got 36.5; write 0.365 for 36.5%"):
        tabconv.Budget(ops=36.5)
    with pytest.raises(TabConvError, match="budget of ms: must be a number of at least 0, got nan"):
        tabconv.Budget(ms=float("nan"))
    with pytest.raises(TabConvError, match="criterion must be one of cosine, top1"):
        tabconv.prioritised(exact, images(200), Lut(9), tabconv.Budget(), "beauty")


def test_beyond_all_training_images_tables_are_fitted_to_augmented_ones() -> None:
    rng = np.random.default_rng(0)
    split = Split(rng.integers(0, 256, (20, 16, 16, 1), dtype=np.uint8), np.zeros(20, np.int64))
    data = DataSet("toy", split, split, ("one",), 16, (0.0,), (1.0,), flip=False)
    few, many = fitting_images(data, 12, seed=3), fitting_images(data, 50, seed=3)
    plain = {image.tobytes() for image in calibration_images(data, 20, seed=0)}
    assert len(few) == 12 and {image.tobytes() for image in few} <= plain
    assert len(many) == 50 and {image.tobytes() for image in many[:20]} == plain
    assert len({image.tobytes() for image in many[20:]} - plain) > 20  # but for those cut where they were
