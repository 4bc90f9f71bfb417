"""The worst slice: found, turned the radiological way round, and drawn to scale."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import numpy as np
import pytest

from isocenter.images.geometry import Geometry
from isocenter.images.image import Image
from isocenter.records import Channel, Dataset, Label
from isocenter.tasks.pictures.canvas import view
from isocenter.tasks.pictures.contours import disagreement, worst_slice

LABELS = (Label(name="a", values=(1,)), Label(name="b", values=(2,)))


def facts(*, colour: bool = False, ignore: int | None = None) -> Dataset:
    names = ("red", "green", "blue") if colour else ("image",)
    channels = tuple(Channel(name=name, modality="colour" if colour else "other") for name in names)
    return Dataset(
        name="d",
        root="/",
        layout="files",
        task="segmentation",
        channels=channels,
        labels=LABELS,
        ignore=ignore,
        cases=(),
    )


def grid(shape: tuple[int, ...], axes: str, spacing_mm: tuple[float, float, float] = (1, 1, 1)) -> Geometry:
    """A grid whose reversed index (x, y, z) runs towards the named directions, as `RAS` or `LPS`."""
    affine = np.eye(4)
    affine[:3, :3] = 0
    for column, (letter, step) in enumerate(zip(axes, spacing_mm, strict=True)):
        row, sign = {"R": (0, 1), "L": (0, -1), "A": (1, 1), "P": (1, -1), "S": (2, 1), "I": (2, -1)}[letter]
        affine[row, column] = sign * step
    return Geometry(shape, affine)


@pytest.mark.parametrize("axes", ["RAS", "LPS", "LAS", "PIR", "ASR", "SLA"])
def test_an_axial_slice_has_the_right_on_the_left_and_the_front_on_top(axes: str) -> None:
    geometry = grid((6, 6, 6), axes)
    volume = np.zeros((6, 6, 6))
    rightmost_front = np.array([geometry.world(index) for index in np.ndindex(6, 6, 6)])
    corner = np.ndindex(6, 6, 6)
    best = max(zip(corner, rightmost_front, strict=True), key=lambda pair: pair[1][0] + pair[1][1])[0]
    seen = view(geometry)
    volume[best] = 1
    assert seen.plane == "axial"
    assert (seen.left, seen.top) == ("R", "A")
    assert seen.axis is not None
    assert seen.cut(volume, best[seen.axis])[0, 0] == 1


def test_thick_slices_are_shown_as_they_were_acquired() -> None:
    coronal = view(grid((10, 8, 10), "RAS", (1, 4, 1)))
    sagittal = view(grid((10, 10, 8), "RAS", (4, 1, 1)))
    assert (coronal.plane, coronal.left, coronal.top) == ("coronal", "R", "S")
    assert (sagittal.plane, sagittal.left, sagittal.top) == ("sagittal", "A", "S")


def test_the_slice_with_most_disagreement_is_drawn() -> None:
    truth, answer = np.zeros((9, 12, 12), np.uint8), np.zeros((9, 12, 12), np.uint8)
    truth[2:7, 3:9, 3:9] = answer[2:7, 3:9, 3:9] = 1
    answer[5, 3:6] = 0
    answer[3, 3, 3] = 2
    image = Image(np.random.default_rng(0).normal(size=(1, 9, 12, 12)), grid((9, 12, 12), "RAS"))
    assert worst_slice(image, answer, truth, facts()).caption == "Axial slice 6 of 9; 19 voxels differ."
    assert worst_slice(image, truth, truth, facts()).caption.endswith("no voxel differs.")


def test_several_answers_are_drawn_on_the_slice_that_is_worst_for_all_together() -> None:
    truth = np.zeros((9, 12, 12), np.uint8)
    truth[2:7, 3:9, 3:9] = 1
    good, poor = truth.copy(), truth.copy()
    good[3, 3, 3:6] = 0
    poor[5, 3:6] = 0
    image = Image(np.ones((1, 9, 12, 12), np.float32), grid((9, 12, 12), "RAS"))
    captions = [
        worst_slice(image, answer, truth, facts(), [other]).caption
        for answer, other in ((good, poor), (poor, good))
    ]
    assert captions == ["Axial slice 6 of 9; 3 voxels differ.", "Axial slice 6 of 9; 18 voxels differ."]


def test_ignored_voxels_and_equal_regions_do_not_disagree() -> None:
    truth, answer = np.array([[1, 2, 9, 0]]), np.array([[2, 2, 1, 0]])
    whole = (Label(name="whole", values=(1, 2)),)
    assert not disagreement(answer, truth, whole, ignore=9).any()
    assert disagreement(answer, truth, LABELS, ignore=9).tolist() == [[True, False, False, False]]


def test_the_picture_is_to_scale_and_parses_as_one_self_contained_svg() -> None:
    truth = np.zeros((5, 10, 20), np.uint8)
    truth[2, 1:9, 1:19] = 1
    image = Image(np.ones((1, 5, 10, 20), np.float32), grid((5, 10, 20), "RAS", (0.5, 2.0, 2.0)))
    picture = worst_slice(image, np.zeros_like(truth), truth, facts())
    root = ElementTree.fromstring(picture.svg)
    width, height = (float(side) for side in root.attrib["viewBox"].split()[2:])
    assert (width, height) == (10.0, 20.0)
    references = re.findall(r'href="([^"]{5})', picture.svg)
    assert references == ["data:"]
    assert picture.data_uri.startswith("data:image/svg+xml,%3Csvg")


def test_a_contour_runs_half_a_voxel_outside_the_centres() -> None:
    truth = np.zeros((8, 8), np.uint8)
    truth[2:5, 3:6] = 1
    picture = worst_slice(Image(np.zeros((1, 8, 8)), Geometry.plain((8, 8))), truth, truth, facts())
    path = ElementTree.fromstring(picture.svg).findall(".//{*}path")[0].attrib["d"]
    x, y = np.array([pair.split(",") for pair in re.findall(r"[\d.]+,[\d.]+", path)], float).T
    assert (x.max() - x.min(), y.max() - y.min()) == (3.0, 3.0)


def test_colours_are_shown_as_colours_and_two_dimensions_as_stored() -> None:
    truth = np.zeros((300, 200), np.uint8)
    truth[50:90, 20:60] = 1
    photograph = Image(np.zeros((3, 300, 200), np.uint8), Geometry.plain((300, 200)))
    picture = worst_slice(photograph, truth, truth, facts(colour=True))
    assert picture.caption == "As stored; no pixel differs."
    assert "data:image/png" in picture.svg


@pytest.mark.parametrize("fill", [np.nan, 0.0, 7.0])
def test_a_constant_or_undefined_image_is_still_drawn(fill: float) -> None:
    nothing = np.zeros((4, 6, 6), np.uint8)
    image = Image(np.full((1, 4, 6, 6), fill, np.float32), grid((4, 6, 6), "RAS"))
    assert worst_slice(image, nothing, nothing, facts()).caption.startswith("Axial slice 3 of 4")
