"""What is asked about, how answers are called, and that none takes the place of the user's own files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from isocenter import tasks
from isocenter.errors import BadDataset, IsocenterError
from isocenter.pipeline.answers import expand, named, refuse_taking_places

SEGMENTATION = tasks.load("segmentation")
linked = pytest.mark.skipif(os.name == "nt", reason="links need rights on Windows")


def put(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")
    return path


# --------------------------------------------------------------------------------------- what is asked about


def test_channel_files_of_one_case_belong_together(tmp_path: Path) -> None:
    for channel in (0, 1):
        put(tmp_path / f"head_000{channel}.nii.gz")
    (sources,) = expand([tmp_path], 2, SEGMENTATION)
    assert [Path(source).name for source in sources] == ["head_0000.nii.gz", "head_0001.nii.gz"]
    (tmp_path / "head_0001.nii.gz").unlink()
    put(tmp_path / "neck_0000.nii.gz")
    with pytest.raises(BadDataset, match="of 3 channels only 0000"):
        list(expand([tmp_path], 3, SEGMENTATION))


def test_what_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(BadDataset, match="no such file or folder"):
        list(expand([tmp_path / "a.png"], 1, SEGMENTATION))
    with pytest.raises(BadDataset, match="no readable image"):
        list(expand([tmp_path], 1, SEGMENTATION))


@linked
@pytest.mark.parametrize(("target", "words"), [("nowhere.png", "leads nowhere"), ("b.png", "in a circle")])
def test_a_link_that_leads_to_no_image_is_named(tmp_path: Path, target: str, words: str) -> None:
    put(tmp_path / "a.png")
    link = tmp_path / "b.png"
    link.symlink_to(target)
    for given in (tmp_path, link):
        with pytest.raises(IsocenterError, match=words) as fault:
            list(expand([given], 1, SEGMENTATION))
        assert fault.value.where == str(link)


# --------------------------------------------------------------------------------------------- their answers


def test_an_answer_bears_its_images_name(tmp_path: Path) -> None:
    wanted = [["a/x.png"], ["b/y.nii"], ["z_0000.nii.gz", "z_0001.nii.gz"]]
    paths = named(wanted, tmp_path, SEGMENTATION, 2)
    assert [path.name for path in paths] == ["x.png", "y.nii.gz", "z.nii.gz"]


@pytest.mark.parametrize(("other", "names"), [("a/x.png", "'x.png'"), ("a/X.png", "'X.png' and 'x.png'")])
def test_inputs_whose_answers_would_bear_one_name_are_refused(tmp_path: Path, other: str, names: str) -> None:
    with pytest.raises(BadDataset, match=f"several inputs would be answered as {names}"):
        named([["a/x.png"], [other]], tmp_path, SEGMENTATION, 2)


@pytest.mark.parametrize(
    ("sources", "answers"),
    [
        (["a/x.png", "b/x.png", "b/y.png"], ["a/x.png", "b/x.png", "y.png"]),
        (["in/x.png", "in/b/c/X.png"], ["x.png", "b/c/X.png"]),
        (["../x.png", "a/../../b/x.png"], ["x.png", "b/x.png"]),
        (["a/p/x.png", "a/q/x.png", "a/p/y.png", "a/q/y.png"], ["p/x.png", "q/x.png", "p/y.png", "q/y.png"]),
    ],
)
def test_inputs_of_one_name_are_answered_in_folders_like_theirs(
    tmp_path: Path, sources: list[str], answers: list[str]
) -> None:
    paths = named([[source] for source in sources], tmp_path, SEGMENTATION, 2)
    assert paths == [tmp_path / answer for answer in answers]


def test_channels_series_and_members_of_one_name_are_told_apart(tmp_path: Path) -> None:
    for name in ("x.npz", "y.npz", "CT/1.dcm", "b/CT/1.dcm"):
        put(tmp_path / name)
    wanted = [
        ["a/z_0000.nii.gz", "a/z_0001.nii.gz"],
        ["b/z_0000.nii.gz", ""],
    ]
    assert named(wanted, tmp_path, SEGMENTATION, 3) == [tmp_path / f"{folder}/z.nii.gz" for folder in "ab"]
    members = [[f"{tmp_path / archive}.npz::train/3"] for archive in "xy"]
    answers = [path.relative_to(tmp_path).as_posix() for path in named(members, tmp_path, SEGMENTATION, 3)]
    assert answers == ["x.npz/train_3.nii.gz", "y.npz/train_3.nii.gz"]
    series = [[str(tmp_path / folder)] for folder in ("CT", "b/CT")]
    answers = [path.relative_to(tmp_path).as_posix() for path in named(series, tmp_path, SEGMENTATION, 3)]
    assert answers == ["CT.nii.gz", "b/CT.nii.gz"]


def test_a_folder_of_answers_called_like_an_answer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadDataset, match=r"answered as 'x\.png'"):
        named([["a/x.png/y.png"], ["a/y.png"], ["b/x.png"]], tmp_path, SEGMENTATION, 2)


def test_an_input_called_like_the_map_beside_another_is_refused(tmp_path: Path) -> None:
    wanted = [["x.nii.gz"], ["x_probabilities.nii.gz"]]
    assert len(named(wanted, tmp_path, SEGMENTATION, 3, ["uncertainty"])) == 2
    with pytest.raises(BadDataset, match=r"answered as 'x_probabilities\.nii\.gz'"):
        named(wanted, tmp_path, SEGMENTATION, 3, ["probabilities"])
    wanted[1] = ["b/x_probabilities.nii.gz"]
    assert named(wanted, tmp_path, SEGMENTATION, 3, ["probabilities"])[1].parent == tmp_path / "b"


def test_an_answer_beside_its_image_is_fine_where_it_is_another_file(tmp_path: Path) -> None:
    image = put(tmp_path / "x.tif")
    refuse_taking_places([tmp_path / "x.nii.gz"], ["probabilities"], [image, "", tmp_path])


@pytest.mark.parametrize("own", ["x.nii.gz", "x_probabilities.nii.gz"])
def test_an_answer_in_the_place_of_an_input_is_refused(tmp_path: Path, own: str) -> None:
    image = put(tmp_path / own)
    with pytest.raises(BadDataset, match="would take the place of an image") as fault:
        refuse_taking_places([tmp_path / "x.nii.gz"], ["probabilities"], [image])
    assert (fault.value.where, fault.value.cure) == (str(image), "Choose another output folder.")


def test_the_table_beside_an_answer_does_not_take_the_place_of_a_recording(tmp_path: Path) -> None:
    recording = put(tmp_path / "x.csv")
    with pytest.raises(BadDataset, match="would take the place"):
        refuse_taking_places([tmp_path / "x.json"], [], [recording])


def test_the_archive_that_holds_an_input_is_an_input(tmp_path: Path) -> None:
    archive = put(tmp_path / "x.npz")
    with pytest.raises(BadDataset, match="would take the place"):
        refuse_taking_places([tmp_path / "x.npz"], [], [f"{archive}::train/3"])


@linked
def test_an_input_is_known_behind_links(tmp_path: Path) -> None:
    image = put(tmp_path / "images" / "x.png")
    (tmp_path / "answers").symlink_to(image.parent, target_is_directory=True)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "x.png").symlink_to(image)
    for out in ("answers", "out"):
        with pytest.raises(BadDataset, match="would take the place"):
            refuse_taking_places([tmp_path / out / "x.png"], [], [image])
