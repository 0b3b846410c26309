"""Data sets: every official format, parquet and folders, read back exactly."""

from __future__ import annotations

import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from data_files import RNG, add, class_folders, jpeg, pictures, png, register, write_mnist, write_parquet
from jettison.errors import DataError
from jettison.file import cache_folder
from jettison.training import data as module
from jettison.training.data import DATASETS, load, train_batches
from jettison.training.data import test_batches as ordered_batches

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("JETTISON_DATA", raising=False)


# --- official formats --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("inside", ["mnist", "."])
@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_mnist_files_are_read_exactly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, inside: str) -> None:
    folder = tmp_path / "d" / inside.replace("mnist", name)
    arrays = write_mnist(folder)
    register(monkeypatch, name, folder)
    monkeypatch.setenv("JETTISON_DATA", str(tmp_path / "d"))
    data = load(name)
    assert data.train is not None
    np.testing.assert_array_equal(data.train.images[..., 0], arrays["train-images-idx3-ubyte.gz"])  # type: ignore[index]
    np.testing.assert_array_equal(data.test.labels, arrays["t10k-labels-idx1-ubyte.gz"])
    assert (data.channels, data.size, len(data.classes)) == (1, 28, 10)


@pytest.mark.parametrize(("name", "label_bytes"), [("cifar10", 1), ("cifar100", 2)])
def test_cifar_archives_are_read_exactly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, label_bytes: int) -> None:
    (file,) = DATASETS[name].md5
    classes = [f"class{i}" for i in range(DATASETS[name].classes)]
    inside, names = ("cifar-10-batches-bin", "batches.meta.txt") if name == "cifar10" else ("cifar-100-binary", "fine_label_names.txt")
    train = [f"data_batch_{i}.bin" for i in range(1, 6)] if name == "cifar10" else ["train.bin"]
    test = "test_batch.bin" if name == "cifar10" else "test.bin"
    planes, labels = RNG.integers(0, 256, (len(train) + 1, 3, 3, 32, 32), dtype=np.uint8), RNG.integers(0, 10, (len(train) + 1, 3))
    with tarfile.open(tmp_path / file, "w:gz") as archive:
        for i, member in enumerate([*train, test]):
            rows = [bytes([9] * (label_bytes - 1) + [labels[i, j]]) + planes[i, j].tobytes() for j in range(3)]
            add(archive, f"{inside}/{member}", b"".join(rows))
        add(archive, f"{inside}/{names}", ("\n".join(classes) + "\n").encode())
    register(monkeypatch, name, tmp_path)
    data = load(name, tmp_path)
    assert data.train is not None
    assert len(data.train) == 3 * len(train)
    np.testing.assert_array_equal(data.test.images, planes[-1].transpose(0, 2, 3, 1))  # type: ignore[arg-type]
    np.testing.assert_array_equal(data.train.labels, labels[:-1].ravel())
    assert data.classes == tuple(classes)


def test_tiny_imagenet_zip_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    colours = {"n02": (250, 10, 10), "n01": (10, 10, 250)}
    with zipfile.ZipFile(tmp_path / "tiny-imagenet-200.zip", "w") as archive:
        root = "tiny-imagenet-200/"
        archive.writestr(f"{root}wnids.txt", "n02\nn01\n")
        archive.writestr(f"{root}words.txt", "n01\tblue thing\nn02\tred thing\n")
        for wnid, colour in colours.items():
            for i in range(2):
                archive.writestr(f"{root}train/{wnid}/images/{wnid}_{i}.JPEG", jpeg(colour))
            archive.writestr(f"{root}val/images/val_{wnid}.JPEG", jpeg(colour))
        archive.writestr(f"{root}val/val_annotations.txt", "val_n02.JPEG\tn02\t0\t0\t1\t1\nval_n01.JPEG\tn01\t0\t0\t1\t1\n")
    register(monkeypatch, "tiny-imagenet", tmp_path, classes=2)
    for _ in range(2):  # decoded, then from the cache
        data = load("tiny-imagenet", tmp_path)
        assert data.train is not None
        assert data.classes == ("blue thing", "red thing")
        assert data.train.labels.tolist() == [0, 0, 1, 1]
        assert data.test.labels.tolist() == [1, 0]
        assert np.asarray(data.test.images)[:, 0, 0].argmax(1).tolist() == [0, 2]
        assert data.size == 64


