"""Batches of a split: shuffled, augmented, cut into one part per process.

Everything random is drawn from a generator seeded by (seed, epoch), for the whole global
batch: the same images and the same augmentation come out whatever the number of processes,
and a resumed epoch repeats itself exactly without stored state.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ...errors import DataError
from .dataset import DataSet, Images, Split

Batch = tuple[Tensor, Tensor]  # uint8 (n, c, h, w) in channels-last memory, int64 (n,)


@dataclass(frozen=True, slots=True)
class Shard:
    """This process' part of every batch."""

    rank: int = 0
    world: int = 1

    def of(self, indices: Tensor) -> Tensor:
        return indices.tensor_split(self.world)[self.rank]


def steps_per_epoch(split: Split, batch: int) -> int:
    """Full batches only: a short last batch would unbalance processes and batch statistics. At least 1."""
    return max(1, split.epoch // batch)


def train_batches(
    data: DataSet, batch: int, seed: int, epoch: int, shard: Shard = Shard(), augment: bool = True, workers: int = 2
) -> Iterator[Batch]:
    """`steps_per_epoch` batches in the order of (seed, epoch): crop and flip for small images, else resized crop and flip."""
    split = data.train
    if split is None:
        raise DataError(f"{data.name} has no training split here; add its train files")
    generator = torch.Generator().manual_seed(mixed_seed(seed, epoch))
    order = split.order(generator)
    parts = [order[i * batch : (i + 1) * batch] for i in range(steps_per_epoch(split, batch))]
    if not split.in_memory:
        yield from _decoded(split, [shard.of(p) for p in parts], data, seed=mixed_seed(seed, epoch) if augment else None, workers=workers)
        return
    images = _torch_images(split)
    labels = torch.from_numpy(split.labels)
    pad = data.size // 8
    for part in parts:
        shift = torch.randint(0, 2 * pad + 1, (2, len(part)), generator=generator)
        mirror = torch.rand(len(part), generator=generator) < 0.5
        mine = shard.of(torch.arange(len(part)))
        x = images[part[mine]]
        if augment:
            x = crop_flip(x, shift[:, mine], mirror[mine] & data.flip, pad)
        yield x.permute(0, 3, 1, 2), labels[part[mine]]


def test_batches(data: DataSet, batch: int, shard: Shard = Shard(), workers: int = 2) -> Iterator[Batch]:
    """The whole test split in order, no augmentation; large images are resized and cut to their centre."""
    parts = [shard.of(p) for p in torch.arange(len(data.test)).split(batch)]
    parts = [p for p in parts if len(p)]
    if not data.test.in_memory:
        yield from _decoded(data.test, parts, data, seed=None, workers=workers)
        return
    images, labels = _torch_images(data.test), torch.from_numpy(data.test.labels)
    for p in parts:
        yield images[p].permute(0, 3, 1, 2), labels[p]


def normalise(x: Tensor, data: DataSet) -> Tensor:
    """uint8 (n, c, h, w) → float32 (x/255 − mean)/std, keeping the memory format."""
    mean = torch.tensor(data.mean, device=x.device).view(1, -1, 1, 1)
    std = torch.tensor(data.std, device=x.device).view(1, -1, 1, 1)
    return (x.float() - 255 * mean) / (255 * std)


def crop_flip(x: Tensor, shift: Tensor, mirror: Tensor, pad: int) -> Tensor:
    """x uint8 (n, h, w, c): zero-pad by `pad`, cut (h, w) out at `shift` (2, n), mirror where `mirror`."""
    n, h, w, _ = x.shape
    padded = torch.nn.functional.pad(x, (0, 0, pad, pad, pad, pad))
    rows = shift[0][:, None] + torch.arange(h)
    columns = torch.where(mirror[:, None], torch.arange(w - 1, -1, -1), torch.arange(w)) + shift[1][:, None]
    return padded[torch.arange(n)[:, None, None], rows[:, :, None], columns[:, None, :]]


class _Decoding(Dataset):
    """Decodes and cuts one image; in a worker process. `seed` None: the test-time view."""

    def __init__(self, images: Images, labels: np.ndarray, size: int, flip: bool, seed: int | None) -> None:
        self.images, self.labels, self.size, self.flip, self.seed = images, labels, size, flip, seed

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = self.images[index]
        if self.seed is None:
            view = centre_crop(image, self.size)
        else:
            view = resized_crop(image, self.size, self.flip, np.random.default_rng((self.seed, index)))
        return torch.from_numpy(view), int(self.labels[index])


def _decoded(split: Split, parts: list[Tensor], data: DataSet, seed: int | None, workers: int) -> Iterator[Batch]:
    view = _Decoding(split.images, split.labels, data.size, data.flip, seed)  # type: ignore[arg-type]
    try:
        for x, y in DataLoader(view, batch_sampler=[p.tolist() for p in parts], num_workers=workers):
            yield x.permute(0, 3, 1, 2), y
    except DataError as e:  # from a worker process it comes with that one's traceback as its text
        raise DataError(str(e).rstrip().rpartition("DataError: ")[2]) from e


def centre_crop(image: np.ndarray, size: int) -> np.ndarray:
    """uint8 (h, w, 3): short side to size·256/224, then the central size × size pixels."""
    from PIL import Image

    h, w = image.shape[:2]
    scale = size * 256 / 224 / min(h, w)
    box = size / scale
    left, top = (w - box) / 2, (h - box) / 2
    return np.array(Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR, (left, top, left + box, top + box)))


def resized_crop(image: np.ndarray, size: int, flip: bool, rng: np.random.Generator) -> np.ndarray:
    """A random part of 8 to 100% of the area and aspect 3/4 to 4/3, resized to size × size, mirrored half of the time.

    Source: Szegedy et al. 2015 (arXiv 1409.4842), section 6.
    """
    from PIL import Image

    h, w = image.shape[:2]
    left, top, cw, ch = (w - min(h, w)) / 2, (h - min(h, w)) / 2, min(h, w), min(h, w)
    for _ in range(10):
        area = h * w * rng.uniform(0.08, 1.0)
        aspect = np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3)))
        tw, th = round(np.sqrt(area * aspect)), round(np.sqrt(area / aspect))
        if 0 < tw <= w and 0 < th <= h:
            left, top, cw, ch = rng.integers(0, w - tw + 1), rng.integers(0, h - th + 1), tw, th
            break
    box = (left, top, left + cw, top + ch)
    view = np.array(Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR, box))
    return np.ascontiguousarray(view[:, ::-1]) if flip and rng.random() < 0.5 else view


def _torch_images(split: Split) -> Tensor:
    images = np.asarray(split.images)
    return torch.from_numpy(images if images.flags.writeable else np.array(images))


def mixed_seed(*numbers: int) -> int:
    """One 63-bit seed from several numbers ≥ 0."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)
