"""Networks for Monte-Carlo doses: the published comparators, on plans of beams that meet in a target."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import isocenter
from isocenter.studies import dose_networks, load
from isocenter.studies.dose_networks import AT_ONCE, PRESCRIBED_GY, RECURRENT, plans
from isocenter.studies.study import Wishes


def test_plans_are_highest_where_beams_meet_and_nothing_outside_the_body() -> None:
    first, second = plans(2, 0, edge=16)
    assert first.array.max() == pytest.approx(PRESCRIBED_GY)
    assert (first.array >= 0).all()
    assert first.array[:, 0, 0].max() == 0
    high = first.array > 0.8 * PRESCRIBED_GY
    assert 0 < high.mean() < 0.2
    assert not np.array_equal(first.array, second.array)
    np.testing.assert_array_equal(first.array, next(plans(1, 0, edge=16)).array)


def test_every_network_of_the_comparison_can_be_planned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dose_networks, "PLANS", 6)
    study = load("dose_networks")
    assert study.measure == "gamma_pass_rate"
    dataset = study.generate(tmp_path, 0)
    assert [channel.name for channel in dataset.channels] == ["dose_1", "dose_2", "dose_3", "dose_4"]
    points = study.points(dataset, Wishes())
    assert [point.series for point in points] == [*RECURRENT, *AT_ONCE, "classic"]
    for point in points:
        plan = isocenter.plan(
            dataset, method=point.method, budget="1 epochs", overrides=point.changes, device="cpu", workers=1
        )
        assert plan.settings["variant" if point.series in RECURRENT else "answered"] in (point.series, 1)
