"""The accelerator model: its arithmetic on layers computed by hand, what must always hold, and the command."""

from __future__ import annotations

import json
from dataclasses import fields, replace

import numpy as np
import pytest

from graphs import small
from jettison import file
from jettison.analysis import accelerator as model
from jettison.analysis.accelerator import FOLDER, Accelerator, Work, layer_cost, load, names, total
from jettison.cli import main
from jettison.errors import MachineError
from jettison.formats import NM, Block, Dense
from jettison.formats.bits import stream_bytes
from jettison.graph import TensorSpec

# round numbers: 4 outputs × 8 inputs a cycle
TOY = Accelerator(
    name="toy", skips="none", clock_hz=1e6, lanes_outputs=4, lanes_depth=8, pixels_held=10, buffer_bytes=1000, buffer_bytes_per_cycle=50,
    dram_bytes_per_cycle=10, mac_pj=1, select_pj=0.5, register_pj=2, buffer_pj_per_byte=3, dram_pj_per_byte=7, accumulate_bytes_per_mac=0,
    activation_density=1, sources={},
)  # fmt: skip


def layer(fmt=Dense(), pixels=25, k=32, depth=64, groups=1, kept=None) -> Work:
    """int8, 5 × 5 pixels, 64 inputs to 32 outputs."""
    shape = (k, 1, 1, depth)
    density = fmt.density(shape)
    values = round(k * depth * density)
    bits = 2 * values if fmt != Dense() else 0
    columns = stream_bytes(2 * fmt.kept(shape), fmt.index_bits(shape)) if isinstance(fmt, Block) else 0
    stored = values + bits // 8 + columns
    kept = np.full(k, round(depth * density)) if kept is None else np.asarray(kept)
    return Work("l", pixels, k, depth, groups, fmt, kept, stored, 1, pixels * depth, pixels * k)


def test_a_dense_layer_by_hand() -> None:
    c = layer_cost(layer(), TOY)
    assert c.macs == 25 * 32 * 64
    assert c.compute_cycles == 25 * (32 / 4) * (64 / 8)
    assert c.utilisation == 1 and c.imbalance == 1
    buffer = 25 * 8 * 64 + 32 * 64 * 3 + 25 * 32  # inputs for each tile, weights for every 10 pixels, outputs
    assert c.buffer_bytes == buffer and c.buffer_cycles == buffer / 50
    dram = min(2048 + 1600 * 5, 1600 + 2048 * 4) + 800  # halves of 500 bytes: 5 of weights, 4 of inputs
    assert c.dram_bytes == dram == 9792 + 800
    assert c.cycles == c.compute_cycles == 1600 and c.bound == "compute"
    assert dict(c.energy_pj) == {"mac": c.macs * 1.5, "register": c.macs * 2.0, "buffer": buffer * 3.0, "DRAM": dram * 7.0}
    assert total([c, c], TOY).seconds == 3200 / 1e6
    assert total([c, c], TOY).joules == pytest.approx(2e-12 * c.total_pj)


def test_blocks_and_nm_by_hand() -> None:
    fmt = Block(16, 16, NM(2, 4), 0.5)  # 2 of 4 blocks, half of each: 16 of 64 inputs
    c = layer_cost(layer(fmt), replace(TOY, skips="blocks"))
    assert c.macs == 25 * 32 * 16
    assert c.compute_cycles == 25 * 8 * 2
    values, indices, columns = 32 * 16, 32 * 16 * 2 // 8, 1
    assert (c.weight_bytes, c.metadata_bytes) == (values + indices + columns, indices + columns)
    assert c.buffer_bytes == 25 * 8 * 32 + c.weight_bytes * 3 + 800  # only kept blocks are fetched
    assert c.dram_bytes == min(c.weight_bytes + 1600 * 2, 1600 + c.weight_bytes * 4) + 800
    dense = layer_cost(layer(fmt), TOY)
    assert dense.compute_cycles / c.compute_cycles == 4  # M/N · total/kept


