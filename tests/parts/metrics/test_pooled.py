"""Measures of sets: the same as measuring the drawn images one by one, and known values."""

from __future__ import annotations

import numpy as np
import pytest

from isocenter.errors import IsocenterError
from isocenter.parts.metrics import detection
from isocenter.parts.metrics.detection import EXCLUDED, FALSE, Boxes, Scan
from isocenter.parts.metrics.pooled import FrocPool, Judged, PrecisionPool, interval, match_all

THRESHOLDS = (0.3, 0.5)


def random_images(seed: int, count: int = 6, levels: int = 1 << 40) -> list[Boxes]:
    rng = np.random.default_rng(seed)
    images = []
    for _ in range(count):
        low = rng.uniform(0, 50, (rng.integers(0, 6), 2))
        truth = np.hstack([low, low + rng.uniform(4, 12, low.shape)])
        near = truth[rng.integers(0, len(truth), 8)] if len(truth) else np.tile([0.0, 0, 5, 5], (8, 1))
        boxes = near + rng.normal(0, 1.5, near.shape)
        boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2])
        images.append(Boxes(boxes, rng.integers(1, levels, 8) / levels, truth, rng.random(len(truth)) < 0.2))
    return images


def judged(image: Boxes) -> Judged:
    matched = [detection.match(image, threshold) for threshold in THRESHOLDS]
    return Judged(matched[0][0], np.stack([state for _, state, _ in matched]), matched[0][2])


@pytest.mark.parametrize("seed", range(5))
def test_a_patient_drawn_twice_counts_as_its_images_twice(seed: int) -> None:
    images = random_images(seed)
    patients = ["a", "a", "b", "c", "d", "e"]
    weights = np.array([[1.0, 1, 1, 1, 1], [2, 0, 1, 1, 1], [0, 3, 0, 2, 0]])
    found = PrecisionPool([judged(image) for image in images], patients).precision(weights)
    for row, drawn in zip(found, weights, strict=True):
        times = [int(drawn["abcde".index(patient)]) for patient in patients]
        chosen = [image for image, n in zip(images, times, strict=True) for _ in range(n)]
        for value, threshold in zip(row, THRESHOLDS, strict=True):
            assert value == pytest.approx(detection.average_precision(chosen, threshold), abs=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_sensitivities_are_those_of_the_drawn_scans(seed: int) -> None:
    images = random_images(seed, levels=30)  # so few that there are ties
    scans = [detection.scan_of_boxes(i.boxes, i.scores, i.truth, 0.3, i.excluded) for i in images]
    weights = np.array([[1.0, 1, 1, 1, 1, 1], [0, 2, 2, 0, 1, 1]])
    rates = (0.5, 1.0, 3.0)
    found = FrocPool(scans, range(6)).sensitivity(weights, rates)
    for row, drawn in zip(found, weights, strict=True):
        curve = detection.froc([s for s, n in zip(scans, drawn, strict=True) for _ in range(int(n))])
        assert curve is not None
        assert row == pytest.approx([curve.at(rate) for rate in rates], abs=1e-12)


def test_precision_of_a_ranking_worked_by_hand() -> None:
    # Right, false, right of two: precision 1 up to recall .5 (51 recalls), then 2/3 (50 recalls).
    image = Judged(np.array([0.9, 0.8, 0.7]), np.array([[1, 0, 1]]), 2)
    assert PrecisionPool([image], ["p"]).precision(np.ones((1, 1)))[0, 0] == pytest.approx(
        (51 + 50 * 2 / 3) / 101
    )


def test_what_is_left_out_counts_neither_way() -> None:
    image = Judged(np.array([0.9, 0.8]), np.array([[EXCLUDED, 1]]), 1)
    assert PrecisionPool([image], ["p"]).precision(np.ones((1, 1)))[0, 0] == 1.0


def test_nothing_to_find_is_undefined_and_nothing_found_is_zero() -> None:
    nothing = Judged(np.zeros(0), np.zeros((1, 0), np.int64), 0)
    missed = Judged(np.zeros(0), np.zeros((1, 0), np.int64), 3)
    assert np.isnan(PrecisionPool([nothing], ["p"]).precision(np.ones((1, 1)))[0, 0])
    assert PrecisionPool([missed], ["p"]).precision(np.ones((1, 1)))[0, 0] == 0.0


def test_cpm_of_two_scans_worked_by_hand() -> None:
    # Two findings in two scans; found at 0 and at .5 false positives per scan.
    first = Scan(np.array([0.9, 0.7]), np.array([0, FALSE]), 1)
    second = Scan(np.array([0.5]), np.array([0]), 1)
    pool = FrocPool([first, second], ["a", "b"])
    assert pool.sensitivity(np.ones((1, 2)), (0.25, 0.5))[0] == pytest.approx([0.5, 1.0])
    assert pool.cpm(np.ones((1, 2)))[0] == pytest.approx((0.5 * 2 + 5) / 7)


@pytest.mark.parametrize("seed", range(4))
def test_all_thresholds_at_once_match_as_one_by_one(seed: int) -> None:
    for image in random_images(seed, levels=5):
        found = match_all(image, THRESHOLDS)
        order = np.argsort(-found.scores, kind="stable")
        for states, threshold in zip(found.states, THRESHOLDS, strict=True):
            scores, state, true = detection.match(image, threshold)
            assert states[order].tolist() == state.tolist()
            assert found.scores[order].tolist() == scores.tolist()
            assert found.true == true


def test_fewer_places_of_a_curve_change_it_little() -> None:
    images = random_images(1, count=400)
    weights = np.random.default_rng(0).multinomial(400, np.full(400, 1 / 400), 5).astype(float)
    pool = PrecisionPool([judged(image) for image in images], range(400))
    assert pool.precision(weights, 200) == pytest.approx(pool.precision(weights), abs=1e-2)
    scans = [detection.scan_of_boxes(i.boxes, i.scores, i.truth, 0.3, i.excluded) for i in images]
    froc = FrocPool(scans, range(400))
    assert froc.sensitivity(weights, most=200) == pytest.approx(froc.sensitivity(weights), abs=1e-2)


def test_an_interval_holds_the_estimate_and_needs_two_patients() -> None:
    values = np.array([0.2, 0.4, 0.9, 0.5])
    found = interval(lambda weights: weights @ values / weights.sum(axis=1), 4)
    assert found.mean == pytest.approx(0.5)
    assert found.low is not None
    assert found.high is not None
    assert 0.2 <= found.low < 0.5 < found.high <= 0.9
    assert interval(lambda weights: weights[:, 0], 1).low is None


def test_patients_must_fit_the_images() -> None:
    with pytest.raises(IsocenterError, match="1 images for 2 patients"):
        PrecisionPool([Judged(np.zeros(0), np.zeros((1, 0), np.int64), 0)], ["a", "b"])
