"""CONTRIBUTING.md's worked examples, done as they are written: a method and a kernel, one file and one line each."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FEW = {"act", "relu", "reshape", "transpose"}  # of kernels.inc: enough to run the example, quick to compile

# An editable install answers `import jettison` before PYTHONPATH is asked, so the copies are put in by hand.
METHOD_RUN = """
import sys, pytest
sys.meta_path[:] = [f for f in sys.meta_path if "Redirecting" not in type(f).__name__]
sys.path.insert(0, sys.argv[1])
import jettison.methods
assert jettison.methods.__file__.startswith(sys.argv[1]), jettison.methods.__file__
sys.exit(pytest.main(["-p", "no:cacheprovider", "-k", "random", sys.argv[2]]))
"""
KERNEL_RUN = """
import sys, pytest
from importlib.util import module_from_spec, spec_from_file_location
import jettison
spec = spec_from_file_location("jettison._native", sys.argv[1])
jettison._native = sys.modules["jettison._native"] = module_from_spec(spec)
spec.loader.exec_module(jettison._native)

import numpy as np
from jettison import reference
from jettison.graph import Graph, Op, TensorSpec
from jettison.runtime import Session

tensors = {name: TensorSpec(name, (7, 5, 3)) for name in "xy"}
graph = Graph((Op("layer", "act", ("x",), ("y",), {"act": "relu", "alpha": 0.0}),), tensors, ("x",), ("y",))
x = np.random.default_rng(0).standard_normal((2, 7, 5, 3), np.float32)
for isa in jettison._native.isas():
    session = Session(graph, isa=isa, kernels={"layer": "relu"})
    assert [(c.kernel) for c in session.layers()[0].candidates] == ["act", "relu"]
    np.testing.assert_array_equal(session.run(x), reference.run(graph, x)[0])
sys.exit(pytest.main(["-p", "no:cacheprovider", "-k", "test_act", sys.argv[2]]))
"""


def example(heading: str) -> tuple[str, str, str, str]:
    """(new file, its text, table file, its new line) of one section of CONTRIBUTING.md."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    section = text.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    new_file, table = re.findall(r"(?:New file|One line in.*?) `([^`]+/[^`]+)`", section)
    content, line = re.findall(r"```\w+\n(.*?)```", section, re.DOTALL)
    assert line.count("\n") == 1
    return new_file, content, table, line


def run(code: str, *args: str | Path) -> None:
    environment = {**os.environ, "PYTEST_ADDOPTS": "", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, args)], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert " passed" in done.stdout


@pytest.mark.slow
def test_a_method_in_one_file_and_one_line(tmp_path):
    pytest.importorskip("torch")
    new_file, content, table, line = example("A method, worked through")
    shutil.copytree(ROOT / "src", tmp_path / "src", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    assert not (tmp_path / new_file).exists()
    (tmp_path / new_file).write_text(content)
    before = (tmp_path / table).read_text()
    last_row = '    "srste": "SRSTE",\n'
    assert before.count(last_row) == 1
    (tmp_path / table).write_text(before.replace(last_row, last_row + line))
    run(METHOD_RUN, tmp_path / "src", ROOT / "tests" / "test_methods.py")


@pytest.mark.slow
def test_a_kernel_in_one_file_and_one_line(tmp_path):
    pytest.importorskip("nanobind")
    cmake = shutil.which("cmake", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    if cmake is None:
        pytest.skip("needs cmake")
    new_file, content, table, line = example("A kernel, worked through")
    assert not (ROOT / new_file).exists()
    shutil.copytree(ROOT / "native", tmp_path / "native")
    shutil.copy(ROOT / "CMakeLists.txt", tmp_path)
    (tmp_path / new_file).write_text(content)
    rows = (tmp_path / table).read_text() + line
    (tmp_path / table).write_text(
        "".join(f"KERNEL({name})\n" for name in re.findall(r"^KERNEL\((\w+)\)", rows, re.MULTILINE) if name in FEW)
    )
    for path in (tmp_path / "native" / "kernels").glob("*.cpp"):
        if path.stem not in FEW:
            path.unlink()
    build = tmp_path / "build"
    for step in (["-S", tmp_path, "-B", build, f"-DPython_EXECUTABLE={sys.executable}"], ["--build", build, "--parallel", "2"]):
        done = subprocess.run([cmake, *map(str, step)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    extension = build / f"_native{sysconfig.get_config_var('EXT_SUFFIX')}"
    run(KERNEL_RUN, extension, ROOT / "tests" / "test_kernels_ops.py")
