"""The command line as it ends: one line with exit code 2 for every bad input, and no file left behind."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

import numpy as np
import pytest

from command import files
from graphs import small
from jettison import cli, file
from jettison.cli import VERBS

# ---- bad input: one line, exit code 2, no file

BENCH = ("bench", "resnet20_cifar", "--size", 16, "--runs", 1)
COMPRESS = ("compress", "NETnet", "--data", "digits", "--dense-epochs", 1, "--epochs", 1, "-o", "TMP/out.jettison")
CRISP = (*COMPRESS, "--method", "crisp", "--sparsity", 0.8, "--pattern", "16x16/2:4")
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
    "pattern of a file": (("bench", "SAVED", "--pattern", "1:4"), "--pattern is for networks by name"),
    "size of a file": (("waterline", "SAVED", "--machine", "epyc-zen4", "--size", 99), "--size is for networks by name"),
    "unknown network": (("bench", "resnet21"), "model 'resnet21' is not known"),
    "unknown engine": ((*BENCH, "--against", "tvm"), "engine 'tvm' is not known"),
    "unknown element": ((*BENCH, "--element", "fp8"), "element 'fp8' is not known"),
    "too many threads": ((*BENCH, "--threads", 9999), "threads must lie between 1 and"),
    "negative seed": ((*BENCH, "--seed", -1), "Invalid value for '--seed'"),
    "tables of an unknown layer": (
        (*COMPRESS, "--method", "tabconv", "--element", "int8", "--exclude", "layer9"),
        "no Conv2d or Linear is called 'layer9'",
    ),
    "distilled without a teacher": (("train", "NETnet", "-o", "TMP/o.safetensors", "--distill", 0.8), "--distill has no effect without"),
    "decay of a dense network": (
        ("train", "NETnet", "-o", "TMP/o.safetensors", "--decay", 1e-3),
        "--decay has no effect without --pattern",
    ),
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
    "nothing kept": ((*COMPRESS, "--kept", 0.01), "the share kept is at least 1/16 = 0.0625 and below 1, got 0.01"),
    "kept no number": ((*COMPRESS, "--kept", "nan"), "the share kept is at least"),
    "kept without end": ((*COMPRESS, "--kept", "inf"), "the share kept is at least"),
    "decay without end": ((*COMPRESS, "--weight-decay", "inf"), "weight_decay must be a number >= 0, got inf"),
    "permuted blocks": ((*CRISP, "--permute"), "--permute is for N:M, for example 2:4, not for 16x16/2:4"),
    "tables no kernel takes": (
        (*COMPRESS, "--method", "tabconv", "--pattern", "lut9x12"),
        "prototypes must be a power of two from 2 to 65536",
    ),
    "tables reconstructed": ((*COMPRESS, "--method", "tabconv", "--reconstruct"), "--reconstruct is for N:M"),
    "equalized floats": ((*COMPRESS, "--equalize"), "--equalize prepares for int8"),
    "unknown budget": ((*COMPRESS, "--kept", 0.25, "--budget", "joules"), "one of parameters, macs, latency"),
    "kept blocks": ((*CRISP[:-2], "--kept", 0.25), "method crisp removes whole blocks"),
    "budget of an unknown element": (("budget", "resnet20_cifar", "--element", "fp8"), "element 'fp8' is not known"),
    "a device that is not there": ((*COMPRESS, "--device", "nowhere"), "device 'nowhere' cannot be used"),
    "channels that do not divide": (("compress", "NETsix", *COMPRESS[2:], "--pattern", "2:4"), "divisible by 4, got 6"),
    "missing weights": ((*COMPRESS, "--weights", "TMP/none.pt"), "no such file"),
    "missing output folder": ((*COMPRESS, "-o", "TMP/none/out.jettison"), "does not exist"),
    "unknown class": ((*CRISP, "--classes", "3,tree"), "class 'tree' is not in digits; it has 0, 1, 2"),
    "one class": ((*CRISP, "--classes", "3"), "needs at least two classes, got 1"),
    "no class": ((*CRISP, "--classes", ","), "--classes names no class"),
    "no file of classes": ((*CRISP, "--classes", "@TMP/none.txt"), "none.txt cannot be read"),
    "unreachable sparsity": ((*CRISP, "--sparsity", 0.99), "sparsity 99.00% cannot be reached with this pattern, only 50.00% to 94.44%"),
    "sparsity below N:M": ((*CRISP, "--sparsity", 0.3), "only 50.00% to 94.44% (N:M alone removes the first)"),
    "no sparsity": ((*COMPRESS, "--method", "crisp"), "give --sparsity 0.92, or write 32x32/2:4@15%"),
    "sparsity in percent": ((*CRISP, "--sparsity", 92), "a share between 0 and 1, got 92.0; write 0.92 for 92%"),
    "sparsity twice": ((*CRISP, "--pattern", "16x16/2:4@50%", "--sparsity", 0.9), "already says how many blocks stay"),
    "sparsity without crisp": ((*COMPRESS, "--sparsity", 0.9), "--sparsity belongs to method crisp"),
    "crisp without blocks": ((*CRISP, "--pattern", "2:4"), "method crisp removes whole blocks"),
    "blocks too wide": (
        (*CRISP, "--pattern", "32x32/2:4"),
        "need output channels divisible by 32, got 16; leave the layer dense or choose smaller blocks, the smallest are 16x16",
    ),
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


@pytest.mark.parametrize("verb", [("eval", "--data", "digits"), ("waterline", "--no-times", "--machine", "epyc-zen4")])
@pytest.mark.parametrize(
    "note", [{"mean": 0.5}, {"mean": [True]}, {"std": [0.0]}, {"classes": 10}, {"settings": "x"}, {"settings": {"classes": [1]}}]
)
def test_notes_of_another_kind_are_refused(call, tmp_path, verb, note):
    path = tmp_path / "noted.jettison"
    file.save(small(), path, note)
    result = call(verb[0], path, *verb[1:])
    assert result.code == 2 and f"its note {next(iter(note))!r} is not a " in result.err and result.err.count("\n") == 1


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
    assert {p.stem for p in folder.glob("*.py")} - {"__init__", "tables", "picture", "noted", "lookup", "compressed"} == set(VERBS)


def test_json_is_replaced_as_a_whole(call, saved, tmp_path):
    """A command that fails leaves the JSON of the one before."""
    target = tmp_path / "x.json"
    assert call("inspect", saved, "--json", target).code == 0
    before = target.read_bytes()
    assert call("inspect", tmp_path / "none.jettison", "--json", target).code == 2
    assert target.read_bytes() == before
    assert not np.any([p.suffix == ".tmp" for p in files(tmp_path)])
