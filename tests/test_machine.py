"""Machine descriptions: those that come with Jettison, this one as probed, and bad ones refused by the field's name."""

from __future__ import annotations

import os
import re

import pytest

from jettison.analysis import machine
from jettison.analysis.machine import Machine, load, names, text
from jettison.analysis.probe import _rate, probe, sharing
from jettison.errors import MachineError
from jettison.runtime import isas

GOOD = """
name = "good"
source = "by hand"
threads = [1, 4]

[[peak]]
element = "f32"
format = "dense"
isa = "scalar"
macs_per_s = [1e9, 4e9]

[[peak]]
element = "i8"
format = "dense"
isa = "scalar"
macs_per_s = [2e9, 8e9]

[[peak]]
element = "i8"
format = "dense"
isa = "avx2"
macs_per_s = [1e11, 4e11]

[[peak]]
element = "i8"
format = "nm"
isa = "avx2"
macs_per_s = [5e10, 2e11]

[[memory]]
name = "L2"
size_bytes = 1048576
shared = false
bytes_per_s = [5e10, 2e11]

[[memory]]
name = "memory"
bytes_per_s = [1e10, 1e10]
"""


def parsed(tmp_path, content: str) -> Machine:
    path = tmp_path / "machine.toml"
    path.write_text(content)
    return load(path)


@pytest.mark.parametrize("name", names())
def test_machines_that_come_with_jettison_are_whole_and_say_their_source(name):
    found = load(name)
    assert found.macs_per_s("f32", "dense", found.most_threads)
    assert found.bytes_per_s(found.memories[-1], found.most_threads)
    assert re.search("published|probe", found.source)


def test_text_is_read_back_as_the_same_machine(tmp_path):
    found = parsed(tmp_path, GOOD)
    assert parsed(tmp_path, text(found)) == found


def test_rates_lie_between_those_measured(tmp_path):
    found = parsed(tmp_path, GOOD)
    assert found.macs_per_s("f32", "dense", 2) == pytest.approx(2e9)
    assert found.macs_per_s("i8", "dense", 1) == 1e11  # the best instruction set
    assert found.macs_per_s("i8", "dense", 1, "scalar") == 2e9
    assert found.macs_per_s("bf16", "dense", 1) is None
    assert found.capacity_bytes(found.memories[0], 4) == 4 << 20
    with pytest.raises(MachineError, match="threads must lie between 1 and 4"):
        found.check_threads(5)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('source = "by hand"\n', "", "source is missing"),
        ("threads = [1, 4]", "threads = [4, 1]", "threads must be ascending"),
        ("threads = [1, 4]", "threads = [1, 4]\ncolour = 3", "colour is not known"),
        ("macs_per_s = [1e9, 4e9]", "macs_per_s = [-1e9, 4e9]", "(f32, dense, scalar): macs_per_s must lie between"),
        ("macs_per_s = [1e9, 4e9]", "macs_per_s = [0, 4e9]", "macs_per_s must lie between"),
        ("macs_per_s = [1e9, 4e9]", "macs_per_s = [nan, 4e9]", "macs_per_s must lie between"),
        ("macs_per_s = [1e9, 4e9]", "macs_per_s = [1e9]", "must be 2 numbers"),
        ("macs_per_s = [1e9, 4e9]", "macs_per_s = [4e9, 1e9]", "must not fall with more threads"),
        ("macs_per_s = [1e9, 4e9]", "", "macs_per_s is missing"),
        ("macs_per_s = [1e11, 4e11]", "macs_per_s = [1e9, 4e9]", "(i8, dense, avx2): macs_per_s 4e+09 is below that of scalar"),
        ("macs_per_s = [5e10, 2e11]", "macs_per_s = [5e11, 2e12]", "(i8, nm, avx2): macs_per_s of kept weights exceeds"),
        ('element = "f32"', 'element = "f31"', "element must be one of"),
        ('format = "nm"', 'format = "csr"', "format must be"),
        ("size_bytes = 1048576", "size_bytes = -1", "memory L2: size_bytes must lie between"),
        ("size_bytes = 1048576", "", "size_bytes is missing"),
        ("shared = false", 'shared = "no"', "memory L2: shared must be true or false"),
        ("bytes_per_s = [1e10, 1e10]", "bytes_per_s = [1e12, 1e12]", "memory memory: bytes_per_s exceeds that of L2"),
        ("bytes_per_s = [1e10, 1e10]", "bytes_per_s = [inf, inf]", "memory memory: bytes_per_s must lie between"),
        ("[[peak]]", "[[peek]]", "peak is missing"),
        ('name = "good"', "name = ", "cannot be read as a machine file"),
    ],
)
def test_absurd_figures_are_refused_by_field(tmp_path, old, new, message):
    assert old in GOOD
    with pytest.raises(MachineError, match=re.escape(message)) as e:
        parsed(tmp_path, GOOD.replace(old, new))
    assert str(e.value).startswith(str(tmp_path))


def test_a_machine_that_is_not_there_is_named_with_those_that_are():
    with pytest.raises(MachineError, match="neither a file nor one of a100"):
        load("b200")


def test_a_probe_gives_a_machine_that_can_be_loaded(tmp_path):
    count = min(2, len(os.sched_getaffinity(0)))
    try:
        found = probe("here", sorted({1, count}), isas(), bursts=2)
    except MachineError as e:
        pytest.skip(str(e))  # a system that hides its caches
    again = parsed(tmp_path, text(found.machine))
    assert again.threads == found.machine.threads
    assert {p.isa for p in again.peaks} == set(isas())
    for isa in isas():
        assert again.macs_per_s("f32", "nm", 1, isa) <= again.macs_per_s("f32", "dense", 1, isa)
    assert machine.only(again, isas()[0]).peaks
    assert 1e8 < found.clock_hz < 1e10


def test_a_burst_that_another_program_interrupts_does_not_spoil_the_rate() -> None:
    class Stream:
        pass_iterations, unit, runs = 0, 16, 0

        def run(self, passes: int, iterations: int) -> int:
            self.runs += 1
            interrupted = 30_000_000 if self.runs < 4 or self.runs % 3 else 0
            return interrupted + 2_000 + passes * iterations  # a nanosecond an iteration, and the start

    assert _rate(Stream(), threads=2, bursts=12) == pytest.approx(16 * 2 * 1e9, rel=0.05)


@pytest.mark.parametrize(("rates", "warned"), [((59e9, 118e9), False), ((59e9, 110e9), False), ((59e9, 62e9), True), ((59e9, 59e9), True)])
def test_threads_that_share_a_core_are_warned_of(rates, warned) -> None:
    found = sharing((1, 2), rates)
    assert [("2 threads computed" in line and "shared a core" in line) for line in found] == [True] * warned
