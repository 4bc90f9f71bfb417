"""Registration as a question: pairs, fields in files, and how they are judged."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - as everybody calls it

from isocenter import images, tasks
from isocenter.errors import BadDataset, IsocenterError, IsocenterWarning
from isocenter.images.formats import transforms
from isocenter.images.geometry import Geometry
from isocenter.images.image import Image
from isocenter.parts.fields import pull
from isocenter.records import Case, Channel, Dataset, Label
from isocenter.tasks.affine_files import AffineMap, Likeness
from isocenter.tasks.registration import DEFORMATION, Field, Pair, read_landmarks, with_warped

TASK = tasks.load("registration")
SHAPE = (12, 14, 16)
# Oblique, with three spacings, and axes that run to the left and to the back.
AFFINE = np.array([[-0.8, -0.72, 0, 30], [0.6, -0.96, 0, 20], [0, 0, 1.5, -40], [0, 0, 0, 1]])


def _box(low: int, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    labels = np.zeros(shape, dtype=np.uint8)
    labels[4:8, 4:9, low : low + 6] = 1
    return labels


def _saved(folder: Path, name: str, array: np.ndarray, affine: np.ndarray = AFFINE) -> str:
    nib.save(nib.Nifti1Image(array.T, affine), folder / f"{name}.nii.gz")
    return f"{name}.nii.gz"


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    """Four single images, each with a box that lies elsewhere."""
    cases = []
    for number in range(4):
        labels = _box(3 + number)
        image = _saved(tmp_path, f"image_{number}", 10 + 50 * labels.astype(np.float32))
        label = _saved(tmp_path, f"label_{number}", labels)
        case = Case(id=f"c{number}", patient=f"p{number}", inputs={"image": (image,)}, truth={"label": label})
        cases.append(case)
    return Dataset(
        name="boxes",
        root=str(tmp_path),
        layout="files",
        task="registration",
        channels=(Channel(name="image"),),
        labels=(Label(name="box", values=(1,)),),
        cases=tuple(cases),
    )


def _pair(dataset: Dataset, name: str = "c1__to__c0") -> Pair:
    truth = TASK.read_truth(dataset, TASK.question(dataset, name))
    assert isinstance(truth, Pair)
    return truth


def _shift_to_c1() -> np.ndarray:
    """The displacement in mm by which c0's box is found in c1: one voxel along x."""
    return AFFINE[:3, 0]


def _constant(vector: np.ndarray) -> np.ndarray:
    return np.broadcast_to(vector.reshape(3, 1, 1, 1), (3, *SHAPE)).astype(np.float32)


def test_single_images_are_asked_about_in_pairs_of_the_same_set(dataset: Dataset) -> None:
    asked = TASK.questions(dataset, ["c0", "c2", "c3"])
    assert [question.id for question in asked] == ["c2__to__c0", "c3__to__c2", "c0__to__c3"]
    assert [question.patient for question in asked] == ["p0", "p2", "p3"]
    assert {file for question in asked for files in question.inputs.values() for file in files} == {
        "image_0.nii.gz",
        "image_2.nii.gz",
        "image_3.nii.gz",
    }
    assert asked[0].inputs == {"fixed": ("image_0.nii.gz",), "moving": ("image_2.nii.gz",)}
    assert asked[0].truth == {"fixed_label": "label_0.nii.gz", "moving_label": "label_2.nii.gz"}


def test_a_question_is_found_again_by_its_name(dataset: Dataset) -> None:
    (first, *_) = TASK.questions(dataset, ["c0", "c2"])
    assert TASK.question(dataset, first.id) == first
    assert TASK.question(dataset, "c1") == dataset.case("c1")
    with pytest.raises(IsocenterError, match="no case 'c1__to__nobody'"):
        TASK.question(dataset, "c1__to__nobody")


def test_ids_may_hold_the_word_between_them(dataset: Dataset) -> None:
    odd = dataset.cases[0].changed(id="a__to__b")
    there = dataset.changed(cases=(odd, dataset.cases[1]))
    question = TASK.question(there, "a__to__b__to__c1")
    assert question.inputs["moving"] == odd.inputs["image"]


def test_cases_that_are_pairs_are_asked_as_they_are(dataset: Dataset) -> None:
    pair = TASK.question(dataset, "c1__to__c0").changed(id="visit")
    whole = dataset.changed(cases=(pair,))
    assert TASK.questions(whole, ["visit"]) == (pair,)


