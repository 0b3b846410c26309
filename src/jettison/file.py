"""The `.jettison` file: one safetensors file, the graph as JSON in its metadata.

    8 bytes       header length, little-endian
    header        JSON: name, type, shape and place of every tensor, and `__metadata__`
    tensors       the constants under their names in `Graph.constants`, little-endian

`__metadata__` has one key, `jettison`: a JSON text {"version", "digest", "graph", "meta"}.
`digest` is the SHA-256 of the whole file with the digest's own 64 characters written as zeros.
Equal graphs give equal bytes. Nothing in a file is ever executed. See docs/file-format.md.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError

from . import spec
from .errors import FileError, FormatError, GraphError
from .formats import from_json, to_json
from .graph import VERSION, Graph, Op, TensorSpec

KEY = "jettison"
MAX_HEADER_BYTES = 100_000_000  # the limit of safetensors itself
ELEMENTS = {"F32": np.dtype(np.float32), "U8": np.dtype(np.uint8), "I8": np.dtype(np.int8), "I32": np.dtype(np.int32)}
_BLANK = "0" * 64


def save(graph: Graph, path: str | Path, meta: Mapping[str, Any] | None = None) -> None:
    """Write `graph` and `meta` to `path`; a reader sees the old file or the new one, never a part.

    meta: anything that JSON holds, for people and tools: class names, input mean and standard
    deviation, accuracy, recipe. The network runs without it; `jettison eval` reads mean, std, classes
    and settings as `jettison compress` writes them.

    Errors: GraphError, FormatError (the graph is not legal), FileError (weights not finite, meta
    not JSON, disk full, no permission).
    """
    spec.check(graph)
    _check_names(graph, str(path))
    _check_finite(graph.constants, str(path))
    replace(path, _encode(graph, meta or {}, str(path)))


def load(path: str | Path) -> Graph:
    """Read and check a `.jettison` file. Constants are read-only arrays.

    Errors: FileError (missing, truncated, altered, other version, not a `.jettison` file),
    GraphError, FormatError (intact, but its graph breaks the grammar in `jettison.spec`).
    """
    document, tensors = _read(Path(path))
    try:
        return spec.check(_graph(document["graph"], tensors))
    except (FileError, GraphError, FormatError) as e:
        raise type(e)(f"{path}: {e}") from e
    except RecursionError:
        raise FileError(f"{path}: is damaged: its graph is nested too deeply") from None


def load_meta(path: str | Path) -> dict[str, Any]:
    """The `meta` that was saved beside the graph. Errors: FileError."""
    return _read(Path(path))[0]["meta"]


def cache_folder() -> Path:
    """`$XDG_CACHE_HOME/jettison`, by default `~/.cache/jettison`: what can be made again. Errors: FileError for a user without a home."""
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "jettison"
    except RuntimeError as e:
        raise FileError(f"there is no folder for the cache: {e}; set XDG_CACHE_HOME to one") from e


def replace(path: str | Path, data: bytes) -> None:
    """Write `data` to `path` atomically. Errors: FileError. Whatever stood at `path` stays there if anything fails."""
    target = Path(os.path.realpath(path))
    if target.exists() and not target.is_file():
        raise FileError(f"{path}: is not a regular file; choose another name")
    try:
        with atomic(target) as temporary:
            temporary.write_bytes(data)
    except OSError as e:
        raise FileError(f"{path}: cannot be written: {e.strerror or e}; {_advice(e, target)}") from e


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Write the file this gives, in the same folder: it replaces `path` at the end, after fsync, and vanishes on an error.

    Errors: OSError.
    """
    target = Path(os.path.realpath(path))  # a link stays a link
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    try:
        yield temporary
        with open(temporary, "rb") as f:
            os.fsync(f.fileno())
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(target.parent)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _advice(e: OSError, target: Path) -> str:
    if e.errno in (errno.ENOSPC, errno.EDQUOT):
        return "free some space or write to another disk"
    if e.errno == errno.ENOENT:
        return f"make the folder {target.parent} first"
    return f"check that {target.parent} is a folder you may write to"


# ---- writing


def _encode(graph: Graph, meta: Mapping[str, Any], where: str) -> bytes:
    document = {"version": graph.version, "digest": _BLANK, "graph": _graph_json(graph), "meta": dict(meta)}
    try:
        text = json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError, RecursionError) as e:
        raise FileError(f"{where}: meta must be text, finite numbers, lists and dictionaries: {e}") from e
    # safetensors keeps the order of a metadata dictionary open; with one key there is only one
    tensors = {name: np.ascontiguousarray(graph.constants[name]) for name in sorted(graph.constants)}
    data = safetensors.numpy.save(tensors, {KEY: text})
    at = data.index(_BLANK.encode())
    return data[:at] + hashlib.sha256(data).hexdigest().encode() + data[at + 64 :]


