"""BIDS with derivatives: subjects and sessions, several masks, people and names of values."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest

from isocenter.errors import BadDataset, IsocenterWarning
from isocenter.images.layouts import open_dataset, read_image, read_truth
from isocenter.records import Label


def save(root: Path, *files: str) -> None:
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        values = np.zeros((4, 4, 4), np.uint8)
        values.flat[:3] = (1, 2, 2)
        nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), root / file)


def subject(root: Path, name: str, session: str = "") -> None:
    place = f"{name}/{session}/anat" if session else f"{name}/anat"
    prefix = f"{name}_{session}" if session else name
    save(root, f"{place}/{prefix}_T1w.nii.gz", f"{place}/{prefix}_FLAIR.nii.gz")
    save(root, f"derivatives/manual/{place}/{prefix}_space-T1w_dseg.nii.gz")


def test_suffixes_are_channels_and_derivatives_hold_the_labels(tmp_path: Path) -> None:
    subject(tmp_path, "sub-01")
    subject(tmp_path, "sub-02")
    save(tmp_path, "sub-01/func/sub-01_task-rest_bold.nii.gz")
    dataset = open_dataset(tmp_path)
    assert dataset.layout == "bids"
    assert [(channel.name, channel.modality) for channel in dataset.channels] == [
        ("FLAIR", "mri"),
        ("T1w", "mri"),
    ]
    assert dataset.case("sub-02").truth == {
        "label": "derivatives/manual/sub-02/anat/sub-02_space-T1w_dseg.nii.gz"
    }
    assert [label.values for label in dataset.labels] == [(1,), (2,)]


def test_sessions_are_cases_of_one_patient(tmp_path: Path) -> None:
    subject(tmp_path, "sub-01", "ses-a")
    subject(tmp_path, "sub-01", "ses-b")
    assert [(case.id, case.patient) for case in open_dataset(tmp_path).cases] == [
        ("sub-01_ses-a", "sub-01"),
        ("sub-01_ses-b", "sub-01"),
    ]


def test_people_give_site_and_split(tmp_path: Path) -> None:
    subject(tmp_path, "sub-01")
    subject(tmp_path, "sub-02")
    (tmp_path / "participants.tsv").write_text(
        "participant_id\tage\tsite\tsplit\nsub-01\t40\tGhent\ttrain\nsub-02\tn/a\tn/a\ttest\n"
    )
    assert [(case.group, case.split) for case in open_dataset(tmp_path).cases] == [
        ("Ghent", "train"),
        (None, "test"),
    ]


def test_a_table_beside_the_derivatives_names_the_values(tmp_path: Path) -> None:
    subject(tmp_path, "sub-01")
    (tmp_path / "derivatives/manual/desc-tissue_dseg.tsv").write_text(
        "index\tname\n1\tgrey matter\n2\twhite matter\n"
    )
    assert open_dataset(tmp_path).labels == (
        Label(name="grey matter", values=(1,)),
        Label(name="white matter", values=(2,)),
    )


def test_several_masks_must_be_chosen_from(tmp_path: Path) -> None:
    subject(tmp_path, "sub-01")
    save(tmp_path, "derivatives/manual/sub-01/anat/sub-01_desc-brain_mask.nii.gz")
    with pytest.raises(BadDataset, match=r"several files.*desc-brain_mask, space-T1w_dseg"):
        open_dataset(tmp_path)
    (tmp_path / "isocenter.json").write_text('{"truth": "space-T1w_dseg", "channels": ["T1w"]}')
    dataset = open_dataset(tmp_path)
    assert dataset.cases[0].inputs["image"] == ("sub-01/anat/sub-01_T1w.nii.gz",)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ('{"truth": "space-T1_dseg"}', "Did you mean 'space-T1w_dseg'"),
        ('{"channels": ["T2w"]}', "no case has an image 'T2w'"),
    ],
)
def test_a_choice_that_is_not_there_is_refused(tmp_path: Path, said: str, message: str) -> None:
    subject(tmp_path, "sub-01")
    (tmp_path / "isocenter.json").write_text(said)
    with pytest.raises(BadDataset, match=message):
        open_dataset(tmp_path)


def test_a_subject_that_lacks_a_channel_is_kept_with_the_channel_absent(tmp_path: Path) -> None:
    subject(tmp_path, "sub-01")
    subject(tmp_path, "sub-02")
    (tmp_path / "sub-02/anat/sub-02_FLAIR.nii.gz").unlink()
    assert open_dataset(tmp_path).case("sub-02").inputs["image"] == (None, "sub-02/anat/sub-02_T1w.nii.gz")


def test_rare_channels_and_unlabelled_subjects_are_left_out_with_a_warning(tmp_path: Path) -> None:
    for name in ("sub-01", "sub-02", "sub-03"):
        subject(tmp_path, name)
    save(tmp_path, "sub-01/anat/sub-01_T2w.nii.gz", "sub-04/anat/sub-04_T1w.nii.gz")
    with pytest.warns(IsocenterWarning) as told:
        dataset = open_dataset(tmp_path)
    assert [channel.name for channel in dataset.channels] == ["FLAIR", "T1w"]
    messages = " ".join(str(one.message) for one in told)
    assert "T2w" in messages
    assert "sub-04" in messages


def test_the_spleen_set_opens(data: Callable[[str], Path]) -> None:
    dataset = open_dataset(data("spleen_bids"))
    (case,) = dataset.cases
    assert (dataset.name, dataset.layout, case.patient) == ("Spleen", "bids", "sub-spleen2")
    assert dataset.channels[0].modality == "ct"
    assert read_image(dataset, case).shape == read_truth(dataset, case).shape == (26, 166, 164)
