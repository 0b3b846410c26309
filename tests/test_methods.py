"""Methods against their formulas: masks, gradients, which layers, SAD, finish."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from jettison.errors import CheckpointError, FormatError, TrainingError
from jettison.formats import NM, Block
from jettison.methods import ASP, METHODS, SRSTE, STE, MaxQ, Select, choose_layers, keep_mask, nm_mask, sparsify_
from jettison.methods.mask import to_krsc

torch.set_num_threads(1)


def small_net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 4),
    )  # fmt: skip


def images(n: int = 5) -> torch.Tensor:
    return torch.randn(n, 3, 6, 6, generator=torch.Generator().manual_seed(1))


PATTERNS = [*((n, m) for m in (1, 2, 4, 8, 16, 32) for n in sorted({1, max(1, m // 2), m})), (5, 64)]


@pytest.mark.parametrize(("n", "m"), PATTERNS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_mask_is_the_formats_mask_also_on_ties(n: int, m: int, dtype: torch.dtype) -> None:
    g = torch.Generator().manual_seed(n * 100 + m)
    for w in (
        torch.randn(6, 2 * m, 3, 2, generator=g),
        torch.randint(-2, 3, (6, 2 * m, 3, 2), generator=g).float(),
        torch.zeros(2, m, 1, 1),
    ):
        w = w.to(dtype)
        expected = torch.from_numpy(NM(n, m).mask(to_krsc(w))).permute(0, 3, 1, 2)
        assert torch.equal(nm_mask(w, n, m), expected)
        assert torch.equal(nm_mask(w.to(memory_format=torch.channels_last), n, m), expected)
        assert torch.equal(nm_mask(w[:, :, 0, 0], n, m), expected[:, :, 0, 0])


@pytest.mark.parametrize("fmt", [Block(16, 16, NM(2, 4), 0.3), Block(32, 16, keep=0.5), Block(16, 32, NM(1, 8))], ids=str)
def test_block_mask_is_the_formats_mask_also_on_ties(fmt: Block) -> None:
    g = torch.Generator().manual_seed(0)
    for w in (torch.randn(32, 64, 3, 2, generator=g), torch.ones(32, 64, 1, 1)):
        expected = torch.from_numpy(fmt.mask(to_krsc(w))).permute(0, 3, 1, 2)
        assert torch.equal(keep_mask(w, fmt), expected)
        assert torch.equal(keep_mask(w[:, :, 0, 0], fmt), torch.from_numpy(fmt.mask(to_krsc(w[:, :, :1, :1])))[:, 0, 0])


@pytest.mark.parametrize("kind", ["asp", "ste", "srste"])
def test_magnitude_methods_make_blocks(kind: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Conv2d(32, 32, 3), nn.Flatten(), nn.Linear(32 * 4, 4))
    fmt = Block(16, 16, NM(2, 4), 0.3)
    handle = sparsify_(model, fmt, METHODS[kind]())
    nn.functional.cross_entropy(model(images()), torch.tensor([0, 1, 2, 3, 0])).backward()
    handle.step()
    assert handle.finish() == {"2": fmt}
    assert int((model[2].weight != 0).sum()) == round(model[2].weight.numel() * fmt.density((32, 3, 3, 32)))


def test_mask_compares_magnitudes_that_differ_in_the_last_bit() -> None:
    w = torch.tensor([[1.0, np.nextafter(np.float32(1), np.float32(2)), -0.0, 1e-45]])
    assert nm_mask(w, 1, 4).tolist() == [[False, True, False, False]]
    assert nm_mask(w, 3, 4).tolist() == [[True, True, False, True]]


@pytest.mark.parametrize("kind", METHODS)
@pytest.mark.parametrize(("n", "m"), [(1, 4), (2, 4), (1, 8)])
def test_every_method_trains_and_ends_in_its_pattern(kind: str, n: int, m: int) -> None:
    def run() -> tuple[dict[str, torch.Tensor], list[float]]:
        model = small_net()
        handle = sparsify_(model, NM(n, m), METHODS[kind]())
        optimizer = torch.optim.AdamW(model.parameters(), 0.03)
        target, losses = torch.tensor([0, 1, 2, 3, 0]), []
        for _ in range(20):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(images()), target)
            loss.backward()
            handle.step()
            optimizer.step()
            losses.append(loss.item())
        before = model(images())
        assert handle.finish() == {"2": NM(n, m), "6": NM(n, m)}
        assert torch.equal(model(images()), before)
        return model.state_dict(), losses

    state, losses = run()
    assert losses[-1] < 0.5 * losses[0]
    assert set(state) == set(small_net().state_dict())
    assert NM(n, m).satisfied(to_krsc(state["2.weight"]))
    assert int((state["6.weight"] != 0).sum()) == state["6.weight"].numel() * n // m
    again, _ = run()
    assert all(torch.equal(state[k], again[k]) for k in state)


def test_forward_uses_the_pruned_weights_bit_for_bit() -> None:
    for method in (ASP(), STE(), SRSTE()):
        model = small_net()
        weight = model[2].weight.detach().clone()
        sparsify_(model, NM(1, 4), method)
        assert torch.equal(model[2].weight, weight * nm_mask(weight, 1, 4))


def linear_gradients(method: object, n: int = 1, m: int = 4) -> tuple[torch.Tensor, ...]:
    """W, the gradient ∂L/∂Ŵ by hand, the mask, the gradient the optimizer sees; L = Σ(ŴX − Y)²/2."""
    torch.manual_seed(3)
    layer = nn.Linear(8, 5, bias=False)
    w, x, y = layer.weight.detach().clone(), torch.randn(7, 8), torch.randn(7, 5)
    handle = sparsify_(layer, NM(n, m), method, Select(classifier=True))  # type: ignore[arg-type]
    (0.5 * (layer(x) - y).pow(2).sum()).backward()
    handle.step()
    mask = nm_mask(w, n, m)
    by_hand = (x @ (w * mask).T - y).T @ x
    return w, by_hand, mask, layer.parametrizations.weight.original.grad  # type: ignore[union-attr]


def test_gradients_are_those_of_the_formulas() -> None:
    w, by_hand, mask, seen = linear_gradients(STE())
    torch.testing.assert_close(seen, by_hand)
    w, by_hand, mask, seen = linear_gradients(ASP())
    torch.testing.assert_close(seen, by_hand * mask)
    assert (seen[~mask] == 0).all()
    w, by_hand, mask, seen = linear_gradients(SRSTE(decay=0.3))
    torch.testing.assert_close(seen, by_hand + 0.3 * w * ~mask)


def test_srste_term_leaves_kept_weights_alone_and_scales_with_decay() -> None:
    _, plain, mask, none = linear_gradients(SRSTE(decay=0.0))
    w, _, _, some = linear_gradients(SRSTE(decay=1e-2))
    torch.testing.assert_close(none, plain)
    assert torch.equal((some - none)[mask], torch.zeros_like(w[mask]))
    torch.testing.assert_close((some - none)[~mask], 1e-2 * w[~mask], atol=1e-6, rtol=1e-3)


def test_asp_keeps_its_mask_and_ste_moves_it() -> None:
    for method, moves in ((ASP(), False), (STE(), True), (SRSTE(), True)):
        layer = nn.Linear(8, 4)
        handle = sparsify_(layer, NM(1, 4), method, Select(classifier=True))
        weight = layer.parametrizations.weight.original  # type: ignore[union-attr]
        with torch.no_grad():
            weight.copy_(weight.flip(1) * 2)
        assert (handle.sad().total.count > 0) is moves


def test_one_shot_prunes_at_once_and_leaves_plain_parameters() -> None:
    model = small_net()
    dense = {k: v.clone() for k, v in model.state_dict().items()}
    handle = sparsify_(model, NM(2, 4), ASP(retrain=False))
    assert torch.equal(model.state_dict()["2.weight"], dense["2.weight"] * nm_mask(dense["2.weight"], 2, 4))
    assert torch.equal(model.state_dict()["0.weight"], dense["0.weight"])
    assert type(model[2]) is nn.Conv2d
    assert handle.finish() == {"2": NM(2, 4), "6": NM(2, 4)}


def test_sad_counts_changed_positions_by_hand() -> None:
    layer = nn.Linear(4, 2, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[4.0, 3, 2, 1], [1, 2, 3, 4]]))
    handle = sparsify_(layer, NM(1, 4), STE(), Select(classifier=True))
    start = handle.masks()
    weight = layer.parametrizations.weight.original  # type: ignore[union-attr]
    with torch.no_grad():
        weight[0, 1] = 9.0  # position 1 instead of 0: two states differ
    sad = handle.sad()
    assert (sad.total.count, sad.total.total, sad.total.fraction) == (2, 8, 0.25)
    assert handle.sad().total.count == 0  # since the last call
    with torch.no_grad():
        weight[1] = torch.tensor([7.0, 0, 0, 0])
    assert handle.sad(since=start).layers[""].count == 4  # since the given masks
    assert handle.sad().total.count == 2  # which did not move the last call's


def test_a_mask_is_known_by_its_hash() -> None:
    handle = sparsify_(small_net(), NM(1, 4), STE())
    same = sparsify_(small_net(), NM(1, 4), SRSTE())
    assert handle.digests() == same.digests() and len(set(handle.digests().values())) == 2
    weight = same._weights["6"][0]
    with torch.no_grad():
        weight[3, 4:8] = torch.tensor([9.0, 0, 0, 0]) if not same.masks()["6"][3, 4] else torch.tensor([0, 9.0, 0, 0])
    assert same.digests()["2"] == handle.digests()["2"] and same.digests()["6"] != handle.digests()["6"]


def test_report_says_why_a_layer_stayed_dense() -> None:
    model = nn.Sequential()
    for name, module in {
        "stem": nn.Conv2d(3, 16, 3),
        "body": nn.Conv2d(16, 16, 3),
        "depthwise": nn.Conv2d(16, 16, 3, groups=16),
        "grouped": nn.Conv2d(16, 16, 3, groups=2),
        "odd": nn.Conv2d(16, 6, 1),
        "six": nn.Conv2d(6, 8, 1),
        "skipped": nn.Linear(8, 8),
        "head": nn.Linear(8, 4),
    }.items():
        model.add_module(name, module)
    handle = sparsify_(model, NM(2, 4), select=Select(exclude=("skip*",)), remainder="dense")
    assert {r.name: str(r.format) if not r.reason else r.reason for r in handle.report()} == {
        "stem": "stem",
        "body": "2:4",
        "depthwise": "depthwise",
        "grouped": "grouped",
        "odd": "2:4",
        "six": "input channels 6 do not fit 2:4",
        "skipped": "excluded by name",
        "head": "final classifier",
    }
    assert [r.shape for r in handle.report()][3] == (16, 3, 3, 8)


class Attention(nn.Module):
    """What is not a plain layer: packed projections, an embedding tied to the output, a parameter of its own, a transposed convolution."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words, self.places = nn.Embedding(12, 16), nn.Parameter(torch.randn(5, 16))
        self.out = nn.Linear(16, 12, bias=False)
        self.out.weight = self.words.weight
        self.attend = nn.MultiheadAttention(16, 2, batch_first=True)
        self.cross = nn.MultiheadAttention(16, 2, kdim=8, vdim=8, batch_first=True)
        self.grow, self.head = nn.ConvTranspose2d(4, 4, 2), nn.Linear(16, 16)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.words(tokens) + self.places
        x = x + self.attend(x, x, x)[0]
        x = x + self.cross(x, x[..., :8], x[..., :8])[0]
        return self.out(self.head(x))


