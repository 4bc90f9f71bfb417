import numpy as np
import pytest

from isocenter.errors import IsocenterError
from isocenter.parts.metrics.gamma import Criterion, gamma_index, gamma_pass_rate, pass_rate

UNIT = (1.0, 1.0, 1.0)


def test_an_even_dose_three_percent_too_high_is_exactly_at_the_limit():
    reference = np.full((6, 7, 8), 50.0)
    gamma = gamma_index(reference * 1.03, reference, UNIT)
    assert gamma == pytest.approx(np.ones_like(gamma), abs=1e-5)
    assert pass_rate(gamma) == 1.0
    assert gamma_pass_rate(reference * 1.031, reference, UNIT) == 0.0


@pytest.mark.parametrize("local", [False, True])
def test_a_ramp_is_met_half_way_as_geometry_says(local):
    reference = np.broadcast_to(np.linspace(50, 100, 51), (5, 5, 51))
    offset, slope = 1.2, 1.0  # Gy, Gy per mm
    gamma = gamma_index(reference + offset, reference, UNIT, Criterion(2.0, 2.0, local=local, fraction=20))
    dose = 0.02 * (reference if local else 100.0)
    expected = offset / np.sqrt(dose**2 + (slope * 2.0) ** 2)
    inner = (slice(None), slice(None), slice(5, -5))
    assert gamma[inner] == pytest.approx(np.broadcast_to(expected, gamma.shape)[inner], abs=0.01)


def test_a_shift_is_worth_its_distance():
    reference = np.zeros((40, 40))
    reference[:, 20:] = 60.0
    shifted = np.roll(reference, 2, axis=1)
    gamma = gamma_index(shifted, reference, (1.0, 1.0), Criterion(1.0, 4.0, fraction=8))
    # At the step's foot the high dose lies two voxels on; its tolerance reaches a little before it.
    assert gamma[20, 20] == pytest.approx(0.5, abs=0.02)
    assert gamma[20, 30] == 0.0
    assert np.isnan(gamma[20, 5])


def _by_definition(evaluated, reference, spacing, rule):
    """Brute force over a fine lattice of displacements."""
    from scipy.ndimage import map_coordinates

    reach = np.linspace(-1, 1, 81) * rule.distance_mm
    offsets = np.stack(np.meshgrid(reach, reach, indexing="ij"), -1).reshape(-1, 2)
    offsets = offsets[(offsets**2).sum(1) <= rule.distance_mm**2 + 1e-9]
    best = np.full(reference.shape, np.inf)
    for offset in offsets:
        places = np.indices(reference.shape) + (offset / spacing)[:, None, None]
        dose = map_coordinates(evaluated, places, order=1, mode="constant", cval=1e9)
        apart = (dose - reference) / (rule.dose_percent / 100 * reference.max())
        best = np.minimum(best, apart**2 + (offset**2).sum() / rule.distance_mm**2)
    return np.where(reference >= rule.cutoff_percent / 100 * reference.max(), np.sqrt(best), np.nan)


@pytest.mark.parametrize("seed", range(3))
def test_gamma_agrees_with_its_definition_by_brute_force(seed):
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(seed)
    reference = 60 * gaussian_filter(rng.random((30, 34)), 3)
    evaluated = np.roll(reference, 1, axis=0) * 1.01 + 0.2 * rng.normal(size=reference.shape)
    rule, spacing = Criterion(2.0, 3.0, cutoff_percent=60, max_gamma=1.0), (2.0, 1.5)
    ours = gamma_index(evaluated, reference, spacing, rule)
    theirs = np.minimum(_by_definition(evaluated, reference, np.array(spacing), rule), 1.0)
    inner = (slice(3, -3),) * 2
    assert ours[inner] == pytest.approx(theirs[inner], abs=0.1, nan_ok=True)
    assert np.nanmean(ours[inner] - theirs[inner]) == pytest.approx(0.0, abs=0.02)


def test_larger_values_end_at_the_given_maximum():
    reference = np.full((5, 5), 10.0)
    gamma = gamma_index(reference * 3, reference, (1.0, 1.0), Criterion(max_gamma=1.5))
    assert gamma == pytest.approx(np.full((5, 5), 1.5))


def _dose(path):
    import pydicom

    plane = pydicom.dcmread(path)
    return plane.pixel_array.squeeze() * float(plane.DoseGridScaling)


@pytest.mark.parametrize(
    ("name", "rate_global", "rate_local"),
    [("H&N_VMAT", 0.99792, 0.99245), ("ProstateIMRT", 0.99973, 0.99973)],
)
def test_published_planes_pass_as_often_as_pymedphys_says(data, name, rate_global, rate_local):
    folder = data("dose_gamma")
    evaluated = _dose(folder / f"{name}_Evaluated_1mmPx.dcm")
    reference = _dose(folder / f"{name}_Reference_1mmPx.dcm")
    for local, expected in ((False, rate_global), (True, rate_local)):
        found = gamma_pass_rate(evaluated, reference, (1.0, 1.0), Criterion(2.0, 2.0, local=local))
        assert found == pytest.approx(expected, abs=0.001)


def test_no_judged_point_has_no_rate():
    assert pass_rate(np.full(3, np.nan)) is None


def test_doses_and_criteria_that_mean_nothing_are_refused():
    dose = np.ones((3, 3))
    with pytest.raises(IsocenterError, match="grids"):
        gamma_index(dose, np.ones((3, 4)), (1, 1))
    with pytest.raises(IsocenterError, match="not numbers"):
        gamma_index(dose * np.nan, dose, (1, 1))
    with pytest.raises(IsocenterError, match="nowhere above zero"):
        gamma_index(dose, dose * 0, (1, 1))
    with pytest.raises(IsocenterError, match="means nothing"):
        Criterion(dose_percent=0.0)
    with pytest.raises(IsocenterError, match="cutoff"):
        Criterion(local=True, cutoff_percent=0.0)