def _graph_json(graph: Graph) -> dict[str, Any]:
    return {
        "inputs": list(graph.inputs),
        "outputs": list(graph.outputs),
        "layouts": dict(graph.layouts),
        "tensors": {name: _tensor_json(t) for name, t in graph.tensors.items()},
        "ops": [_op_json(op) for op in graph.ops],
    }


def _tensor_json(t: TensorSpec) -> dict[str, Any]:
    return {"shape": list(t.shape), "dtype": t.dtype, "scale": t.scale, "zero": t.zero}


def _op_json(op: Op) -> dict[str, Any]:
    return {
        "name": op.name,
        "kind": op.kind,
        "inputs": list(op.inputs),
        "outputs": list(op.outputs),
        "attrs": dict(op.attrs),
        "params": dict(op.params),
        "format": to_json(op.format),
        "element": op.element,
    }


# ---- reading: the file is not to be trusted


def _read(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The JSON document and the tensors of an intact file; nothing big is read before the sizes agree."""
    try:
        if path.exists() and not path.is_file():  # opening a pipe would wait for ever
            raise FileError(f"{path}: is not a regular file")
        with open(path, "rb") as f:
            size = os.fstat(f.fileno()).st_size
            prefix = f.read(8)
            header_bytes = int.from_bytes(prefix, "little")
            if size < 8 or header_bytes > min(size - 8, MAX_HEADER_BYTES):
                raise FileError(f"{path}: is not a .jettison file, or is cut short ({size} bytes)")
            header_text = f.read(header_bytes)
            header, document = _header(path, header_text)
            _check_sizes(path, header, size - 8 - header_bytes)
            data = prefix + header_text + f.read(size)
    except FileNotFoundError:
        raise FileError(f"{path}: there is no such file; `jettison compress` makes one") from None
    except OSError as e:
        raise FileError(f"{path}: cannot be read: {e.strerror or e}") from e
    _check_digest(path, document["digest"], data, header_bytes)
    try:
        tensors = safetensors.numpy.load(data)
    except (SafetensorError, ValueError, TypeError, KeyError) as e:
        raise FileError(f"{path}: its tensors cannot be read: {e}") from e
    for array in tensors.values():
        array.flags.writeable = False
    try:
        _check_finite(tensors, str(path))
    except FileError as e:
        raise FileError(f"{e}; make the file again") from None
    return document, tensors


def _header(path: Path, text: bytes) -> tuple[dict[str, Any], dict[str, Any]]:
    """The safetensors header and the `jettison` document inside it."""
    header = _json(text, path)
    inner = header.get("__metadata__")
    if not isinstance(inner, dict) or not isinstance(inner.get(KEY), str):
        raise FileError(
            f"{path}: is a safetensors file, but not made by Jettison; `jettison compress` makes one from a model and its weights"
        )
    document = _json(inner[KEY], path)
    version = document.get("version")
    if version != VERSION or isinstance(version, bool):
        raise FileError(
            f"{path}: has version {version!r:.40}, this Jettison reads version {VERSION}; compress the model again, or use a newer Jettison"
        )
    if set(document) != {"version", "digest", "graph", "meta"} or not isinstance(document["meta"], dict):
        raise FileError(f"{path}: is damaged: version, digest, graph and meta must be there; compress the model again")
    return header, document


def _json(text: str | bytes, path: Path) -> dict[str, Any]:
    def refuse(constant: str) -> float:
        raise ValueError(f"{constant} is not a number")

    try:
        value = json.loads(text, parse_constant=refuse)
        if not isinstance(value, dict):
            raise ValueError("not a dictionary")
    except (ValueError, RecursionError) as e:
        raise FileError(f"{path}: is not a .jettison file, or is damaged: its header cannot be read ({e})") from None
    return value


def _check_sizes(path: Path, header: dict[str, Any], data_bytes: int) -> None:
    """The bytes that the tensors claim must be exactly those that follow the header."""
    claimed = 0
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        shape = entry.get("shape") if isinstance(entry, dict) else None
        if not isinstance(shape, list) or len(shape) > 8 or not all(type(d) is int and 0 <= d < 1 << 40 for d in shape):
            raise FileError(f"{path}: is damaged: tensor {name!r} has no legal shape")
        if not isinstance(entry.get("dtype"), str) or entry["dtype"] not in ELEMENTS:
            raise FileError(f"{path}: tensor {name!r} has the unknown type {entry.get('dtype')!r}; was the file made by a newer Jettison?")
        claimed += prod(shape) * ELEMENTS[entry["dtype"]].itemsize
    if claimed != data_bytes:
        raise FileError(
            f"{path}: is damaged or cut short: {data_bytes} bytes of tensors where the header says {claimed}; compress the model again"
        )


def _check_digest(path: Path, digest: Any, data: bytes, header_bytes: int) -> None:
    good = isinstance(digest, str) and len(digest) == 64 and digest.isascii()
    at = data.find(digest.encode(), 8, 8 + header_bytes) if good else -1
    if at < 0 or hashlib.sha256(data[:at] + _BLANK.encode() + data[at + 64 :]).hexdigest() != digest:
        raise FileError(f"{path}: is damaged: its content does not match its checksum; copy it again or compress the model again")


def _check_finite(constants: Mapping[str, np.ndarray], where: str) -> None:
    for name, array in constants.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise FileError(f"{where}: constant {name!r} holds NaN or infinity; the weights it came from are broken")


def _check_names(graph: Graph, where: str) -> None:
    for name in (*graph.tensors, *graph.constants, *(op.name for op in graph.ops)):
        if _text(name, where) == "__metadata__":
            raise FileError(f"{where}: a tensor cannot be called __metadata__; rename it")


# ---- JSON to Graph; every type is checked, every rule of the grammar is left to spec.check


def _graph(obj: Any, tensors: Mapping[str, np.ndarray]) -> Graph:
    obj = _fields(obj, "graph", ("inputs", "outputs", "layouts", "tensors", "ops"))
    specs = {}
    for name, entry in _dictionary(obj["tensors"], "tensors").items():
        entry = _fields(entry, f"tensor {name!r}", ("shape", "dtype", "scale", "zero"))
        shape = _list(entry["shape"], f"shape of {name!r}")
        specs[_text(name, "tensors")] = TensorSpec(name, tuple(shape), _text(entry["dtype"], name), entry["scale"], entry["zero"])
    return Graph(
        ops=tuple(_op(op) for op in _list(obj["ops"], "ops")),
        tensors=specs,
        inputs=_texts(obj["inputs"], "inputs"),
        outputs=_texts(obj["outputs"], "outputs"),
        constants=tensors,
        layouts={k: _text(v, "layouts") for k, v in _dictionary(obj["layouts"], "layouts").items()},
    )


def _op(obj: Any) -> Op:
    obj = _fields(obj, "op", ("name", "kind", "inputs", "outputs", "attrs", "params", "format", "element"))
    name = _text(obj["name"], "op")
    return Op(
        name=name,
        kind=_text(obj["kind"], name),
        inputs=_texts(obj["inputs"], name),
        outputs=_texts(obj["outputs"], name),
        attrs={k: _tuples(v) for k, v in _dictionary(obj["attrs"], name).items()},
        params={k: _text(v, name) for k, v in _dictionary(obj["params"], name).items()},
        format=from_json(obj["format"], name),
        element=_text(obj["element"], name),
    )


def _fields(obj: Any, where: str, names: tuple[str, ...]) -> dict[str, Any]:
    if set(_dictionary(obj, where)) != set(names):
        raise FileError(f"{where} needs exactly {', '.join(names)}, got {sorted(obj)}")
    return obj


def _dictionary(obj: Any, where: str) -> dict[str, Any]:
    if not isinstance(obj, dict):
        raise FileError(f"{where} must be a dictionary, got {obj!r:.80}")
    return obj


def _list(obj: Any, where: str) -> list[Any]:
    if not isinstance(obj, list):
        raise FileError(f"{where} must be a list, got {obj!r:.80}")
    return obj


def _text(obj: Any, where: str) -> str:
    if not isinstance(obj, str) or not obj or not obj.isprintable():
        raise FileError(f"{where}: needs a name of printable characters, got {obj!r:.80}")
    return obj


def _texts(obj: Any, where: str) -> tuple[str, ...]:
    return tuple(_text(x, where) for x in _list(obj, where))


def _tuples(value: Any) -> Any:
    """JSON lists become tuples, as export writes them, so that a loaded graph equals the saved one."""
    return tuple(_tuples(v) for v in value) if isinstance(value, list) else value
