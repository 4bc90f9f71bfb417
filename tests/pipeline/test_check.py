"""Every fault that a dataset can have, made on purpose and found: FAULTS 19 and 21 to 29."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from isocenter.errors import BadDataset, IsocenterWarning
from isocenter.images.layouts import open_dataset
from isocenter.pipeline import check, survey
from isocenter.records import Case, Channel, Dataset, Finding, Fold, Label

SHAPE = (12, 10, 9)


def save(path: Path, array: np.ndarray, affine: np.ndarray | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array, np.eye(4) if affine is None else affine), path)


def image(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(100, 20, SHAPE).astype(np.float32)


def mask(*values: int) -> np.ndarray:
    labels = np.zeros(SHAPE, np.uint8)
    for place, value in enumerate(values):
        labels[2 * place + 1, 2:5, 3:6] = value
    return labels


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    """Six sound cases, each a patient, with the labels 1 and 2."""
    cases = []
    for place in range(6):
        save(tmp_path / f"images/c{place}.nii", image(place))
        save(tmp_path / f"labels/c{place}.nii", mask(1, 2))
        cases.append(
            Case(
                id=f"c{place}",
                patient=f"p{place}",
                inputs={"image": (f"images/c{place}.nii",)},
                truth={"label": f"labels/c{place}.nii"},
            )
        )
    return Dataset(
        name="sound",
        root=str(tmp_path),
        layout="folders",
        task="segmentation",
        channels=(Channel(name="image"),),
        labels=(Label(name="one", values=(1,)), Label(name="two", values=(2,))),
        cases=tuple(cases),
    )


def changed(dataset: Dataset, place: int, **values: object) -> Dataset:
    """The dataset with one case changed."""
    cases = list(dataset.cases)
    cases[place] = cases[place].changed(**values)
    return dataset.changed(cases=tuple(cases))


def only(findings: Sequence[Finding], level: str) -> Finding:
    """The one finding there is, complete."""
    (finding,) = findings
    assert finding.level == level
    assert finding.where
    assert finding.what
    assert finding.cure
    return finding


def errors(findings: Sequence[Finding]) -> list[Finding]:
    return [finding for finding in findings if finding.level == "error"]


def test_a_sound_dataset_has_no_findings(dataset: Dataset) -> None:
    assert check.check(dataset) == []


def test_the_real_hippocampus_set_is_sound(data: Callable[[str], Path]) -> None:
    assert errors(check.check(open_dataset(data("hippocampus")))) == []


# ------------------------------------------------------------------------------------------ 19 to 22: voxels


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_voxels_that_are_no_numbers_are_an_error(dataset: Dataset, value: float) -> None:
    array = image(0)
    array[3, 3, 3] = value
    save(dataset.path("images/c0.nii"), array)
    found = only(check.check(dataset), "error")
    assert found.where.endswith("images/c0.nii")
    assert "NaN or infinite" in found.what


def test_labels_of_another_shape_are_an_error(dataset: Dataset) -> None:
    save(dataset.path("labels/c3.nii"), mask(1, 2)[:, :, :-1])
    found = only(check.check(dataset), "error")
    assert found.where.endswith("labels/c3.nii")
    assert "9 × 10 × 12 and 8 × 10 × 12" in found.what


@pytest.mark.parametrize(("modality", "warned"), [("other", True), ("ct", False)])
def test_values_of_ct_that_nothing_calls_ct_are_a_warning(
    dataset: Dataset, modality: str, warned: bool
) -> None:
    for place in range(6):
        save(dataset.path(f"images/c{place}.nii"), image(place) * 10 - 2000)
    findings = check.check(dataset.changed(channels=(Channel(name="image", modality=modality),)))
    if warned:
        assert "as air in CT does" in only(findings, "warning").what
    else:
        assert findings == []


@pytest.mark.parametrize(("shift", "level"), [(1e-6, "warning"), (1.0, "error")])
def test_grids_may_differ_by_rounding_but_not_by_a_millimetre(
    dataset: Dataset, shift: float, level: str
) -> None:
    affine = np.eye(4)
    affine[0, 3] = shift
    save(dataset.path("labels/c3.nii"), mask(1, 2), affine)
    found = only(check.check(dataset), level)
    assert found.where.endswith("labels/c3.nii")
    assert ("1e-06 mm off" if shift < 1 else "1 mm apart") in found.what


def test_an_unreadable_file_is_an_error_and_the_others_are_still_heard(dataset: Dataset) -> None:
    dataset.path("images/c1.nii").write_bytes(b"random bytes")
    save(dataset.path("labels/c2.nii"), mask(1, 2, 7))
    assert [Path(found.where).name for found in check.check(dataset)] == ["c1.nii", "c2.nii"]


# ------------------------------------------------------------------------------------------ 23, 24: labels


def test_values_that_nothing_declares_are_an_error_and_counted(dataset: Dataset) -> None:
    save(dataset.path("labels/c2.nii"), mask(1, 2, 7))
    found = only(check.check(dataset), "error")
    assert "7 (9 voxels)" in found.what
    assert "isocenter.json" in found.cure


def test_the_ignore_value_is_declared(dataset: Dataset) -> None:
    save(dataset.path("labels/c2.nii"), mask(1, 2, 7))
    assert check.check(dataset.changed(ignore=7)) == []


def test_float_labels_near_whole_numbers_are_rounded_with_a_warning(dataset: Dataset) -> None:
    save(dataset.path("labels/c2.nii"), mask(1, 2).astype(np.float32) * np.float32(0.9999))
    found = only(check.check(dataset), "warning")
    assert found.where.endswith("labels/c2.nii")
    assert "rounded" in found.what


def test_float_labels_between_whole_numbers_are_an_error(dataset: Dataset) -> None:
    save(dataset.path("labels/c2.nii"), mask(1, 2).astype(np.float32) * np.float32(0.8))
    assert "not integers" in only(check.check(dataset), "error").what


def test_gaps_in_numbering_are_kept_with_a_warning(dataset: Dataset) -> None:
    for case in dataset.cases:
        save(dataset.path(str(case.truth["label"])), mask(1, 5))
    labels = (Label(name="one", values=(1,)), Label(name="five", values=(5,)))
    assert "gaps: 1, 5" in only(check.check(dataset.changed(labels=labels)), "warning").what


def test_an_empty_mask_is_a_warning(dataset: Dataset) -> None:
    save(dataset.path("labels/c2.nii"), mask())
    found = only(check.check(dataset), "warning")
    assert found.where.endswith("labels/c2.nii")
    assert "empty" in found.what


def test_a_label_that_occurs_nowhere_or_rarely_is_a_warning(dataset: Dataset) -> None:
    for case in dataset.cases[1:]:
        save(dataset.path(str(case.truth["label"])), mask(1))
    labels = (*dataset.labels, Label(name="three", values=(3,)))
    told = [found.what for found in check.check(dataset.changed(labels=labels))]
    assert told == ["label 'two' occurs in 1 of 6 cases only.", "label 'three' occurs in no case."]


def test_a_set_that_is_all_background_is_warned_of_case_by_case_and_by_label(dataset: Dataset) -> None:
    for case in dataset.cases:
        save(dataset.path(str(case.truth["label"])), mask())
    findings = check.check(dataset)
    assert errors(findings) == []
    assert sum("mask is empty" in found.what for found in findings) == 6
    assert sum("occurs in no case" in found.what for found in findings) == 2


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ((Label(name="mean", values=(1,)), Label(name="b", values=(2,))), "called 'mean'"),
        ((Label(name="a", values=(1,)), Label(name="a", values=(2,))), "declared twice"),
    ],
)
def test_label_names_that_scores_cannot_hold_are_an_error(
    dataset: Dataset, labels: tuple[Label, ...], message: str
) -> None:
    assert message in only(check.check(dataset.changed(labels=labels)), "error").what


def test_a_label_cannot_be_ignored_and_asked_for(dataset: Dataset) -> None:
    assert "both a label's value" in only(check.check(dataset.changed(ignore=2)), "error").what


# ------------------------------------------------------------------------------------------ 25: poor images


def test_a_constant_image_is_a_warning(dataset: Dataset) -> None:
    save(dataset.path("images/c4.nii"), np.full(SHAPE, 7, np.int16))
    assert "same value everywhere" in only(check.check(dataset), "warning").what


@pytest.mark.parametrize(("size", "words"), [(1, "one slice"), (3, "only 3 voxels")])
def test_thin_volumes_are_a_warning(dataset: Dataset, size: int, words: str) -> None:
    save(dataset.path("images/c4.nii"), image(4)[..., :size])
    save(dataset.path("labels/c4.nii"), (mask(1, 2) + np.roll(mask(1, 2), -3, 2))[..., :size])
    assert words in only(check.check(dataset), "warning").what


def test_one_case_is_a_warning(dataset: Dataset) -> None:
    found = check.check(dataset.changed(cases=dataset.cases[:1]))
    assert "one patient only" in only(found, "warning").what


def test_pictures_among_volumes_are_an_error(dataset: Dataset) -> None:
    flat = np.zeros(SHAPE[:2], np.uint8)
    flat[2:4, 2:4], flat[6:8, 6:8] = 1, 2
    save(dataset.path("images/c4.nii"), image(4)[..., 0])
    save(dataset.path("labels/c4.nii"), flat)
    assert "2 spatial axes where most cases have 3" in only(check.check(dataset), "error").what


def test_another_orientation_than_most_is_a_note_that_it_is_turned(dataset: Dataset) -> None:
    flipped = np.diag([-1.0, 1.0, 1.0, 1.0])
    for kind, array in (("images", image(4)), ("labels", mask(1, 2))):
        save(dataset.path(f"{kind}/c4.nii"), array, flipped)
    finding = only(check.check(dataset), "warning")
    assert "run LAS where most cases' run RAS (x, y, z); it is turned" in finding.what
    assert "Nothing needs to be done" in finding.cure


# ------------------------------------------------------------------------------------------ 26, 27: cases


def test_a_missing_channel_is_an_error(dataset: Dataset) -> None:
    cases = tuple(case.changed(inputs={"image": case.inputs["image"] * 2}) for case in dataset.cases)
    both = dataset.changed(channels=(Channel(name="t1"), Channel(name="t2")), cases=cases)
    assert check.check(both) == []
    lacking = changed(both, 1, inputs={"image": ("images/c1.nii", None)})
    assert "'c1' has no image for channel 't2'" in only(check.check(lacking), "error").what


def test_a_file_that_is_not_there_is_an_error(dataset: Dataset) -> None:
    dataset.path("labels/c1.nii").unlink()
    found = only(check.check(dataset), "error")
    assert (found.where, found.what) == (str(dataset.path("labels/c1.nii")), "does not exist.")
    assert "'c1'" in found.cure


def test_more_channels_than_declared_are_an_error(dataset: Dataset) -> None:
    save(dataset.path("images/c1.nii"), np.stack([image(1), image(2)], axis=-1))
    assert "2 channels where the dataset has 1" in only(check.check(dataset), "error").what


@pytest.mark.parametrize(("name", "words"), [("c0", "occurs 2 times"), ("C0", "differ in case only")])
def test_cases_of_one_name_are_an_error(dataset: Dataset, name: str, words: str) -> None:
    assert words in only(check.check(changed(dataset, 1, id=name)), "error").what


def test_a_patient_in_two_official_splits_is_an_error(dataset: Dataset) -> None:
    for split, count in (("test", 1), ("train", 0)):
        one = changed(changed(dataset, 0, split="train"), 1, split=split, patient="p0")
        assert len(errors(check.check(one))) == count
    assert (
        "patient 'p0' is in the official splits test and train"
        in check.check(changed(changed(dataset, 0, split="train"), 1, split="test", patient="p0"))[0].what
    )


def test_a_fold_that_divides_a_patient_is_an_error(dataset: Dataset) -> None:
    folds = (Fold(train=("c0", "c2"), validation=(), test=("c1",)),)
    assert check.check(dataset.changed(folds=folds)) == []
    one = changed(dataset.changed(folds=folds), 1, patient="p0")
    assert "fold 0 learns from and is scored on the same patient: p0" in only(check.check(one), "error").what


def test_the_same_voxels_in_two_patients_are_an_error(dataset: Dataset) -> None:
    save(dataset.path("images/c5.nii"), image(2))
    found = only(check.check(dataset), "error")
    assert "'c2', 'c5' hold the same voxels but are 2 patients" in found.what


def test_the_same_voxels_in_one_patient_are_a_warning(dataset: Dataset) -> None:
    save(dataset.path("images/c5.nii"), image(2))
    assert "same voxels" in only(check.check(changed(dataset, 5, patient="p2")), "warning").what


# ------------------------------------------------------------------------------------------ 28, 29: opening


def test_what_opening_refuses_is_a_finding(tmp_path: Path) -> None:
    (tmp_path / "manifest.csv").write_text("image,label\na.nii,NaN\n")
    dataset, findings = check.inspect(tmp_path)
    assert dataset is None
    assert "'label' is empty in row 2" in only(findings, "error").what


def test_what_opening_warns_of_is_a_finding(dataset: Dataset) -> None:
    save(dataset.path("images/lonely.nii"), image(9))
    opened, findings = check.inspect(dataset.root)
    assert opened is not None
    assert "lonely" in only(findings, "warning").what


def test_names_with_spaces_and_accents_are_sound(dataset: Dataset) -> None:
    for kind in ("images", "labels"):
        dataset.path(f"{kind}/c0.nii").rename(dataset.path(f"{kind}/Frau Müller 1.nii"))
    opened, findings = check.inspect(dataset.root)
    assert opened is not None
    assert opened.cases[0].id == "Frau Müller 1"
    assert findings == []


def test_a_link_in_a_circle_is_an_error(dataset: Dataset) -> None:
    dataset.path("images/c0.nii").unlink()
    dataset.path("images/c0.nii").symlink_to("c0.nii")
    assert "leads in a circle" in only(check.check(dataset), "error").what


def test_a_closed_file_is_an_error(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(dataset: Dataset, case: Case, **how: object) -> object:
        raise PermissionError(13, "Permission denied", str(dataset.path("images/c0.nii")))

    monkeypatch.setattr(survey, "read_image", closed)
    found = check.check(dataset.changed(cases=dataset.cases[:1]))
    assert "no permission" in errors(found)[0].what


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_an_error(dataset: Dataset) -> None:
    dataset.path("images/c0.nii").chmod(0)
    assert "permission" in only(check.check(dataset), "error").what


# ------------------------------------------------------------------------------------------ the findings


def test_errors_come_before_warnings(dataset: Dataset) -> None:
    save(dataset.path("labels/c0.nii"), mask())
    save(dataset.path("labels/c5.nii"), mask(1, 2, 7))
    assert [found.level for found in check.check(dataset)] == ["error", "warning"]


def test_the_number_of_workers_does_not_matter(dataset: Dataset) -> None:
    save(dataset.path("labels/c0.nii"), mask())
    save(dataset.path("labels/c5.nii"), mask(1, 2, 7))
    assert check.check(dataset, workers=1) == check.check(dataset, workers=4)


def test_progress_reaches_the_number_of_cases(dataset: Dataset) -> None:
    seen: list[tuple[int, int]] = []
    check.check(dataset, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(done, 6) for done in range(1, 7)]


def test_refusing_names_the_first_error_and_counts_the_others(dataset: Dataset) -> None:
    for name in ("c0", "c1"):
        save(dataset.path(f"labels/{name}.nii"), mask(1, 2, 7))
    with pytest.raises(BadDataset, match=r"no label declares.*lists 1 more"):
        check.refuse(check.check(dataset), dataset)


def test_warnings_of_one_kind_are_told_once(dataset: Dataset) -> None:
    for name in ("c0", "c1", "c2"):
        save(dataset.path(f"labels/{name}.nii"), mask())
    with pytest.warns(IsocenterWarning, match=r"c0\.nii: the mask is empty\. So it is for 2 more"):
        check.tell(found for found in check.check(dataset) if "empty" in found.what)


def test_other_libraries_warnings_are_passed_on(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    original = survey.read_image

    def noisy(dataset: Dataset, case: Case, **how: Any) -> object:
        warnings.warn("something else", DeprecationWarning, stacklevel=1)
        return original(dataset, case, **how)

    monkeypatch.setattr(survey, "read_image", noisy)
    with pytest.warns(DeprecationWarning, match="something else"):
        check.check(dataset)


@pytest.mark.parametrize("absent", ["moving.nii", "fixed_label.nii", "marks.csv"])
def test_a_file_that_a_pair_of_a_manifest_lacks_is_an_error(absent: str, tmp_path: Path) -> None:
    for place, name in enumerate(("fixed", "moving")):
        save(tmp_path / f"{name}.nii", image(place))
        save(tmp_path / f"{name}_label.nii", mask(1, 2))
    (tmp_path / "marks.csv").write_text("fixed_x,fixed_y,fixed_z,moving_x,moving_y,moving_z\n1,2,3,1,2,3\n")
    (tmp_path / "manifest.csv").write_text(
        "fixed,moving,fixed_label,moving_label,landmarks\n"
        "fixed.nii,moving.nii,fixed_label.nii,moving_label.nii,marks.csv\n"
    )
    assert not [finding for finding in check.inspect(tmp_path)[1] if finding.level == "error"]
    (tmp_path / absent).unlink()
    found = [finding for finding in check.inspect(tmp_path)[1] if finding.level == "error"]
    assert [Path(finding.where).name for finding in found] == [absent]
