"""Outlines: traced, filled, written for QuPath, and files that are not what they seem."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as Pillow

from isocenter.errors import IsocenterError, UnreadableFile
from isocenter.images.formats.outlines import Outline, area, fill, outlines, read_geojson, write_geojson

SQUARE = np.array([[0.0, 0.0], [4.0, 0.0], [4.0, 3.0], [0.0, 3.0]])


def filled(found: list[Outline], shape: tuple[int, ...]) -> np.ndarray:
    """Filled with the numbers that the outlines were traced from."""
    return np.array([0, *(each.number for each in found)])[fill(found, shape)]


# ---------------------------------------------------------------------------------------------- tracing


def test_one_pixel_is_a_square_around_it() -> None:
    numbers = np.zeros((4, 6), dtype=np.uint16)
    numbers[2, 4] = 7
    (outline,) = outlines(numbers)
    assert outline.number == 7
    ((ring,),) = outline.parts
    assert sorted(map(tuple, ring)) == [(4, 2), (4, 3), (5, 2), (5, 3)]
    assert area(ring) == 1


def test_corners_alone_are_kept_and_holes_turn_the_other_way() -> None:
    numbers = np.zeros((7, 7), dtype=np.int32)
    numbers[1:6, 1:6] = 1
    numbers[3, 3] = 0
    ((outer, hole),) = outlines(numbers)[0].parts
    assert len(outer) == len(hole) == 4
    assert area(outer) == 25
    assert area(hole) == -1


def test_pixels_that_meet_at_a_corner_are_two_parts() -> None:
    (outline,) = outlines(np.array([[1, 0], [0, 1]]))
    assert len(outline.parts) == 2


def test_holes_that_meet_at_a_corner_are_two_holes() -> None:
    numbers = np.ones((4, 4), dtype=np.int32)
    numbers[1, 1] = numbers[2, 2] = 0
    ((outer, *holes),) = outlines(numbers)[0].parts
    assert area(outer) == 16
    assert [area(hole) for hole in holes] == [-1, -1]


def test_no_ring_passes_a_corner_twice() -> None:
    numbers = (np.random.default_rng(0).random((20, 20)) > 0.4).astype(np.int32)
    for part in outlines(numbers)[0].parts:
        for ring in part:
            assert len({tuple(point) for point in ring}) == len(ring)
        assert [area(ring) > 0 for ring in part] == [True] + [False] * (len(part) - 1)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([1, 3]))
def test_any_image_comes_back_exactly(seed: int, size: int) -> None:
    rng = np.random.default_rng(seed)
    numbers = rng.integers(0, 4, (6, 7)).repeat(size, 0).repeat(size, 1) * 10
    np.testing.assert_array_equal(filled(outlines(numbers), numbers.shape), numbers)


def test_real_nuclei_come_back_exactly(data: Callable[[str], Path]) -> None:
    for path in sorted((data("nuclei_dsb2018") / "labels").iterdir())[:5]:
        numbers = np.array(Pillow.open(path)).astype(np.int64)
        np.testing.assert_array_equal(filled(outlines(numbers), numbers.shape), numbers)


def test_an_empty_image_has_no_outlines_and_a_volume_is_refused() -> None:
    assert outlines(np.zeros((3, 3), dtype=np.uint8)) == []
    with pytest.raises(IsocenterError, match="two dimensions"):
        outlines(np.zeros((3, 3, 3), dtype=np.uint8))


def test_polygons_between_pixels_fill_as_another_rasteriser_does() -> None:
    from skimage.draw import polygon2mask

    rng = np.random.default_rng(3)
    ring = rng.uniform(-4, 30, (9, 2))
    expected = polygon2mask((24, 26), ring[:, ::-1] - 0.5)  # there, pixels have their middle at whole numbers
    np.testing.assert_array_equal(fill([Outline(((ring,),))], (24, 26)) > 0, expected)


def test_the_later_object_lies_on_top() -> None:
    shifted = SQUARE + np.array([2.0, 0.0])
    painted = fill([Outline(((SQUARE,),)), Outline(((shifted,),))], (4, 8))
    assert painted[0].tolist() == [1, 1, 2, 2, 2, 2, 0, 0]


# ---------------------------------------------------------------------------------------------- GeoJSON


def test_the_file_has_the_form_that_qupath_imports(tmp_path: Path) -> None:
    path = tmp_path / "a.geojson"
    two = Outline(((SQUARE,), (SQUARE + 10,)))
    write_geojson(
        path,
        [Outline(((SQUARE,),)), two],
        ["Tumor", None],
        [0.75, None],
        kind="annotation",
        colours={"Tumor": (200, 0, 0)},
    )
    written = json.loads(path.read_text())
    assert written["type"] == "FeatureCollection"
    first, second = written["features"]
    assert first == {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": [[[0, 0], [4, 0], [4, 3], [0, 3], [0, 0]]]},
        "properties": {
            "objectType": "annotation",
            "classification": {"name": "Tumor", "color": [200, 0, 0]},
            "measurements": {"Probability": 0.75},
        },
    }
    assert second["geometry"]["type"] == "MultiPolygon"
    assert second["properties"] == {"objectType": "annotation"}


def test_what_was_written_is_read_again(tmp_path: Path) -> None:
    numbers = np.random.default_rng(1).integers(0, 3, (12, 14))
    found = outlines(numbers)
    write_geojson(tmp_path / "a.geojson", found, ["nucleus"] * len(found), [0.5] * len(found))
    again = read_geojson(tmp_path / "a.geojson")
    np.testing.assert_array_equal(fill(again, numbers.shape), numbers)
    assert {each.name for each in again} == {"nucleus"}
    assert {each.score for each in again} == {0.5}


def test_older_forms_of_measurements_and_bare_lists_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.geojson"
    one = feature(
        properties={
            "classification": {"names": ["Tumor", "Positive"]},
            "measurements": [{"name": "Probability", "value": 0.25}, {"name": "Area", "value": 3}],
        }
    )
    path.write_text(json.dumps([one]))
    (outline,) = read_geojson(path)
    assert (outline.name, outline.score) == ("Tumor: Positive", 0.25)
    path.write_text(json.dumps(one))
    assert len(read_geojson(path)) == 1


def test_classes_and_scores_are_as_many_as_objects(tmp_path: Path) -> None:
    with pytest.raises(IsocenterError, match="2 classes were given for 1"):
        write_geojson(tmp_path / "a.geojson", [Outline(((SQUARE,),))], ["a", "b"])
    with pytest.raises(IsocenterError, match="not a number"):
        write_geojson(tmp_path / "a.geojson", [Outline(((SQUARE,),))], None, [float("nan")])
    with pytest.raises(IsocenterError, match="no outline"):
        write_geojson(tmp_path / "a.geojson", [Outline(())])
    assert not list(tmp_path.iterdir())


def feature(**changes: Any) -> dict[str, Any]:
    square = [[0, 0], [4, 0], [4, 3], [0, 0]]
    geometry = {"type": "Polygon", "coordinates": [square]}
    return {"type": "Feature", "geometry": geometry, "properties": {}} | changes


def shape(coordinates: Any, kind: str = "Polygon") -> str:
    return json.dumps([feature(geometry={"type": kind, "coordinates": coordinates})])


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ("", "empty"),
        ("{", "not JSON"),
        ('{"type": "FeatureCollection"}', "no GeoJSON features"),
        ("3", "no GeoJSON features"),
        ("[" * 200_000, "deep"),
        ("[[1]]", "not a Feature"),
        (json.dumps([feature(geometry=None)]), "no geometry"),
        (json.dumps([feature(properties=[1])]), "no geometry, or properties"),
        (shape([1, 2], "Point"), "'Point'"),
        (shape([]), "not nested"),
        (shape([[]]), "not nested"),
        (shape([[[0, 0], [1, 0], [1, 1], [0, 1]]]), "does not end"),
        (shape([[[0, 0], [1, 0], [0, 0]]]), "fewer than four"),
        (shape([[[0, 0], [1, True], [1, 1], [0, 0]]]), "finite"),
        (shape([[[0, 0], [1, "2"], [1, 1], [0, 0]]]), "finite"),
        (shape([[[0, 0], [1, 1e300], [1, 1], [0, 0]]]), "finite"),
        (shape([[[0, 0], [1, 2, 3, 4], [1, 1], [0, 0]]]), "finite"),
        (shape([[[0, 0], [1, float("nan")], [1, 1], [0, 0]]]), "NaN is no number"),
        (shape([[[0, 0], [1, 0], [1, 1], [0, 0]]]).replace("1, 0", "1, 1e999"), "finite"),
        (json.dumps([feature(properties={"classification": {"name": 3}})]), "no name"),
        (json.dumps([feature(properties={"measurements": {"Probability": "high"}})]), "probability"),
    ],
)
def test_what_is_no_outline_is_refused(tmp_path: Path, content: str, match: str) -> None:
    path = tmp_path / "a.geojson"
    path.write_text(content)
    with pytest.raises(UnreadableFile, match=match) as caught:
        read_geojson(path)
    assert str(path) in str(caught.value.where)
    assert caught.value.cure
