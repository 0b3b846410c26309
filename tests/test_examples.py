"""The examples do what they say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parent.parent / "examples"


def run(*command: str) -> str:
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_own_loop(tmp_path: Path) -> None:
    out = run(str(EXAMPLES / "own_loop.py"), "--epochs", "2", "--width", "16", "--out", str(tmp_path / "own.jettison"))
    words = out.strip().splitlines()[-1].split()
    trained, runs = (float(w.rstrip("%")) for w in words if w.endswith("%"))
    assert trained > 60 and abs(trained - runs) < 0.5


def test_own_network_from_the_command_line(tmp_path: Path) -> None:
    out = tmp_path / "small.jettison"
    target = f"{EXAMPLES / 'own_network.py'}:small_cnn"
    run("-m", "jettison", "compress", target, "--data", "digits", "--epochs", "1", "--pattern", "1:8", "--runs", "2", "-o", str(out))
    shown = run("-m", "jettison", "explain", str(out), "--runs", "2")
    assert "1:8" in shown and "nm" in shown