def test_an_image_that_is_alone_is_paired_with_a_stranger_and_that_is_said(dataset: Dataset) -> None:
    with pytest.warns(IsocenterWarning, match="from outside the set"):
        (question,) = TASK.questions(dataset, ["c3"])
    assert question.id == "c0__to__c3"
    with pytest.raises(BadDataset, match="one image is no pair"):
        TASK.questions(dataset.changed(cases=dataset.cases[:1]), ["c0"])


def test_staying_where_it_is_scores_as_before(dataset: Dataset) -> None:
    truth = _pair(dataset)
    values = TASK.score(TASK.no_answer(truth), truth, dataset)
    # Boxes of six voxels along x that overlap in five: 2 · 5 / (6 + 6).
    assert values["box"]["dice"] == values["box"]["dice_before"] == pytest.approx(10 / 12)
    assert values[DEFORMATION] == {"folding": 0.0, "sd_log_jacobian": pytest.approx(0.0, abs=1e-9)}


def test_the_known_shift_brings_the_labels_together(dataset: Dataset) -> None:
    truth = _pair(dataset)
    values = TASK.score(Field(_constant(_shift_to_c1())), truth, dataset)
    assert values["box"]["dice"] == 1.0
    assert values["box"]["dice_before"] == pytest.approx(10 / 12)
    assert values["box"]["hd95"] == 0.0


def test_a_field_that_turns_back_on_itself_folds(dataset: Dataset) -> None:
    truth = _pair(dataset)
    along = np.zeros((3, *SHAPE), dtype=np.float32)
    # u = −3 x along x over four voxels: det = 1 − 3 within.
    ramp = -3.0 * np.clip(np.arange(SHAPE[2]) - 5, 0, 4)
    along[:] = ramp[None, None, None, :] * AFFINE[:3, 0].reshape(3, 1, 1, 1)
    values = TASK.score(Field(along), truth, dataset)
    # Central differences: slope −3 at three voxels, −1.5 at the two where the ramp begins and ends.
    assert values[DEFORMATION]["folding"] == pytest.approx(100 * 5 / SHAPE[2])


def test_zooming_has_one_jacobian_everywhere(dataset: Dataset) -> None:
    truth = _pair(dataset)
    field = pull.affine_field(np.diag([1.1, 1.1, 1.1, 1.0]), truth.fixed)
    found = TASK.score(Field(field), truth, dataset)[DEFORMATION]
    assert found["folding"] == 0
    assert found["sd_log_jacobian"] == pytest.approx(0, abs=1e-5)
    moved = pull.along_axes(field, truth.fixed)
    start = truth.fixed.world(np.array([[0, 0, 0], [0, 0, 1]]))
    step = np.linalg.inv(AFFINE)[:3, :3] @ (0.1 * (start[1] - start[0]))
    assert moved[2, 0, 0, 1] - moved[2, 0, 0, 0] == pytest.approx(
        step[0] * truth.fixed.spacing_mm[2], rel=1e-4
    )


def test_labels_are_pulled_as_simpleitk_pulls_them(dataset: Dataset, tmp_path: Path) -> None:
    truth = _pair(dataset, "c2__to__c0")
    rng = np.random.default_rng(3)
    field = (2.5 * rng.standard_normal((3, *SHAPE))).astype(np.float32)
    transforms.write_field(tmp_path / "u.nii.gz", field, truth.fixed)
    vectors = sitk.ReadImage(str(tmp_path / "u.nii.gz"), sitk.sitkVectorFloat64)
    moving = sitk.ReadImage(str(tmp_path / "label_2.nii.gz"))
    fixed = sitk.ReadImage(str(tmp_path / "label_0.nii.gz"))
    theirs = sitk.Resample(
        moving, fixed, sitk.DisplacementFieldTransform(vectors), sitk.sitkNearestNeighbor, 0
    )
    ours = pull.pull_labels(_box(5), truth.moving, field, truth.fixed)
    assert np.mean(ours != sitk.GetArrayFromImage(theirs)) < 1e-3  # of ties that rounding decides


