"""Formats: `decode(encode(w)) == w` for every pattern, and a clear error for everything else."""

import itertools
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jettison.errors import FormatError, PatternError
from jettison.formats import FORMATS, NM, Block, Dense, Format, from_json, parse, to_json

BLOCKS = [Block(32, 64, NM(2, 4), 0.16), Block(16, 16, NM(1, 16), 0.5), Block(64, 32, keep=1 / 3), Block(16, 64, NM(3, 8))]
PATTERNS = [(n, m) for m in range(1, 17) for n in range(1, m + 1)] + [(1, 32), (16, 32), (31, 32), (32, 32), (1, 64), (33, 64), (64, 64)]


def weights(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def kept(w: np.ndarray, n: int, m: int) -> np.ndarray:
    """The definition, one group at a time: the n largest magnitudes, the lowest channel first on ties."""
    mask = np.zeros(w.shape, bool)
    for k, r, s in np.ndindex(w.shape[:3]):
        for g in range(0, w.shape[3], m):
            group = [(-abs(w[k, r, s, c]), c) for c in range(g, g + m)]
            for _, c in sorted(group)[:n]:
                mask[k, r, s, c] = True
    return mask


@pytest.mark.parametrize(("n", "m"), PATTERNS)
def test_nm_keeps_the_largest_and_comes_back_exactly(n, m):
    fmt = NM(n, m)
    w = weights((3, 2, 1, 2 * m), seed=n * 100 + m)
    mask = fmt.mask(w)
    np.testing.assert_array_equal(mask, kept(w, n, m))
    pruned = w * mask
    assert fmt.satisfied(pruned)
    assert fmt.satisfied(w) == (n == m)
    parts = fmt.encode(pruned, "layer")
    assert parts["values"].shape == (3, 2, 1, 2 * n)
    assert parts["indices"].size == -(-3 * 2 * 2 * n * (m - 1).bit_length() // 8)  # ⌈log2 M⌉ bits for each kept weight
    np.testing.assert_array_equal(fmt.decode(parts, w.shape, "layer"), pruned)
    assert fmt.density(w.shape) == n / m


@pytest.mark.parametrize(("n", "m"), PATTERNS)
def test_ties_go_to_the_lowest_channel_and_keep_exactly_n(n, m):
    w = np.tile(np.array([0.5, -0.5], np.float32), m).reshape(1, 1, 1, 2 * m)
    for flat in (w, np.zeros_like(w)):
        mask = NM(n, m).mask(flat).reshape(2, m)
        np.testing.assert_array_equal(mask, [[c < n for c in range(m)]] * 2)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_any_weights_with_at_most_n_survive(data):
    """Zeros anywhere, groups not full, many equal values: the round trip is exact."""
    n, m = data.draw(st.sampled_from(PATTERNS))
    fmt, groups = NM(n, m), data.draw(st.integers(1, 4))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    w = np.zeros((groups, m), np.float32)
    for row in w:
        count = rng.integers(0, n + 1)
        row[rng.choice(m, count, replace=False)] = rng.choice(np.float32([-1, 1, 1e-40, 3e38, 0]), count)
    w = w.reshape(1, 1, 1, -1)
    np.testing.assert_array_equal(fmt.decode(fmt.encode(w, "w"), w.shape, "w"), w)
    np.testing.assert_array_equal(w * fmt.mask(w), w)  # pruning what fits changes nothing


def test_a_worked_example():
    """Group (0, 5, 0, -7), (1, 0, 0, 0) at 2:4: values in channel order, two bits each, lowest bits first."""
    w = np.array([0, 5, 0, -7, 1, 0, 0, 0], np.float32).reshape(1, 1, 1, 8)
    parts = NM(2, 4).encode(w, "w")
    assert parts["values"].ravel().tolist() == [5, -7, 1, 0]
    assert parts["indices"].tolist() == [1 | 3 << 2 | 0 << 4 | 1 << 6]


@pytest.mark.parametrize("fmt", [Dense(), NM(1, 4), NM(2, 4), NM(16, 64), *BLOCKS], ids=str)
def test_every_format_keeps_the_contract(fmt):
    shape = (64, 3, 3, 64)
    assert isinstance(fmt, Format)
    assert FORMATS[fmt.kind] is type(fmt)
    assert from_json(to_json(fmt), "here") == fmt == parse(str(fmt))
    w = weights(shape)
    if not isinstance(fmt, Dense):
        w *= fmt.mask(w)
    assert fmt.satisfied(w)
    assert abs(np.count_nonzero(w) / w.size - fmt.density(shape)) < 1e-12
    parts = fmt.encode(w, "layer")
    assert all(p.flags.c_contiguous and p.dtype in (np.float32, np.uint8) for p in parts.values())
    np.testing.assert_array_equal(fmt.decode(parts, shape, "layer"), w)
    assert hash(fmt) == hash(from_json(to_json(fmt), "here"))
    for other in ((64, 3, 3, 128), (80, 3, 3, 64), (4, 64)):
        with pytest.raises(FormatError, match=r"^layer: "):
            fmt.decode(parts, other, "layer")
    with pytest.raises(FormatError, match=r"^layer: "):
        fmt.check((4, 64), "layer")
    for name in parts:
        for broken in (parts[name].astype(np.float64), parts[name][:-1]):
            with pytest.raises(FormatError, match=r"^layer: "):
                fmt.decode({**parts, name: broken}, shape, "layer")
        with pytest.raises(FormatError, match=r"^layer: "):
            fmt.decode({k: v for k, v in parts.items() if k != name}, shape, "layer")
    with pytest.raises(FormatError, match=r"^layer: "):
        fmt.decode({**parts, "more": parts[name]}, shape, "layer")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("3:2", "3:2: needs 1 <= N <= M <= 64"),
        ("0:4", "0:4: needs 1 <= N <= M <= 64"),
        ("1:65", "needs 1 <= N <= M <= 64"),
        ("0:0", "needs 1 <= N <= M <= 64"),
        ("a:b", "is not N:M with two whole numbers"),
        ("2:", "is not N:M"),
        (":4", "is not N:M"),
        ("-1:4", "is not N:M"),
        ("2:4:8", "is not N:M"),
        ("2.0:4", "is not N:M"),
        ("32x64/4:2", "needs 1 <= N <= M"),
        ("32x64/2:4@0%", "more than 0 and at most 100%"),
        ("32x64/2:4@101%", "more than 0 and at most 100%"),
        ("32x64/2:4@1.2.3%", "not a number of percent"),
        ("8x64/2:4", "must have 16, 32 or 64 rows, got 8"),
        ("32x48/2:4", "must have 16, 32 or 64 columns, got 48"),
        ("16x16/1:3", "M must divide them"),
        ("16x16/2:4@5", "is not ROWSxCOLUMNS/INNER@KEEP%"),
        ("/2:4", "is not ROWSxCOLUMNS/INNER@KEEP%"),
        ("sparse", "write 'dense' or 'N:M'"),
        ("", "write 'dense' or 'N:M'"),
    ],
)
def test_impossible_patterns_are_named(text, words):
    with pytest.raises(PatternError, match=re.escape(words)):
        parse(text)