@pytest.mark.parametrize("method", [ASP(), SRSTE(), MaxQ()], ids=lambda m: m.kind)
def test_weights_that_are_no_layers_are_pruned_or_say_why_not(method: object) -> None:
    model, tokens = Attention(), torch.arange(10).view(2, 5)
    rule = Select(exclude=("head",))
    handle = sparsify_(model, NM(2, 4), method, rule)  # type: ignore[arg-type]
    pruned = {r.name for r in handle.report() if not r.reason}
    assert pruned == {"attend.in_proj_weight", "attend.out_proj", "cross.out_proj"} | {f"cross.{x}_proj_weight" for x in "qkv"}
    assert {r.name: r.reason for r in handle.report() if r.reason} == {
        "places": "a parameter of Attention: only Conv2d, Linear and MultiheadAttention are pruned",
        "words": "embedding: rows are looked up, nothing is summed",
        "out": "its weight is also that of words (embedding: rows are looked up, nothing is summed)",
        "grow": "transposed convolution: no kernel skips its weights; nn.Upsample with a Conv2d can be pruned",
        "head": "excluded by name",
    }
    model(tokens).square().mean().backward()
    handle.step()
    assert all(weight.grad is not None and weight.grad.any() for weight, _ in handle.weights().values())
    torch.optim.SGD(model.parameters(), 0.1).step()
    before = model(tokens)
    with torch.inference_mode():  # attention's fast path
        torch.testing.assert_close(model.eval()(tokens), before, rtol=1e-3, atol=1e-3)
    assert set(handle.finish()) == pruned
    torch.testing.assert_close(model(tokens), before, rtol=1e-3, atol=1e-3)
    assert NM(2, 4).satisfied(to_krsc(model.attend.in_proj_weight))
    assert set(model.state_dict()) == set(Attention().state_dict())


