"""Choices of the main job that contradict each other, or that nothing would heed, are refused before anything runs."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("torch")

from jettison.errors import JettisonError
from jettison.settings import Settings

TABLES = {"pattern": "lut9", "method": "tabconv", "element": "int8"}


@pytest.mark.parametrize(
    ("choices", "option", "remedy"),
    [
        ({"distill": 0.9}, "--distill", "--teacher"),
        ({"hints": 1.0}, "--hints", "--teacher"),
        ({**TABLES, "teacher": "dense", "hints": 1.0}, "--hints", "--teacher, and another method"),
        ({"others": 0.5}, "--others", "--classes, and another method"),
        ({"budget": "latency"}, "--budget", "--kept"),
        ({"ranges": "minmax"}, "--range", "--element int8"),
        ({"fit_images": 64}, "--fit-images", "--method tabconv"),
        ({"criterion": "top1"}, "--criterion", "--method tabconv"),
        ({**TABLES, "criterion": "top1"}, "--criterion", "--method tabconv and a budget"),
        ({**TABLES, "bf16": True}, "--bf16", "--dense-epochs, or another method"),
        ({**TABLES, "weight_decay": 1e-3}, "--weight-decay", "another method"),
        ({**TABLES, "mixup": 1.0}, "--mixup", "another method"),
        ({**TABLES, "dropout": 0.0}, "--dropout", "another method"),
        ({**TABLES, "remainder": "dense"}, "--remainder", "another method"),
        ({**TABLES, "decay": 1e-3}, "--decay", "N:M or blocks"),
        ({**TABLES, "ramp_epochs": 3.0}, "--ramp-epochs", "--method maxq"),
    ],
)
def test_a_choice_without_effect_names_what_it_lacks(choices: dict[str, Any], option: str, remedy: str) -> None:
    with pytest.raises(JettisonError, match=f"{option} has no effect without {remedy}"):
        Settings("resnet20_cifar", weights="w.safetensors", **choices)


@pytest.mark.parametrize(
    "choices",
    [
        {"distill": 0.9, "teacher": "dense", "hints": 1.0},
        {"classes": ("cat", "dog"), "others": 0.5},
        {"kept": 0.25, "pattern": "4:16", "budget": "latency"},
        {"element": "int8", "ranges": "minmax"},
        {**TABLES, "fit_images": 64, "criterion": "top1", "budget_ops": 0.5, "distill": 0.9},
        {"method": "asp", "epochs": 0, "element": "int8", "qat_epochs": 3},
        {"decay": 1e-3, "method": "maxq", "ramp_epochs": 3.0},
    ],
)
def test_choices_that_belong_together(choices: dict[str, Any]) -> None:
    Settings("resnet20_cifar", weights="w.safetensors", **choices)


def test_a_ramp_ends_within_training() -> None:
    """Or the pattern would be missing after the last epoch."""
    with pytest.raises(JettisonError, match="ramp of 12 epochs is longer than the training, 10"):
        Settings("resnet20_cifar", weights="w.safetensors", method="maxq", ramp_epochs=12.0)


@pytest.mark.parametrize(
    ("pattern", "share"),
    [("lut9", 0.02), ("lut9x64", 0.02), ("pixel8x1024", 4 / 1024), ("lut9x4096", 0.02), ("lut9,layer3.*=pixel8x4096", 4 / 4096)],
)
def test_deep_trees_of_pixels_learn_slowly(pattern: str, share: float) -> None:
    """The largest number of prototypes decides."""
    settings = Settings("resnet20_cifar", pattern, "tabconv", weights="w.safetensors", epochs=1, element="int8", lr=0.1)
    assert settings.recipe("tables").lr == pytest.approx(0.1 * share)
