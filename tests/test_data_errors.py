"""Data sets that are missing or damaged: what is wrong is named, with the cure."""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from data_files import RNG, add, class_folders, idx, pictures, png, register, write_mnist, write_parquet
from jettison.errors import DataError
from jettison.training.data import load
from jettison.training.data import test_batches as ordered_batches

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("JETTISON_DATA", raising=False)


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError("no network in tests")

    monkeypatch.setattr("urllib.request.urlopen", refuse)


def test_missing_files_name_themselves_and_the_command(tmp_path: Path, offline: None) -> None:
    with pytest.raises(DataError) as e:
        load("cifar10", tmp_path)
    for words in (
        str(tmp_path / "cifar10" / "cifar-10-binary.tar.gz"),
        "no network in tests",
        "fetch it with: curl",
        "https://www.cs.toronto.edu/",
    ):
        assert words in str(e.value)
    assert not (tmp_path / "cifar10").exists() or not list((tmp_path / "cifar10").iterdir())


def test_a_download_that_is_not_the_file_is_thrown_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("urllib.request.urlopen", lambda *_, **__: io.BytesIO(b"<html>moved</html>"))
    with pytest.raises(DataError, match="not the published file"):
        load("cifar10", tmp_path)
    assert list((tmp_path / "cifar10").iterdir()) == []


def test_missing_files_are_downloaded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_mnist(tmp_path / "source")
    register(monkeypatch, "mnist", tmp_path / "source")
    asked = []

    def serve(url: str, **_: object) -> io.BytesIO:
        asked.append(url)
        return io.BytesIO((tmp_path / "source" / url.rsplit("/", 1)[1]).read_bytes())

    monkeypatch.setattr("urllib.request.urlopen", serve)
    assert len(load("mnist", tmp_path / "d").test) == 6
    assert len(load("mnist", tmp_path / "d").test) == 6
    assert len(asked) == 4


def test_one_missing_file_of_four_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, offline: None) -> None:
    write_mnist(tmp_path / "mnist")
    register(monkeypatch, "mnist", tmp_path / "mnist")
    (tmp_path / "mnist" / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(DataError, match=r"t10k-labels-idx1-ubyte\.gz is missing .* curl .*t10k-labels-idx1-ubyte\.gz"):
        load("mnist", tmp_path)


def test_a_flipped_bit_is_found_and_the_users_file_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_mnist(tmp_path)
    register(monkeypatch, "mnist", tmp_path)
    path = tmp_path / "train-labels-idx1-ubyte.gz"
    content = bytearray(path.read_bytes())
    content[-9] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"train-labels-idx1-ubyte\.gz is corrupt .* curl"):
        load("mnist", tmp_path)
    assert path.read_bytes() == bytes(content)


def damage_mnist(folder: Path, change: Callable[[bytes], bytes]) -> None:
    write_mnist(folder)
    path = folder / "train-images-idx3-ubyte.gz"
    path.write_bytes(change(path.read_bytes()))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda b: b[:-20], "not a complete gzip file"),
        (lambda b: b"no gzip at all", "not a complete gzip file"),
        (lambda b: gzip.compress(b"\0\0\x0d\x03" + bytes(12)), "not an IDX file"),
        (lambda b: gzip.compress(gzip.decompress(b)[:-1]), "its header says"),
        (lambda b: idx(np.zeros((19, 28, 28), np.uint8)), "19 train images but 20 labels"),
    ],
)
def test_damaged_idx_is_named_even_if_its_md5_is_right(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable, words: str
) -> None:
    damage_mnist(tmp_path / "m", change)
    register(monkeypatch, "mnist", tmp_path / "m")
    with pytest.raises(DataError, match=words):
        load("mnist", tmp_path / "m")


@pytest.mark.parametrize("keep", [0, 100, -30])
def test_truncated_archives_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keep: int) -> None:
    with tarfile.open(tmp_path / "whole.tar.gz", "w:gz") as archive:
        add(archive, "cifar-10-batches-bin/data_batch_1.bin", RNG.bytes(3073 * 2))
    path = tmp_path / "cifar-10-binary.tar.gz"
    path.write_bytes((tmp_path / "whole.tar.gz").read_bytes()[:keep])
    register(monkeypatch, "cifar10", tmp_path)
    with pytest.raises(DataError, match=r"cifar-10-binary\.tar\.gz: (truncated|.* not in the archive)"):
        load("cifar10", tmp_path)


def test_damaged_parquet_is_named(tmp_path: Path) -> None:
    good = [png(p) for p in pictures(3)]
    test = tmp_path / "test-0.parquet"
    write_parquet(test, [good[0], b"not an image", good[2]], [0, 1, 0])
    with pytest.raises(DataError, match="row 1: the image cannot be decoded"):
        load(str(tmp_path))
    write_parquet(test, good, [0, 1, 2], names=["a", "b"])
    with pytest.raises(DataError, match="label 2 but only 2 class names"):
        load(str(tmp_path))
    write_parquet(test, good, [0, -1, 2])
    with pytest.raises(DataError, match="published without its labels"):
        load(str(tmp_path))
    write_parquet(test, good, [0, 1, 2])
    test.write_bytes(test.read_bytes()[:-40])
    with pytest.raises(DataError, match=r"test-0\.parquet: truncated or corrupt"):
        load(str(tmp_path))
    pq.write_table(pa.table({"label": [1, 2]}), test)
    with pytest.raises(DataError, match="needs a column with image bytes"):
        load(str(tmp_path))


def test_parquet_that_is_damaged_behind_its_footer_is_named(tmp_path: Path) -> None:
    test = tmp_path / "test-0.parquet"
    write_parquet(test, [png(p) for p in pictures(3, 120)], [0, 1, 2])
    data = bytearray(test.read_bytes())
    data[40:2000] = bytes(1960)
    test.write_bytes(data)
    with pytest.raises(DataError, match=r"test-0\.parquet: truncated or corrupt|cannot be decoded"):
        load(str(tmp_path))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_large_image_that_is_truncated_is_one_line(tmp_path: Path, workers: int) -> None:
    class_folders(tmp_path, "cat", "dog", side=120)
    path = tmp_path / "dog" / "4.png"
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(DataError) as e:
        list(ordered_batches(load(str(tmp_path), size=64), 2, workers=workers))
    assert str(e.value).startswith(f"{path}: the image cannot be decoded") and "\n" not in str(e.value)


def test_unknown_names_and_empty_folders(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data set 'cifar11' is not known.*did you mean cifar10.*known: digits"):
        load("cifar11")
    with pytest.raises(DataError, match="no images in class folders"):
        load(str(tmp_path))


@pytest.mark.parametrize(("full", "empty"), [("", "dog"), ("train/", "train/dog"), ("test/", "test/dog")])
def test_a_class_folder_without_images_never_renumbers_the_others(tmp_path: Path, full: str, empty: str) -> None:
    class_folders(tmp_path, f"{full}cat", f"{full}fox")
    (tmp_path / empty).mkdir()
    with pytest.raises(DataError, match=r"no images in dog; add some, or remove what is no class"):
        load(str(tmp_path))


def test_a_class_may_have_no_test_images(tmp_path: Path) -> None:
    class_folders(tmp_path, "train/cat", "train/dog", "test/dog")
    (tmp_path / "test/cat").mkdir()
    data = load(str(tmp_path))
    assert data.classes == ("cat", "dog") and data.test is not None and set(data.test.labels) == {1}
