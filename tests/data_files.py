"""Data sets that tests write: the official formats in small, as files."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from jettison.training.data import DATASETS

RNG = np.random.default_rng(0)


def register(monkeypatch: pytest.MonkeyPatch, name: str, folder: Path, **changes: object) -> None:
    """Let DATASETS expect the MD5 of the files the test has written to `folder`."""
    entry = DATASETS[name]
    md5 = {f: hashlib.md5((folder / f).read_bytes()).hexdigest() for f in entry.md5}
    monkeypatch.setitem(DATASETS, name, replace(entry, md5=md5, **changes))


def png(image: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(image).save(out, "PNG")
    return out.getvalue()


def pictures(n: int, side: int = 8) -> np.ndarray:
    return RNG.integers(0, 256, (n, side, side, 3), dtype=np.uint8)


def idx(array: np.ndarray) -> bytes:
    return gzip.compress(bytes((0, 0, 8, array.ndim)) + b"".join(int(d).to_bytes(4, "big") for d in array.shape) + array.tobytes())


def write_mnist(folder: Path) -> dict[str, np.ndarray]:
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {
        "train-images-idx3-ubyte.gz": RNG.integers(0, 256, (20, 28, 28), dtype=np.uint8),
        "train-labels-idx1-ubyte.gz": RNG.integers(0, 10, 20, dtype=np.uint8),
        "t10k-images-idx3-ubyte.gz": RNG.integers(0, 256, (6, 28, 28), dtype=np.uint8),
        "t10k-labels-idx1-ubyte.gz": RNG.integers(0, 10, 6, dtype=np.uint8),
    }
    for name, array in arrays.items():
        (folder / name).write_bytes(idx(array))
    return arrays


def add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    archive.addfile(info, io.BytesIO(content))


def write_parquet(path: Path, images: list[bytes], labels: list[int], names: list[str] | None = None, column: str = "img") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [{"bytes": b, "path": None} for b in images]
    table = pa.table(
        {column: pa.array(rows, pa.struct([("bytes", pa.binary()), ("path", pa.string())])), "label": pa.array(labels, pa.int64())}
    )
    if names is not None:
        meta = {"info": {"features": {"label": {"names": names, "_type": "ClassLabel"}}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(meta)})
    pq.write_table(table, path)


def class_folders(root: Path, *names: str, side: int = 8) -> None:
    for name in names:
        (root / name).mkdir(parents=True)
        for i in range(5):
            (root / name / f"{i}.png").write_bytes(png(pictures(1, side)[0]))


def jpeg(colour: tuple[int, int, int]) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (64, 64), colour).save(out, "JPEG")
    return out.getvalue()