@pytest.mark.parametrize(("n", "m"), [(True, 4), (1.0, 4), ("1", 4), (1, None), (np.float32(1), 4)])
def test_a_pattern_is_made_of_whole_numbers(n, m):
    with pytest.raises(PatternError, match="must be a whole number"):
        NM(n, m)


def test_channels_that_do_not_divide_are_refused_by_name():
    for call in (lambda: NM(2, 4).check((8, 3, 3, 6), "conv3"), lambda: NM(2, 4).encode(weights((8, 3, 3, 6)), "conv3")):
        with pytest.raises(FormatError, match=r"conv3: NM\(2, 4\) needs input channels divisible by 4, got 6; leave the layer dense"):
            call()
    with pytest.raises(FormatError, match="divisible by 4, got 6"):
        NM(2, 4).mask(weights((8, 3, 3, 6)))
    assert not NM(2, 4).satisfied(np.zeros((8, 3, 3, 6), np.float32))


def test_weights_that_break_the_pattern_are_counted():
    w = np.zeros((2, 1, 1, 8), np.float32)
    w[1, 0, 0, 4:7] = 1
    with pytest.raises(FormatError, match="conv3: 1 of 4 groups have more than 2 of 4 weights"):
        NM(2, 4).encode(w, "conv3")


def test_positions_must_ascend_and_stay_inside_the_group():
    fmt, shape = NM(2, 3), (1, 1, 1, 3)
    values = np.ones((1, 1, 1, 2), np.float32)
    for first, second in itertools.product(range(4), repeat=2):
        parts = {"values": values, "indices": np.array([first | second << 2], np.uint8)}
        if first < second < 3:
            assert fmt.decode(parts, shape, "w").sum() == 2
        else:
            with pytest.raises(FormatError, match="not ascending positions below 3"):
                fmt.decode(parts, shape, "w")


