"""Whole networks of every style in int8: near float32, integers wherever int8 has a form, exact in the runtime."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch")

from jettison import ptq, reference
from jettison.errors import MissingExtra
from jettison.export import export
from jettison.ptq.placement import has_int8
from jettison.runtime import Session
from nets import NETS

# name → largest ‖y − y_q‖² / ‖y‖². Random weights amplify rounding from layer to layer, the more the deeper the network.
NETWORKS = {
    "resnet20_cifar": 0.02,
    "resnet18": 0.02,
    "mobilenetv2_100": 0.3,
    "nin": 0.02,
    "shufflenet": 0.02,
    "unet": 0.02,
    "timm:efficientnet_b0": 0.6,
    "timm:densenet121": 0.05,
    "timm:convnext_atto": 0.05,
}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_in_int8(name):
    net = NETS[name]
    shape = (3, 32, 32) if net.size == (32, 32) else (3, 64, 64)
    try:
        graph = export(net.build(), shape)
    except MissingExtra as e:
        pytest.skip(str(e))
    x = np.random.default_rng(0).standard_normal((12, *shape)).astype(np.float32)
    q = ptq.quantize(graph, x[:8], threads=1)
    want, got = Session(graph, threads=1).run(x[8:]), Session(q, threads=1).run(x[8:])
    assert ((got - want) ** 2).sum() < NETWORKS[name] * (want**2).sum()
    if name in ("shufflenet", "unet"):
        np.testing.assert_allclose(got[:1], reference.run(q, x[8:9])[0], atol=1e-5 * np.abs(want).max())
    weighted = [op for op in q.ops if op.kind in ("conv", "linear")]
    assert all(op.element == "i8" for op in weighted)
    alone = {op.kind for op in q.ops if has_int8(op) and op.kind != "dequantize" and q.tensors[op.inputs[0]].dtype == "f32"}
    assert alone <= {"reshape", "act", "transpose", "slice"}  # behind the last layer or before one that has no int8
