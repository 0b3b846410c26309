"""Multiply-adds as PyTorch counts them: `torch.utils.flop_counter` (2 FLOP each) on ten networks of timm."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402

from jettison.analysis import works  # noqa: E402
from jettison.errors import MissingExtra  # noqa: E402
from jettison.export import export  # noqa: E402
from jettison.zoo import build  # noqa: E402

NETWORKS = (
    "resnet18", "resnet50", "resnext50_32x4d", "vgg11", "mobilenetv2_100", "mobilenetv3_small_100", "efficientnet_b0", "regnety_002",
    "mnasnet_100", "convnext_atto",
)  # fmt: skip
IMAGE = (3, 64, 64)


@pytest.mark.parametrize("name", NETWORKS)
def test_multiply_adds_equal_those_of_pytorch(name):
    try:
        model = build(f"timm:{name}").eval()
    except MissingExtra as e:
        pytest.skip(str(e))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, *IMAGE))
    rows = works(export(model, IMAGE), batch=3)
    assert sum(row.macs_dense for row in rows) * 2 == 3 * counter.get_total_flops()
    assert sum(row.operations for row in rows) >= 2 * sum(row.macs_dense for row in rows)