def test_digits_need_no_files_and_can_be_shown_larger() -> None:
    data, large = load("digits"), load("digits", size=32)
    assert data.train is not None and large.train is not None
    assert (data.size, large.size, data.channels) == (8, 32, 1)
    assert len(data.train) + len(data.test) == 1797
    assert np.bincount(data.test.labels).min() > 20
    small, big = np.asarray(data.test.images).astype(float), np.asarray(large.test.images).astype(float)
    assert np.corrcoef(big.reshape(-1, 8, 4, 8, 4).mean((2, 4)).ravel(), small.ravel())[0, 1] > 0.95
    np.testing.assert_allclose(big.mean(), small.mean(), rtol=0.02)


# --- parquet and folders -----------------------------------------------------------------------------------------------


def test_parquet_is_read_in_order_of_its_parts(tmp_path: Path) -> None:
    images = pictures(6)
    write_parquet(tmp_path / "train-00001-of-00002.parquet", [png(i) for i in images[2:4]], [1, 0], ["a", "b"])
    write_parquet(tmp_path / "train-00000-of-00002.parquet", [png(i) for i in images[:2]], [0, 1], ["a", "b"])
    write_parquet(tmp_path / "validation-00000-of-00001.parquet", [png(i) for i in images[4:]], [1, 1], ["a", "b"])
    for _ in range(2):  # decoded, then from the cache
        data = load(str(tmp_path))
        assert data.train is not None
        np.testing.assert_array_equal(data.train.images, images[:4])  # type: ignore[arg-type]
        np.testing.assert_array_equal(data.test.images, images[4:])  # type: ignore[arg-type]
        assert (data.train.labels.tolist(), data.test.labels.tolist(), data.classes) == ([0, 1, 1, 0], [1, 1], ("a", "b"))
    assert load(str(tmp_path), size=16).test.images.shape == (2, 16, 16, 3)  # type: ignore[union-attr]


def test_a_named_set_may_lie_there_as_parquet(tmp_path: Path) -> None:
    grey = [np.repeat(p[..., :1], 3, 2) for p in pictures(10, 28)]
    for prefix in ("train", "test"):
        write_parquet(
            tmp_path / "mnist" / f"{prefix}-0.parquet", [png(g[..., 0]) for g in grey], list(range(10)), [str(i) for i in range(10)]
        )
    data = load("mnist", tmp_path)
    assert data.channels == 1
    np.testing.assert_array_equal(np.asarray(data.test.images)[..., 0], np.stack(grey)[..., 0])
    with pytest.raises(DataError, match=r"tiny-imagenet: the files have 10 classes instead of 200"):
        load("tiny-imagenet", tmp_path / "mnist")


def test_large_images_are_decoded_by_workers(tmp_path: Path) -> None:
    blobs = [png(p) for p in pictures(5, 120)]
    for prefix in ("train", "test"):
        write_parquet(tmp_path / f"{prefix}-0.parquet", blobs, [0, 1, 2, 3, 4], column="image")
    data = load(str(tmp_path), size=64)
    assert not data.test.in_memory
    results = [list(ordered_batches(data, 2, workers=w)) for w in (0, 1)]
    assert [tuple(x.shape) for x, _ in results[0]] == [(2, 3, 64, 64), (2, 3, 64, 64), (1, 3, 64, 64)]
    for (a, la), (b, lb) in zip(*results):
        assert torch.equal(a, b) and torch.equal(la, lb)
    assert [y.tolist() for _, y in results[0]] == [[0, 1], [2, 3], [4]]
    one, two = (list(train_batches(data, 2, seed=3, epoch=e, workers=0)) for e in (0, 1))
    again = list(train_batches(data, 2, seed=3, epoch=0, workers=1))
    assert all(torch.equal(a[0], b[0]) for a, b in zip(one, again))
    assert not all(torch.equal(a[0], b[0]) for a, b in zip(one, two))


