"""Target spacing: worked by hand."""

from __future__ import annotations

import pytest

from isocenter.parts.rules.spacing import anisotropic_axis, coarser, resized, target_spacing


def test_the_target_is_the_median_of_each_axis() -> None:
    spacing, _ = target_spacing([(1, 1, 1), (2, 1, 3), (3, 4, 2)], [(90, 100, 100)] * 3)
    assert spacing == (2, 1, 2)


def test_along_a_thick_axis_the_tenth_percentile_is_taken() -> None:
    spacings = [(3.0 + step, 0.5, 0.5) for step in range(11)]  # 3 … 13 mm, tenth percentile 4
    spacing, why = target_spacing(spacings, [(20, 400, 400)] * 11)
    assert spacing == pytest.approx((4.0, 0.5, 0.5))
    assert "10th percentile" in why


def test_a_thick_axis_with_many_slices_keeps_the_median() -> None:
    spacings = [(3.0 + step, 0.5, 0.5) for step in range(11)]
    spacing, _ = target_spacing(spacings, [(300, 400, 400)] * 11)
    assert spacing == (8.0, 0.5, 0.5)


def test_the_thick_axis_never_becomes_finer_than_the_others() -> None:
    spacings = [(0.1, 1.0, 1.0)] * 4 + [(5.0, 1.0, 1.0)] * 6
    spacing, _ = target_spacing(spacings, [(20, 400, 400)] * 10)
    assert spacing == (1.0, 1.0, 1.0)


def test_only_more_than_threefold_is_called_anisotropic() -> None:
    assert anisotropic_axis((3.0, 1.0, 1.0)) is None
    assert anisotropic_axis((1.0, 3.1, 1.0)) == 1
    assert anisotropic_axis((5.0,)) is None


def test_coarsening_takes_fine_axes_first_and_then_all() -> None:
    assert coarser((5.0, 1.0, 1.0)) == pytest.approx((5.0, 1.03, 1.03))
    assert coarser((1.5, 1.0, 1.0)) == pytest.approx((1.545, 1.03, 1.03))


def test_resizing_keeps_the_field_of_view() -> None:
    assert resized((100, 200), (2.0, 1.0), (1.0, 2.0)) == (200, 100)
    assert resized((1, 200), (0.1, 1.0), (1.0, 1.0)) == (1, 200)