def test_two_of_four_is_all_that_the_2_4_core_takes() -> None:
    core = replace(TOY, skips="2:4")
    fitting = (NM(2, 4), NM(1, 4), NM(1, 2), Block(16, 16, NM(2, 4), 0.25), NM(1, 8))
    for fmt, gain in (*((fmt, 2) for fmt in fitting), (NM(4, 8), 1), (Block(16, 16), 1)):
        c = layer_cost(layer(fmt), core)
        assert c.compute_cycles == 1600 / gain, fmt
        assert c.weight_bytes == (32 * 64 / 2 + 32 * 32 * 2 / 8 if gain == 2 else 32 * 64)


def test_any_zero_is_skipped_but_the_fullest_row_keeps_the_others_waiting() -> None:
    core = replace(TOY, skips="any", activation_density=0.5)
    kept = [64, 0, 0, 0] * 8
    c = layer_cost(layer(kept=kept), core)
    assert c.macs == 25 * sum(kept) / 2
    assert c.compute_cycles == 25 * 8 * 4  # 32 of 64 after activations, 8 a cycle
    assert c.imbalance == 4  # the mean row needs one cycle
    assert c.utilisation == 0.25
    even = layer_cost(layer(kept=[16] * 32), core)
    assert even.macs == c.macs and even.compute_cycles == 25 * 8 and even.imbalance == 1
    assert (even.weight_bytes, even.metadata_bytes) == (512 + 256, 256)
    assert layer_cost(layer(), core).metadata_bytes == 0  # dense weights need no bitmap


def test_depthwise_fills_one_lane() -> None:
    c = layer_cost(replace(layer(k=32, depth=9), groups=32), TOY)
    assert c.compute_cycles == 25 * 32 * 2
    assert c.utilisation == pytest.approx(9 / 16 / 4)


def test_limits_name_themselves() -> None:
    assert layer_cost(layer(), replace(TOY, dram_bytes_per_cycle=0.1)).bound == "DRAM"
    assert layer_cost(layer(), replace(TOY, buffer_bytes_per_cycle=0.1)).bound == "buffer"
    fits = layer_cost(layer(), replace(TOY, buffer_bytes=1e6))
    assert fits.dram_bytes == 2048 + 1600 + 800  # everything once


def test_described_accelerators_are_the_same_but_for_what_they_skip() -> None:
    assert names() == ["crisp-stc", "dstc", "nvidia-stc", "dense"]
    dense = load("dense")
    for name in names():
        a = load(name)
        own = {"name", "skips", "select_pj", "accumulate_bytes_per_mac", "activation_density", "sources"}
        assert all(getattr(a, f.name) == getattr(dense, f.name) for f in fields(a) if f.name not in own)


def test_real_graphs_and_their_kept_weights(tmp_path) -> None:
    fmt = Block(16, 16, NM(2, 4), 0.3)
    works = {w.name: w for w in model.work(small(fmt), n=2)}
    assert list(works) == ["a", "b", "d"]
    assert works["b"].pixels == 2 * 5 * 6 and works["b"].depth == 9 * 32
    assert works["b"].kept.tolist() == [round(9 * 32 * fmt.density((32, 3, 3, 32)))] * 32
    assert works["b"].weight_bytes == sum(a.nbytes for k, a in small(fmt).constants.items() if k.startswith("b.w."))
    rows = model.sensitivity(list(works.values()), load("crisp-stc"), load("dense"))
    assert len(rows) == len(fields(Accelerator)) - 4
    assert {"latency", "energy"} <= set(rows[0])
    moved = [max(abs(np.log(v / rows[-1][what][0])) for what in ("latency", "energy") for v in r[what]) for r in rows]
    assert moved[0] >= moved[-1]