BLOCK = {"kind": "block", "rows": 16, "cols": 16, "keep": 1, "inner": {"kind": "dense"}}
BAD_BLOCKS = [
    {**BLOCK, **bad}
    for bad in (
        {"rows": 16.0}, {"cols": [16]}, {"keep": 0}, {"keep": "1"}, {"keep": None}, {"inner": None}, {"inner": {}},
        {"inner": {"kind": "nm"}}, {"inner": BLOCK},
    )
]  # fmt: skip


@pytest.mark.parametrize(
    "obj",
    [None, [], "nm", {}, {"kind": "zip"}, {"kind": ["nm"]}, {"kind": "nm"}, {"kind": "nm", "n": 2}, {"kind": "nm", "n": 3, "m": 2},
     {"kind": "nm", "n": [2], "m": 4}, {"kind": "nm", "n": 2, "m": 4, "k": 1}, {"kind": "dense", "n": 1},
     {"kind": "block", "rows": 16, "cols": 16, "keep": 1}, *BAD_BLOCKS],
)  # fmt: skip
def test_a_format_from_a_file_is_checked(obj):
    with pytest.raises(FormatError, match=r"^layer1: "):
        from_json(obj, "layer1")


def largest_blocks(w: np.ndarray, fmt: Block) -> np.ndarray:
    """The definition, one block-row at a time: the K blocks of largest Σ|w|, the lowest column first on ties."""
    k, r, s, c = w.shape
    matrix, mask = np.abs(w).reshape(k, r * s * c), np.zeros((k, r * s * c), bool)
    for row in range(0, k, fmt.rows):
        sums = [
            (-float(matrix[row : row + fmt.rows, at : at + fmt.cols].sum(dtype=np.float64)), at) for at in range(0, r * s * c, fmt.cols)
        ]
        for _, at in sorted(sums)[: fmt.kept(w.shape)]:
            mask[row : row + fmt.rows, at : at + fmt.cols] = True
    return mask.reshape(w.shape)


