"""Tables looked up with codes of pixels: their trees, their equations and their training, on problems whose answers are known."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from jettison import _native, reference, tabconv  # noqa: E402
from jettison.formats import Lut, PixelLut, pixel_lut  # noqa: E402
from jettison.formats.pixel_lut import seen_by  # noqa: E402
from jettison.graph import Graph, Problem  # noqa: E402
from jettison.runtime import Session, isas  # noqa: E402
from jettison.tabconv import descent, pixel_lookup, pixel_tree  # noqa: E402
from jettison.tabconv.network import Exact, TableNetwork  # noqa: E402
from jettison.tabconv.pixel_lookup import PixelLayer, PixelLookUp  # noqa: E402
from tabconv_nets import conv, exact_net, images  # noqa: E402

torch.set_num_threads(1)

PIXELS = PixelLut(4, 16)


@pytest.fixture(scope="module")
def exact() -> Graph:
    return exact_net()


@pytest.fixture(scope="module")
def fitted(exact: Graph) -> tuple[Graph, list[tabconv.LayerFit]]:
    return tabconv.fit(exact, images(200), PIXELS, seed=1, threads=1)


# ---- trees and tables


@pytest.mark.parametrize("sign", [1, -1])
def test_a_question_is_about_what_outputs_depend_on(sign: int) -> None:
    """Outputs of the sum, or the difference, of channels 1 and 2: no single channel tells as much."""
    pixels = np.random.default_rng(0).integers(0, 256, (3000, 4)).astype(np.uint8)
    weight = np.zeros((2, 1, 1, 4))
    weight[:, 0, 0, 1], weight[:, 0, 0, 2] = 1.0, sign
    trees = pixel_tree.grow(pixels, weight, PixelLut(4, 2))
    i, j = trees.questions[0, 0]
    assert {i, j if j >= 0 else -1 - j} == {1, 2} and (j >= 0) == (sign > 0)
    right = pixel_lut.codes(pixels, trees.questions, trees.thresholds)[:, 0] == 1
    z = pixels.astype(float) @ weight[0, 0, 0] * (sign if i == 2 else 1)
    assert z[right].min() > z[~right].max() - 2 and 0.4 < right.mean() < 0.6


def test_a_question_of_two_channels_is_asked_where_it_is_worth_its_operation() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3000, 4)).astype(np.uint8)
    weight = np.zeros((1, 1, 1, 4))
    weight[..., 1], weight[..., 2] = 1.0, 0.6
    cheap, dear = (pixel_tree.grow(pixels, weight, PixelLut(4, 2), price).questions[0, 0] for price in (0.0, 0.5))
    assert {*cheap} == {1, 2} and {*dear} == {1}


def test_the_price_of_an_operation_is_its_share_of_the_look_ups() -> None:
    size = Problem(1, 6, 7, 16, 10, 3, 3, (2, 2), (1, 1, 1, 1))  # 3 × 4 outputs, 8 × 9 padded pixels, 18 look-ups each
    assert pixel_tree.price_of(size, PixelLut(8, 16), (10, 3, 3, 16)) == pytest.approx(pixel_tree.WORTH * 2 * 72 / (12 * 17 * 10))


def test_groups_ask_about_their_own_channels() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2000, 7)).astype(np.uint8)
    trees = pixel_tree.grow(pixels, np.random.default_rng(1).standard_normal((5, 3, 3, 7)), PixelLut(3, 8))
    assert [len(own) for own in trees.groups] == [3, 3, 1] and sorted(np.concatenate(trees.groups)) == list(range(7))
    first, second = trees.questions[..., 0], trees.questions[..., 1]
    for g, own in enumerate(trees.groups):
        assert {*first[g], *np.where(second[g] < 0, -1 - second[g], second[g])} <= {*own}


def test_channels_that_are_alike_share_a_group() -> None:
    rng = np.random.default_rng(0)
    base = rng.integers(20, 230, (4000, 3))
    pixels = (base[:, [0, 1, 2, 0, 1, 2]] + rng.integers(-9, 10, (4000, 6))).astype(np.uint8)
    found = pixel_tree.groups_of(pixels, rng.standard_normal((50, 6)), 2)
    assert {frozenset(own.tolist()) for own in found} == {frozenset({i, i + 3}) for i in range(3)}


def test_descent_solves_the_ridge_equations() -> None:
    rng, ridge = np.random.default_rng(0), 16.0
    questions, seen = np.zeros((2, 2, 2), np.int32), seen_by(4, 5, (2, 2), (1, 1), (1, 1))[0]
    codes = rng.integers(0, 4, (30, 2, 20)).astype(np.uint16)
    layer = descent.Layer(_native.PixelLookUpLayer(questions, seen, 2, 20), _native.Pool(2), 2, codes, 12)
    wanted, start = rng.standard_normal((30, 12, 3)).astype(np.float32), rng.standard_normal((32, 3))
    hot = np.zeros((30, 12, 32))
    for n, place, tap, g in np.ndindex(30, 12, 4, 2):
        hot[n, place, (tap * 2 + g) * 4 + codes[n, g, seen[tap, place]]] = 1
    hot = hot.reshape(-1, 32)
    gram = hot.T @ hot
    damped = gram + np.eye(32) * ridge
    want = start + np.linalg.solve(damped, hot.T @ (wanted.reshape(-1, 3) - hot @ start))
    *_, got = descent.descend(layer, wanted, start, ridge)
    np.testing.assert_allclose(got, want, atol=1e-3)


# ---- fitting


def test_inputs_of_few_values_are_looked_up_exactly() -> None:
    graph = conv(np.random.default_rng(0).standard_normal((8, 2, 3, 3)).astype(np.float32))
    x = np.random.default_rng(1).choice(np.float32([0, 1]), (300, 2, 8, 8))
    made, fits = tabconv.fit(graph, x, PixelLut(2, 4), include=[graph.ops[1].name], threads=1)
    assert fits[0].error is not None and fits[0].error < 1e-4
    want, got = (np.asarray(Session(g, threads=1).run(x[:50])) for g in (graph, made))
    assert np.abs(got - want).max() < 0.02 * np.abs(want).max()


def test_the_fitted_network_runs_to_the_same_bits_everywhere(exact: Graph, fitted) -> None:
    made, fits = fitted
    assert {f.name for f in fits if not f.reason} == {"a", "b", "down", "point"}
    assert all(f.error is not None and f.error < 0.5 for f in fits if not f.reason)
    x = images(7, seed=9)
    want = reference.run(made, x)[0]
    for isa in isas():
        np.testing.assert_array_equal(Session(made, isa=isa, threads=1).run(x), want)
    again, _ = tabconv.fit(exact, images(200), PIXELS, seed=1, threads=1)
    assert all(np.array_equal(a, again.constants[name]) for name, a in made.constants.items())


def test_formats_of_both_kinds_may_be_mixed(exact: Graph) -> None:
    made, fits = tabconv.fit(exact, images(200), Lut(9), seed=1, threads=1, formats={"b": PIXELS, "down": PixelLut(3, 32)})
    assert {op.name: str(op.format) for op in made.ops if op.name in ("a", "b", "down")} == {
        "a": "lut9",
        "b": "pixel4x16",
        "down": "pixel3x32",
    }
    assert {f.name: f.padded for f in fits}["down"] == 1  # 8 channels in groups of 3


def test_operations_are_those_of_the_formulas(fitted) -> None:
    made = fitted[0]
    op = next(op for op in made.ops if op.name == "a")
    questions = made.weight_parts(op)["questions"]
    asked = sum(1 if i == j else 2 for i, j in questions.reshape(-1, 2))
    a = tabconv.layer_operations(made, op)
    assert a.exact == 100 * 72 * 8
    assert a.paper == 144 * asked + 100 * (18 - 1) * 8
    assert a.kernel == 144 * 7 * 8 + 100 * 18 * 8
    assert a.storage_bytes == 2 * 4 * 2 * 4 + 2 * 15 + 8 * 18 * 16


# ---- training


def test_the_trainable_network_computes_what_the_kernels_compute(fitted) -> None:
    net, x = TableNetwork(fitted[0]).eval(), images(40, seed=3)
    again = net.trained()
    assert all(np.array_equal(a, again.constants[name]) for name, a in fitted[0].constants.items() if not name.endswith("multiplier"))
    with torch.no_grad():
        for shift in (0.0, 0.1):
            for step in net.steps:
                if hasattr(step, "thresholds"):
                    step.thresholds -= shift  # 25 steps of u8: many of the small ones leave the range
            got, want = net(torch.from_numpy(x)).numpy(), Session(net.trained(), threads=1).run(x)
            assert np.median(np.abs(got - want)) < 1e-3 * np.abs(want).max()


def test_training_brings_the_network_nearer_to_the_exact_one(exact: Graph) -> None:
    made, _ = tabconv.fit(exact, images(200), PixelLut(8, 4), seed=1, threads=1)
    x = torch.from_numpy(images(96, seed=4))
    want = torch.from_numpy(Session(exact, threads=1).run(x.numpy()))

    def error(graph: Graph) -> float:
        return float(((torch.from_numpy(Session(graph, threads=1).run(x.numpy())) - want) ** 2).mean())

    net = TableNetwork(made, Exact(exact)).train()
    before = {n: p.detach().clone() for n, p in net.named_parameters()}
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3)
    for _ in range(60):
        optimizer.zero_grad()
        ((net(x) - want) ** 2).mean().backward()
        optimizer.step()
    assert error(net.trained()) < 0.7 * error(made)
    assert all(not torch.equal(p, before[n]) for n, p in net.named_parameters())


def test_gradients_are_those_of_a_layer_with_one_soft_question() -> None:
    """One pixel, one tap: the formulas, with a walk down the tree of its own."""
    rng, levels, tau = np.random.default_rng(0), 3, 20.0
    questions = np.array([[[0, 1], [2, -2], [1, 1]]], np.int32)
    entries, g = rng.standard_normal((8, 2)), rng.standard_normal(2)
    thresholds, q = rng.integers(60, 200, (1, 7)) + 0.5, rng.integers(60, 200, 3)
    layer = PixelLayer(torch.from_numpy(questions), torch.zeros(1, 1, dtype=torch.int32), 0.5, 7, tau)
    x = torch.tensor((q[None, :, None] - 7) * 0.5, dtype=torch.float32, requires_grad=True)
    t, e = (torch.tensor(a, dtype=torch.float32, requires_grad=True) for a in (thresholds, entries))
    (PixelLookUp.apply(x, t, e, layer)[0, 0] * torch.tensor(g, dtype=torch.float32)).sum().backward()

    def asked(level: int) -> float:
        i, j = questions[0, level]
        return (q[i] + (q[j] if j >= 0 else 255 - q[-1 - j]) + 1) // 2

    def leaf(forced: dict[int, int]) -> tuple[int, list[int]]:
        code, nodes = 0, []
        for level in range(levels):
            nodes.append((1 << level) - 1 + code)
            code |= forced.get(level, int(asked(level) > thresholds[0, nodes[-1]])) << level
        return code, nodes

    want_x, want_t = np.zeros(3), np.zeros(7)
    for level in range(levels):
        node = leaf({})[1][level]
        no, yes = (g @ entries[leaf({level: answer})[0]] for answer in (0, 1))
        share = 1 / (1 + np.exp(-(asked(level) - thresholds[0, node]) / tau))
        slope = (yes - no) * share * (1 - share) / tau
        i, j = questions[0, level]
        want_x[i] += slope / 2 / 0.5
        want_x[j if j >= 0 else -1 - j] += slope / (2 if j >= 0 else -2) / 0.5
        want_t[node] -= slope
    np.testing.assert_allclose(x.grad[0, :, 0], want_x, rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(t.grad[0], want_t, rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(e.grad[leaf({})[0]], g, rtol=1e-6)
    assert np.count_nonzero(e.grad) == 2


# images, channels, height, width, groups, levels, outputs, kernel, stride
SIZES = [
    (3, 5, 7, 9, 2, 3, 7, 3, 1), (2, 16, 18, 18, 2, 10, 16, 3, 1), (3, 8, 9, 9, 1, 6, 33, 3, 2), (40, 4, 3, 3, 1, 12, 64, 1, 2),
    (1, 1, 1, 1, 1, 1, 1, 1, 1), (9, 6, 17, 5, 3, 5, 32, 2, 1), (2, 3, 30, 30, 1, 2, 128, 1, 1), (3, 5, 9, 9, 1, 16, 4, 1, 1),
]  # fmt: skip


@pytest.mark.parametrize("isa", isas())
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_native_training_step_equals_that_in_pytorch(isa: str, size: tuple[int, ...], monkeypatch) -> None:
    n, c, h, w, groups, levels, outputs, kernel, stride = size
    monkeypatch.setattr(pixel_lookup, "ISA", isa)
    torch.manual_seed(sum(size))
    seen, (p, q) = seen_by(h, w, (kernel, kernel), (stride, stride), (1, 1))
    questions = torch.stack([torch.randint(0, c, (groups, levels)), torch.randint(-c, c, (groups, levels))], -1).int()
    layer = PixelLayer(questions, torch.from_numpy(seen), 0.5, 3, 9.0)
    x, thresholds = torch.randint(0, 256, (n, c, h * w), dtype=torch.uint8), torch.rand(groups, 2**levels - 1) * 255
    entries, grad = torch.randn(len(seen) * groups * 2**levels, outputs), torch.randn(n, p * q, outputs)
    codes, sums = pixel_lookup._forward(x, thresholds, entries, layer)
    want = pixel_lookup._backward(x, thresholds, entries, codes, grad, layer)
    threads = torch.get_num_threads()
    for count in (1, 2):
        torch.set_num_threads(count)
        native_codes, native_sums = pixel_lookup._native_forward(x, thresholds, entries, layer)
        got = [pixel_lookup._native_backward(x, thresholds, entries, native_codes, grad, layer) for _ in range(2)]
        torch.set_num_threads(threads)
        assert torch.equal(native_codes.long(), codes)
        torch.testing.assert_close(native_sums, sums)
        for a, again, b in zip(got[0], got[1], want):
            assert torch.equal(a, again)  # an interrupted run that goes on must come out the same
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_codes_in_training_are_those_of_the_format() -> None:
    rng = np.random.default_rng(0)
    questions = np.stack([rng.integers(0, 5, (2, 4)), rng.integers(-5, 5, (2, 4))], -1).astype(np.int32)
    pixels, thresholds = rng.integers(0, 256, (200, 5)).astype(np.uint8), rng.integers(0, 256, (2, 15)).astype(np.uint8)
    layer = PixelLayer(torch.from_numpy(questions), torch.zeros(1, 1, dtype=torch.int32), 1.0, 0, 1.0)
    got, _ = pixel_lookup._forward(torch.from_numpy(pixels)[:, :, None], torch.from_numpy(thresholds).float(), torch.zeros(32, 1), layer)
    np.testing.assert_array_equal(got[:, :, 0], pixel_lut.codes(pixels, questions, thresholds))


def test_a_layer_whose_parts_do_not_fit_is_refused() -> None:
    questions, seen = np.zeros((1, 2, 2), np.int32), np.array([[0, 1]], np.int32)
    with pytest.raises(ValueError, match="no channel"):
        _native.PixelLookUpLayer(questions + 3, seen, 3, 2)
    with pytest.raises(ValueError, match="no pixel"):
        _native.PixelLookUpLayer(questions, seen, 3, 1)
    with pytest.raises(ValueError, match="two outputs"):
        _native.PixelLookUpLayer(questions, seen * 0, 3, 2)
    layer, pool = _native.PixelLookUpLayer(questions, seen, 3, 2), _native.Pool(1)
    with pytest.raises(ValueError, match="entries"):
        layer.look_up(pool, isas()[0], np.zeros((1, 1, 2), np.uint16), np.zeros((3, 1), np.float32), np.zeros((1, 2, 1), np.float32))
