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
        ({"budget": "latency"}, "--budget", "--kept"),
        ({"ranges": "minmax"}, "--range", "--element int8"),
        ({"fit_images": 64}, "--fit-images", "--method tabconv"),
        ({"criterion": "top1"}, "--criterion", "--method tabconv"),
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
        {"distill": 0.9, "teacher": "dense"},
        {"kept": 0.25, "pattern": "4:16", "budget": "latency"},
        {"element": "int8", "ranges": "minmax"},
        {**TABLES, "fit_images": 64, "criterion": "top1", "distill": 0.9},
        {"decay": 1e-3, "method": "maxq", "ramp_epochs": 3.0},
    ],
)
def test_choices_that_belong_together(choices: dict[str, Any]) -> None:
    Settings("resnet20_cifar", weights="w.safetensors", **choices)
