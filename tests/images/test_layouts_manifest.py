"""CSV manifests as people write them: other delimiters and encodings, and what must be refused."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest

from isocenter.errors import BadDataset, IsocenterWarning
from isocenter.images.layouts import open_dataset
from isocenter.records import Channel


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with one image and its label, `a.nii.gz` and `a_label.nii.gz`, and the same for b."""
    for name in ("a", "b"):
        image = nibabel.Nifti1Image(np.ones((4, 4, 4), np.uint8), np.eye(4))
        nibabel.save(image, tmp_path / f"{name}.nii.gz")
        nibabel.save(image, tmp_path / f"{name}_label.nii.gz")
    return tmp_path


def write(root: Path, text: str, encoding: str = "utf-8", name: str = "manifest.csv") -> Path:
    (root / name).write_bytes(text.encode(encoding))
    return root / name


PLAIN = "image,label\na.nii.gz,a_label.nii.gz\nb.nii.gz,b_label.nii.gz\n"


def test_a_row_is_a_case(root: Path) -> None:
    write(
        root,
        "id,image,label,patient,site,split\n"
        "one,a.nii.gz,a_label.nii.gz,p1,Ghent,train\n"
        "two,b.nii.gz,b_label.nii.gz,p2,Leiden,Test\n",
    )
    dataset = open_dataset(root)
    assert dataset.layout == "manifest"
    assert [(c.id, c.patient, c.group, c.split) for c in dataset.cases] == [
        ("one", "p1", "Ghent", "train"),
        ("two", "p2", "Leiden", "test"),
    ]
    assert dataset.cases[0].inputs == {"image": ("a.nii.gz",)}
    assert dataset.cases[0].truth == {"label": "a_label.nii.gz"}


def test_cases_without_an_id_are_named_after_their_image(root: Path) -> None:
    write(root, PLAIN)
    assert [(case.id, case.patient) for case in open_dataset(root).cases] == [("a", "a"), ("b", "b")]


def test_equal_names_in_different_folders_are_told_apart_by_the_folder(root: Path) -> None:
    write(root, "image,label\nx/scan.nii.gz,a_label.nii.gz\ny/scan.nii.gz,b_label.nii.gz\n")
    (root / "x").mkdir()
    (root / "x/scan.nii.gz").symlink_to(root / "a.nii.gz")
    assert [case.id for case in open_dataset(root).cases] == ["x_scan", "y_scan"]


def test_a_column_for_each_channel_names_the_channels(root: Path) -> None:
    write(
        root,
        "id,image_T1,image_CT,label\none,a.nii.gz,b.nii.gz,a_label.nii.gz\ntwo,a.nii.gz,,b_label.nii.gz\n",
    )
    dataset = open_dataset(root)
    assert dataset.channels == (Channel(name="t1", modality="mri"), Channel(name="ct", modality="ct"))
    assert dataset.case("two").inputs["image"] == ("a.nii.gz", None)


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_delimiter_and_byte_order_mark_do_not_matter(root: Path, delimiter: str, encoding: str) -> None:
    write(root, PLAIN.replace(",", delimiter).replace("\n", "\r\n"), encoding)
    assert [case.id for case in open_dataset(root).cases] == ["a", "b"]


def test_latin_1_is_read_with_a_warning(root: Path) -> None:
    write(root, "image,label,patient\na.nii.gz,a_label.nii.gz,Müller\n", "latin-1")
    with pytest.warns(IsocenterWarning, match="not UTF-8"):
        dataset = open_dataset(root)
    assert dataset.cases[0].patient == "Müller"


def test_absolute_paths_are_the_users_own_and_kept(
    root: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = tmp_path_factory.mktemp("lists")
    path = write(other, f"image,label\n{root}/a.nii.gz,{root}/a_label.nii.gz\n")
    dataset = open_dataset(path)
    assert dataset.path(str(dataset.cases[0].inputs["image"][0])) == root / "a.nii.gz"


def test_a_cell_with_the_delimiter_is_quoted(root: Path) -> None:
    write(root, 'image,label,patient\na.nii.gz,a_label.nii.gz,"Doe, Jane"\n')
    assert open_dataset(root).cases[0].patient == "Doe, Jane"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image,lable\na.nii.gz,a_label.nii.gz\n", "no column 'label'.*Did you mean 'lable'"),
        ("picture,label\na.nii.gz,a_label.nii.gz\n", "no column 'image'"),
        ("image,label\na.nii.gz,NaN\nb.nii.gz,b_label.nii.gz\n", "'label' is empty in row 2"),
        ("image,label\na.nii.gz,a_label.nii.gz\nb.nii.gz,\n", "'label' is empty in row 3"),
        ("image,label\n,a_label.nii.gz\n", "'image' is empty in row 2|names no image"),
        ("image,label\na.nii.gz\n", "row 2 has 1 cells"),
        ("image,label,image\na,b,c\n", "two columns"),
        ("image,label\n", "no rows"),
        ("", "no rows"),
        ("image,label\n../a.nii.gz,a_label.nii.gz\n", "outside the dataset's folder"),
        ("image,label,split\na.nii.gz,a_label.nii.gz,maybe\n", "'maybe' is not a split"),
        ("id,image,label\n../../x,a.nii.gz,a_label.nii.gz\n", "cannot name a file"),
        ("id,image,label\n.hidden,a.nii.gz,a_label.nii.gz\n", "cannot name a file"),
        ('image,label\n"a.nii.gz,a_label.nii.gz\n', "not a table"),
    ],
)
def test_a_manifest_that_cannot_be_followed_is_refused(root: Path, text: str, message: str) -> None:
    path = write(root, text)
    with pytest.raises(BadDataset, match=message) as caught:
        open_dataset(path)
    assert caught.value.where == str(path)


