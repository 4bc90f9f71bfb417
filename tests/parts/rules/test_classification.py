"""Rules of classifiers: small images stay as they are, and networks are as large as time allows."""

from __future__ import annotations

import pytest

from isocenter.methods.classes import Classifier
from isocenter.parts.rules.classification import (
    Rung,
    climb,
    longest_edge,
    padded,
    published_strides,
    seen,
    strides,
    variation,
)
from isocenter.records import Budget, CaseMeasure, Channel, Fingerprint, Label, Machine, Network

CPU = Machine(device="cpu", name="a test", cores=2, memory_gb=8.0)
TEN = Budget(seconds=600)


def measured(*shape: int) -> Fingerprint:
    ones = (1.0,) * len(shape)
    case = CaseMeasure(id="a", shape=shape, cropped_shape=tuple(e - 1 for e in shape), spacing_mm=ones)
    return Fingerprint(
        task="classification",
        dataset="tiny",
        dims=len(shape),  # type: ignore[arg-type]  # 1, 2 or 3
        channels=(Channel(name="image"),),
        intensities=(),
        cases=(case,),
        median_shape=tuple(float(e - 1) for e in shape),
        median_spacing_mm=ones,
    )


def test_small_images_are_kept_whole_as_they_are() -> None:
    found = seen(measured(28, 28), TEN, CPU)
    assert (found.patch, found.spacing_mm) == ((28, 28), (1.0, 1.0))


def test_large_images_are_reduced_to_the_edge_that_the_budget_affords() -> None:
    found = seen(measured(1024, 512), TEN, CPU)
    assert found.patch == (64, 32)
    assert found.spacing_mm == (16.0, 16.0)
    assert longest_edge(2, Budget(seconds=1800), CPU) == 128
    assert longest_edge(2, TEN, CPU.changed(device="cuda")) == 224
    assert longest_edge(3, TEN, CPU) == 32


def test_a_published_network_sees_small_images_enlarged() -> None:
    assert seen(measured(28, 28), TEN, CPU, least=64).patch == (64, 64)


@pytest.mark.parametrize(
    ("patch", "expected"),
    [
        ((28, 28), ((1, 1), (2, 2), (2, 2))),
        ((64, 64), ((2, 2), (2, 2), (2, 2), (2, 2))),
        ((224, 224), ((4, 4), (2, 2), (2, 2), (2, 2))),
        ((1024,), ((4,), (2,), (2,), (2,))),
    ],
)
def test_strides_leave_some_cells(patch: tuple[int, ...], expected: tuple[tuple[int, ...], ...]) -> None:
    assert strides(patch) == expected
    assert published_strides((224, 224)) == strides((224, 224))


def test_a_thin_axis_is_not_halved_away_and_patches_divide_by_their_strides() -> None:
    steps = strides((64, 8))
    whole = [step[1] for step in steps]
    assert 8 % (whole[0] * whole[1] * whole[2] * whole[3]) == 0
    assert padded((30, 28), ((1, 1), (2, 2), (2, 2))) == (32, 28)


def test_the_largest_network_that_can_take_enough_steps_is_taken() -> None:
    rungs = (Rung("large", 256, (6, 12)), Rung("small", 60, (3, 4)))

    def build(rung: Rung) -> Network:
        return Classifier.planned(rung, ((1, 1), (2, 2)))

    def work(network: Network) -> float:
        return 100.0 if network.convolutions == (6, 12) else 1.0

    # Ten minutes ask for 1300 steps: .42 s a step at most, 3 · 100 · 32 of work at 2.3e4 a second.
    assert climb(rungs, build, work, TEN, 32, 3e4)[0].convolutions == (6, 12)
    found, why = climb(rungs, build, work, TEN, 32, 1e4)
    assert found.convolutions == (3, 4)
    assert "small" in why
    assert climb(rungs, build, work, Budget(epochs=3), 32, 1.0)[0].convolutions == (6, 12)


def test_densenet_121_is_planned_as_published() -> None:
    plan = Classifier.planned(Classifier.rungs[0], ((4, 4), (2, 2), (2, 2), (2, 2)))
    assert plan.features == (256, 512, 1024, 1024)


def test_images_are_moved_the_more_often_they_are_seen_but_small_ones_never() -> None:
    few, many = variation((64, 64), (), 30), variation((64, 64), (), 50)
    assert 0 < few.rotation_probability < many.rotation_probability == many.scale_probability
    small = variation((28, 28), (), 50)
    assert small.rotation_probability == small.scale_probability == 0
    assert "interpolation blurs" in small.why["rotation_probability"]


def test_signals_are_not_moved_and_sided_labels_are_not_mirrored() -> None:
    assert variation((64,), (), 50).rotation_probability == 0
    assert variation((64,), (), 50).mirror == ()
    assert variation((64, 64), (), 50).mirror == (1,)
    assert variation((64, 64), (Label(name="left lung", values=(1,)),), 50).mirror == ()
