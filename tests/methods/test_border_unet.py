"""Border U-Net: what its decoding is told, and that crumbs of seeds may be told to be none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from isocenter.methods import load
from isocenter.methods.instances.border_unet import BorderUNet
from isocenter.methods.method import Method

Built = Callable[[str, int], Method]


@pytest.fixture
def build(built: Built) -> Callable[..., BorderUNet]:
    def made(**settings: Any) -> BorderUNet:
        method = built("instances/border_unet", 2)
        plan = method.plan.changed(settings={**method.plan.settings, **settings})
        found = load("instances/border_unet")(plan, method.stage)
        assert isinstance(found, BorderUNet)
        return found

    return made


def scores_of(classes: np.ndarray) -> np.ndarray:
    """Scores (3, y, x) that are sure of background 0, interior 1 and border 2."""
    return np.where(np.arange(3)[:, None, None] == classes, 9.0, 0.0).astype(np.float32)


def test_a_crumb_of_interior_parts_an_object_unless_seeds_must_be_larger(
    build: Callable[..., BorderUNet],
) -> None:
    classes = np.zeros((16, 24), np.uint8)
    classes[2:14, 2:22] = 2
    classes[4:12, 4:14] = 1
    classes[7, 19] = 1
    method = build(smallest=30)
    assert {option["smallest_seed"] for option in method.options()} == {1, 10}
    both, one = (
        method.number({"scores": scores_of(classes)}, {**method.options()[0], "smallest_seed": voxels})
        for voxels in (1, 10)
    )
    assert (both.max(), one.max()) == (2, 1)
    assert (one > 0).sum() == (classes > 0).sum()


def test_without_a_border_class_there_are_no_seeds(build: Callable[..., BorderUNet]) -> None:
    method = build(border_class="none")
    assert [set(option) for option in method.options()] == [{"threshold"}] * 4
    assert method.outputs == {"scores": 2}
