"""What is said of maps that fail their test."""

from __future__ import annotations

from pathlib import Path

import pytest

from isocenter.parts.explain.randomisation import Likeness, Outcome
from isocenter.pipeline.explain import Explainer, paths, told

UNLIKE = Outcome((Likeness("all", 0.1, 0.0),))
ALIKE = Outcome((Likeness("all", 0.9, 0.9),))
CONSTANT = Outcome((Likeness("all", 1.0, 1.0),), constant=True)
UNCOMPARED = Outcome((Likeness("all", 1.0, 1.0, compared=False),))


def an_explainer(*outcomes: Outcome) -> Explainer:
    """An explainer whose tests have run, of no model."""
    explainer = object.__new__(Explainer)
    explainer.kinds = ("gradcam",)
    explainer.outcomes = {"gradcam": outcomes}
    explainer.networks = 0
    return explainer


@pytest.mark.parametrize(
    ("outcomes", "words"),
    [
        ((ALIKE, ALIKE), "correlates 0.90"),
        ((CONSTANT, CONSTANT), "same everywhere for 2 of 2 images, and so says nothing"),
        ((CONSTANT, Outcome((Likeness("all", -0.5, 0.0),))), "same everywhere for 1 of 2 images"),
        ((UNCOMPARED, UNCOMPARED), "nothing to compare with"),
    ],
)
def test_a_map_that_fails_is_marked_and_told_why(outcomes: tuple[Outcome, ...], words: str) -> None:
    explainer = an_explainer(*outcomes)
    assert not explainer.passed("gradcam")
    (sentence,) = told(explainer)
    assert words in sentence
    assert "FAILED" in paths(explainer, Path("a.json"))[0].name


def test_a_map_that_changes_with_the_network_passes() -> None:
    explainer = an_explainer(UNLIKE, UNCOMPARED)
    assert explainer.passed("gradcam")
    assert not list(told(explainer))
    assert explainer.about()["gradcam"]["constant"] == 0  # type: ignore[call-overload,index]
