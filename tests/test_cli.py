"""The command line as a user meets it: results, JSON, help, and one line with exit code 2 for every bad input."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from graphs import small
from jettison import cli, file
from jettison.cli import VERBS, main

NET = """
from torch import nn

def net(num_classes=10, in_channels=1):
    return nn.Sequential(
        nn.Conv2d(in_channels, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, num_classes),
    )

def rows():
    return nn.LSTM(3, 3)

def six(num_classes=10, in_channels=1):
    return nn.Sequential(
        nn.Conv2d(in_channels, 6, 3), nn.ReLU(), nn.Conv2d(6, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, num_classes)
    )
"""

ODD = """
import torch
from torch import nn

class Odd(nn.Module):
    def forward(self, x):
        return torch.fft.fft(x).real

def odd(num_classes=10, in_channels=1):
    return Odd()
"""


class Result:
    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err


@pytest.fixture
def call(capfd, monkeypatch):
    """Run a command in this process."""
    monkeypatch.setenv("JETTISON_DEBUG", "0")

    def run(*args: object) -> Result:
        capfd.readouterr()
        with pytest.raises(SystemExit) as e:
            main([str(a) for a in args])
        out, err = capfd.readouterr()
        return Result(e.value.code, out, err)

    return run


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "small.jettison"
    file.save(small(), path, {"classes": ["a", "b", "c"]})
    return path


@pytest.fixture
def net(tmp_path):
    """`net.py` in the test's folder; the prefix to name a function of it."""
    path = tmp_path / "net.py"
    path.write_text(NET)
    return f"{path}:"


def files(folder: Path) -> set[Path]:
    return {p for p in folder.rglob("*") if p.is_file() and "__pycache__" not in p.parts}


# ---- help


def test_help_lists_every_command_without_importing_pytorch():
    code = "import sys; sys.modules['torch'] = None; sys.argv = ['jettison', '--help']; from jettison.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert all(verb in done.stdout for verb in VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_help_teaches_by_example(call, verb):
    result = call(verb, "--help")
    assert result.code == 0
    assert f"jettison {verb} " in result.out.split("Example")[1]
    assert "--json" in result.out


def test_without_a_command_there_is_help_and_a_typo_gets_a_suggestion(call):
    assert "Usage: jettison" in call().out
    result = call("expalin")
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert "Did you mean 'explain'" in result.err


def test_version(call):
    assert call("--version").out.strip() == "0.1.0"


# ---- what the commands say


def test_inspect_tells_what_is_in_a_file(call, saved):
    result = call("inspect", saved, "--layers", "--json", "-")
    data = json.loads(result.out)  # tables went to stderr
    assert data["formats"]["2:4"] == {"layers": 1, "weight_bytes": 1224, "macs_dense": 5 * 6 * 8 * 72, "macs_kept": 5 * 6 * 8 * 36}
    assert data["meta"] == {"classes": ["a", "b", "c"]}
    assert data["file_bytes"] == saved.stat().st_size
    assert [layer["name"] for layer in data["layers"]] == ["a", "b", "c", "d"]
    assert "2:4" in result.err


def test_explain_has_a_row_per_layer_and_sums_that_add_up(call, saved, tmp_path):
    result = call("explain", saved, "--runs", 3, "--threads", 1, "--batch", 2, "--json", tmp_path / "e.json")
    data = json.loads((tmp_path / "e.json").read_text())
    rows = {row["name"]: row for row in data["layers"]}
    assert {"a", "b", "c", "d"} < set(rows)
    assert (rows["b"]["format"], rows["b"]["macs_dense"], rows["b"]["macs_kept"]) == ("2:4", 2 * 30 * 8 * 72, 2 * 30 * 8 * 36)
    assert {c["kernel"] for c in rows["b"]["candidates"]} == {"dense", "nm"}
    for key in ("macs_dense", "macs_kept", "weight_bytes", "median_ms"):
        assert data["total"][key] == pytest.approx(sum(row[key] for row in rows.values()))
    assert data["total"]["operations"] >= 2 * data["total"]["macs_kept"]
    assert sum(row["share"] for row in rows.values()) == pytest.approx(1)
    assert "total" in result.out and "MACs dense" in result.out and "operations" in result.out
    first, *others = [rows[name] for name in rows["b"]["group"] or ["b"]]  # the limit of a group stands beside its first layer
    assert 0 < first["limit_ms"] == pytest.approx(first["share_of_limit"] * sum(row["median_ms"] for row in (first, *others)))
    assert first["limited_by"] and first["arithmetic_ms"] <= first["limit_ms"] and not any(row["limit_ms"] for row in others)
    assert 0 < data["total"]["efficiency"] < 1


