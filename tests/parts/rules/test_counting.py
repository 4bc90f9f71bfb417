"""Counting's rules: known values for cells that lie 19 pixels apart, and bounds for the rest."""

from __future__ import annotations

import pytest

from isocenter.parts.rules import counting
from isocenter.records import Label


def test_cells_nineteen_pixels_apart() -> None:
    assert counting.sigma(19.1)[0] == 2.39
    assert counting.windows(19.1)[0] == (1, 5, 19, 57)
    assert counting.patch(19.1, (256, 256))[0] == (128, 128)


def test_sigma_stays_within_what_can_be_drawn_and_told_apart() -> None:
    assert [counting.sigma(apart)[0] for apart in (1.0, 500.0)] == [1.5, 6.0]


def test_windows_are_never_named_twice() -> None:
    assert counting.windows(1.0)[0] == (1, 3)


@pytest.mark.parametrize("shape", [(40,), (100, 36), (20, 300, 300)])
def test_a_patch_divides_by_its_halvings_and_hardly_exceeds_the_image(shape: tuple[int, ...]) -> None:
    edges, _ = counting.patch(50.0, shape)
    assert all(edge % 8 == 0 and edge < size + 8 for edge, size in zip(edges, shape, strict=True))


def test_objects_are_turned_and_mirrored_but_hardly_changed_in_brightness() -> None:
    varied = counting.variation((128, 128))
    assert (varied.rotation, varied.mirror) == ((180.0,), (0, 1))
    assert varied.rotation_probability == 0.5
    assert varied.brightness_probability == varied.gamma_probability == 0.1
    assert counting.variation((128, 128), [Label(name="left cell", values=(1,))]).mirror == ()
    assert (
        varied.why["mirror"]
        != counting.variation((128, 128), [Label(name="left", values=(1,))]).why["mirror"]
    )