def test_images_are_pulled_as_simpleitk_pulls_them_and_points_move_alike(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    grid = Geometry(SHAPE, AFFINE)
    image = rng.standard_normal((1, *SHAPE)).astype(np.float32)
    field = rng.standard_normal((3, *SHAPE)).astype(np.float32)
    _saved(tmp_path, "image", image[0])
    transforms.write_field(tmp_path / "u.nii.gz", field, grid)
    vectors = sitk.ReadImage(str(tmp_path / "u.nii.gz"), sitk.sitkVectorFloat64)
    transform = sitk.DisplacementFieldTransform(vectors)
    moving = sitk.ReadImage(str(tmp_path / "image.nii.gz"), sitk.sitkFloat32)
    theirs = sitk.GetArrayFromImage(
        sitk.Resample(moving, moving, transform, sitk.sitkLinear, float(image.min()))
    )
    ours = pull.pull_image(image, grid, field, grid)[0]
    inner = (slice(3, -3),) * 3
    np.testing.assert_allclose(ours[inner], theirs[inner], atol=1e-4)
    points = grid.world(rng.uniform(3, 8, (20, 3)))
    flip = np.array([-1, -1, 1])
    moved = [np.array(transform.TransformPoint(tuple(point * flip))) * flip for point in points]
    np.testing.assert_allclose(pull.moved_points(points, field, grid), moved, atol=1e-4)


def test_an_answer_is_read_back_from_its_files(dataset: Dataset, tmp_path: Path) -> None:
    truth = _pair(dataset)
    fixed, moving = (images.read(tmp_path / f"image_{number}.nii.gz") for number in (0, 1))
    matrix = np.eye(4)
    matrix[:3, 3] = _shift_to_c1()
    whole = Field(
        _constant(_shift_to_c1()), matrix=matrix, inverse=Image(_constant(-_shift_to_c1()), fixed.geometry)
    )
    out = tmp_path / "answers"
    TASK.save(with_warped(whole, fixed, moving), out / "c1__to__c0.nii.gz", fixed)
    assert sorted(path.name for path in out.iterdir()) == [
        "c1__to__c0.nii.gz",
        "c1__to__c0_affine.json",
        "c1__to__c0_affine.tfm",
        "c1__to__c0_inverse.nii.gz",
        "c1__to__c0_warped.nii.gz",
    ]
    assert [path.name for path in TASK.find(out)] == ["c1__to__c0.nii.gz"]
    warped = images.read(out / "c1__to__c0_warped.nii.gz")
    np.testing.assert_allclose(warped.array[0][:, :, 1:-1], fixed.array[0][:, :, 1:-1], atol=1e-4)
    for name in ("c1__to__c0.nii.gz", "c1__to__c0_affine.tfm"):
        answer = TASK.read_answer(out / name, truth, dataset)
        assert TASK.score(answer, truth, dataset)["box"]["dice"] == 1.0


def _affine_answer(dataset: Dataset, folder: Path) -> tuple[Field, Path]:
    """A map of known parameters about the middle of c0, in its files."""
    fixed = images.read(folder / "image_0.nii.gz")
    angle, shear = np.radians(10), 0.1
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    matrix = np.eye(4)
    matrix[:3, :3] = turn @ np.diag([1.2, 0.9, 1.0]) @ np.array([[1, shear, 0], [0, 1, 0], [0, 0, 1]])
    middle = fixed.geometry.world([(size - 1) / 2 for size in SHAPE])
    matrix[:3, 3] = np.array([1.0, -2, 3]) + middle - matrix[:3, :3] @ middle
    likeness = Likeness("correlation", 0.25, 0.875)
    answer = Field(pull.affine_field(matrix, fixed.geometry), matrix=matrix, likeness=likeness)
    path = folder / "answers" / "c1__to__c0.nii.gz"
    TASK.save(answer, path, fixed)
    return answer, path


def test_the_parameters_of_an_affine_map_are_saved_with_it(dataset: Dataset, tmp_path: Path) -> None:
    answer, path = _affine_answer(dataset, tmp_path)
    told = json.loads(path.with_name("c1__to__c0_affine.json").read_text())
    np.testing.assert_allclose(told["matrix"], answer.matrix)
    middle = Geometry(SHAPE, AFFINE).world([5.5, 6.5, 7.5])
    expected = {
        "centre_mm": middle,
        "translation_mm": (1, -2, 3),
        "rotation_degrees": (0, 0, 10),
        "zoom": (1.2, 0.9, 1),
        "shear": (0.1, 0, 0),
    }
    for name, values in expected.items():
        np.testing.assert_allclose(told[name], values, atol=1e-9)
    assert (told["criterion"], told["before"], told["after"]) == ("correlation", 0.25, 0.875)


def test_the_parameters_are_read_back_and_stand_below_the_picture(dataset: Dataset, tmp_path: Path) -> None:
    answer, path = _affine_answer(dataset, tmp_path)
    truth = _pair(dataset)
    found = TASK.read_answer(path, truth, dataset)
    np.testing.assert_allclose(found.matrix, answer.matrix)
    assert found.likeness == answer.likeness
    caption = TASK.draw(images.read(tmp_path / "image_0.nii.gz"), found, truth, dataset).caption
    assert caption.endswith(
        "Affine map: translation 1.0, -2.0, 3.0 mm; rotation 0.0, 0.0, 10.0 degrees; "
        "zoom 1.200, 0.900, 1.000; shear 0.100, 0.000, 0.000; correlation 0.250 before and 0.875 after."
    )
    path.with_name("c1__to__c0_affine.json").write_text("{}")
    with pytest.raises(IsocenterError, match="matrix"):
        TASK.read_answer(path, truth, dataset)


def test_the_affine_map_of_a_plane_has_six_parameters() -> None:
    matrix = np.eye(4)
    matrix[:2, :2] = [[0, -2], [2, 0]]
    told = AffineMap.of(matrix, Geometry.plain((5, 7)), Likeness("mutual_information", None, 0.5))
    assert told.centre_mm == (3, 2)
    np.testing.assert_allclose(told.rotation_degrees, (90,))
    np.testing.assert_allclose(told.zoom, (2, 2))
    assert told.said().endswith("shear 0.000; mutual information no overlap before and 0.500 nats after.")


def test_a_field_on_another_grid_is_refused(dataset: Dataset, tmp_path: Path) -> None:
    truth = _pair(dataset)
    other = Geometry.plain((4, 4, 4))
    transforms.write_field(tmp_path / "u.nii.gz", np.zeros((3, 4, 4, 4)), other)
    with pytest.raises(BadDataset, match="fixed image's grid"):
        TASK.read_answer(tmp_path / "u.nii.gz", truth, dataset)


def test_a_plane_is_saved_as_a_field_of_one_slice(tmp_path: Path) -> None:
    grid = Geometry.plain((8, 9), (0.5, 0.5))
    picture = Image(np.zeros((1, 8, 9), np.float32), grid)
    field = np.zeros((3, 8, 9), np.float32)
    field[0] = 1.5
    path = tmp_path / f"plane{TASK.suffix(2, 'plane.png')}"
    TASK.save(Field(field), path, picture)
    assert nib.load(path).shape == (9, 8, 1, 1, 3)
    answer = TASK.read_answer(path, Pair(grid, grid), None)
    np.testing.assert_array_equal(answer.displacement_mm, field)


def test_landmarks_are_judged_before_and_after(dataset: Dataset, tmp_path: Path) -> None:
    table = tmp_path / "marks.csv"
    table.write_text(
        "fixed_x,fixed_y,fixed_z,moving_x,moving_y,moving_z\n20,10,-30,23,10,-26\n"
        "20,12,-30,23,12,-26\n20,10,-28,20,10,-28\n"
    )
    question = TASK.question(dataset, "c1__to__c0")
    question = question.changed(truth={**question.truth, "landmarks": "marks.csv"})
    truth = TASK.read_truth(dataset, question)
    still = TASK.score(TASK.no_answer(truth), truth, dataset)[DEFORMATION]
    assert still["landmark_error"] == still["landmark_error_before"] == pytest.approx(10 / 3)
    assert still["landmark_error_median"] == still["landmark_error_largest"] == 5.0
    right = TASK.score(Field(_constant(np.array([3.0, 0, 4]))), truth, dataset)[DEFORMATION]
    assert right["landmark_error_median"] == pytest.approx(0, abs=1e-5)
    assert right["landmark_error_largest"] == pytest.approx(5.0)
    table.write_text("fixed_x,fixed_y\n1,2\n")
    with pytest.raises(BadDataset, match="no column fixed_z"):
        read_landmarks(table)


def test_the_picture_shows_all_four(dataset: Dataset, tmp_path: Path) -> None:
    truth = _pair(dataset)
    fixed = images.read(tmp_path / "image_0.nii.gz")
    picture = TASK.draw(fixed, Field(_constant(_shift_to_c1())), truth, dataset)
    for title in ("fixed", "moving", "moving, warped", "deformed grid"):
        assert f">{title}</text>" in picture.svg
    assert picture.svg.count("<image") == 4
    assert "of the fixed image" in picture.caption


def test_contestants_are_shown_in_the_same_slice(dataset: Dataset, tmp_path: Path) -> None:
    truth = _pair(dataset)
    fixed = images.read(tmp_path / "image_0.nii.gz")
    one, other = Field(_constant(_shift_to_c1())), TASK.no_answer(truth)
    seen = [
        TASK.draw(fixed, mine, truth, dataset, among=[theirs]).caption
        for mine, theirs in ((one, other), (other, one))
    ]
    assert seen[0] == seen[1]


def test_images_without_labels_are_judged_by_their_fields_alone(dataset: Dataset) -> None:
    bare = dataset.changed(cases=tuple(case.changed(truth={}) for case in dataset.cases))
    assert TASK.read_truth(bare, bare.cases[0]) is None
    truth = _pair(bare)
    assert list(TASK.score(TASK.no_answer(truth), truth, bare)) == [DEFORMATION]
