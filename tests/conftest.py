"""A busy machine makes no test fail: hypothesis judges answers here, not how long they take. And commands to call.

Imports nothing of Jettison: tests also run where only a part of it is there.
"""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings

from command import NET, Result

settings.register_profile("jettison", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("jettison")


@pytest.fixture
def call(capfd, monkeypatch):
    """Run a command in this process."""
    from jettison.cli import main

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
    from graphs import small
    from jettison import file

    path = tmp_path / "small.jettison"
    file.save(small(), path, {"classes": ["a", "b", "c"]})
    return path


@pytest.fixture
def net(tmp_path):
    """`net.py` in the test's folder; the prefix to name a function of it."""
    path = tmp_path / "net.py"
    path.write_text(NET)
    return f"{path}:"
