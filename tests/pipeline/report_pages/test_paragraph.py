"""Words about a run."""

from __future__ import annotations

import pytest

from isocenter import tasks
from isocenter.pipeline.choose import UNCHOSEN
from isocenter.pipeline.report_pages.measures import Measures
from isocenter.pipeline.report_pages.paragraph import Block, blocks, duration, methods_text
from isocenter.records import (
    Augmentation,
    Budget,
    CaseScore,
    Channel,
    ChannelScheme,
    Choice,
    Fold,
    Geometry,
    Interval,
    Label,
    Machine,
    Network,
    Normalisation,
    Plan,
    Prediction,
    Scores,
    Stage,
    Training,
)

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


def plan_of(method: str, labels: tuple[Label, ...] | None = None, **training: object) -> Plan:
    """Two networks of a method, flat and in space."""
    budget = Budget(seconds=900)
    space = Stage(
        name="3d_fullres",
        geometry=Geometry(dims=3, spacing_mm=(2, 1, 1), median_shape=(8, 16, 16), patch=(8, 16, 16)),
        normalisation=Normalisation(channels=(ChannelScheme(channel="image", scheme="zscore"),)),
        network=Network(
            features=(8, 16),
            kernels=((3, 3, 3),) * 2,
            strides=((1, 1, 1), (2, 2, 2)),
            convolutions=(2, 2),
            decoder_convolutions=(2,),
        ),
        training=Training.parse({"budget": budget, "batch": 3, "steps_per_epoch": 10, **training}),
        augmentation=Augmentation(),
        prediction=Prediction(),
    )
    return Plan(
        isocenter="0.1.0",
        task=method.split("/", maxsplit=1)[0],
        method=method,
        seed=1,
        budget=budget,
        machine=Machine(device="cpu", name="a processor", cores=2, memory_gb=8),
        dims=3,
        channels=(Channel(name="T1"),),
        labels=(Label(name="one", values=(1,)), Label(name="two", values=(2,))) if labels is None else labels,
        stages=(space.changed(name="2d"), space),
        folds=(Fold(train=("a",), validation=(), test=("b",)),),
    )


def said(plan: Plan, choice: Choice | None = None) -> str:
    words = Measures(tasks.load(plan.task), "mm")
    return " ".join(methods_text(plan, None, None, words, choice).sentences)


def test_the_loss_the_sampling_and_the_average_are_said() -> None:
    text = said(plan_of("segmentation/nnunet", average=0.98, label_weights=(1.0, 4.0)))
    assert (
        "The loss was the sum of soft Dice loss and cross-entropy, voxels of rare structures counting more, "
        "on several resolutions of the decoder. Of each batch, 1 patch was centred on a labelled voxel, each "
        "structure as often. The weights used are an exponential moving average over the steps, with factor "
        "0.98." in text
    )
    assert "average over the steps" not in said(plan_of("segmentation/nnunet"))


def test_overlapping_labels_have_a_loss_for_each_region() -> None:
    nested = (Label(name="whole", values=(1, 2)), Label(name="core", values=(2,)))
    assert "binary cross-entropy of each region" in said(plan_of("segmentation/nnunet", nested))


def test_the_first_unet_has_a_loss_of_its_own() -> None:
    plain = plan_of("segmentation/unet")
    assert "more weight between objects" in said(plain)
    assert "The loss was cross-entropy," in said(plain.changed(settings={"border_weight": False}))


@pytest.mark.parametrize(
    "method",
    [
        "segmentation/atlas_segmentation",
        "classification/stacked",
        "registration/voxelmorph",
        "mil/abmil",
        "no.py",
    ],
)
def test_nothing_is_said_of_a_loss_or_of_patches_that_a_method_does_not_have(method: str) -> None:
    task = method.split("/", maxsplit=1)[0] if "/" in method else "segmentation"
    plan = plan_of("segmentation/nnunet").changed(method=method, task=task)
    text = said(plan)
    assert "The loss was" not in text
    assert "centred on" not in text


def test_an_atlas_is_not_said_to_be_trained() -> None:
    assert "was trained" not in said(plan_of("segmentation/atlas_segmentation"))


def test_what_cross_validation_chose_is_said() -> None:
    plan = plan_of("segmentation/nnunet")
    why = {"members": "Dice over the held-out cases of folds 0 and 1: ...", "largest_component": "Only ..."}
    both = Choice(members=("2d", "3d_fullres"), tuned={"largest_component": ["one"]}, why=why)
    assert (
        "By Dice on the held-out cases, the average of 2d and 3d_fullres was chosen among 3 candidates. Of "
        "one only the largest connected component was kept, since that raised the mean Dice of held-out "
        "cases. The scores of each fold rest on choices made without its cases." in said(plan, both)
    )
    alone = said(plan.changed(stages=plan.stages[1:]), Choice(members=("3d_fullres",), why=why))
    assert "chosen among" not in alone
    assert "rest on choices" not in alone


def test_nothing_was_chosen_where_no_other_fold_has_run() -> None:
    choice = Choice(members=("3d_fullres",), why={"members": UNCHOSEN})
    plan = plan_of("segmentation/nnunet")
    assert said(plan, choice) == said(plan)
