"""Batches: their order, shares, crops and views."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from jettison.training.data import DataSet, Shard, Split, normalise, train_batches
from jettison.training.data import test_batches as ordered_batches
from jettison.training.data.batches import centre_crop, crop_flip, resized_crop

torch.set_num_threads(1)


def toy(n: int = 24, side: int = 8, flip: bool = True) -> DataSet:
    images = np.arange(n, dtype=np.uint8)[:, None, None, None] + np.zeros((n, side, side, 1), np.uint8)
    split = Split(images, np.arange(n))
    return DataSet("toy", split, split, tuple(map(str, range(n))), side, (0.0,), (1.0,), flip)


def test_an_epoch_shows_every_image_once_with_its_label() -> None:
    for augment in (False, True):
        batches = list(train_batches(toy(), 8, seed=1, epoch=0, augment=augment))
        assert [len(y) for _, y in batches] == [8, 8, 8]
        assert sorted(torch.cat([y for _, y in batches]).tolist()) == list(range(24))
        for x, y in batches:
            assert torch.equal(x.amax((1, 2, 3)).long(), y)


def test_the_order_depends_on_seed_and_epoch_alone() -> None:
    def order(seed: int, epoch: int) -> list[int]:
        return torch.cat([y for _, y in train_batches(toy(), 8, seed, epoch)]).tolist()

    assert order(1, 0) == order(1, 0)
    assert len({tuple(order(s, e)) for s in (0, 1) for e in (0, 1)}) == 4


@pytest.mark.parametrize("world", [2, 4])
def test_processes_share_the_very_batches_of_one_process(world: int) -> None:
    whole = list(train_batches(toy(), 8, seed=5, epoch=2))
    parts = [list(train_batches(toy(), 8, seed=5, epoch=2, shard=Shard(r, world))) for r in range(world)]
    for i, (x, y) in enumerate(whole):
        assert torch.equal(torch.cat([p[i][0] for p in parts]), x)
        assert torch.equal(torch.cat([p[i][1] for p in parts]), y)
    tested = [y for r in range(world) for _, y in ordered_batches(toy(23), 5, Shard(r, world))]
    assert sorted(torch.cat(tested).tolist()) == list(range(23))


def test_crop_and_flip_move_pixels_and_nothing_else() -> None:
    x = torch.arange(1, 17, dtype=torch.uint8).view(1, 4, 4, 1)

    def cut(dy: int, dx: int, mirror: bool) -> torch.Tensor:
        return crop_flip(x, torch.tensor([[dy], [dx]]), torch.tensor([mirror]), 1)[0, :, :, 0]

    assert torch.equal(cut(1, 1, False), x[0, :, :, 0])
    assert torch.equal(cut(1, 1, True), x[0, :, :, 0].flip(1))
    assert cut(0, 2, False).tolist() == [[0, 0, 0, 0], [2, 3, 4, 0], [6, 7, 8, 0], [10, 11, 12, 0]]


def test_digits_are_never_mirrored_and_photographs_are() -> None:
    images = np.zeros((64, 8, 8, 1), np.uint8)
    images[:, :, 0] = 255  # the left column
    for flip in (False, True):
        split = Split(images, np.zeros(64, np.int64))
        data = DataSet("t", split, split, ("x",), 8, (0.0,), (1.0,), flip)
        x, _ = next(train_batches(data, 64, 0, 0))
        assert bool((x[..., 5:] > 0).any()) is flip


def test_large_views() -> None:
    image = np.zeros((100, 200, 3), np.uint8)
    image[40:60, 90:110] = 255
    view = centre_crop(image, 56)  # short side to 64 pixels, then the central 56
    assert view.shape == (56, 56, 3)
    assert view[28, 28, 0] == 255
    np.testing.assert_allclose((view[..., 0] / 255).sum(), (20 * 0.64) ** 2, rtol=0.05)
    rng = np.random.default_rng(0)
    views = [resized_crop(image, 32, True, rng) for _ in range(20)]
    assert all(v.shape == (32, 32, 3) for v in views)
    assert len({v.tobytes() for v in views}) > 10


def test_normalise() -> None:
    data = replace(toy(), mean=(0.5,), std=(0.25,))
    x = torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1)
    torch.testing.assert_close(normalise(x, data).flatten(), torch.tensor([-2.0, 2.0]))
