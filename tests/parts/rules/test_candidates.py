"""What is cut out round candidates, and which part of a slice is learnt from."""

from __future__ import annotations

import numpy as np
import pytest

from isocenter.errors import BadDataset
from isocenter.parts.rules.candidates import crop, view


def test_a_crop_shows_the_largest_objects_with_what_surrounds_them() -> None:
    found = crop(np.full((10, 3), 20.0), (2.0, 1.0, 1.0))  # 30 mm are wanted
    assert found.spacing_mm == (2.0, 1.0, 1.0)
    assert found.patch == (16, 32, 32)
    assert found.why.keys() == {"spacing_mm", "patch"}


def test_large_objects_are_seen_on_a_coarser_grid() -> None:
    found = crop(np.full((10, 3), 64.0), (5.0, 1.0, 1.0))  # 96 mm in 32 voxels
    assert found.spacing_mm == (5.0, 3.0, 3.0)
    assert found.patch == (24, 32, 32)
    assert found.why["spacing_mm"].startswith("Coarser")


def test_a_rare_giant_does_not_decide() -> None:
    sizes = np.full((100, 3), 8.0)
    sizes[0] = 300
    assert crop(sizes, (1.0, 1.0, 1.0)).patch == (16, 16, 16)


def test_without_objects_there_is_no_crop() -> None:
    with pytest.raises(BadDataset, match="no object"):
        crop(np.zeros((0, 3)), (1.0, 1.0, 1.0))


@pytest.mark.parametrize(
    ("width", "shape", "patch"),
    [(10, (512, 512), (64, 64)), (30, (512, 512), (96, 96)), (30, (60, 512), (64, 96))],
)
def test_a_view_is_a_few_objects_wide_and_no_wider_than_the_slice(
    width: int, shape: tuple[int, int], patch: tuple[int, int]
) -> None:
    assert view(np.full((5, 2), width), shape)[0] == patch