@pytest.mark.parametrize("fmt", BLOCKS, ids=str)
def test_blocks_keep_the_largest_equally_many_in_each_row(fmt):
    w = weights((128, 3, 2, 128), seed=3)
    mask = fmt.mask(w)
    inside = fmt.inner.mask(w) if isinstance(fmt.inner, NM) else np.ones(w.shape, bool)
    np.testing.assert_array_equal(mask, largest_blocks(w, fmt) & inside)
    assert not fmt.satisfied(w) or fmt.keep == fmt.inner.density(w.shape) == 1
    tied = np.ones((64, 1, 1, 192), np.float32)
    np.testing.assert_array_equal(Block(16, 64, keep=0.34).mask(tied)[0, 0, 0], np.arange(192) < 64)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_block_sparse_weights_come_back_and_take_the_bytes_that_the_page_says(data):
    """Rows with fewer blocks than the rest, blocks with zeros, one block only, both elements."""
    n, m = data.draw(st.sampled_from([(1, 1), (2, 4), (1, 16), (3, 8)]))
    fmt = Block(data.draw(st.sampled_from([16, 32])), data.draw(st.sampled_from([16, 64])), NM(n, m), data.draw(st.floats(0.01, 1)))
    shape = (
        fmt.rows * data.draw(st.integers(1, 3)),
        *data.draw(st.sampled_from([(1, 1), (3, 3), (1, 2)])),
        fmt.cols * data.draw(st.integers(1, 3)),
    )
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    w = rng.integers(-2, 3, shape).astype(data.draw(st.sampled_from([np.float32, np.int8])))
    w *= fmt.mask(rng.random(shape))
    w.reshape(shape[0] // fmt.rows, -1)[rng.integers(0, shape[0] // fmt.rows)] = 0
    parts = fmt.encode(w, "w")
    np.testing.assert_array_equal(fmt.decode(parts, shape, "w"), w)
    assert fmt.decode(parts, shape, "w").dtype == w.dtype
    total = shape[1] * shape[2] * shape[3] // fmt.cols
    kept = max(1, round(fmt.keep * total))
    values = shape[0] * kept * fmt.cols * n // m
    bits = (shape[0] // fmt.rows * kept * (total - 1).bit_length(), values * (m - 1).bit_length())
    assert sum(p.nbytes for p in parts.values()) == values * w.itemsize + sum(-(-b // 8) for b in bits)


def test_a_worked_example_of_blocks():
    """16 outputs, four blocks of 16 inputs, half of them kept: columns 1 and 3 in two bits each."""
    w = np.zeros((16, 1, 1, 64), np.float32)
    w[:, 0, 0, 16], w[5, 0, 0, 63] = 2, 3
    parts = Block(16, 16, NM(1, 16), 0.5).encode(w, "w")
    assert parts["blocks"].tolist() == [1 | 3 << 2]
    assert parts["values"].shape == (16, 1, 2, 1)
    assert parts["values"][5].ravel().tolist() == [2, 3]
    assert parts["values"][4].ravel().tolist() == [2, 0]


def test_blocks_that_do_not_fit_or_are_too_many_are_named():
    fmt = Block(32, 64, NM(2, 4), 0.25)
    with pytest.raises(FormatError, match="conv3: 32x64 blocks need output channels divisible by 32, got 48; leave the layer dense"):
        fmt.check((48, 3, 3, 64), "conv3")
    with pytest.raises(FormatError, match="conv3: 32x64 blocks need input channels divisible by 64, got 96"):
        fmt.check((64, 1, 1, 96), "conv3")
    w = np.zeros((32, 1, 1, 256), np.float32)
    w[3, 0, 0, ::64] = 1
    assert not fmt.satisfied(w)
    with pytest.raises(FormatError, match=r"conv3: a block-row has 4 of 4 blocks, 32x64/2:4@25% keeps 1"):
        fmt.encode(w, "conv3")


def test_columns_of_blocks_must_ascend_and_exist():
    fmt, shape = Block(16, 16, keep=0.5), (16, 1, 1, 80)
    values = np.ones((16, 1, 2, 16), np.float32)
    for first, second in itertools.product(range(8), repeat=2):
        parts = {"weight": values, "blocks": np.array([first | second << 3], np.uint8)}
        if first < second < 5:
            assert fmt.decode(parts, shape, "w").sum() == values.size
        else:
            with pytest.raises(FormatError, match="not ascending columns below 5"):
                fmt.decode(parts, shape, "w")
