"""Networks that are no classifiers, as in examples/: they learn sparse, end in their pattern, and are compiled where they can be."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn

from jettison.errors import ExportError
from jettison.export import export
from jettison.formats import Format
from jettison.methods.mask import to_krsc

EXAMPLES = str(Path(__file__).parent.parent / "examples")

# example → steps of dense and of each sparse training, and the quality in percent that one-shot pruning misses and training reaches
FAMILIES = {"segment": (250, 60.0), "detect": (250, 10.0), "flow": (250, 55.0), "translate": (200, 90.0)}


@pytest.fixture(scope="module")
def examples() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    sys.path.insert(0, EXAMPLES)
    yield
    sys.path.remove(EXAMPLES)
    torch.set_num_threads(threads)


def satisfied(model: nn.Module, formats: dict[str, Format]) -> bool:
    path = {name: name if name.endswith("_weight") else f"{name}.weight" for name in formats}
    return all(fmt.satisfied(to_krsc(model.get_parameter(path[name]))) for name, fmt in formats.items())


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_learns_sparse(examples: None, name: str) -> None:
    compare, family = (importlib.import_module(m) for m in ("compare", name))
    steps, bar = FAMILIES[name]
    dense, once, *trained = compare.compare(family.TASK, steps)
    assert once.quality < bar < dense.quality, (once.quality, dense.quality)
    assert [row.method for row in trained] == ["srste", "maxq"]
    for row in trained:
        assert row.quality > bar, (row.method, row.quality)
        assert row.formats and satisfied(row.model, row.formats) and not satisfied(dense.model, row.formats)
        assert {*dict(row.model.named_parameters())} == {*dict(dense.model.named_parameters())}  # plain weights again
    runs_or_says_why_not(compare, family, trained[-1])


def runs_or_says_why_not(compare: ModuleType, family: ModuleType, row: object) -> None:
    inputs = family.TASK.batch(torch.Generator().manual_seed(5))[0]
    if family.__name__ == "translate":
        with pytest.raises(ExportError, match=r"int64.*Embedding"):
            compare.difference(row, inputs)
    else:
        assert compare.difference(row, inputs) < 1e-4


@pytest.mark.parametrize(
    ("model", "shape", "named"),
    [
        (nn.Sequential(nn.Conv2d(4, 4, 3), nn.ConvTranspose2d(4, 4, 2, 2)), (4, 8, 8), "1 .ConvTranspose2d.*conv_transpose2d.*nn.Upsample"),
        (nn.TransformerEncoderLayer(16, 2, 16, batch_first=True), None, "self_attn .MultiheadAttention.*transpose"),
        (nn.Conv1d(4, 4, 3), None, "conv1d"),
    ],
)
def test_what_cannot_be_compiled_is_named(model: nn.Module, shape: tuple[int, ...] | None, named: str) -> None:
    example = torch.randn(1, 4, 16) if shape is None else shape
    with pytest.raises(ExportError, match=named):
        export(model.eval(), example)
