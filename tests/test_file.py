"""The `.jettison` file: what is written comes back, and nothing damaged gets through."""

import errno
import hashlib
import json
import os
import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from graphs import quantized, small
from jettison import file
from jettison.errors import FileError, FormatError, GraphError, JettisonError
from jettison.formats import NM, Block, Dense

META = {"dataset": "digits", "mean": [0.1, 0.2, 0.3], "accuracy": 98.25, "classes": ["nought", "één"], "recipe": {"epochs": 3}}


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "net.jettison"
    file.save(small(), path, META)
    return path


def document(data: bytes) -> tuple[dict, dict, bytes]:
    """(safetensors header, jettison document, tensor bytes)."""
    n = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + n])
    return header, json.loads(header["__metadata__"]["jettison"]), data[8 + n :]


def assemble(header: dict, doc: dict, body: bytes, sign: bool = True) -> bytes:
    """The bytes of a file with an edited header; signed again, as an attacker would."""
    if sign and "digest" in doc:
        doc = {"digest": "0" * 64, **{k: v for k, v in doc.items() if k != "digest"}}
    header = {**header, "__metadata__": {"jettison": json.dumps(doc)}}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    data = len(text).to_bytes(8, "little") + text + body
    if sign:
        data = data.replace(b"0" * 64, hashlib.sha256(data).hexdigest().encode(), 1)
    return data


@pytest.mark.parametrize("make", [small, quantized])
@pytest.mark.parametrize("fmt", [Dense(), NM(1, 4), NM(2, 4), NM(3, 8), NM(1, 1), Block(16, 32, NM(2, 4), 0.3)], ids=str)
def test_what_is_saved_is_loaded(tmp_path, fmt, make):
    graph, path = make(fmt), tmp_path / "net.jettison"
    file.save(graph, path, META)
    back = file.load(path)
    assert back == graph  # ops, tensors, inputs, outputs, layouts, version
    assert set(back.constants) == set(graph.constants)
    for name, array in graph.constants.items():
        assert back.constants[name].dtype == array.dtype
        np.testing.assert_array_equal(back.constants[name], array)
    assert file.load_meta(path) == META


def test_meta_is_optional(tmp_path):
    file.save(small(), tmp_path / "a.jettison")
    assert file.load_meta(tmp_path / "a.jettison") == {}


def test_equal_graphs_give_equal_bytes_in_every_process(tmp_path):
    graph = small()
    shuffled = replace(
        graph,
        constants=dict(reversed(graph.constants.items())),
        tensors=dict(reversed(graph.tensors.items())),
        ops=tuple(replace(op, attrs=dict(reversed(op.attrs.items()))) for op in graph.ops),
    )
    file.save(graph, tmp_path / "a", META)
    file.save(shuffled, tmp_path / "b", dict(reversed(META.items())))
    code = "import sys, test_file as t; t.file.save(t.small(), sys.argv[1], t.META)"
    env = {**os.environ, "PYTHONHASHSEED": "7", "PYTHONPATH": os.pathsep.join([os.path.dirname(__file__), *sys.path])}
    subprocess.run([sys.executable, "-c", code, tmp_path / "c"], check=True, env=env)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes() == (tmp_path / "c").read_bytes()


def test_strided_constants_are_written_in_their_own_order(tmp_path):
    graph = small()
    turned = np.asfortranarray(graph.constants["a.w"])
    file.save(replace(graph, constants={**graph.constants, "a.w": turned}), tmp_path / "a")
    np.testing.assert_array_equal(file.load(tmp_path / "a").constants["a.w"], turned)


def test_other_safetensors_readers_see_the_tensors(saved):
    tensors = safetensors.numpy.load_file(saved)
    np.testing.assert_array_equal(tensors["a.w"], small().constants["a.w"])