def test_bad_descriptions_are_named(tmp_path) -> None:
    text = (model.FOLDER / "dense.toml").read_text()
    for old, new, message in (
        ("mac_pj = 0.23", "mac_pj = -1", "mac_pj must be a positive number"),
        ("clock_hz = 1.0e9", 'clock_hz = "fast"', "clock_hz must be a positive number"),
        ("activation_density = 1.0", "activation_density = 1.5", "at most 1"),
        ('skips = "none"', 'skips = "all"', "skips must be one of"),
        ("pixels_held = 64\n", "", "missing pixels_held"),
        ("pixels_held = 64", "pixels_hold = 64", "not known: pixels_hold"),
        ("[sources]\nclock_hz", "[sources]\nclock", "clock_hz has no source"),
        ("mac_pj = 0.23", "mac_pj =", "cannot be read"),
        ("lanes_outputs = ", "lanes_outputs = 0.", "lanes_outputs must be a positive number, at least 1"),
    ):
        (tmp_path / "x.toml").write_text(text.replace(old, new, 1))
        with pytest.raises(MachineError, match=message):
            load(str(tmp_path / "x.toml"))
    with pytest.raises(MachineError, match="'tpu' is not known; known: crisp-stc, dstc, nvidia-stc, dense"):
        load("tpu")


def test_the_command(tmp_path, capsys) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / "net.jettison"
    file.save(small(Block(16, 16, NM(2, 4), 0.3)), path)
    with pytest.raises(SystemExit) as end:
        main(["simulate", str(path), "--sensitivity", "--plot", str(tmp_path / "s.svg"), "--json", str(tmp_path / "s.json")])
    assert end.value.code == 0
    shown = capsys.readouterr().out
    for words in ("CRISP-STC", "NVIDIA-STC", "over dense", "halved", "dram_pj_per_byte", "layers are no int8"):
        assert words in shown
    data = json.loads((tmp_path / "s.json").read_text())
    for name, a, b in ((n, *(data["layers"][m][0] for m in ("CRISP-STC", n))) for n in ("DSTC", "NVIDIA-STC", "dense")):
        assert f"latency over {name}" in " ".join(shown.split()) and f"{b['cycles'] / a['cycles']:.2f}×" in shown
        assert f"energy over {name}" in " ".join(shown.split()) and f"{b['total_pj'] / a['total_pj']:.2f}×" in shown
    assert set(data["total"]) == {"CRISP-STC", "DSTC", "NVIDIA-STC", "dense"}
    assert data["paper"] == {"latency": 14.0, "energy": 30.0}
    assert sum(c["cycles"] for c in data["layers"]["dense"]) / 1e9 == pytest.approx(data["total"]["dense"]["seconds"])
    assert "paper: up to 14×" in (tmp_path / "s.svg").read_text() or (tmp_path / "s.svg").stat().st_size > 10_000
    with pytest.raises(SystemExit) as end:
        main(["simulate", str(path), "--activation-density", "2"])
    assert end.value.code == 2 and "--activation-density must be a share" in capsys.readouterr().err


def test_what_cannot_be_simulated_is_refused_before_the_work(tmp_path, capsys) -> None:
    pytest.importorskip("matplotlib")
    path, bare = str(tmp_path / "net.jettison"), str(tmp_path / "bare.jettison")
    graph = small()
    file.save(graph, path)
    mean = replace(graph.ops[2], inputs=("x",), outputs=("y",))
    tensors = {"x": graph.tensors["x"], "y": TensorSpec("y", (4,))}
    file.save(replace(graph, ops=(mean,), tensors=tensors, outputs=("y",), constants={}, layouts={"x": "nchw", "y": "plain"}), bare)
    (tmp_path / "copy.toml").write_text((FOLDER / "dense.toml").read_text())
    for words, message in (
        ([bare], "has no convolution or linear layer"),
        ([path, "--plot", str(tmp_path / "s.xyz")], "a picture is one of .png, .svg, .pdf"),
        ([path, "--sensitivity", "--accelerator", "dense"], "name at least two"),
        ([path, "--accelerator", "CRISP-STC, crisp-stc"], "have the same name"),
        ([path, "--accelerator", ""], "accelerator '' is not known; known: crisp-stc, dstc"),
        ([path, "--accelerator", f"dense,{tmp_path / 'copy.toml'}"], "have the same name"),
    ):
        with pytest.raises(SystemExit) as end:
            main(["simulate", *words])
        assert end.value.code == 2 and message in capsys.readouterr().err.replace("\n", " ")
