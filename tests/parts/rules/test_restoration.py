"""Plans for restoration resample nothing, can be undone, and shrink what the paper has only for time."""

from __future__ import annotations

import pytest

from isocenter.parts.rules import restoration as rules
from isocenter.records import (
    Budget,
    CaseMeasure,
    Channel,
    Fingerprint,
    Intensities,
    Machine,
    Stage,
)

MACHINE = Machine(device="cpu", name="a test", cores=2, memory_gb=8.0)
DESIGN = rules.Design(
    network=rules.layers(2, 64, 17, norm="batch"),
    widths=(64, 32, 16),
    edge=40,
    batch=128,
    smallest_batch=16,
    why={"features": "as published.", "patch": "As published.", "batch": "as published."},
)


def measured(names: tuple[str, ...] = ("image",)) -> Fingerprint:
    """Twenty pictures of 64×50 pixels."""
    case = CaseMeasure(id="0", shape=(64, 50), cropped_shape=(64, 50), spacing_mm=(1.0, 1.0))
    values = [
        Intensities(
            channel=name,
            modality="other",
            mean=9,
            sd=1,
            median=9,
            low=2 - n,
            high=10 + n,
            minimum=0,
            maximum=20,
        )
        for n, name in enumerate(names)
    ]
    return Fingerprint(
        task="restoration",
        dataset="tiny",
        dims=2,
        channels=tuple(Channel(name=name) for name in names),
        intensities=tuple(values),
        cases=tuple(case.changed(id=str(number)) for number in range(20)),
        median_shape=(64.0, 50.0),
        median_spacing_mm=(1.0, 1.0),
    )


def planned(budget: str, speed: float | None = None) -> Stage:
    """A plan where 16 patches at the narrowest width take so many seconds, others in proportion."""

    def measure(stage: Stage) -> float:
        share = (stage.unet.features[0] / 16) ** 2 * stage.training.batch / 16
        return (speed or 0.0) * share

    return rules.stage(measured(), Budget.read(budget), MACHINE, measure if speed else None, DESIGN)


def test_nothing_is_resampled_moved_or_changed_in_value_but_mirrored() -> None:
    stage = planned("3 epochs")
    assert stage.geometry.own_grid
    assert stage.geometry.patch == (40, 40)
    varied = stage.augmentation
    assert varied.mirror == (0, 1)
    assert not any(value for name, value in varied if name.endswith("probability"))
    assert stage.training.foreground_share == 0


def test_epochs_take_the_paper_s_width_and_batch() -> None:
    stage = planned("3 epochs")
    assert (stage.unet.features, stage.training.batch) == ((64,), 128)
    assert stage.unet.convolutions == (17,)


@pytest.mark.parametrize(("speed", "width", "batch"), [(0.0002, 64, 128), (0.02, 32, 16), (10.0, 16, 16)])
def test_a_slower_machine_gets_fewer_features_and_patches(speed: float, width: int, batch: int) -> None:
    stage = planned("5m", speed)
    assert (stage.unet.features, stage.training.batch) == ((width,), batch)


def test_intensities_follow_one_line_that_can_be_undone() -> None:
    (scheme,) = rules.normalisation(measured()).channels
    assert (scheme.scheme, scheme.low, scheme.high) == ("unit", 2, 10)


def test_channels_that_grow_share_the_last_one_s_line_and_others_do_not() -> None:
    growing = rules.normalisation(measured(("dose_1", "dose_2", "dose_3"))).channels
    assert {(scheme.low, scheme.high) for scheme in growing} == {(0, 12)}
    others = rules.normalisation(measured(("T1", "FLAIR"))).channels
    assert [(scheme.low, scheme.high) for scheme in others] == [(2, 10), (1, 11)]


def test_every_decision_has_a_reason() -> None:
    stage = planned("5m", 0.02)
    for section in (stage.geometry, stage.training, stage.unet, stage.augmentation, stage.prediction):
        for name in (
            "patch",
            "own_grid",
            "batch",
            "learning_rate",
            "momentum",
            "features",
            "mirror",
            "border",
        ):
            if name in type(section).model_fields:
                assert section.why.get(name), name
