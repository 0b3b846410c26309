"""The efficiency-gap plot: what it takes from results, what it draws, and what it refuses."""

from __future__ import annotations

import json
import re

import pytest

from jettison.analysis.gap import draw, efficiencies, families, html, load
from jettison.cli.picture import save
from jettison.errors import InputError


def result(**changes) -> dict:
    about = {"network": "nets/resnet20.jettison", "model": "resnet20_cifar", "threads": 2, "batch": 1}
    found = {
        "network": {"arithmetic_ms": 1.0, "measured_ms": 4.0}, "about": about, "machine": {"processor": "Some CPU"},
        "accuracy": {"percent": 90.0, "data": "digits", "model": "resnet20_cifar"},
    }  # fmt: skip
    return {key: {**value, **changes.get(key, {})} if changes.get(key, {}) is not None else None for key, value in found.items()}


@pytest.fixture
def written(tmp_path):
    def write(name: str, **changes) -> str:
        path = tmp_path / name
        path.write_text(json.dumps(result(**changes)))
        return str(path)

    return write


def test_families_come_from_names_or_are_given(written):
    slow = written("a.json")
    fast = written("b.json", about={"network": "r8.jettison", "model": "resnet8"}, network={"arithmetic_ms": 0.5, "measured_ms": 1.0})
    other = written("c.json", about={"network": "timm:convnext_atto", "model": None})
    points, common = load([slow, fast, f"mine={slow}", other])
    assert {k: [p.network for p in v] for k, v in families(points).items()} == {
        "resnet": ["r8", "resnet20"], "mine": ["resnet20"], "convnext": ["timm:convnext_atto"],
    }  # fmt: skip
    assert common == {"processor": "Some CPU", "threads": 2, "batch": 1, "data": "digits"}
    assert load([written("d.json", accuracy={"data": ""}), slow])[1] == common  # given by hand: of unknown data
    assert [p.efficiency for p in points[:2]] == [0.25, 0.5]
    assert efficiencies(points[:1]) == [(2.0, 90.0, "E 25%")]  # in the middle, as the axis is logarithmic


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"accuracy": None}, r"bad\.json: has no accuracy.*--accuracy"),
        ({"network": {"measured_ms": None}}, r"bad\.json: measured_ms must be a positive number, got None; was the network measured"),
        ({"accuracy": {"percent": "90"}}, r"bad\.json: accuracy must be"),
        ({"machine": {"processor": "Other"}}, r"bad\.json: processor is Other, in .*good\.json it is Some CPU"),
        ({"about": {"batch": 8}}, r"bad\.json: batch is 8"),
        ({"machine": None}, r"bad\.json: has no machine with processor"),
    ],
)
def test_what_cannot_be_compared_is_refused_by_name(written, changes, message):
    with pytest.raises(InputError, match=message):
        load([written("good.json"), written("bad.json", **changes)])


def test_files_that_are_no_results_are_refused(tmp_path):
    (tmp_path / "x.json").write_text("[1")
    for name in ("x.json", "missing.json"):
        with pytest.raises(InputError, match=f"{name}: cannot be read"):
            load([str(tmp_path / name)])


def test_pages_and_pictures_show_every_pair(written, tmp_path):
    pytest.importorskip("plotly")
    pytest.importorskip("matplotlib")
    found = load([written("a.json"), written("b.json", network={"arithmetic_ms": 0.5, "measured_ms": 1.0})])
    page = html(*found)
    assert "E 25%" in page and "E 50%" in page and "resnet, ideal" in page and '"type":"log"' in page
    assert not re.search(r"<(script|link|img)[^>]+(src|href)=", page.split("<script>")[0])
    save(draw(*found), tmp_path / "gap.png")
    assert (tmp_path / "gap.png").read_bytes().startswith(b"\x89PNG")
