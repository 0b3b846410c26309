"""Tiny-ImageNet-200: 100,000 training and 10,000 validation images of 64×64 pixels, 200 classes, one zip file.

`train/WNID/images/*.JPEG`, `val/images/*.JPEG` with `val/val_annotations.txt` (file, WNID, box), `wnids.txt`, `words.txt`.
Classes are numbered in the sorted order of their WNIDs. The test split has no labels; validation stands in.
Source: Stanford CS231n, "Tiny ImageNet visual recognition challenge", 2015.
"""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

import numpy as np

from ...errors import DataError
from .cache import cached_array, digest
from .dataset import Raw, Split
from .parquet import decode

FILE = "tiny-imagenet-200.zip"
ROOT = "tiny-imagenet-200/"


def read_tiny_imagenet(folder: Path) -> Raw:
    path = folder / FILE
    try:
        with zipfile.ZipFile(path) as archive:
            wnids = sorted(archive.read(f"{ROOT}wnids.txt").decode().split())
            words = dict(line.split("\t", 1) for line in archive.read(f"{ROOT}words.txt").decode().splitlines() if "\t" in line)
            key = digest([path])
            train = _split(archive, path, _train_files(archive), wnids, f"tiny-imagenet-train-{key}")
            test = _split(archive, path, _val_files(archive), wnids, f"tiny-imagenet-val-{key}")
    except (zipfile.BadZipFile, KeyError, OSError, EOFError, zlib.error, UnicodeDecodeError) as e:
        raise DataError(f"{path}: truncated or corrupt, or of another layout ({e}); fetch it again") from e
    return Raw(train, test, [words.get(w, w) for w in wnids])


def _train_files(archive: zipfile.ZipFile) -> list[tuple[str, str]]:
    """(member, WNID), sorted."""
    names = sorted(n for n in archive.namelist() if n.startswith(f"{ROOT}train/") and n.endswith(".JPEG"))
    return [(n, n.split("/")[2]) for n in names]


def _val_files(archive: zipfile.ZipFile) -> list[tuple[str, str]]:
    lines = archive.read(f"{ROOT}val/val_annotations.txt").decode().splitlines()
    return [(f"{ROOT}val/images/{file}", wnid) for file, wnid, *_ in (line.split("\t") for line in lines if line)]


def _split(archive: zipfile.ZipFile, path: Path, files: list[tuple[str, str]], wnids: list[str], key: str) -> Split:
    number = {w: i for i, w in enumerate(wnids)}
    if not files or any(w not in number for _, w in files):
        raise DataError(f"{path}: no images, or a class that wnids.txt does not name; fetch it again")

    def images() -> np.ndarray:
        first = decode(archive.read(files[0][0]), f"{path}, {files[0][0]}")
        out = np.empty((len(files), *first.shape), np.uint8)
        for i, (member, _) in enumerate(files):
            image = decode(archive.read(member), f"{path}, {member}")
            if image.shape != first.shape:
                raise DataError(f"{path}, {member}: image of {image.shape[:2]} pixels among images of {first.shape[:2]}; fetch it again")
            out[i] = image
        return out

    return Split(cached_array(key, images), np.array([number[w] for _, w in files], np.int64))
