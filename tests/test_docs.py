"""Pages that keep their word: links resolve, tables equal the result files, the README's example runs."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from jettison.runtime import Session

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]

ROW = {"element": "f32", "p10_ms": 1.9, "p90_ms": 2.2, "runs": 60}
MACHINE = {"processor": "Some CPU", "isa": ["avx2", "scalar"]}
SPEED = {
    "rows": [
        {**ROW, "engine": "jettison", "pattern": "dense", "median_ms": 4.0},
        {**ROW, "engine": "jettison", "pattern": "1:4", "median_ms": 2.0},
        {**ROW, "engine": "openvino", "pattern": "dense", "median_ms": 3.0},
        {**ROW, "engine": "onnxruntime", "pattern": "dense", "median_ms": 5.0},
    ],
    "model": "resnet50", "batch": 1, "threads": 2, "machine": MACHINE,
}  # fmt: skip


@pytest.fixture
def readme_table(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "bench")
    spec = importlib.util.spec_from_file_location("readme_table", ROOT / "bench" / "readme_table.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if target.startswith("http"):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", file.read_text(), re.MULTILINE)
            assert anchor in [re.sub(r"[^\w -]", "", h).strip().lower().replace(" ", "-") for h in headings], target


def test_every_page_is_in_the_index():
    index = (ROOT / "docs" / "README.md").read_text()
    for page in (ROOT / "docs").glob("*.md"):
        assert page.name == "README.md" or f"]({page.name})" in index, page.name


def test_tables_equal_the_committed_results():
    subprocess.run([sys.executable, ROOT / "bench" / "readme_table.py", "--check"], check=True)


def test_a_table_says_what_is_compared_with_what(readme_table):
    page = "before\n<!-- results: speed, by hand -->\nold\n<!-- /results -->\nafter"
    text = readme_table.filled(page, {"resnet50.json": SPEED}, "results")
    assert text.startswith("before\n<!-- results: speed, by hand -->\nSome CPU, avx2, 2 threads, batch 1:\n")
    assert text.endswith("<!-- /results -->\nafter")
    assert "| [resnet50](results/resnet50.json) | f32 | 1:4 | 2.00 (1.90 – 2.20) | 2.00× | 3.00 (openvino) | 1.50× |" in text
    assert "old" not in text


def test_the_accuracy_table_has_a_row_for_each_method(readme_table):
    row = {"seeds": [0, 1], "accuracy_percent": 90.0, "spread": 0.1, "lost_points": 0.0}
    summary = [
        {**row, "method": "dense", "pattern": "dense"},
        {**row, "method": "srste", "pattern": "1:4", "accuracy_percent": 88.5, "lost_points": 1.5},
        {**row, "method": "maxq", "pattern": "2:4", "accuracy_percent": 90.25, "spread": None, "lost_points": -0.25},
    ]
    result = {"summary": summary, "model": "net", "data": "images", "epochs": 10}
    text = readme_table.filled("<!-- results: accuracy -->\n<!-- /results -->", {"a.json": result}, "results")
    assert "[net](results/a.json), images, 10 epochs, dense 90.00 ± 0.10%:" in text
    assert "| method | 2:4 | 1:4 |" in text
    assert "| srste | – | 88.50 ± 0.10 (−1.50) |" in text
    assert "| maxq | 90.25 (+0.25) | – |" in text


def test_budgets_are_compared_at_the_same_cost_and_seed(readme_table):
    accuracy = {("uniform", 0): 0.80, ("macs", 0): 0.81, ("uniform", 1): 0.82, ("macs", 1): 0.85, ("macs", 2): 0.99, ("latency", 0): 0.79}
    runs = [{"case": case, "kept": 0.25, "seed": seed, "accuracy": a, "start": {"accuracy": 0.9}} for (case, seed), a in accuracy.items()]
    times = {"macs-0.25": {"median_ms": 1.0, "p10_ms": 0.9, "p90_ms": 1.1, "macs": 2e6, "parameters": 3}}
    result = {
        "budget": runs,
        "times": times,
        "model": "net",
        "epochs": 1,
        "images": None,
        "machine": MACHINE,
        "time_threads": 1,
        "batch": 1,
    }
    text = readme_table.filled("<!-- results: budget -->\n<!-- /results -->", {"b.json": result}, "results")
    assert "| macs | 0.25 | 1.000 (0.900 – 1.100) | 2.0 | 3 | 88.33 ± 9.45 (3 seeds) |" in text
    assert "| macs | +2.00 ± 1.00 | 2 of 2 |" in text and "| latency |" not in text


def test_crisps_variants_are_compared_with_dense_in_the_same_draws(readme_table):
    """A variant that has only the easier draw must not look better for it."""
    accuracy = {("dense", 0): 0.90, ("dense", 1): 0.98, ("crisp", 0): 0.91, ("crisp", 1): 0.97, ("magnitude", 1): 0.96}
    runs = [
        {"network": "net", "data": "images", "count": 2, "draw": draw, "variant": variant, "accuracy": a}
        | {"method": None if variant == "dense" else {"rank": "mean"}}
        | ({"correlation": 0.9 - 0.1 * draw} if variant == "crisp" else {})  # older runs have none
        for (variant, draw), a in accuracy.items()
    ]
    text = readme_table.filled("<!-- results: crisp -->\n<!-- /results -->", {"c.json": {"crisp": runs}}, "results")
    row = next(line for line in text.splitlines() if "](results/c.json)" in line)
    assert "| 2 | 2 | mean score per weight | 94.00 | – | 94.00, +0.00 ± 1.00; 0.850 | 96.00, −2.00 (1) | – |" in row


def test_recipes_are_shown_draw_by_draw_beside_the_one_in_use(readme_table):
    """A trial of the second draw alone must be seen beside the second draw of the recipe in use; networks without trials are left out."""

    def run(network: str, draw: int, variant: str, accuracy: float, **changes: float) -> dict:
        about = {"network": network, "count": 2, "draw": draw, "variant": variant, "accuracy": accuracy, "cross_entropy": 0.1}
        recipe = {k: changes.get(k, usually) for k, usually in (("epochs", 9), ("batch", 64), ("lr", 0.1))}
        recipe |= {"dropout": 0} if "dropout" in changes else {}  # older runs do not say
        return about | {"correlation": accuracy, "recipe": recipe, "changes": list(changes.items())}

    usual = [run(net, d, v, a) for net in ("net", "other") for d in (0, 1) for v, a in (("dense", 0.9), ("crisp", 0.89 + 0.02 * d))]
    trial = run("net", 1, "crisp", 0.88, epochs=5, batch=16, dropout=0, hints=2)
    results = {"c.json": {"crisp": usual}, "t.json": {"crisp_trials": [trial]}}
    text = readme_table.filled("<!-- results: crisp_recipes -->\n<!-- /results -->", results, "results")
    assert "| [net](results/c.json) | 2 | dense | 9 | 64 | 0.1 | 1 | – | 0, 1 | −1.0, +1.0 | 0.100, 0.100 | 0.890, 0.910 |" in text
    assert "| [net](results/t.json) | 2 | dense | 5 | 16 | 0.1 | 0 | hints 2 | 1 | −2.0 | 0.100 | 0.880 |" in text and "other]" not in text


def test_without_results_a_page_says_so(readme_table):
    page = "<!-- results: accuracy -->\nold\n<!-- /results -->"
    assert "No result file" in readme_table.filled(page, {"resnet50.json": SPEED}, "results")


def test_the_readme_example_runs(tmp_path, monkeypatch, capsys):
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    monkeypatch.chdir(tmp_path)
    example = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert example
    names: dict = {}
    exec(example[1], names)
    assert capsys.readouterr().out.startswith("[")
    images = names["images"]
    got = Session(tmp_path / "resnet20.jettison").run(images.numpy())
    with torch.inference_mode():
        want = names["model"](images).numpy()
    assert np.abs(got - want).max() <= 1e-4 * np.abs(want).max()
