"""Multiple-instance learning as a task: inputs, answers with attention, and how attention is judged."""

from __future__ import annotations

import json
import os
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from isocenter import tasks
from isocenter.errors import BadDataset, UnreadableFile
from isocenter.images.formats.outlines import Outline, read_geojson, write_geojson
from isocenter.images.geometry import Geometry
from isocenter.images.image import Image
from isocenter.records import Case, CaseScore, Channel, Dataset, Label
from isocenter.tasks.bag_files import ALL, Attended, Shown
from isocenter.tasks.pictures.attention import heated

TASK = tasks.load("mil")
NAMES = ("normal", "tumour")
SQUARE = np.array([[0.0, 0], [200, 0], [200, 100], [0, 100]])


def a_dataset(root: Path | str = "/") -> Dataset:
    return Dataset(
        name="test",
        root=str(root),
        layout="bags",
        task="mil",
        channels=(Channel(name="features", modality="features"),),
        labels=tuple(Label(name=name, values=(place,)) for place, name in enumerate(NAMES, start=1)),
        cases=(),
    )


def an_answer(attention: list[float], *, placed: bool = True) -> Attended:
    coords = np.array([[100.0 * (place % 2), 100.0 * (place // 2)] for place in range(len(attention))])
    return Attended(
        NAMES,
        np.array([0.2, 0.8]),
        attention={"tumour": np.array(attention)},
        coords=coords if placed else None,
        edge=100.0 if placed else None,
        pixel_mm=0.001 if placed else None,
    )


def a_truth(regions: bool = True) -> Shown:
    outlined = (Outline(parts=((SQUARE,),)),) if regions else None
    return Shown("a", NAMES, np.array([0.0, 1.0]), True, outlined)


def an_overview() -> Image:
    """200 × 200 pixels of level 0, in pixels of 8."""
    return Image(np.full((3, 25, 25), 200, dtype=np.uint8), Geometry.plain((25, 25), (0.008, 0.008)))


def test_a_bag_is_read_as_one_channel_and_called_by_its_name(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((4, 3), dtype=np.float32))
    path = tmp_path / "t.csv"
    path.write_text("bag,f\nx,1\ny,2\n")
    assert TASK.read([str(tmp_path / "a.npy")]).array.shape == (1, 4, 3)
    assert TASK.sources(str(path)) == [f"{path}::x", f"{path}::y"]
    assert TASK.sources(str(tmp_path)) == [str(tmp_path / "a.npy")]
    assert [TASK.called(name) for name in (f"{path}::x", "b/a.npy", "c/s.ome.tif")] == ["x", "a", "s"]
    with pytest.raises(BadDataset, match="one file"):
        TASK.read(["a.npy", "b.npy"])


@pytest.mark.skipif(os.name == "nt", reason="links need rights on Windows")
def test_a_link_to_no_bag_is_named(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((4, 3), dtype=np.float32))
    (tmp_path / "b.npy").symlink_to("nowhere.npy")
    with pytest.raises(UnreadableFile, match=r"b\.npy: a symbolic link that leads nowhere"):
        TASK.sources(str(tmp_path))


def test_answers_are_saved_for_tables_and_for_qupath_and_read_again(tmp_path: Path) -> None:
    answer, path = an_answer([0.1, 0.2, 0.3, 0.4]), tmp_path / "a.json"
    TASK.save(answer, path, an_overview())
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "a.csv",
        "a.geojson",
        "a.json",
        "a_attention.csv",
        "a_attention.png",
    ]
    assert TASK.find(tmp_path) == [path]
    again = TASK.read_answer(path, a_truth(), a_dataset())
    assert again.scores.tolist() == [0.2, 0.8]
    assert again.attention["tumour"].tolist() == [0.1, 0.2, 0.3, 0.4]
    assert again.coords is not None
    assert again.coords.tolist() == [[0, 0], [100, 0], [0, 100], [100, 100]]
    assert (again.edge, again.pixel_mm) == (100, 0.001)
    lines = (tmp_path / "a_attention.csv").read_text().splitlines()
    assert lines[:2] == ["index,x,y,attention,attention tumour", "0,0,0,0.1,0.1"]


def test_tiles_lie_in_pixels_of_level_0(tmp_path: Path) -> None:
    TASK.save(an_answer([0.1, 0.2, 0.3, 0.4]), tmp_path / "a.json", an_overview())
    last = read_geojson(tmp_path / "a.geojson")[-1]
    assert last.parts[0][0].tolist() == [[100, 100], [200, 100], [200, 200], [100, 200]]
    said = json.loads((tmp_path / "a.geojson").read_text())["features"][0]["properties"]
    assert said["measurements"] == {"Attention": 0.25}
    assert said["classification"]["name"] == "tumour"


def test_a_bag_without_places_is_saved_as_tables_alone(tmp_path: Path) -> None:
    bag = Image(np.zeros((1, 2, 3), dtype=np.float32), Geometry.plain((2, 3)))
    answer = Attended(NAMES, np.array([0.5, 0.5]), attention={ALL: np.array([0.3, 0.7])})
    TASK.save(answer, tmp_path / "a.json", bag)
    assert {file.suffix for file in tmp_path.iterdir()} == {".csv", ".json"}
    again = TASK.read_answer(tmp_path / "a.json", a_truth(), a_dataset())
    assert again.attention[ALL].tolist() == [0.3, 0.7]
    assert again.coords is None


def test_attention_is_judged_by_the_regions_that_are_outlined() -> None:
    # Tiles 0 and 1 have their centres in the region: of four pairs, three are in the right order.
    values = TASK.score(an_answer([0.9, 0.3, 0.5, 0.1]), a_truth(), a_dataset())
    assert values["all"]["attention_auc"] == pytest.approx(0.75)
    assert TASK.score(an_answer([1, 1, 0, 0]), a_truth(False), a_dataset())["all"]["attention_auc"] is None
    unplaced = an_answer([1, 1, 0, 0], placed=False)
    assert TASK.score(unplaced, a_truth(), a_dataset())["all"]["attention_auc"] is None


def test_a_set_has_the_mean_over_bags_with_regions() -> None:
    cases = []
    for place in range(8):
        truth = Shown("a", NAMES, np.array([place % 2, 1 - place % 2], float), True, a_truth().regions)
        if place % 2:
            truth = Shown("a", NAMES, truth.present, True, None)
        answer = an_answer([0.9, 0.3, 0.5, 0.1] if place else [1.0, 1.0, 0.0, 0.0])
        cases.append(
            CaseScore(
                case=str(place),
                patient=str(place),
                values=TASK.score(answer, truth, a_dataset()),
                evidence=TASK.evidence(answer, truth, a_dataset()),
            )
        )
    found = TASK.summarise(cases)["all"]["attention_auc"]
    assert found.mean == pytest.approx((1 + 3 * 0.75) / 4)
    assert found.n == 4


def test_a_truth_knows_its_regions(tmp_path: Path) -> None:
    write_geojson(tmp_path / "r.geojson", [Outline(parts=((SQUARE,),))])
    case = Case(id="a", patient="a", inputs={}, truth={"class": ["tumour"], "regions": "r.geojson"})
    truth = TASK.read_truth(a_dataset(tmp_path), case)
    assert truth.present.tolist() == [0, 1]
    assert truth.holds(an_answer([1, 1, 1, 1])).tolist() == [True, True, False, False]


def test_the_most_attended_tile_is_red_and_the_least_blue() -> None:
    shown = heated(an_overview(), an_answer([0.1, 0.2, 0.3, 0.4])).astype(int)
    first, last = shown[:, 5, 5], shown[:, 20, 20]
    assert first[2] > first[0]
    assert last[0] > last[2]


@pytest.mark.parametrize("placed", [True, False])
def test_pictures_say_what_was_answered(placed: bool) -> None:
    image = an_overview() if placed else Image(np.zeros((1, 4, 3)), Geometry.plain((4, 3)))
    picture = TASK.draw(image, an_answer([0.1, 0.2, 0.3, 0.4], placed=placed), a_truth(), a_dataset())
    ElementTree.fromstring(picture.svg)
    assert "true tumour, answered tumour 0.80" in picture.caption
    unanswered = TASK.draw(image, TASK.no_answer(a_truth()), a_truth(), a_dataset())
    assert "not answered" in unanswered.caption