def test_every_exception_is_a_setting() -> None:
    model = nn.Sequential(
        nn.Conv2d(4, 8, 1), nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 8, 3, groups=2), nn.Conv2d(8, 8, 1), nn.Linear(8, 4)
    )

    def chosen(rule: object, fmt: NM = NM(1, 4), remainder: str = "refuse") -> list[str]:
        return [c.name for c in choose_layers(model, fmt, rule, remainder) if c.format]  # type: ignore[arg-type]

    assert chosen(Select()) == ["3"]
    assert chosen(Select(stem=True)) == ["0", "3"]
    assert chosen(Select(grouped=True)) == ["2", "3"]
    assert chosen(Select(classifier=True)) == ["3", "4"]
    assert chosen(Select(include=("4",), exclude=("3",))) == ["4"]
    assert chosen(Select(depthwise=True), NM(1, 1)) == ["1", "3"]
    assert chosen(Select(depthwise=True), NM(1, 4), "dense") == ["3"]
    assert chosen(lambda name, module: isinstance(module, nn.Linear)) == ["4"]


@pytest.mark.parametrize(
    ("fmt", "select", "words"),
    [
        (NM(2, 4), Select(), ["six", "NM(2, 4)", "divisible by 4", "got 6", "remainder='dense'"]),
        (NM(1, 3), Select(stem=True, include=("nosuch",)), ["nosuch", "stem, six, head"]),
        (NM(1, 2), lambda name, module: False, ["no layer", "not selected", "select="]),
        (NM(1, 4), Select(exclude=("six",)), ["no layer is left", "stem: stem", "head: final classifier"]),
    ],
)
def test_what_cannot_be_sparse_is_refused_and_nothing_changes(fmt: NM, select: object, words: list[str]) -> None:
    model = nn.Sequential()
    for name, module in (("stem", nn.Conv2d(3, 6, 3)), ("six", nn.Conv2d(6, 8, 3)), ("head", nn.Linear(8, 2))):
        model.add_module(name, module)
    with pytest.raises(FormatError) as e:
        sparsify_(model, fmt, select=select)  # type: ignore[arg-type]
    assert all(w in str(e.value) for w in words), str(e.value)
    assert "six.weight" in model.state_dict()


