"""DICOM Segmentations: laid where they were drawn, whole though frames were left out, or refused."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import UID

from isocenter import images
from isocenter.errors import IsocenterWarning, UnreadableFile
from isocenter.images.geometry import Geometry
from isocenter.images.image import Image
from isocenter.images.lattice import onto, spanning
from isocenter.images.layouts import read_truth
from isocenter.images.layouts.labels import renumbered
from isocenter.records import Case, Channel, Label
from isocenter.records import Dataset as Described

Make = Callable[..., Dataset]
Array = NDArray[Any]
NAMES = ["liver", "spleen"]


def labels() -> Array:
    """Two structures, with empty slices around and between them."""
    array = np.zeros((6, 7, 8), np.uint8)
    array[1, 2:5, 3:6] = 1
    array[4, 1:3, 2:7] = 2
    return array


@pytest.fixture
def scan(slices: list[Dataset], saved: Callable[[Dataset, Path], Path], tmp_path: Path) -> Image:
    """The series that was segmented."""
    for index, content in enumerate(slices):
        saved(content, tmp_path / "scan" / f"{index}.dcm")
    return images.read(tmp_path / "scan")


def refused(path: Path, match: str) -> None:
    with pytest.raises(UnreadableFile, match=match) as caught:
        images.read_labels(path)
    assert caught.value.cure
    assert "Doe" not in str(caught.value)
    assert "secret" not in str(caught.value)


# ---------------------------------------------------------------------------------------------- reading


@pytest.mark.parametrize("kind", ["BINARY", "LABELMAP"])
def test_frames_that_were_left_out_are_filled_and_lie_on_the_grid_of_the_series(
    segmented: Make, saved: Any, scan: Image, tmp_path: Path, kind: str
) -> None:
    path = saved(segmented(labels(), NAMES, kind), tmp_path / "a.dcm")
    found = images.read_labels(path)
    np.testing.assert_array_equal(found.array[0], labels()[1:5])
    assert found.geometry.difference(scan.geometry.cropped((slice(1, 5), slice(None), slice(None)))) is None
    assert images.read_geometry(path).displacement(found.geometry) == 0
    assert images.segments(path) == {1: "liver", 2: "spleen"}


def test_a_voxel_belongs_to_a_fractional_segment_from_one_half(
    segmented: Make, saved: Any, tmp_path: Path
) -> None:
    shares = np.stack([0.9 * (labels() == 1) + 0.4 * (labels() == 2), 0.6 * (labels() == 2)], axis=-1)
    made = segmented(shares.astype(np.float32), NAMES, "FRACTIONAL")
    found = images.read_labels(saved(made, tmp_path / "a.dcm"))
    np.testing.assert_array_equal(found.array[0], labels()[1:5])


def test_segments_that_overlap_are_named_or_painted_in_their_order(
    segmented: Make, saved: Any, tmp_path: Path
) -> None:
    whole, part = labels() > 0, np.zeros((6, 7, 8), bool)
    part[1, 2:4, 3:5] = True
    path = saved(segmented(np.stack([whole, part], -1).astype(np.uint8), NAMES), tmp_path / "a.dcm")
    refused(path, "segments 1 and 2 overlap in 4 voxels")
    found = images.read_labels(path, paint=True)
    np.testing.assert_array_equal(found.array[0], (whole + part.astype(np.uint8))[1:5])


@pytest.mark.parametrize("declared", [None, 0, -2.5, 7])
def test_the_distance_of_slices_is_that_of_the_frames_whatever_is_declared(
    segmented: Make, saved: Any, tmp_path: Path, declared: float | None
) -> None:
    whole = labels()
    whole[2, 3, 3] = 1
    made = segmented(whole, NAMES)
    measures = made.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    del measures.SpacingBetweenSlices
    if declared is not None:
        measures.SpacingBetweenSlices = declared
    found = images.read_labels(saved(made, tmp_path / "a.dcm"))
    assert found.spacing_mm == pytest.approx((2.5, 0.75, 0.5))
    np.testing.assert_array_equal(found.array[0], whole[1:5])


def test_frames_of_one_slice_may_differ_in_the_last_digits_of_their_places(
    segmented: Make, saved: Any, tmp_path: Path
) -> None:
    whole = labels()
    whole[1:5, 6, 6] = 2
    made = segmented(whole, NAMES)
    for index, frame in enumerate(made.PerFrameFunctionalGroupsSequence):
        place = frame.PlanePositionSequence[0]
        place.ImagePositionPatient = [float(v) + 1e-5 * (index % 3) for v in place.ImagePositionPatient]
    found = images.read_labels(saved(made, tmp_path / "a.dcm"))
    np.testing.assert_array_equal(found.array[0], whole[1:5])


def test_one_slice_is_enough(segmented: Make, saved: Any, scan: Image, tmp_path: Path) -> None:
    whole = np.where(labels() == 1, 1, 0).astype(np.uint8)
    made = segmented(whole, NAMES[:1])
    del made.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].SpacingBetweenSlices
    found = onto(images.read_labels(saved(made, tmp_path / "a.dcm")), scan.geometry)
    np.testing.assert_array_equal(found.array[0], whole)


def test_run_length_encoded_label_maps_are_read(segmented: Make, saved: Any, tmp_path: Path) -> None:
    made = segmented(labels(), NAMES, "LABELMAP", transfer_syntax_uid="1.2.840.10008.1.2.5")
    found = images.read_labels(saved(made, tmp_path / "a.dcm"))
    np.testing.assert_array_equal(found.array[0], labels()[1:5])


# ---------------------------------------------------------------------------------------------- sources


def test_each_file_is_a_source_of_its_own(segmented: Make, saved: Any, tmp_path: Path) -> None:
    first = saved(segmented(labels(), NAMES), tmp_path / "one" / "p1.dcm")
    assert images.find(tmp_path / "one") == [str(first)]
    second = saved(segmented(labels(), NAMES), tmp_path / "one" / "p2.dcm")
    assert images.find(tmp_path / "one") == [str(first), str(second)]
    assert [images.stem(path) for path in images.find(tmp_path / "one")] == ["p1", "p2"]
    assert images.is_source(first)
    assert images.is_segmentation(first)
    (tmp_path / "one" / "p3.dcm").write_bytes(first.read_bytes()[:1500])
    assert images.stem(images.find(tmp_path / "one")[2]) == "p3"


def test_among_the_images_of_a_series_it_is_passed_over(
    segmented: Make, saved: Any, scan: Image, tmp_path: Path
) -> None:
    saved(segmented(labels(), NAMES), tmp_path / "scan" / "seg.dcm")
    np.testing.assert_array_equal(images.read(tmp_path / "scan").array, scan.array)
    assert images.read_geometry(tmp_path / "scan").displacement(scan.geometry) == 0
    assert images.find(tmp_path) == [str(tmp_path / "scan")]


# ---------------------------------------------------------------------------------------------- lattices


def test_labels_are_laid_onto_turned_and_mirrored_grids_of_the_same_voxels() -> None:
    rng = np.random.default_rng(0)
    whole = Geometry((6, 7, 8), Geometry.plain((6, 7, 8), (3, 2, 1)).affine)
    part = whole.cropped((slice(1, 4), slice(2, 7), slice(3, 5)))
    image = Image(rng.integers(1, 9, (1, *part.shape)), part)
    expected = np.zeros(whole.shape, int)
    expected[1:4, 2:7, 3:5] = image.array[0]
    np.testing.assert_array_equal(onto(image, whole).array[0], expected)
    # Array order (x, z mirrored, y mirrored) of the same voxels.
    affine = np.eye(4)
    affine[:3, :3] = np.array([[0, 0, 1], [-2, 0, 0], [0, -3, 0]])
    affine[:3, 3] = whole.world((5, 6, 0))
    turned = Geometry((8, 6, 7), affine)
    np.testing.assert_array_equal(onto(image, turned).array[0], expected.transpose(2, 0, 1)[:, ::-1, ::-1])


@pytest.mark.parametrize("moved", [(0.5, 0, 0), (0, 0.2, 0), (0, 0, 4)])
def test_labels_off_the_lattice_or_beyond_the_grid_stay_as_they_are(moved: tuple[float, ...]) -> None:
    whole = Geometry.plain((4, 4, 4))
    affine = np.eye(4)
    affine[:3, 3] = moved
    image = Image(np.ones((1, 2, 2, 2), np.uint8), Geometry((2, 2, 2), affine))
    assert onto(image, whole) is image


def test_a_grid_that_spans_two_holds_all_voxels_of_both() -> None:
    whole = Geometry.plain((9, 5, 5), (3, 2, 1))
    low, high = (whole.cropped((part, slice(None), slice(None))) for part in (slice(1, 3), slice(5, 8)))
    both = spanning(high, low)
    assert both is not None
    assert both.difference(whole.cropped((slice(1, 8), slice(None), slice(None)))) is None
    assert spanning(low, Geometry.plain((9, 5, 5), (3, 2, 1.5))) is None


# ---------------------------------------------------------------------------------------------- names


def described(*pairs: tuple[str, int]) -> tuple[Label, ...]:
    return tuple(Label(name=name, values=(value,)) for name, value in pairs)


def test_segments_are_taken_by_name_when_all_names_are_known(
    segmented: Make, saved: Any, tmp_path: Path
) -> None:
    image = images.read_labels(saved(segmented(labels(), NAMES), tmp_path / "a.dcm"))
    with pytest.warns(IsocenterWarning, match="by name, not by number: 1 'liver' as 2, 2 'spleen' as 7"):
        named = renumbered(image, described(("Liver", 2), ("SPLEEN", 7), ("kidney", 1)))
    expected = np.select([labels() == 1, labels() == 2], [2, 7])[1:5]
    np.testing.assert_array_equal(named.array[0], expected)


def test_segments_are_taken_by_number_when_a_name_is_not_known(
    segmented: Make, saved: Any, tmp_path: Path
) -> None:
    image = images.read_labels(saved(segmented(labels(), NAMES), tmp_path / "a.dcm"))
    with pytest.warns(IsocenterWarning, match=r"by number, though names would differ \(1 'liver' as 2\)"):
        assert renumbered(image, described(("liver", 2), ("lung", 1))) is image
    assert renumbered(image, described(("liver", 1), ("lung", 2))) is image
    assert renumbered(image, ()) is image


def test_a_truth_is_laid_onto_the_image_of_its_case(
    segmented: Make, saved: Any, scan: Image, tmp_path: Path
) -> None:
    saved(segmented(labels(), NAMES), tmp_path / "truth.dcm")
    case = Case(id="a", patient="a", inputs={"image": ("scan",)}, truth={"label": "truth.dcm"})
    dataset = Described(
        name="x",
        root=str(tmp_path),
        layout="files",
        task="segmentation",
        channels=(Channel(name="image"),),
        labels=described(("liver", 1), ("spleen", 2)),
        cases=(case,),
    )
    truth = read_truth(dataset, case)
    np.testing.assert_array_equal(truth.array[0], labels())
    assert truth.geometry.difference(scan.geometry) is None


# ---------------------------------------------------------------------------------------------- faults


def test_it_is_refused_as_an_image(segmented: Make, saved: Any, tmp_path: Path) -> None:
    path = saved(segmented(labels(), NAMES), tmp_path / "a.dcm")
    with pytest.raises(UnreadableFile, match="a DICOM Segmentation, which holds labels and no image"):
        images.read(path)


def test_an_image_is_no_segmentation(scan: Image, tmp_path: Path) -> None:
    with pytest.raises(UnreadableFile, match="not a DICOM Segmentation"):
        images.segments(tmp_path / "scan" / "0.dcm")


def test_a_file_cut_anywhere_is_refused(segmented: Make, saved: Any, tmp_path: Path) -> None:
    path = saved(segmented(labels(), NAMES), tmp_path / "a.dcm")
    content = path.read_bytes()
    for share in (0.05, 0.3, 0.5, 0.7, 0.9, 0.99):
        path.write_bytes(content[: int(len(content) * share)])
        with pytest.raises(UnreadableFile):
            images.read_labels(path)


def without_places(made: Dataset) -> None:
    for frame in made.PerFrameFunctionalGroupsSequence:
        del frame.PlanePositionSequence


def aside(made: Dataset) -> None:
    place = made.PerFrameFunctionalGroupsSequence[-1].PlanePositionSequence[0]
    place.ImagePositionPatient = [float(v) + 3 for v in place.ImagePositionPatient]


def uneven(made: Dataset) -> None:
    normal = np.cross(*np.reshape(orientation(made), (2, 3)))
    for index, frame in enumerate(made.PerFrameFunctionalGroupsSequence):
        frame.PlanePositionSequence[0].ImagePositionPatient = (
            ((0, 2.5, 6.3)[index] * normal).round(9).tolist()
        )


def orientation(made: Dataset) -> list[float]:
    shared = made.SharedFunctionalGroupsSequence[0]
    return [float(v) for v in shared.PlaneOrientationSequence[0].ImageOrientationPatient]


@pytest.mark.parametrize(
    ("spoil", "match"),
    [
        (lambda made: setattr(made, "SegmentSequence", []), "declares no segments"),
        (lambda made: delattr(made, "SegmentSequence"), "declares no segments"),
        (lambda made: setattr(made.SegmentSequence[1], "SegmentNumber", 1), "the same number"),
        (lambda made: delattr(made.SegmentSequence[1], "SegmentNumber"), "malformed"),
        (without_places, "no place in space"),
        (aside, "do not lie straight above each other"),
        (uneven, "unevenly spaced"),
        (lambda made: delattr(made, "SegmentationType"), "malformed"),
        (lambda made: delattr(made, "PixelData"), "no pixel data"),
        (lambda made: setattr(made, "PixelData", made.PixelData[:-4]), "cut short"),
        (lambda made: setattr(made, "Rows", 60000), "cut short"),
        (lambda made: delattr(made, "Rows"), "Rows is missing"),
    ],
)
def test_segmentations_that_make_no_sense_are_refused(
    segmented: Make, saved: Any, tmp_path: Path, spoil: Callable[[Dataset], None], match: str
) -> None:
    whole = labels()
    whole[2, 3, 3] = 1
    made = segmented(whole, NAMES)
    spoil(made)
    refused(saved(made, tmp_path / "a.dcm"), match)


def test_a_codec_that_is_not_there_is_named(segmented: Make, saved: Any, tmp_path: Path) -> None:
    made = segmented(labels(), NAMES, "LABELMAP")
    made.PixelData = encapsulate([b"\xff\xd8\xff\xd9"] * 2)
    made["PixelData"].is_undefined_length = True
    made.file_meta.TransferSyntaxUID = UID("1.2.840.10008.1.2.4.100")  # MPEG-2
    refused(saved(made, tmp_path / "a.dcm"), r"no decoder.*isocenter\[dicom\]")


def test_without_highdicom_the_cure_is_named(
    segmented: Make, saved: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = saved(segmented(labels(), NAMES), tmp_path / "a.dcm")
    monkeypatch.setitem(sys.modules, "highdicom", None)
    refused(path, r"pip install 'isocenter\[dicom\]'")