@pytest.mark.parametrize("split_folders", [True, False])
def test_class_folders(tmp_path: Path, split_folders: bool) -> None:
    images = {c: pictures(10) for c in ("cat", "dog")}
    for c, stack in images.items():
        for i, image in enumerate(stack):
            part = ("val" if i % 5 == 4 else "train") if split_folders else "."
            path = tmp_path / part / c / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(png(image))
    data = load(str(tmp_path))
    assert data.train is not None
    assert (data.classes, len(data.train), data.test.labels.tolist()) == (("cat", "dog"), 16, [0, 0, 1, 1])
    np.testing.assert_array_equal(data.test.images, np.concatenate([s[[4, 9]] for s in images.values()]))  # type: ignore[arg-type]


def test_a_train_folder_is_a_split_unless_it_is_a_class(tmp_path: Path) -> None:
    class_folders(tmp_path / "alone", "train/cat", "train/dog")
    assert load(str(tmp_path / "alone")).classes == ("cat", "dog")
    class_folders(tmp_path / "vehicles", "car", "train")
    assert load(str(tmp_path / "vehicles")).classes == ("car", "train")
    class_folders(tmp_path / "both", "train/cat", "valid/cat")
    assert len(load(str(tmp_path / "both")).test) == 5
    class_folders(tmp_path / "odd", "train/cat", "holdout/cat")
    with pytest.raises(DataError, match=r"beside train/ there is holdout/; call the test images' folder one of test, val"):
        load(str(tmp_path / "odd"))


def test_class_folders_of_different_sizes_are_decoded_one_by_one(tmp_path: Path) -> None:
    for i, side in enumerate((40, 50, 60, 70, 80)):
        path = tmp_path / "only" / f"{i}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(png(pictures(1, side)[0]))
    data = load(str(tmp_path), size=32)
    assert not data.test.in_memory
    assert next(iter(ordered_batches(data, 4, workers=0)))[0].shape == (1, 3, 32, 32)


def test_a_part_without_rows_is_no_end(tmp_path: Path) -> None:
    write_parquet(tmp_path / "test-0.parquet", [], [])
    write_parquet(tmp_path / "test-1.parquet", [png(p) for p in pictures(2)], [0, 1])
    assert load(str(tmp_path)).test.labels.tolist() == [0, 1]


def test_a_cache_that_cannot_be_written_costs_time_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    write_parquet(tmp_path / "p" / "test-0.parquet", [png(p) for p in pictures(2)], [0, 1])
    assert len(load(str(tmp_path / "p")).test) == 2


def test_a_damaged_cache_costs_time_only(tmp_path: Path) -> None:
    write_parquet(tmp_path / "test-0.parquet", [png(p) for p in pictures(2)], [0, 1])
    load(str(tmp_path))
    for cached in cache_folder().glob("*.npy"):
        cached.write_bytes(b"")
    assert len(load(str(tmp_path)).test) == 2


def test_a_data_set_without_training_images_can_be_tested_only(tmp_path: Path) -> None:
    write_parquet(tmp_path / "test-0.parquet", [png(p) for p in pictures(2)], [0, 1])
    data = load(str(tmp_path))
    assert data.train is None
    with pytest.raises(DataError, match="no training split"):
        next(train_batches(data, 1, 0, 0))


def test_the_table_knows_the_published_sets() -> None:
    assert list(module.DATASETS) == ["digits", "mnist", "fashion-mnist", "cifar10", "cifar100", "tiny-imagenet"]


def test_small_parquet_images_of_mixed_sizes(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train-0.parquet", [png(pictures(1, s)[0]) for s in (20, 30, 40, 50)], [0, 1, 0, 1])
    write_parquet(tmp_path / "test-0.parquet", [png(p) for p in pictures(2, 32)], [0, 1])
    data = load(str(tmp_path), size=32)
    x, y = next(train_batches(data, 4, 0, 0, workers=0))
    assert (x.shape, sorted(y.tolist())) == ((4, 3, 32, 32), [0, 0, 1, 1])
    assert next(ordered_batches(data, 4, workers=0))[0].shape == (2, 3, 32, 32)
