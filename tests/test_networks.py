"""Whole networks: `Session` equals PyTorch, at the usual and at an odd size, on every instruction set."""

from __future__ import annotations

import numpy as np
import pytest

from jettison.errors import MissingExtra, ModelError
from jettison.runtime import Session, isas
from nets import NETS

torch = pytest.importorskip("torch")
from jettison.export import export  # noqa: E402

TOLERANCE = 1e-4  # of the output's largest magnitude
NO_SMALL_IMAGES = {"vgg16_bn"}  # its classifier fixes the image size


@pytest.mark.parametrize("name", NETS)
def test_session_equals_pytorch(name: str) -> None:
    try:
        model = NETS[name].build()
    except MissingExtra as e:
        pytest.skip(str(e))
    for shape in dict.fromkeys(NETS[name].shapes):
        x = torch.randn(1, *shape, generator=torch.Generator().manual_seed(1))
        try:
            with torch.inference_mode():
                want = model(x).numpy()
        except (RuntimeError, ModelError):
            assert name in NO_SMALL_IMAGES, f"{name} does not take images of {shape}"
            continue
        graph = export(model, tuple(x.shape))
        for isa in isas():
            got = Session(graph, isa=isa, threads=2).run(x)
            assert isinstance(got, np.ndarray) and got.shape == want.shape
            error = np.abs(got - want).max() / np.abs(want).max()
            assert error <= TOLERANCE, f"{name} {shape} {isa}: relative error {error:.2g}"
