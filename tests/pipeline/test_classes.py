"""Archives and views on their way through the pipeline: what is warned of, refused and expanded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from isocenter import images, tasks
from isocenter.errors import BadDataset
from isocenter.images.geometry import Geometry
from isocenter.images.layouts import open_dataset
from isocenter.pipeline.answers import expand
from isocenter.pipeline.check import check
from isocenter.pipeline.fingerprint import measure
from isocenter.records import Dataset


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """Ten training images, five for choices and five for the test, one of which is a training image again."""
    rng = np.random.default_rng(0)
    content = {}
    for part, count in (("train", 10), ("val", 5), ("test", 5)):
        content[f"{part}_images"] = rng.integers(0, 255, (count, 9, 9)).astype(np.uint8)
        content[f"{part}_labels"] = np.arange(count) % 2
    content["test_images"][0] = content["train_images"][0]
    np.savez(tmp_path / "small.npz", **content)
    return tmp_path / "small.npz"


@pytest.fixture
def views(tmp_path: Path) -> Dataset:
    """Six cases of two views of different shapes; the second of one is absent."""
    rng = np.random.default_rng(0)
    rows = ["image_pa,image_lateral,id,label"]
    for number in range(6):
        for name, size in (("pa", (10, 10)), ("lateral", (8, 12))):
            picture = rng.integers(1, 255, size).astype(np.uint8)
            images.write(picture[None], tmp_path / f"{name}{number}.png", Geometry.plain(size))
        lateral = "" if number == 3 else f"lateral{number}.png"
        rows.append(f"pa{number}.png,{lateral},c{number},{'sick' if number % 2 else 'well'}")
    (tmp_path / "manifest.csv").write_text("\n".join(rows) + "\n")
    return open_dataset(tmp_path)


def test_copies_across_official_splits_are_told_and_kept(archive: Path) -> None:
    findings = check(open_dataset(archive), workers=1)
    copies = [finding for finding in findings if "same voxels" in finding.what]
    assert [finding.level for finding in copies] == ["warning"]
    assert "'train_0', 'test_0'" in copies[0].what
    assert all(finding.level == "warning" for finding in findings)


@pytest.mark.filterwarnings("ignore::isocenter.errors.IsocenterWarning")
def test_an_absent_view_is_a_warning_and_changes_no_statistics(views: Dataset) -> None:
    findings = check(views, workers=1)
    assert [f.level for f in findings if "no image for channel 'lateral'" in f.what] == ["warning"]
    fingerprint = measure(views, workers=1)
    assert len(fingerprint.cases) == 6
    assert all(np.isfinite(channel.mean) and channel.minimum >= 1 for channel in fingerprint.intensities)


def test_parts_of_an_archive_are_inputs_one_by_one(archive: Path) -> None:
    task = tasks.load("classification")
    found = list(expand([f"{archive}::val"], 1, task))
    assert found == [[f"{archive}::val/{number}"] for number in range(5)]
    assert task.called(found[0][0]) == "val_0"


def test_an_input_may_lack_a_view_where_the_task_allows_it(tmp_path: Path) -> None:
    for name in ("a_0000", "a_0001", "b_0001"):
        images.write(np.ones((1, 4, 4), np.uint8), tmp_path / f"{name}.png", Geometry.plain((4, 4)))
    found = list(expand([tmp_path], 2, tasks.load("classification")))
    assert [["" if not each else Path(each).name for each in one] for one in found] == [
        ["a_0000.png", "a_0001.png"],
        ["", "b_0001.png"],
    ]
    with pytest.raises(BadDataset, match="only 0001 are there"):
        list(expand([tmp_path], 2, tasks.load("segmentation")))