def test_loading_needs_no_torch_and_gives_frozen_constants(saved):
    code = "import sys; from jettison import file; file.load(sys.argv[1]); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code, saved], check=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
    with pytest.raises(ValueError, match="read-only"):
        file.load(saved).constants["a.b"][0] = 1


# ---- damage


def test_missing(tmp_path):
    with pytest.raises(FileError, match=r"no\.jettison: there is no such file.*compress"):
        file.load(tmp_path / "no.jettison")


def test_a_folder_and_a_pipe_are_not_files(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(FileError, match="not a regular file"):
            file.load(path)
        with pytest.raises(FileError, match="not a regular file"):
            file.save(small(), path)
    assert (tmp_path / "pipe").is_fifo()


def test_every_truncation_is_refused(saved, tmp_path):
    data, cut = saved.read_bytes(), tmp_path / "cut.jettison"
    for n in [*range(0, len(data), 97), len(data) - 1]:
        cut.write_bytes(data[:n])
        with pytest.raises(FileError, match=r"cut\.jettison"):
            file.load(cut)
    cut.write_bytes(data + b"\0")
    with pytest.raises(FileError, match="damaged"):
        file.load(cut)


def test_every_flipped_bit_is_refused(saved, tmp_path):
    data, bad = bytearray(saved.read_bytes()), tmp_path / "bad.jettison"
    for i in [*range(0, len(data), 7), len(data) - 1]:
        data[i] ^= 1 << i % 8
        bad.write_bytes(data)
        with pytest.raises(FileError, match=r"bad\.jettison"):
            file.load(bad)
        with pytest.raises(FileError):
            file.load_meta(bad)
        data[i] ^= 1 << i % 8


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "x.jettison"
    safetensors.numpy.save_file({"w": np.zeros(3, np.float32)}, path)
    with pytest.raises(FileError, match="not made by Jettison"):
        file.load(path)
    for junk in (b"", b"PK\x03\x04" * 99, b"\x80\x02}q\x00." * 9, b"\xff" * 64, (4).to_bytes(8, "little") + b"[[[[" * 9):
        path.write_bytes(junk)
        with pytest.raises(FileError, match=r"not a \.jettison file"):
            file.load(path)


def test_another_version_is_named(saved):
    header, doc, body = document(saved.read_bytes())
    for version in (2, 0, "1", True, None):
        saved.write_bytes(assemble(header, {**doc, "version": version}, body))
        with pytest.raises(FileError, match=r"has version .*, this Jettison reads version 1"):
            file.load(saved)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_broken_weights_are_named_when_saved_and_when_loaded(saved, value):
    graph, before = small(), saved.read_bytes()
    weights = graph.constants["a.b"].copy()
    weights[3] = value
    with pytest.raises(FileError, match=r"'a\.b' holds NaN or infinity"):
        file.save(replace(graph, constants={**graph.constants, "a.b": weights}), saved)
    assert saved.read_bytes() == before
    header, doc, body = document(before)
    start = header["a.b"]["data_offsets"][0] + 12
    saved.write_bytes(assemble(header, doc, body[:start] + np.float32(value).tobytes() + body[start + 4 :]))
    with pytest.raises(FileError, match=r"'a\.b' holds NaN or infinity"):
        file.load(saved)


def test_sizes_are_checked_before_memory_is_taken(saved):
    """A header that promises 4 TB is refused by its sizes alone."""
    header, doc, body = document(saved.read_bytes())
    header["d.w"] = {"dtype": "F32", "shape": [1 << 20, 1 << 20], "data_offsets": [0, 1 << 42]}
    saved.write_bytes(assemble(header, doc, body))
    with pytest.raises(FileError, match=f"{len(body)} bytes of tensors where the header says 4398046"):
        file.load(saved)
    saved.write_bytes((1 << 62).to_bytes(8, "little") + b"{}")
    with pytest.raises(FileError, match=r"not a \.jettison file"):
        file.load(saved)


def edit(doc: dict, path: tuple, value) -> dict:
    """A copy of the document with one place changed."""
    doc = json.loads(json.dumps(doc))
    at = doc
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    return doc


EDITS = [
    (("graph",), None, FileError, "graph must be a dictionary"),
    (("graph", "extra"), 1, FileError, "needs exactly"),
    (("graph", "ops"), {}, FileError, "ops must be a list"),
    (("graph", "ops", 0, "name"), "", FileError, "printable"),
    (("graph", "ops", 0, "name"), "a\x1b[2J", FileError, "printable"),
    (("graph", "ops", 0, "name"), "\ud800", FileError, "printable"),
    (("graph", "ops", 0, "kind"), "convolve", GraphError, "'convolve' is not known"),
    (("graph", "ops", 0, "kind"), ["conv"], FileError, "printable"),
    (("graph", "ops", 0, "attrs", "stride"), [0, 1], GraphError, "stride"),
    (("graph", "ops", 0, "attrs", "stride"), 10**400, GraphError, "stride"),
    (("graph", "ops", 0, "attrs", "alpha"), 10**400, GraphError, "alpha"),
    (("graph", "ops", 0, "attrs", "groups"), True, GraphError, "groups"),
    (("graph", "ops", 0, "inputs"), ["yd"], GraphError, "cycle"),
    (("graph", "ops", 1, "format"), {"kind": "blocks"}, FormatError, "not known"),
    (("graph", "ops", 1, "format"), {"kind": []}, FormatError, "not known"),
    (("graph", "ops", 1, "format", "n"), 3, FormatError, "b: "),
    (("graph", "ops", 1, "format", "m"), 1, FormatError, "b: "),
    (("graph", "tensors", "ya", "shape"), [5, 6, -8], GraphError, "'ya'"),
    (("graph", "tensors", "ya", "shape"), [[5], 6, 8], GraphError, "'ya'"),
    (("graph", "tensors", "ya", "shape"), [1 << 30, 1 << 30, 1 << 30], GraphError, "'ya'"),
    (("graph", "tensors", "ya", "dtype"), "f64", GraphError, "f64"),
    (("graph", "layouts", "x"), "nhwc", GraphError, "nhwc"),
    (("meta",), [], FileError, "damaged"),
    (("digest",), 5, FileError, "checksum"),
]


@pytest.mark.parametrize(("place", "value", "error", "words"), EDITS, ids=[f"{'.'.join(map(str, e[0]))}={e[1]!r:.20}" for e in EDITS])
def test_a_signed_file_with_a_wrong_graph_is_refused(saved, place, value, error, words):
    header, doc, body = document(saved.read_bytes())
    saved.write_bytes(assemble(header, edit(doc, place, value), body, sign=place != ("digest",)))
    with pytest.raises(error, match=re.escape(words)) as caught:
        file.load(saved)
    assert str(caught.value).startswith(str(saved))


def test_deep_nesting_is_an_error_not_a_crash(saved):
    header, doc, body = document(saved.read_bytes())
    for depth in (400, 900, 100_000):
        text = json.dumps(edit(doc, ("graph", "ops", 0, "attrs", "pad"), "HERE")).replace('"HERE"', "[" * depth + "]" * depth)
        header["__metadata__"] = {"jettison": text}
        head = json.dumps(header).encode()
        saved.write_bytes(len(head).to_bytes(8, "little") + head + body)
        with pytest.raises(FileError):
            file.load(saved)


def places(value, path=()):
    """Every place in a JSON document."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for k, v in items:
        yield from places(v, (*path, k))


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from([2**31, 2**63, 10**300, -1, "x", "conv"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=400, deadline=None)
@given(data=st.data())
def test_no_edit_of_a_signed_header_escapes_as_another_error(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("fuzz") / "net.jettison"
    file.save(data.draw(st.sampled_from([small, quantized]))(), path)
    header, doc, body = document(path.read_bytes())
    whole = {"header": {k: v for k, v in header.items() if k != "__metadata__"}, "doc": doc}
    place = data.draw(st.sampled_from([p for p in places(whole) if len(p) > 1]))
    whole = edit(whole, place, data.draw(json_values))
    path.write_bytes(assemble(whole["header"], whole["doc"], body))
    try:
        graph = file.load(path)
    except JettisonError:
        return
    assert graph.ops  # what loads is legal: a changed name, alpha or equal shape


@settings(max_examples=300, deadline=None)
@given(edits=st.lists(st.tuples(st.floats(0, 1), st.binary(min_size=0, max_size=9)), min_size=1, max_size=4), cut=st.floats(0, 1))
def test_no_damage_escapes_as_another_error(tmp_path_factory, edits, cut):
    path = tmp_path_factory.mktemp("fuzz") / "net.jettison"
    file.save(small(), path)
    good = path.read_bytes()
    bad = bytearray(good)
    for where, piece in edits:
        at = int(where * len(bad))
        bad[at : at + len(piece)] = piece
    if cut < 0.3:
        del bad[int(cut * len(bad)) :]
    path.write_bytes(bad)
    if bad == good:
        assert file.load(path) == small()
    else:
        with pytest.raises(FileError):
            file.load(path)


# ---- writing


def test_meta_that_is_not_json_is_refused(tmp_path):
    for meta in ({"a": float("nan")}, {"a": object()}, {"a": np.zeros(3)}, {(1, 2): 3}):
        with pytest.raises(FileError, match="meta must be"):
            file.save(small(), tmp_path / "a", meta)
    assert not list(tmp_path.iterdir())


def test_an_illegal_graph_is_not_written(tmp_path):
    graph = small()
    with pytest.raises(GraphError):
        file.save(replace(graph, outputs=("nowhere",)), tmp_path / "a")
    assert not list(tmp_path.iterdir())


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(FileError, match=r"make the folder .*nowhere first"):
        file.save(small(), tmp_path / "nowhere" / "net.jettison")


@pytest.mark.parametrize("step", ["write", "fsync", "replace"])
def test_a_full_disk_leaves_the_old_file_and_nothing_else(saved, monkeypatch, step):
    before = saved.read_bytes()

    def full(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if step == "write":
        monkeypatch.setattr(file, "open", lambda *a: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left on device")), raising=False)
    else:
        monkeypatch.setattr(file.os, step, full)
    with pytest.raises(FileError, match="No space left on device; free some space"):
        file.save(small(NM(1, 4)), saved)
    monkeypatch.undo()
    assert saved.read_bytes() == before
    assert [p.name for p in saved.parent.iterdir()] == ["net.jettison"]


def test_a_device_is_never_replaced(tmp_path):
    (tmp_path / "out").symlink_to(os.devnull)
    with pytest.raises(FileError, match="not a regular file"):
        file.save(small(), tmp_path / "out")


def test_a_limit_on_file_size_leaves_nothing(tmp_path):
    """The kernel stops the write part-way (RLIMIT_FSIZE), as a quota would."""
    code = (
        "import resource, signal, sys, test_file as t\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "try:\n    t.file.save(t.small(), sys.argv[1])\nexcept t.FileError as e:\n    print(e)\n"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([os.path.dirname(__file__), *sys.path]), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "a"], check=True, env=env, capture_output=True, text=True)
    assert "cannot be written: File too large" in done.stdout
    assert not list(tmp_path.iterdir())


def test_a_link_keeps_pointing_to_its_file(saved, tmp_path):
    link = tmp_path / "link.jettison"
    link.symlink_to(saved)
    file.save(small(NM(1, 4)), link)
    assert link.is_symlink()
    assert file.load(saved) == small(NM(1, 4))


def test_a_file_that_may_not_be_read(saved):
    if os.geteuid() == 0:
        pytest.skip("root may read everything")
    saved.chmod(0)
    with pytest.raises(FileError, match="Permission denied"):
        file.load(saved)