def test_waterline_explains_every_millisecond_and_writes_a_report(call, saved, tmp_path):
    result = call("waterline", saved, "--runs", 3, "--threads", 1, "-o", tmp_path / "r.html", "--json", tmp_path / "w.json")
    assert result.code == 0, result.err
    data = json.loads((tmp_path / "w.json").read_text())
    network = data["network"]
    for model in ("cold", "cached"):
        parts = network["arithmetic_ms"] + sum(network[model]["gap"].values())
        assert parts == pytest.approx(network["measured_ms"], rel=1e-9)
    assert "MACs kept" in result.out and "operations" in result.out
    assert data["about"]["pattern"] == "2:4"  # the file's
    assert f"report written to {tmp_path / 'r.html'}" in " ".join(result.out.split())
    assert (tmp_path / "r.html").read_text().startswith("<!doctype html>")


def test_waterline_of_another_machine_measures_nothing(call, net):
    result = call("waterline", net + "net", "--size", 8, "--machine", "a100-sxm-40gb", "--element", "bf16", "--batch", 4, "--json", "-")
    data = json.loads(result.out)
    assert data["network"]["measured_ms"] is None and data["network"]["cold"]["gap"] is None
    assert {row["element"] for row in data["kernels"]} == {"bf16"}
    assert data["limits"]["name"].startswith("NVIDIA A100")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--machine", "abacus"), "neither a file nor one of"),
        (("--element", "f16"), "--element: 'f16' is not known"),
        (("--element", "bf16"), "no bf16 kernels"),
        (("--machine", "epyc-zen5", "--element", "bf16"), "has no peak for bf16"),
        (("--machine", "ryzen-7950x", "--threads", 17), "threads must lie between 1 and 16"),
        (("-o", "nowhere/r.html"), "does not exist"),
        (("--what-if", "int4"), "--what-if: 'int4' is not known"),
        (("--machine", "ryzen-7950x", "--measure"), "add --times"),
        (("--no-times",), "needs a --machine"),
    ],
)
def test_waterline_refuses_what_it_cannot_do(call, saved, arguments, message):
    result = call("waterline", saved, *arguments)
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert message in result.err


def test_a_model_that_cannot_be_exported_is_refused_by_its_op(call, tmp_path):
    (tmp_path / "odd.py").write_text(ODD)
    result = call("waterline", f"{tmp_path / 'odd.py'}:odd", "--size", 8, "--machine", "ryzen-7950x")
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert "operation fft_fft has no place in the graph" in result.err


def test_gap_draws_what_waterline_measured(call, tmp_path):
    known, named = tmp_path / "net18.jettison", tmp_path / "other.jettison"
    file.save(small(), known, {"accuracy": 0.915, "data": "digits", "settings": {"model": "net18"}})
    file.save(small(), named, {"data": "digits"})
    for path, more in (known, ()), (named, ("--accuracy", 88)):
        call("waterline", path, "--runs", 3, "--threads", 1, "--json", path.with_suffix(".json"), *more)
    result = call("gap", known.with_suffix(".json"), named.with_suffix(".json"), "-o", tmp_path / "gap.html", "--json", tmp_path / "g.json")
    points = json.loads((tmp_path / "g.json").read_text())["points"]
    assert [(p["family"], p["network"], p["accuracy"]) for p in points] == [("net", "net18", 91.5), ("other", "other", 88.0)]
    assert all(0 < p["efficiency"] < 1 for p in points)
    assert "91.50%" in result.out and (tmp_path / "gap.html").read_text().startswith("<!doctype html>")
    refused = call("gap", known.with_suffix(".json"), "-o", tmp_path / "gap.txt")
    assert refused.code == 2 and "write a .html page or a picture" in refused.err


