"""Any folder of class folders: `train/CLASS/*.jpg` with `test/` or `val/` beside it, or `CLASS/*.jpg` alone.

Without test images of their own every fifth image of a class, in the order of names, is one.
Classes are numbered in the sorted order of their folders' names.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np

from ...errors import DataError
from .cache import cached_array
from .dataset import Raw, Split
from .parquet import SMALL_SIDE, decode

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm"}
TEST = ("test", "val", "valid", "validation")


def read_folder(root: Path) -> Raw:
    """Errors: DataError when there are no images, a class that training would see has none, or the splits' classes differ."""
    test = next((root / t for t in TEST if (root / t).is_dir()), None)
    if test is None:
        files = _files(_all_of(root))
        held_out = {c: fs[4::5] for c, fs in files.items()}
        kept = {c: [f for i, f in enumerate(fs) if i % 5 != 4] for c, fs in files.items()}
        if not any(held_out.values()):
            raise DataError(f"{root}: too few images to hold every fifth of a class out for testing; add a test folder beside train")
        return Raw(_split(root, kept), _split(root, held_out), list(files))
    if not (root / "train").is_dir():
        held_out = _files(test)
        return Raw(None, _split(root, held_out), list(held_out))
    held_out, kept = _files(test, some_empty=True), _files(root / "train")
    if unknown := sorted(set(held_out) - set(kept)):
        raise DataError(f"{test}: classes {', '.join(unknown)} are not in {root / 'train'}; the class folders must agree")
    return Raw(_split(root, kept), _split(root, {c: held_out.get(c, []) for c in kept}), list(kept))


def _all_of(root: Path) -> Path:
    """Where the class folders are: in `root`, or in its `train`, unless that is a class. Errors: DataError for a folder of unknown use."""
    train = root / "train"
    if not train.is_dir() or any(f.suffix.lower() in SUFFIXES for f in train.iterdir()):
        return root
    others = sorted(d.name for d in root.iterdir() if d.is_dir() and d != train and not d.name.startswith("."))
    if others:
        raise DataError(f"{root}: beside train/ there is {', '.join(others)}/; call the test images' folder one of {', '.join(TEST)}")
    return train


@dataclass(frozen=True, slots=True)
class FileImages:
    """Images decoded from their files one at a time."""

    files: list[Path]

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int, /) -> np.ndarray:
        return decode(read_bytes(self.files[index]), str(self.files[index]))


def _files(folder: Path, some_empty: bool = False) -> dict[str, list[Path]]:
    """Image files per class that has any, both sorted by name.

    A class without images, left out, renumbers those behind it: an error but with some_empty, where other folders number the classes.
    """
    classes = sorted(d for d in folder.iterdir() if d.is_dir() and not d.name.startswith("."))
    files = {d.name: sorted(f for f in d.rglob("*") if f.suffix.lower() in SUFFIXES) for d in classes}
    empty = [c for c, fs in files.items() if not fs]
    if len(empty) == len(files):
        raise DataError(f"{folder}: no images in class folders here; lay them out as train/CLASS/image.jpg and test/CLASS/image.jpg")
    if empty and not some_empty:
        raise DataError(f"{folder}: no images in {', '.join(empty)}; add some, or remove what is no class")
    return {c: fs for c, fs in files.items() if fs}


def _split(root: Path, files: dict[str, list[Path]]) -> Split:
    paths = [f for fs in files.values() for f in fs]
    labels = np.repeat(np.arange(len(files)), [len(fs) for fs in files.values()])
    images = FileImages(paths)
    first = images[0]
    if max(first.shape[:2]) > SMALL_SIDE or not _same_size(paths):
        return Split(images, labels)
    stat = [(str(p.relative_to(root)), p.stat().st_size, p.stat().st_mtime_ns) for p in paths]
    key = sha256(repr((str(root.resolve()), stat)).encode()).hexdigest()
    return Split(cached_array(f"folder-{key}", lambda: np.stack([images[i] for i in range(len(paths))])), labels)


def _same_size(paths: list[Path]) -> bool:
    """True when all images have the same height and width; reads their headers only."""
    from PIL import Image

    sizes = set()
    for p in paths:
        try:
            with Image.open(p) as image:
                sizes.add(image.size)
        except (OSError, ValueError, SyntaxError) as e:
            raise DataError(f"{p}: not an image, or truncated ({e}); remove it or fetch it again") from e
        if len(sizes) > 1:
            return False
    return True


def read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as e:
        raise DataError(f"{path}: cannot be read ({e})") from e
