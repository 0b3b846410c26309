"""What a timing depends on: processor, instruction sets, memory, system, versions. Goes into every result file."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from ..errors import InputError

PACKAGES = ("jettison", "numpy", "torch", "onnxruntime", "openvino")
_CPUS = Path("/sys/devices/system/cpu")
_CPU_INFO = Path("/proc/cpuinfo")


def describe() -> dict[str, Any]:
    """Plain data for JSON. What this system does not tell is None."""
    return {
        "processor": _processor(),
        "isa": _isas(),
        "cores": len(_cores()),
        "memory_gib": _memory_gib(),
        "governor": _read(_CPUS / "cpu0/cpufreq/scaling_governor"),
        "os": platform.platform(),
        "versions": {"python": platform.python_version(), **_versions()},
    }


def provenance() -> dict[str, Any]:
    """What every result file says beside its numbers: machine, commit, date."""
    return {"machine": describe(), "commit": commit(), "date": datetime.now(UTC).isoformat(timespec="seconds")}


def processors(threads: int | None) -> list[int]:
    """`threads` processors of different cores, to pin to; None: one of every core this process may use.

    Errors: InputError when there are fewer cores.
    """
    cores = _cores()
    threads = len(cores) if threads is None else threads
    if not 1 <= threads <= len(cores):
        raise InputError(f"threads must lie between 1 and {len(cores)}, the cores that this process may use; got {threads}")
    return cores[:threads]


def commit() -> str | None:
    """Of the checkout this package runs from; None for an installed one. "+" marks uncommitted changes."""

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=Path(__file__).parent, capture_output=True, text=True, check=True).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", __file__)  # else it is some other repository, around a virtual environment
        return git("rev-parse", "--short=12", "HEAD") + ("+" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def _cores() -> list[int]:
    """The first allowed processor of every core: two threads on one core would share its arithmetic."""
    allowed = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))
    first: dict[str, int] = {}
    for cpu in allowed:
        first.setdefault(_read(_CPUS / f"cpu{cpu}/topology/thread_siblings_list") or str(cpu), cpu)
    return list(first.values())


def has_vnni() -> bool:
    """Whether Linux names an instruction that adds products of bytes in 32 bits; without it sums of pairs saturate in many engines."""
    return "vnni" in (_line(_read(_CPU_INFO) or "", "flags") or "")


def _processor() -> str:
    text = _read(_CPU_INFO) or ""
    name, family, model = (_line(text, key) for key in ("model name", "cpu family", "model"))
    if not name:
        return platform.processor() or platform.machine()
    return f"{name} (family {family}, model {model})" if family and model else name  # a virtual machine may only say "AMD EPYC"


def _line(text: str, key: str) -> str | None:
    found = re.search(rf"^{key}\s*:\s*(.+)$", text, re.MULTILINE)
    return found[1].strip() if found else None


def _isas() -> list[str]:
    from ..runtime import isas

    return isas()


def _memory_gib() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (ValueError, OSError, AttributeError):
        return None


def _versions() -> dict[str, str]:
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions


def _read(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:
        return None
