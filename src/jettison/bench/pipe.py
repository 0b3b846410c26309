"""Messages between `comparison` and its workers: JSON and arrays, each with its length in front. No pickle.

4 bytes  length of the JSON, little-endian
JSON     a dictionary; "arrays" counts what follows
arrays   8 bytes length, then an .npy file, each
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from typing import Any, BinaryIO

import numpy as np


def send(stream: BinaryIO, message: dict[str, Any], arrays: Sequence[np.ndarray] = ()) -> None:
    text = json.dumps({**message, "arrays": len(arrays)}).encode()
    stream.write(len(text).to_bytes(4, "little") + text)
    for array in arrays:
        npy = io.BytesIO()
        np.save(npy, np.asarray(array), allow_pickle=False)
        stream.write(npy.tell().to_bytes(8, "little") + npy.getbuffer())
    stream.flush()


def receive(stream: BinaryIO) -> tuple[dict[str, Any], tuple[np.ndarray, ...]]:
    """The next message. Errors: EOFError when the other side is gone."""
    message = json.loads(_read(stream, int.from_bytes(_read(stream, 4), "little")))
    blobs = (_read(stream, int.from_bytes(_read(stream, 8), "little")) for _ in range(message.pop("arrays")))
    return message, tuple(np.load(io.BytesIO(blob), allow_pickle=False) for blob in blobs)


def _read(stream: BinaryIO, count: int) -> bytes:
    data = stream.read(count)
    if len(data) < count:
        raise EOFError("the other process is gone")
    return data