def test_probe_writes_a_machine_that_waterline_takes(call, saved, tmp_path):
    here = tmp_path / "here.toml"
    result = call("probe", "-o", here, "--threads", 1, "--name", "desk", "--json", "-")
    assert result.code == 0, result.err
    assert json.loads(result.out)["probe"]["name"] == "desk"
    data = json.loads(call("waterline", saved, "--machine", here, "--json", "-").out)
    assert (data["limits"]["name"], data["network"]["measured_ms"]) == ("desk", None)


def test_verify_checks_every_instruction_set(call, saved):
    from jettison.runtime import isas

    result = call("verify", saved, "--json", "-")
    assert result.code == 0, result.err
    names = {c["name"] for c in json.loads(result.out)["checks"]}
    assert {f"{isa}, the reference" for isa in isas()} | {f"{isa}, two threads" for isa in isas()} | {"file", "patterns"} == names


def test_bench_writes_the_promised_json(call, saved, tmp_path):
    result = call("bench", saved, "--runs", 2, "--threads", 1, "--batch", 3, "--json", tmp_path / "b.json")
    assert result.code == 0, result.err
    data = json.loads((tmp_path / "b.json").read_text())
    keys = {"engine", "element", "pattern", "median_ms", "p10_ms", "p90_ms", "runs", "of_best"}
    assert [set(row) for row in data["rows"]] == [keys, keys]
    assert [(r["engine"], r["element"], r["pattern"], r["runs"]) for r in data["rows"]] == [
        ("jettison", "f32", "dense", 2),
        ("jettison", "f32", "2:4", 2),
    ]
    assert (data["model"], data["batch"], data["threads"]) == (str(saved), 3, 1)
    assert data["machine"]["processor"]


def test_compress_ends_with_a_file_that_is_as_good_as_it_says(call, net, tmp_path):
    out = tmp_path / "net.jettison"
    command = (
        "compress",
        net + "net",
        "--data",
        "digits",
        "--pattern",
        "1:4",
        "--dense-epochs",
        2,
        "--epochs",
        2,
        "--lr",
        0.2,
        "--threads",
        1,
    )
    options = ("--runs", 2, "-o", out, "--json", tmp_path / "c.json", "--save-weights", tmp_path / "w.safetensors")
    result = call(*command, *options)
    assert result.code == 0, result.err
    assert all(word in result.out for word in ("accuracy", "median ms", "file", "as fast", "1 of 3 layers are 1:4"))
    data = json.loads((tmp_path / "c.json").read_text())
    assert data["accuracy"]["1:4"] == data["history"]["sparse"][-1]["accuracy"] > 0.2  # PyTorch's own, on all test images
    assert [r["pattern"] for r in data["latency"]] == ["dense", "1:4"]

    evaluated = call("eval", out, "--data", "digits", "--threads", 1, "--json", "-")
    assert json.loads(evaluated.out)["accuracy"] == data["accuracy"]["1:4"]
    torch_says = call("eval", net + "net", "--weights", tmp_path / "w.safetensors", "--data", "digits", "--threads", 1, "--json", "-")
    assert json.loads(torch_says.out)["accuracy"] == data["accuracy"]["1:4"]
    assert call("verify", out, "--model", net + "net", "--weights", tmp_path / "w.safetensors").code == 0

    first = out.read_bytes()
    assert call(*command, *options, "--resume").code == 0
    assert out.read_bytes() == first
    other = call(*command, "-o", out, "--resume", "--decay", 1e-3)
    assert other.code == 2
    assert "decay None (now 0.001)" in other.err
    assert out.read_bytes() == first


