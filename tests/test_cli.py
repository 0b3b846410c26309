"""The command line as a user meets it: help, results and JSON."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from graphs import small
from jettison import budget, file
from jettison.cli import VERBS

ODD = """
import torch
from torch import nn

class Odd(nn.Module):
    def forward(self, x):
        return torch.fft.fft(x).real

def odd(num_classes=10, in_channels=1):
    return Odd()
"""


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
    assert [row is None or set(row) == keys for row in data["quiet"]] == [True, True]
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
    assert all(word in result.out for word in ("accuracy", "median ms", "file", "1 of 3 layers are 1:4"))
    assert "× as fast" in result.out or "× as slow" in result.out  # on a busy machine
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


def test_compress_chooses_n_by_layer_and_a_resumed_run_keeps_the_choice(call, net, tmp_path, monkeypatch):
    """On a busy machine a small layer may be measured as fast dense, which is an answer too: here what is measured is not kept."""
    measured = budget.costs
    monkeypatch.setattr(budget, "costs", lambda *args: {name: 1.0 + np.arange(len(ms)) for name, ms in measured(*args).items()})
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


@pytest.mark.parametrize("head", ["keep", "shrink"])
def test_a_file_for_some_classes_is_judged_on_their_images(call, net, tmp_path, head):
    out = tmp_path / "net.jettison"
    command = ("compress", net + "net", "--data", "digits", "--dense-epochs", 1, "--epochs", 0, "--method", "asp", "--pattern", "2:4")
    options = ("--classes", "3,5,8", "--head", head, "--threads", 1, "--runs", 1, "-o", out, "--json", tmp_path / "c.json")
    assert call(*command, *options).code == 0
    accuracy = json.loads((tmp_path / "c.json").read_text())["accuracy"]["2:4"]
    result = call("eval", out, "--data", "digits", "--threads", 1, "--json", "-")
    assert json.loads(result.out)["accuracy"] == accuracy
    graph, meta = file.load(out), file.load_meta(out)
    file.save(graph, out, {**meta, "classes": ["3", "tree"]})
    assert "digits has no class 'tree'" in call("eval", out, "--data", "digits").err


def test_budget_shows_what_each_layer_may_keep(call, net, tmp_path):
    result = call("budget", "resnet20_cifar", "--kept", 0.25, "--m", 8, "--json", tmp_path / "b.json")
    assert result.code == 0, result.err
    data = json.loads((tmp_path / "b.json").read_text())
    assert data["limit"] == pytest.approx(sum(s["uniform_cost"] for s in data["shares"]))
    assert sum(s["cost"] for s in data["shares"]) <= data["limit"] * (1 + 1e-9)
    assert data["formats"].keys() == {s["name"] for s in data["shares"]} and "linear" not in data["formats"]
    assert "layer3.2.conv2" in result.out and "with the same N" in result.out


def test_compress_takes_the_formats_that_a_budget_or_a_search_found(call, net, tmp_path):
    found, out = tmp_path / "found.json", tmp_path / "net.jettison"
    command = ("compress", net + "net", "--data", "digits", "--dense-epochs", 1, "--method", "asp", "--epochs", 0, "--threads", 1)
    options = ("--runs", 1, "-o", out, "--formats", found)
    for text in ({"formats": {"3": "3:8"}}, {"trials": [{"state": "pruned"}, {"state": "complete", "formats": {"3": "3:8"}}]}):
        found.write_text(json.dumps(text))
        result = call(*command, *options)
        assert result.code == 0, result.err
        assert "N:M by layer" in result.out
        assert {str(op.format) for op in file.load(out).ops} == {"dense", "3:8"}
    for text, words in (
        ({"trials": []}, "no result of `jettison budget --json`"),
        ({"formats": "1:4"}, "write --pattern 1:4"),
        ({"formats": {"3": 4}}, "no table of layers and patterns"),
        ({"formats": {"3": "lut9"}}, "layers have N:M or are dense, not 3 lut9"),
        ({"formats": {"3": "dense"}}, "all layers are dense"),
        ({"formats": {"9": "2:4"}}, "is called '9'"),
    ):
        found.write_text(json.dumps(text))
        result = call(*command, *options)
        assert result.code == 2 and words in result.err, result.err
    found.write_text('{"formats": {"3": "2:4"}}')
    for extra in (("--pattern", "2:4"), ("--kept", 0.25), ("--permute",), ("--exclude", "3"), ("--method", "crisp")):
        result = call(*command, *options, *extra)
        assert result.code == 2 and "--formats" in result.err and "leave" in result.err, result.err


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
