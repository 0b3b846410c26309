"""Table look-up in training: its gradients are those it says it has, natively and in PyTorch, on every instruction set."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from jettison.runtime import isas  # noqa: E402
from jettison.tabconv import lookup  # noqa: E402
from jettison.tabconv.lookup import LookUp  # noqa: E402


def test_gradients_are_those_of_a_layer_with_one_soft_question() -> None:
    """Each by finite differences in float64, with a walk down the tree of its own."""
    rng, tau, levels = np.random.default_rng(0), 0.1, 3
    x, g = rng.random((60, 6)), rng.standard_normal((60, 4))  # two trees; every input is asked once
    thresholds, entries = rng.random((2, 7)), rng.standard_normal((2, 8, 4))
    t = [torch.tensor(a, dtype=torch.float32, requires_grad=True) for a in (x, thresholds, entries.reshape(16, 4))]
    sums = LookUp.apply(t[0], torch.zeros(1, dtype=torch.int64), torch.arange(6).view(2, 3), t[1], t[2], tau)
    (sums * torch.tensor(g, dtype=torch.float32)).sum().backward()

    def leaf(answers: np.ndarray, tree: np.ndarray, forced: dict[int, int]) -> tuple[int, list[int]]:
        code, nodes = 0, []
        for level in range(levels):
            nodes.append((1 << level) - 1 + code)
            code |= forced.get(level, int(answers[level] > tree[nodes[-1]])) << level
        return code, nodes

    for_x, for_thresholds, for_entries = np.zeros_like(x), np.zeros_like(thresholds), np.zeros_like(entries)
    for row, j in np.ndindex(len(x), 2):
        asked, tree = x[row, 3 * j : 3 * j + 3], thresholds[j]
        code, nodes = leaf(asked, tree, {})
        for_entries[j, code] += g[row]
        for level in range(levels):
            no, yes = (g[row] @ entries[j, leaf(asked, tree, {level: answer})[0]] for answer in (0, 1))

            def soft(a: float) -> float:
                share = 1 / (1 + np.exp(-(a - tree[nodes[level]]) / tau))  # noqa: B023
                return share * yes + (1 - share) * no  # noqa: B023

            slope = (soft(asked[level] + 1e-5) - soft(asked[level] - 1e-5)) / 2e-5
            for_x[row, 3 * j + level] = slope
            for_thresholds[j, nodes[level]] -= slope
    for got, want in zip(t, (for_x, for_thresholds, for_entries.reshape(16, 4))):
        np.testing.assert_allclose(got.grad, want, rtol=1e-3, atol=1e-4)


# images, pixels, codebooks, levels, outputs
SIZES = [
    (3, 20, 5, 4, 7), (2, 7, 70, 4, 16), (2, 32, 130, 4, 33), (4, 9, 3, 8, 33), (2, 5, 130, 2, 1), (1, 1, 1, 1, 1),
    (2, 37, 18, 5, 20), (2, 44, 33, 6, 48), (2, 45, 5, 7, 24), (1, 60, 3, 8, 17), (2, 33, 3, 9, 20), (3, 21, 2, 12, 16), (2, 19, 1, 16, 3),
    (5, 60, 3, 4, 512), (5, 61, 2, 8, 400),  # more than is taken at once: of the images, and of the codebooks
]  # fmt: skip


@pytest.mark.parametrize("isa", isas())
@pytest.mark.parametrize("row", [0, 4, 8, 19])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_native_training_step_equals_that_in_pytorch(isa: str, size: tuple[int, ...], row: int, monkeypatch) -> None:
    """Places are drawn by lot, so that trees ask one input twice. row: pixels side by side; 0: starts are drawn by lot too."""
    n, pixels, codebooks, levels, outputs = size
    monkeypatch.setattr(lookup, "ISA", isa)
    torch.manual_seed(sum(size))
    x, starts, places = torch.randn(n, 130 if row else 50), torch.randint(0, 30, (pixels,)), torch.randint(0, 20, (codebooks, levels))
    if row:
        starts = torch.arange(pixels) // row * (row + 3) + torch.arange(pixels) % row
    thresholds, entries = torch.randn(codebooks, 2**levels - 1), torch.randn(codebooks * 2**levels, outputs)
    grad = torch.randn(n * pixels, outputs)
    codes, sums = lookup._forward(x, starts, places, thresholds, entries)
    want = lookup._backward(x, starts, places, thresholds, entries, codes, grad, 0.7)
    threads = torch.get_num_threads()
    for count in (1, 2):
        torch.set_num_threads(count)
        native_codes, native_sums = lookup._native_forward(x, starts, places, thresholds, entries)
        got = [lookup._native_backward(x, starts, places, thresholds, entries, native_codes, grad, 0.7) for _ in range(2)]
        torch.set_num_threads(threads)
        assert torch.equal(native_codes.T.long(), codes)
        torch.testing.assert_close(native_sums, sums)
        for a, again, b in zip(got[0], got[1], want):
            assert torch.equal(a, again)  # an interrupted run that goes on must come out the same
            torch.testing.assert_close(a.flatten().double(), b.flatten().double(), rtol=1e-4, atol=1e-5)