def test_compress_without_training_moves_channels_and_refits_layers(call, net, tmp_path):
    command = ("compress", net + "net", "--data", "digits", "--dense-epochs", 1, "--epochs", 0, "--method", "asp", "--pattern", "2:4")
    out = tmp_path / "net.jettison"
    options = ("--permute", "--reconstruct", "--calibrate", 64, "--threads", 1, "--runs", 1, "-o", out, "--json", tmp_path / "c.json")
    result = call(*command, *options)
    assert result.code == 0, result.err
    data = json.loads((tmp_path / "c.json").read_text())
    assert f"channels moved in {len(data['permuted'])} places" in result.out
    assert all(p["kept_after"] >= p["kept_before"] for p in data["permuted"])
    assert data["history"]["sparse"] == []
    assert [r["pattern"] for r in data["latency"]] == ["dense", "2:4"]


def test_compress_chooses_n_by_layer_and_a_resumed_run_keeps_the_choice(call, net, tmp_path):
    command = ("compress", net + "net", "--data", "digits", "--dense-epochs", 1, "--epochs", 1, "--lr", 0.2, "--kept", 0.25, "--m", 8)
    out = tmp_path / "net.jettison"
    options = ("--budget", "latency", "--threads", 1, "--runs", 1, "-o", out, "--json", tmp_path / "c.json")
    result = call(*command, *options)
    assert result.code == 0, result.err
    data = json.loads((tmp_path / "c.json").read_text())
    assert (data["budget"]["cost"], [s["name"] for s in data["budget"]["shares"]]) == ("latency", ["3"])
    assert sum(s["cost"] for s in data["budget"]["shares"]) <= data["budget"]["limit"]
    assert [r["pattern"] for r in data["latency"]] == ["dense", "0.25 kept"]
    first = out.read_bytes()
    assert call(*command, *options, "--resume").code == 0
    assert out.read_bytes() == first
    assert "times were measured with" in call(*command, *options, "--resume", "--run-batch", 2).err
    assert "budget 'latency' (now 'macs')" in call(*command, "-o", out, "--resume", "--threads", 1).err


def test_budget_shows_what_each_layer_may_keep(call, net, tmp_path):
    result = call("budget", "resnet20_cifar", "--kept", 0.25, "--m", 8, "--json", tmp_path / "b.json")
    assert result.code == 0, result.err
    data = json.loads((tmp_path / "b.json").read_text())
    assert data["limit"] == pytest.approx(sum(s["uniform_cost"] for s in data["shares"]))
    assert sum(s["cost"] for s in data["shares"]) <= data["limit"] * (1 + 1e-9)
    assert data["formats"].keys() == {s["name"] for s in data["shares"]} and "linear" not in data["formats"]
    assert "layer3.2.conv2" in result.out and "with the same N" in result.out


def test_compress_to_int8_writes_the_int8_network_and_shows_all_three(call, net, tmp_path):
    out = tmp_path / "net.jettison"
    command = ("compress", net + "net", "--data", "digits", "--dense-epochs", 2, "--epochs", 1, "--lr", 0.2, "--threads", 1, "--runs", 1)
    options = ("--element", "int8", "--calibrate", 64, "--keep-float", 1, "--range", "percentile", "-o", out, "--json", tmp_path / "c.json")
    result = call(*command, *options)
    assert result.code == 0, result.err
    assert "1:4 int8" in result.out and "in f32, the most sensitive:" in result.out
    data = json.loads((tmp_path / "c.json").read_text())
    assert list(data["accuracy"]) == ["dense", "1:4", "1:4 int8"] and len(data["kept_float"]) == 1
    assert data["file_bytes"]["1:4 int8"] < data["file_bytes"]["1:4"]
    graph = file.load(out)
    assert {op.name for op in graph.ops if op.kind in ("conv", "linear") and op.element == "f32"} == set(data["kept_float"])
    evaluated = call("eval", out, "--data", "digits", "--threads", 1, "--json", "-")
    assert json.loads(evaluated.out)["accuracy"] == data["accuracy"]["1:4 int8"]
    assert call("verify", out).code == call("explain", out, "--threads", 1).code == 0
    in_float = call("bench", out, "--threads", 1)
    assert in_float.code == 2 and "write --element int8" in in_float.err