def test_a_table_without_images_does_not_make_a_folder_a_manifest(root: Path) -> None:
    write(root, "name,age\nx,3\n", name="people.csv")
    with pytest.raises(BadDataset, match="no known layout"):
        open_dataset(root)


def test_other_tables_of_the_folder_do_not_matter(root: Path) -> None:
    write(root, PLAIN, name="cases.csv")
    write(root, 'name,age\n"broken\n', name="people.csv")
    assert len(open_dataset(root).cases) == 2


def test_a_table_of_images_without_labels_says_what_is_missing(root: Path) -> None:
    write(root, "image,age\na.nii.gz,40\n", name="people.csv")
    with pytest.raises(BadDataset, match="no column 'label'"):
        open_dataset(root)


def test_an_empty_patient_is_refused_rather_than_guessed(root: Path) -> None:
    write(root, "image,label,patient\na.nii.gz,a_label.nii.gz,\n")
    with pytest.raises(BadDataset, match="'patient' is empty in row 2"):
        open_dataset(root)


PAIRS = "id,fixed,moving,fixed_label,moving_label,landmarks,patient\n"


def test_rows_that_name_a_fixed_and_a_moving_image_are_pairs_to_be_registered(root: Path) -> None:
    write(root, PAIRS + "one,a.nii.gz,b.nii.gz,a_label.nii.gz,b_label.nii.gz,marks.csv,p1\n")
    dataset = open_dataset(root)
    (case,) = dataset.cases
    assert (dataset.task, case.id, case.patient) == ("registration", "one", "p1")
    assert case.inputs == {"fixed": ("a.nii.gz",), "moving": ("b.nii.gz",)}
    assert case.truth == {
        "fixed_label": "a_label.nii.gz",
        "moving_label": "b_label.nii.gz",
        "landmarks": "marks.csv",
    }
    assert [label.name for label in dataset.labels] == ["foreground"]
    assert dataset.channels == (Channel(name="image"),)


def test_pairs_need_no_truth_and_no_id(root: Path) -> None:
    write(root, "fixed,moving,fixed_label\na.nii.gz,b.nii.gz,\nb.nii.gz,a.nii.gz,\n", name="pairs.csv")
    dataset = open_dataset(root, "registration")
    assert [case.id for case in dataset.cases] == ["b__to__a", "a__to__b"]
    assert [case.truth for case in dataset.cases] == [{}, {}]


@pytest.mark.parametrize(
    ("rows", "patients"),
    [
        ("a,b d,e b,c e,f", "b__to__a e__to__d b__to__a e__to__d"),
        ("t,a t,b t,c", "a__to__t b__to__t c__to__t"),
        ("a,b", "b__to__a"),
        ("a,b b,a", "b__to__a b__to__a"),
        ("b,a c,a d,a b,d", "a__to__b a__to__b a__to__b a__to__b"),
    ],
)
def test_pairs_that_share_an_image_are_one_patient_s(root: Path, rows: str, patients: str) -> None:
    content = (root / "a.nii.gz").read_bytes()
    for name in "bcdeft":
        (root / f"{name}.nii.gz").write_bytes(content)
    listed = [",".join(f"{name}.nii.gz" for name in row.split(",")) for row in rows.split()]
    write(root, "\n".join(["fixed,moving", *listed]) + "\n", name="pairs.csv")
    assert [case.patient for case in open_dataset(root / "pairs.csv").cases] == patients.split()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("id,fixed\none,a.nii.gz\n", "no column 'moving'"),
        ("id,fixed,moving\none,a.nii.gz,\n", "'moving' is empty in row 2"),
        ("id,fixed,moving\none,a.nii.gz,../b.nii.gz\n", "outside"),
        ("id,fixed,moving,moving_label\none,a.nii.gz,b.nii.gz,../b.nii.gz\n", "outside"),
    ],
)
def test_pairs_that_are_not_whole_or_leave_the_folder_are_refused(root: Path, text: str, told: str) -> None:
    write(root, text)
    with pytest.raises(BadDataset, match=told):
        open_dataset(root, "registration")