def test_a_second_sparsify_is_refused_until_finish() -> None:
    model = small_net()
    handle = sparsify_(model, NM(2, 4))
    with pytest.raises(FormatError, match="2: its weight is already parametrized"):
        sparsify_(model, NM(1, 4))
    handle.finish()
    sparsify_(model, NM(1, 4)).finish()
    assert NM(1, 4).satisfied(to_krsc(model[2].weight))


def test_finish_notices_weights_changed_afterwards() -> None:
    model = small_net()
    handle = sparsify_(model, NM(1, 4))
    handle.finish()
    nn.init.ones_(model[2].weight)
    with pytest.raises(FormatError, match="2: weights do not satisfy 1:4"):
        handle.finish()


def test_methods_refuse_bad_settings() -> None:
    for decay in (-1.0, float("nan"), float("inf")):
        with pytest.raises(TrainingError, match="decay"):
            SRSTE(decay=decay)
    with pytest.raises(FormatError, match="remainder"):
        sparsify_(small_net(), NM(1, 4), remainder="maybe")  # type: ignore[arg-type]


def test_a_checkpoint_of_other_settings_is_refused() -> None:
    state = sparsify_(small_net(), NM(1, 4), SRSTE(2e-4)).state_dict()
    for fmt, method in itertools.product((NM(1, 4), NM(2, 4)), (SRSTE(2e-4), SRSTE(1e-3), STE())):
        handle = sparsify_(small_net(), fmt, method)
        if (fmt, method) == (NM(1, 4), SRSTE(2e-4)):
            handle.load_state_dict(state)
        else:
            with pytest.raises(CheckpointError, match=r"format|method"):
                handle.load_state_dict(state)