def test_verify_finds_weights_that_are_not_the_files(call, net, tmp_path):
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file

    from jettison import zoo
    from jettison.export import export

    torch.manual_seed(0)
    model = zoo.build(net + "net", in_channels=1).eval()
    file.save(export(model, (1, 8, 8)), tmp_path / "n.jettison")
    save_file({k: v + 0.01 if v.is_floating_point() else v for k, v in model.state_dict().items()}, tmp_path / "w.safetensors")
    result = call("verify", tmp_path / "n.jettison", "--model", net + "net", "--weights", tmp_path / "w.safetensors")
    assert result.code == 2
    assert "FAILED" in result.out
    assert "PyTorch: relative error" in result.err


# ---- bad input: one line, exit code 2, no file

BENCH = ("bench", "resnet20_cifar", "--size", 16, "--runs", 1)
COMPRESS = ("compress", "NETnet", "--data", "digits", "--dense-epochs", 1, "--epochs", 1, "-o", "TMP/out.jettison")
CRISP = (*COMPRESS, "--method", "crisp", "--pattern", "16x16/2:4")
BAD = {
    "explain: again without tune": (("explain", "SAVED", "--again"), "--again measures kernels anew, which --tune asks for"),
    "compress: a picture of an unknown kind": (
        ("compress", "resnet20_cifar", "--data", "digits", "-o", "TMP/o.jettison", "--plot", "TMP/p.xyz"),
        "a picture is one of .png, .svg, .pdf",
    ),
    "impossible pattern": ((*BENCH, "--pattern", "3:2"), "pattern 3:2: needs 1 <= N <= M"),
    "pattern of nothing": ((*BENCH, "--pattern", "0:4"), "pattern 0:4"),
    "no pattern at all": ((*BENCH, "--pattern", "half"), "pattern 'half' is not known"),
    "network that does not run": (("bench", "NETrows"), "rows does not run on images 3×224×224: ValueError"),
    "unknown network": (("bench", "resnet21"), "model 'resnet21' is not known"),
    "unknown engine": ((*BENCH, "--against", "tvm"), "engine 'tvm' is not known"),
    "unknown element": ((*BENCH, "--element", "fp8"), "element 'fp8' is not known"),
    "too many threads": ((*BENCH, "--threads", 9999), "threads must lie between 1 and"),
    "unknown option": ((*BENCH, "--quick"), "No such option"),
    "no number": ((*BENCH, "--batch", "two"), "Invalid value for '--batch'"),
    "missing file": (("inspect", "TMP/none.jettison"), "there is no such file"),
    "no such folder": (("inspect", "SAVED", "--json", "TMP/none/x.json"), "does not exist"),
    "model without weights": (("verify", "SAVED", "--model", "resnet18"), "--model and --weights belong together"),
    "network without weights": (("eval", "resnet18", "--data", "digits"), "needs --weights"),
    "unknown data": ((*COMPRESS, "--data", "digit"), "data set 'digit' is not known"),
    "unknown method": ((*COMPRESS, "--method", "magic"), "method 'magic' is not known"),
    "compress to dense": ((*COMPRESS, "--pattern", "dense"), "leaves nothing to compress"),
    "impossible compression": ((*COMPRESS, "--pattern", "3:2"), "pattern 3:2"),
    "nothing to start from": ((*COMPRESS, "--dense-epochs", 0), "nothing trained to start from"),
    "training without epochs": ((*COMPRESS, "--epochs", 0), "method srste needs epochs"),
    "kept and a pattern": ((*COMPRESS, "--kept", 0.25, "--pattern", "1:4"), "write one of them"),
    "M without a share": ((*COMPRESS, "--m", 8), "--m 8 has no effect without --kept"),
    "nothing kept": ((*COMPRESS, "--kept", 0.01), "the share kept lies between 1/16 = 0.0625 and 1, got 0.01"),
    "kept no number": ((*COMPRESS, "--kept", "nan"), "the share kept lies between"),
    "kept without end": ((*COMPRESS, "--kept", "inf"), "the share kept lies between"),
    "decay without end": ((*COMPRESS, "--weight-decay", "inf"), "weight_decay must be a number >= 0, got inf"),
    "permuted blocks": ((*CRISP, "--permute"), "--permute is for N:M, for example 2:4, not for 16x16/2:4"),
    "tables reconstructed": ((*COMPRESS, "--method", "tabconv", "--reconstruct"), "--reconstruct is for N:M"),
    "equalized floats": ((*COMPRESS, "--equalize"), "--equalize prepares for int8"),
    "unknown budget": ((*COMPRESS, "--kept", 0.25, "--budget", "joules"), "one of parameters, macs, latency"),
    "kept blocks": ((*CRISP[:-2], "--kept", 0.25), "method crisp removes whole blocks"),
    "budget of an unknown element": (("budget", "resnet20_cifar", "--element", "fp8"), "element 'fp8' is not known"),
    "channels that do not divide": (("compress", "NETsix", *COMPRESS[2:], "--pattern", "2:4"), "divisible by 4, got 6"),
    "missing weights": ((*COMPRESS, "--weights", "TMP/none.pt"), "no such file"),
    "missing output folder": ((*COMPRESS, "-o", "TMP/none/out.jettison"), "does not exist"),
    "unknown class": ((*CRISP, "--classes", "3,tree"), "class 'tree' is not in digits; it has 0, 1, 2"),
    "one class": ((*CRISP, "--classes", "3"), "needs at least two classes, got 1"),
    "no class": ((*CRISP, "--classes", ","), "--classes names no class"),
    "no file of classes": ((*CRISP, "--classes", "@TMP/none.txt"), "none.txt cannot be read"),
    "unreachable sparsity": ((*CRISP, "--sparsity", 0.99), "sparsity 99.00% cannot be reached with this pattern, only 50.00% to 94.44%"),
    "sparsity below N:M": ((*CRISP, "--sparsity", 0.3), "only 50.00% to 94.44% (N:M alone removes the first)"),
    "sparsity twice": ((*CRISP, "--pattern", "16x16/2:4@50%", "--sparsity", 0.9), "already says how many blocks stay"),
    "sparsity without crisp": ((*COMPRESS, "--sparsity", 0.9), "--sparsity belongs to method crisp"),
    "crisp without blocks": ((*CRISP, "--pattern", "2:4"), "method crisp removes whole blocks"),
    "blocks too wide": ((*CRISP, "--pattern", "32x32/2:4"), "need output channels divisible by 32, got 16"),
    "head without classes": ((*CRISP, "--head", "shrink"), "name them with --classes"),
    "unknown head": ((*CRISP, "--head", "bald"), "head must be one of keep, shrink"),
    "from nothing": ((*CRISP, "--dense-epochs", 0, "--from", "TMP/none"), "no such file; `jettison compress --method crisp`"),
    "from another file": ((*CRISP, "--dense-epochs", 0, "--from", "SAVED"), "not a checkpoint of a personalised network"),
    "data that do not fit": (("eval", "SAVED", "--data", "digits"), "the network takes 5×6×4"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_exit_code_2(call, saved, net, tmp_path, case):
    pytest.importorskip("torch")
    args, message = BAD[case]
    before = files(tmp_path)
    result = call(*(str(a).replace("TMP", str(tmp_path)).replace("SAVED", str(saved)).replace("NET", net) for a in args))
    assert result.code == 2, result.err
    assert message in result.err
    assert result.err.startswith("jettison: ") and result.err.count("\n") == 1
    assert files(tmp_path) == before


def test_bench_compares_all_under_the_same_limit(call, saved, monkeypatch):
    monkeypatch.setenv("JETTISON_ISA", "scalar")
    result = call("bench", saved)
    assert result.code == 2 and "write --isa to limit all engines" in result.err


@pytest.mark.parametrize("verb", ["inspect", "explain", "verify", "bench"])
@pytest.mark.parametrize("damage", ["cut", "flipped"])
def test_damaged_files_are_refused(call, saved, verb, damage):
    data = bytearray(saved.read_bytes())
    if damage == "cut":
        data = data[: len(data) // 2]
    else:
        data[-5] ^= 4
    saved.write_bytes(data)
    result = call(verb, saved)
    assert result.code == 2
    assert result.err.count("\n") == 1 and str(saved) in result.err
    assert result.out == ""


def test_weights_that_do_not_fit_are_listed(call, net, tmp_path):
    torch = pytest.importorskip("torch")
    torch.save({"0.weight": torch.zeros(16, 1, 3, 3), "head.weight": torch.zeros(3)}, tmp_path / "w.pt")
    result = call(*(str(a).replace("TMP", str(tmp_path)).replace("NET", net) for a in COMPRESS), "--weights", tmp_path / "w.pt")
    assert result.code == 2
    assert "missing: 0.bias" in result.err and "unexpected: head.weight" in result.err


class Evil:
    def __reduce__(self):
        return (Path.write_text, (Path("owned"), "x"))


def test_a_pickle_that_would_run_code_does_not(call, net, tmp_path, monkeypatch):
    pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "w.pt").write_bytes(pickle.dumps({"state_dict": Evil()}))
    result = call("eval", net + "net", "--data", "digits", "--weights", tmp_path / "w.pt")
    assert result.code == 2
    assert "w.pt" in result.err
    assert not (tmp_path / "owned").exists()


# ---- how commands end


def test_our_bug_is_said_to_be_one(call, saved, monkeypatch):
    monkeypatch.setattr(file, "load", lambda path: 1 / 0)
    result = call("inspect", saved)
    assert result.code == 1
    assert "bug of Jettison" in result.err and result.err.count("\n") == 1
    assert "Traceback" in call("--debug", "inspect", saved).err


def test_an_interrupt_ends_cleanly(call, saved, monkeypatch):
    def interrupted(path):
        raise KeyboardInterrupt

    monkeypatch.setattr(file, "load", interrupted)
    result = call("inspect", saved)
    assert (result.code, result.err) == (130, "jettison: interrupted\n")


def test_a_missing_package_is_named_with_its_extra(call, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "torch", None)
    result = call("compress", "resnet18", "--data", "digits", "-o", tmp_path / "x.jettison")
    assert result.code == 2
    assert "needs torch; install it with: pip install 'jettison[train]'" in result.err


def test_the_table_of_commands_is_complete():
    folder = Path(cli.__file__).parent
    assert {p.stem for p in folder.glob("*.py")} - {"__init__", "tables", "picture"} == set(VERBS)


def test_json_is_replaced_as_a_whole(call, saved, tmp_path):
    """A command that fails leaves the JSON of the one before."""
    target = tmp_path / "x.json"
    assert call("inspect", saved, "--json", target).code == 0
    before = target.read_bytes()
    assert call("inspect", tmp_path / "none.jettison", "--json", target).code == 2
    assert target.read_bytes() == before
    assert not np.any([p.suffix == ".tmp" for p in files(tmp_path)])
