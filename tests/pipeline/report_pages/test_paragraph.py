"""Words about a run."""

from __future__ import annotations

import pytest

from isocenter import tasks
from isocenter.pipeline.report_pages.measures import Measures
from isocenter.pipeline.report_pages.paragraph import Block, blocks, duration, methods_text
from isocenter.records import CaseScore, Interval, Scores

EXPLANATION = """Plan for segmentation with segmentation/nnunet

Looks for a liver in 3D images (CT).
Planned for 15m.

Who is kept back
  Five folds: no patient is both learnt from
  and scored.

What the network sees
  Voxel size: 1.5 × 0.8 × 0.8 mm. The median spacing: half of
    the cases lose no detail.
  Axis with coarse voxels: none. No axis is coarse.

3d_fullres
----------
"""


def test_an_explanation_is_taken_apart_into_names_values_and_reasons() -> None:
    assert blocks(EXPLANATION, {"What the network sees"}) == [
        Block("", ("Plan for segmentation with segmentation/nnunet",), ()),
        Block("", ("Looks for a liver in 3D images (CT). Planned for 15m.",), ()),
        Block("Who is kept back", ("Five folds: no patient is both learnt from and scored.",), ()),
        Block(
            "What the network sees",
            (),
            (
                (
                    "Voxel size",
                    "1.5 × 0.8 × 0.8 mm",
                    "The median spacing: half of the cases lose no detail.",
                ),
                ("Axis with coarse voxels", "none", "No axis is coarse."),
            ),
        ),
        Block("", ("3d_fullres",), ()),
    ]


@pytest.mark.parametrize(
    ("seconds", "words"), [(12, "12 s"), (90, "90 s"), (900, "15 min"), (7500, "2 h 05 min")]
)
def test_durations_are_said_as_finely_as_they_matter(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_without_a_plan_only_the_judging_is_described() -> None:
    dice = {"x": {"dice": Interval(mean=0.5, low=0.4, high=0.6, n=2)}}
    cases = tuple(CaseScore(case=c, patient="p", values={"x": {"dice": 0.5}}) for c in "ab")
    scores = Scores(task="segmentation", cases=cases, summary=dice)
    text = methods_text(None, None, scores, Measures(tasks.load("segmentation"), "mm"))
    assert text.sentences[0] == "2 cases of 1 patient were judged by Dice coefficient [1]."
    assert "[2]" in text.sentences[1]
    assert len(text.references) == 2
