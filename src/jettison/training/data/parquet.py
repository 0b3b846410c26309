"""Hugging Face-style parquet: files `train-*.parquet` and `test-*`, `val-*` or `validation-*.parquet`.

A struct column (or plain binary column) holds each image's bytes (`{bytes, path}`; any name: img, image …), an
integer column `label` (or `labels`, `fine_label`) its class; the names of the classes stand in the schema's
metadata under `huggingface` (JSON: info → features → label → names). ImageNet is published so.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import DataError, MissingExtra
from ...file import atomic, cache_folder
from .cache import cached_array, digest
from .dataset import Raw, Split

TRAIN, TEST = ("train",), ("test", "val", "validation")
LABELS = ("label", "labels", "fine_label")
SMALL_SIDE = 96  # pixels: images up to this size are decoded once and kept in memory


def has_parquet(folder: Path) -> bool:
    return bool(_files(folder, TEST) or _files(folder, TRAIN))


def read_parquet(folder: Path) -> Raw:
    """Both splits of `folder`. Errors: DataError naming the file."""
    test_files, train_files = _files(folder, TEST), _files(folder, TRAIN)
    if not test_files:
        raise DataError(f"{folder} has train-*.parquet and no test-*, val-* or validation-*.parquet; fetch the test split too")
    test = _read_split(test_files)
    train = _read_split(train_files) if train_files else None
    classes = _class_names(test_files[0])
    top = max(int(s.labels.max(initial=-1)) for s in (train, test) if s is not None)
    if classes and top >= len(classes):
        raise DataError(f"{folder}: label {top} but only {len(classes)} class names in the schema; the files are of different data sets")
    return Raw(train, test, classes or [str(i) for i in range(top + 1)])


def _files(folder: Path, prefixes: tuple[str, ...]) -> list[Path]:
    return sorted(p for prefix in prefixes for p in folder.glob(f"{prefix}-*.parquet"))


def _read_split(files: list[Path]) -> Split:
    column, label = _columns(files[0])
    labels = np.concatenate([_table(f, [label]).column(label).to_numpy() for f in files]).astype(np.int64)
    if not len(labels):
        raise DataError(f"{files[0]}: no rows")
    if labels.min() < 0:
        raise DataError(f"{files[0]}: label {labels.min()} is negative: this split is published without its labels; use another one")
    first = decode(next(_blobs(files, column)), f"{files[0].parent}, row 0")
    key = digest(files)
    if max(first.shape[:2]) <= SMALL_SIDE:
        with suppress(_MixedSizes):
            return Split(cached_array(f"parquet-{key}", lambda: _decode_all(files, column, first.shape, len(labels))), labels)
    return Split(ArrowImages(_arrow_file(files, column, key), str(files[0].parent)), labels)


class _MixedSizes(Exception):
    """The images do not fit one array."""


def _decode_all(files: list[Path], column: str, shape: tuple[int, ...], count: int) -> np.ndarray:
    images = np.empty((count, *shape), np.uint8)
    for i, blob in enumerate(_blobs(files, column)):
        image = decode(blob, f"{files[0].parent}, row {i}")
        if image.shape != shape:
            raise _MixedSizes
        images[i] = image
    return images


def decode(blob: bytes | None, where: str) -> np.ndarray:
    """uint8 (h, w, 3) of an encoded image. Errors: DataError naming `where`."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(blob or b"")) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as e:
        raise DataError(f"{where}: the image cannot be decoded ({e}); fetch the file again") from e


@dataclass(slots=True)
class ArrowImages:
    """Images in a memory-mapped Arrow file: any row at once, and cheap to hand to a worker process."""

    path: Path
    where: str
    _table: Any = None

    def __len__(self) -> int:
        return self._open().num_rows

    def __getitem__(self, index: int, /) -> np.ndarray:
        return decode(self._open().column(0)[index].as_py(), f"{self.where}, row {index}")

    def __reduce__(self) -> tuple[type, tuple[Path, str]]:
        return ArrowImages, (self.path, self.where)

    def _open(self) -> Any:
        if self._table is None:
            import pyarrow as pa

            self._table = pa.ipc.open_file(pa.memory_map(str(self.path))).read_all()
        return self._table


def _arrow_file(files: list[Path], column: str, key: str) -> Path:
    """The images' bytes, uncompressed, in the cache folder: parquet itself only gives whole row groups."""
    import pyarrow as pa

    path = cache_folder() / f"parquet-{key}.arrow"
    if path.is_file():
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic(path) as temporary, pa.OSFile(str(temporary), "wb") as sink:
            schema = pa.schema([("bytes", pa.large_binary())])
            with pa.ipc.new_file(sink, schema) as writer:
                block: list[bytes | None] = []
                for blob in _blobs(files, column):
                    block.append(blob)
                    if len(block) == 256:
                        writer.write_batch(pa.record_batch([pa.array(block, pa.large_binary())], schema=schema))
                        block = []
                writer.write_batch(pa.record_batch([pa.array(block, pa.large_binary())], schema=schema))
    except OSError as e:
        raise DataError(f"{path}: cannot write the image cache ({e}); free the disk or set XDG_CACHE_HOME to another one") from e
    return path


def _blobs(files: list[Path], column: str) -> Iterator[bytes | None]:
    """Every image's bytes, in order. Errors: DataError."""
    for f in files:
        batches = _open(f).iter_batches(batch_size=256, columns=[column])
        while (batch := _next(batches, f)) is not None:
            for value in batch.column(0).to_pylist():
                yield value["bytes"] if isinstance(value, dict) else value


def _next(batches: Iterator[Any], path: Path) -> Any:
    """None at the end. Errors: DataError."""
    import pyarrow as pa

    try:
        return next(batches, None)
    except (OSError, pa.ArrowException) as e:
        raise _corrupt(path, e) from e


def _open(path: Path) -> Any:
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError as e:
        raise MissingExtra("parquet data sets need pyarrow; install it with: pip install 'jettison[train]'") from e
    try:
        return parquet.ParquetFile(path)
    except (OSError, pa.ArrowException) as e:
        raise _corrupt(path, e) from e


def _corrupt(path: Path, e: Exception) -> DataError:
    return DataError(f"{path}: truncated or corrupt parquet ({e}); fetch the file again")


def _table(path: Path, columns: list[str]) -> Any:
    import pyarrow as pa

    try:
        return _open(path).read(columns=columns)
    except (OSError, pa.ArrowException) as e:
        raise _corrupt(path, e) from e


def _columns(path: Path) -> tuple[str, str]:
    """Names of the image column and of the label column."""
    import pyarrow as pa

    schema = _open(path).schema_arrow
    image = [f.name for f in schema if _holds_bytes(pa, f.type)]
    label = [n for n in LABELS if n in schema.names and pa.types.is_integer(schema.field(n).type)]
    if not image or not label:
        raise DataError(f"{path}: needs a column with image bytes and an integer column 'label', has {schema.names}")
    return image[0], label[0]


def _holds_bytes(pa: Any, kind: Any) -> bool:
    if pa.types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _class_names(path: Path) -> list[str]:
    """Empty when the schema holds none."""
    _, label = _columns(path)
    try:
        meta = json.loads((_open(path).schema_arrow.metadata or {})[b"huggingface"])
        names = meta["info"]["features"][label]["names"]
    except (KeyError, TypeError, ValueError):
        return []
    return [str(n) for n in names]
