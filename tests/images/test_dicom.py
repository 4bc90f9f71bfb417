"""DICOM: the same voxels and places as SimpleITK; what is missing, twice there or hostile is named."""

from __future__ import annotations

import shutil
import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import pytest
import SimpleITK
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, generate_uid

from isocenter import images
from isocenter.errors import IsocenterWarning, UnreadableFile
from isocenter.images.layouts import open_dataset

Array = NDArray[Any]
CT = "1.2.840.10008.5.1.4.1.1.2"
ENHANCED_MR = "1.2.840.10008.5.1.4.1.1.4.1"
EXPLICIT, DEFLATED = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.1.99"
SERIES = "1.2.826.0.1.3680043.8.498.1"
AXIAL = [1, 0, 0, 0, 1, 0]
PIXELS = np.random.default_rng(0).integers(0, 2000, (4, 6, 5)).astype(np.uint16)


def picture(index: int = 0, **values: Any) -> Dataset:
    """One axial slice of 6 × 5 pixels, 2.5 mm above the last; values given replace its own, None removes."""
    content = Dataset()
    content.file_meta = FileMetaDataset()
    content.file_meta.TransferSyntaxUID = UID(EXPLICIT)
    content.file_meta.MediaStorageSOPClassUID = UID(CT)
    content.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    content.PatientName, content.PatientID = "Doe^Jane", "secret-4711"
    fields = {
        "SOPClassUID": CT,
        "SOPInstanceUID": content.file_meta.MediaStorageSOPInstanceUID,
        "SeriesInstanceUID": SERIES,
        "Modality": "CT",
        "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
        "Rows": 6,
        "Columns": 5,
        "BitsAllocated": 16,
        "BitsStored": 16,
        "HighBit": 15,
        "PixelRepresentation": 0,
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "PixelSpacing": [0.75, 0.5],
        "SliceThickness": 2,
        "ImageOrientationPatient": AXIAL,
        "ImagePositionPatient": [-10, 20, 30 + 2.5 * index],
        "PixelData": PIXELS[index].tobytes(),
        **values,
    }
    for name, value in fields.items():
        if value is not None:
            setattr(content, name, value)
    return content


def save(content: Dataset, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # faults are made on purpose here
        content.save_as(path, enforce_file_format=True)
    return path


def series(folder: Path, count: int = 4, **values: Any) -> Path:
    """A folder of slices whose names run against their places."""
    for index in range(count):
        save(picture(index, **values), folder / f"{9 - index}.dcm")
    return folder


def refused(path: Path | str, match: str, where: Path | None = None) -> None:
    """Reading ends in a fault that says what and how to mend it, and not who the patient is."""
    with pytest.raises(UnreadableFile, match=match) as caught:
        images.read(path)
    assert caught.value.where == str(where or path)
    assert caught.value.cure
    assert "Doe" not in str(caught.value)
    assert "secret" not in str(caught.value)


def itk_affine(image: SimpleITK.Image) -> Array:
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return np.asarray(np.diag([-1.0, -1, 1, 1]) @ affine)


# ---------------------------------------------------------------------------------------------- series


@pytest.mark.parametrize(("told", "modality"), [("CT", "ct"), ("MR", "mri"), ("PT", "pet"), ("OT", "other")])
def test_a_channel_that_nothing_names_is_what_its_files_say(tmp_path: Path, told: str, modality: str) -> None:
    series(tmp_path / "scan", Modality=told)
    mask = np.zeros((5, 6, 4), np.uint8)
    mask[1:3, 1:3, 1:3] = 1
    nibabel.save(nibabel.Nifti1Image(mask, np.eye(4)), tmp_path / "mask.nii")
    (tmp_path / "cases.csv").write_text("id,image,label\na,scan,mask.nii\n")
    assert images.modality(tmp_path / "scan") == told
    (channel,) = open_dataset(tmp_path).channels
    assert (channel.name, channel.modality) == ("image", modality)


def test_a_file_that_is_no_dicom_does_not_say_how_it_was_made(tmp_path: Path) -> None:
    nibabel.save(nibabel.Nifti1Image(np.zeros((5, 6, 4), np.uint8), np.eye(4)), tmp_path / "scan.nii")
    assert images.modality(tmp_path / "scan.nii") == ""


def test_slices_are_sorted_by_place_and_not_by_name(tmp_path: Path) -> None:
    image = images.read(series(tmp_path))
    np.testing.assert_array_equal(image.array[0], PIXELS)
    assert image.array.dtype == np.uint16
    assert image.spacing_mm == pytest.approx((2.5, 0.75, 0.5))
    # LPS (-10, 20, 30) is RAS (10, -20, 30).
    assert image.affine[:3, 3].tolist() == [10, -20, 30]
    assert images.read_geometry(tmp_path).difference(image.geometry) is None


def test_places_and_voxels_of_an_oblique_series_are_those_of_simpleitk(tmp_path: Path) -> None:
    turn, _ = np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))
    normal = np.cross(turn[0], turn[1])
    for index in range(4):
        place = (np.array([5.0, -60, 7]) + 3.5 * index * normal).round(9).tolist()
        cosines = [*turn[0].round(12), *turn[1].round(12)]
        save(
            picture(index, ImageOrientationPatient=cosines, ImagePositionPatient=place),
            tmp_path / f"{(index * 7) % 4}.dcm",
        )
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(tmp_path)))
    theirs, image = reader.Execute(), images.read(tmp_path)
    np.testing.assert_array_equal(image.array[0], SimpleITK.GetArrayFromImage(theirs))
    np.testing.assert_allclose(image.affine, itk_affine(theirs), atol=1e-6)


def test_hounsfield_units_stay_whole_numbers(tmp_path: Path) -> None:
    image = images.read(series(tmp_path, RescaleSlope=1, RescaleIntercept=-1024))
    assert image.array.dtype == np.int16
    np.testing.assert_array_equal(image.array[0], PIXELS.astype(int) - 1024)


def test_each_slice_is_scaled_by_its_own_slope(tmp_path: Path) -> None:
    for index in range(4):
        save(picture(index, RescaleSlope=0.5 + index, RescaleIntercept=3), tmp_path / f"{index}.dcm")
    image = images.read(tmp_path)
    np.testing.assert_allclose(image.array[0, 2], PIXELS[2] * 2.5 + 3)


def test_one_slice_is_a_volume_of_one_slice(tmp_path: Path) -> None:
    path = save(picture(0), tmp_path / "a.dcm")
    assert images.read(path).array.shape == (1, 1, 6, 5)
    assert images.read(path).spacing_mm == (2, 0.75, 0.5)
    assert images.is_source(path)


def test_files_without_suffix_are_known_by_their_content(tmp_path: Path) -> None:
    save(picture(0), tmp_path / "IM0001")
    assert images.is_source(tmp_path / "IM0001")
    assert images.is_source(tmp_path)
    assert images.find(tmp_path) == [str(tmp_path)]
    assert images.read(tmp_path / "IM0001").shape == (1, 6, 5)


def test_two_series_in_one_folder_are_told_apart(tmp_path: Path) -> None:
    series(tmp_path / "a", count=4)
    other = SERIES + ".2"
    for index in range(3):
        save(picture(index, SeriesInstanceUID=other, Modality="MR"), tmp_path / "a" / f"x{index}.dcm")
    folder = tmp_path / "a"
    refused(folder, r"2 series: .*\.1 \(CT, 4 images\), .*\.1\.2 \(MR, 3 images\)")
    sources = [f"{folder}::{SERIES}", f"{folder}::{other}"]
    assert images.find(tmp_path) == sources
    assert [images.read(source).shape[0] for source in sources] == [4, 3]
    assert images.read_geometry(sources[1]).shape == (3, 6, 5)
    assert images.stem(sources[1]) == f"a_{other}"
    refused(f"{folder}::1.2.3", "no series 1.2.3", where=folder)


def test_pictures_that_are_series_by_themselves_are_called_by_their_files(tmp_path: Path) -> None:
    for index in range(2):
        lone = {"ImagePositionPatient": None, "ImageOrientationPatient": None, "Modality": "DX"}
        save(picture(index, SeriesInstanceUID=f"{SERIES}.{index}", **lone), tmp_path / f"{index}.dcm")
    assert images.find(tmp_path) == [str(tmp_path / "0.dcm"), str(tmp_path / "1.dcm")]
    assert images.read(tmp_path / "1.dcm").array.shape == (1, 6, 5)
    assert images.read(tmp_path / "1.dcm").spacing_mm == (0.75, 0.5)


def test_reports_among_the_images_are_passed_over(tmp_path: Path) -> None:
    series(tmp_path)
    report = picture(0, SOPClassUID="1.2.840.10008.5.1.4.1.1.88.11", Rows=None, PixelData=None)
    save(report, tmp_path / "report.dcm")
    (tmp_path / "notes.txt").write_text("x")
    assert images.read(tmp_path).shape == (4, 6, 5)


def enhanced(order: list[int], **values: Any) -> Dataset:
    """A multi-frame file whose frames are stored in the given order of places."""
    content = picture(
        0,
        SOPClassUID=ENHANCED_MR,
        NumberOfFrames=len(order),
        PixelData=PIXELS[order].tobytes(),
        PixelSpacing=None,
        ImageOrientationPatient=None,
        ImagePositionPatient=None,
    )
    content.file_meta.MediaStorageSOPClassUID = UID(ENHANCED_MR)
    shared, measures, plane = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = [0.75, 0.5], 2
    plane.ImageOrientationPatient = AXIAL
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = [measures], [plane]
    content.SharedFunctionalGroupsSequence = [shared]
    frames = []
    for index in order:
        frame, place, scale = Dataset(), Dataset(), Dataset()
        place.ImagePositionPatient = [-10, 20, 30 + 2.5 * index]
        scale.RescaleSlope, scale.RescaleIntercept = 2, index
        frame.PlanePositionSequence, frame.PixelValueTransformationSequence = [place], [scale]
        frames.append(frame)
    content.PerFrameFunctionalGroupsSequence = frames
    for name, value in values.items():
        setattr(content, name, value)
    return content


def test_an_enhanced_multi_frame_file_is_sorted_and_scaled_frame_by_frame(tmp_path: Path) -> None:
    path = save(enhanced([2, 0, 3, 1]), tmp_path / "a.dcm")
    image = images.read(path)
    np.testing.assert_array_equal(image.array[0], PIXELS * 2.0 + np.arange(4)[:, None, None])
    assert image.spacing_mm == pytest.approx((2.5, 0.75, 0.5))
    assert image.affine[:3, 3].tolist() == [10, -20, 30]


def test_a_frame_that_is_twice_there_is_named(tmp_path: Path) -> None:
    path = save(enhanced([2, 0, 1, 1]), tmp_path / "a.dcm")
    refused(path, r"\(frame 3\) and a.dcm \(frame 4\) lie at the same place", where=tmp_path)


def test_a_film_without_places_is_refused(tmp_path: Path) -> None:
    film = {"NumberOfFrames": 4, "PixelData": PIXELS.tobytes()}
    refused(save(picture(0, **film, ImagePositionPatient=None), tmp_path / "a.dcm"), "film of 4 frames")


def test_dose_planes_lie_at_their_offsets(tmp_path: Path) -> None:
    dose = {"NumberOfFrames": 4, "PixelData": PIXELS.tobytes(), "GridFrameOffsetVector": [0, 3, 6, 9]}
    image = images.read(save(picture(0, **dose, DoseGridScaling=0.01), tmp_path / "a.dcm"))
    assert image.spacing_mm == pytest.approx((3, 0.75, 0.5))
    np.testing.assert_allclose(image.array[0], PIXELS * 0.01, rtol=1e-6)


def test_films_with_white_as_zero_are_turned_over(tmp_path: Path) -> None:
    film = {"PhotometricInterpretation": "MONOCHROME1", "Modality": "DX", "BitsStored": 12, "HighBit": 11}
    image = images.read(save(picture(0, **film), tmp_path / "a.dcm"))
    np.testing.assert_array_equal(image.array[0, 0], 4095 - PIXELS[0])


def test_colour_pictures_have_three_channels(tmp_path: Path) -> None:
    colours = np.random.default_rng(0).integers(0, 255, (6, 5, 3)).astype(np.uint8)
    photo = {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB", "PlanarConfiguration": 0}
    photo |= {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7, "PixelData": colours.tobytes()}
    photo |= {"ImagePositionPatient": None, "ImageOrientationPatient": None}
    image = images.read(save(picture(0, **photo), tmp_path / "a.dcm"))
    np.testing.assert_array_equal(image.array, np.moveaxis(colours, -1, 0))


def test_an_answer_on_the_grid_of_a_series_lies_where_the_series_does(tmp_path: Path) -> None:
    image = images.read(series(tmp_path / "in"))
    images.write(image.array, tmp_path / "out.nii.gz", image)
    np.testing.assert_allclose(nibabel.load(tmp_path / "out.nii.gz").affine, image.affine, atol=1e-6)


# ---------------------------------------------------------------------------------------------- faults


def test_a_missing_slice_is_found_and_its_neighbours_named(tmp_path: Path) -> None:
    series(tmp_path)
    (tmp_path / "8.dcm").unlink()
    refused(tmp_path, r"1 slice\(s\) are missing between 9.dcm and 7.dcm: they lie 5 mm apart")


def test_an_unevenly_spaced_slice_is_found(tmp_path: Path) -> None:
    series(tmp_path)
    save(picture(3, ImagePositionPatient=[-10, 20, 38.2]), tmp_path / "6.dcm")
    refused(tmp_path, "unevenly spaced")


def test_a_slice_that_is_twice_there_is_found(tmp_path: Path) -> None:
    series(tmp_path)
    shutil.copy(tmp_path / "8.dcm", tmp_path / "copy.dcm")
    refused(tmp_path, "8.dcm and copy.dcm lie at the same place")


def test_a_localiser_in_the_folder_is_left_out_and_said(tmp_path: Path) -> None:
    series(tmp_path)
    scout = {
        "ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"],
        "ImageOrientationPatient": [0, 1, 0, 0, 0, -1],
    }
    save(picture(0, **scout), tmp_path / "same_series.dcm")
    save(picture(0, **scout, SeriesInstanceUID=SERIES + ".9"), tmp_path / "own_series.dcm")
    assert images.find(tmp_path) == [str(tmp_path)]
    with pytest.warns(IsocenterWarning, match=r"2 localiser image\(s\) are left out"):
        assert images.read(tmp_path).shape == (4, 6, 5)


def test_a_slice_of_another_orientation_that_does_not_say_localiser_is_refused(tmp_path: Path) -> None:
    series(tmp_path)
    odd = save(picture(0, ImageOrientationPatient=[0, 1, 0, 0, 0, -1]), tmp_path / "x.dcm")
    refused(tmp_path, "differs from 6.dcm of the same series", where=odd)


def test_slices_of_another_size_are_refused(tmp_path: Path) -> None:
    series(tmp_path)
    odd = save(picture(3, Rows=3, Columns=10, ImagePositionPatient=[-10, 20, 40]), tmp_path / "x.dcm")
    refused(tmp_path, "its size, spacing or orientation differs", where=odd)


def test_gantry_tilt_is_resampled_and_said(tmp_path: Path) -> None:
    for index in range(4):
        place = [-10, 20 + index, 30 + 2.5 * index]
        save(picture(index, ImagePositionPatient=place), tmp_path / f"{index}.dcm")
    with pytest.warns(IsocenterWarning, match="gantry tilt.*upright grid of 4 × 10 × 5 voxels"):
        image = images.read(tmp_path)
    assert image.spacing_mm == pytest.approx((2.5, 0.75, 0.5))
    np.testing.assert_array_equal(image.array[0, 0, :6], PIXELS[0])


def test_a_slice_off_the_line_is_refused(tmp_path: Path) -> None:
    series(tmp_path)
    odd = save(picture(1, ImagePositionPatient=[-10, 25, 32.5]), tmp_path / "8.dcm")
    refused(tmp_path, "5 mm off the line", where=odd)


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"Rows": None}, "Rows is missing"),
        ({"Rows": 0}, "makes no sense: 0 × 5"),
        ({"Columns": None}, "makes no sense"),
        ({"BitsAllocated": 7}, "of 7 bits"),
        ({"BitsAllocated": None, "PixelData": None}, "of 0 bits"),
        ({"Rows": 60000, "Columns": 60000}, "cut short or its header is wrong"),
        ({"NumberOfFrames": 2000000, "GridFrameOffsetVector": [0.0, 1.0]}, "cut short"),
        ({"NumberOfFrames": -1}, "-1 frames"),
        ({"PixelData": None}, "no pixel data"),
        ({"PixelData": b""}, "cut short"),
        ({"PixelData": PIXELS[0].tobytes()[:-2]}, "cut short"),
        ({"Rows": 3}, "more data than its header says"),
        ({"PixelSpacing": [0, 1]}, "PixelSpacing is 0 × 1 mm"),
        ({"PixelSpacing": [1, -1]}, "PixelSpacing is 1 × -1 mm"),
        ({"PixelSpacing": None}, "PixelSpacing is missing"),
        ({"PixelSpacing": [1]}, "malformed"),
        ({"ImageOrientationPatient": [0, 0, 0, 0, 0, 0]}, "not two unit vectors"),
        ({"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]}, "not two unit vectors"),
        ({"ImageOrientationPatient": [2, 0, 0, 0, 1, 0]}, "not two unit vectors"),
        ({"ImageOrientationPatient": [1, 0, 0]}, "malformed"),
        ({"RescaleSlope": 0, "RescaleIntercept": 0}, "slope is zero"),
    ],
)
def test_images_that_make_no_sense_are_refused(tmp_path: Path, values: dict[str, Any], match: str) -> None:
    path = save(picture(0, **values), tmp_path / "a.dcm")
    with pytest.raises(UnreadableFile, match=match) as caught:
        images.read(path)
    assert caught.value.cure
    assert "Doe" not in str(caught.value)


def test_an_image_that_lost_its_rows_is_named_in_its_folder(tmp_path: Path) -> None:
    series(tmp_path)
    broken = save(picture(0, Rows=None), tmp_path / "x.dcm")
    refused(tmp_path, "Rows is missing", where=broken)


def test_a_file_cut_anywhere_is_refused(tmp_path: Path) -> None:
    content = save(picture(0), tmp_path / "a.dcm").read_bytes()
    for share in (0.05, 0.3, 0.5, 0.7, 0.9, 0.99):
        (tmp_path / "a.dcm").write_bytes(content[: int(len(content) * share)])
        with pytest.raises(UnreadableFile):
            images.read(tmp_path / "a.dcm")


def test_no_flipped_byte_ends_in_anything_but_an_image_or_a_clear_error(tmp_path: Path) -> None:
    content = save(picture(0), tmp_path / "a.dcm").read_bytes()
    rng = np.random.default_rng(0)
    said: list[str] = []
    for _ in range(300):
        broken = bytearray(content)
        broken[rng.integers(len(content))] = rng.integers(256)
        (tmp_path / "a.dcm").write_bytes(broken)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", IsocenterWarning)
            try:
                images.read(tmp_path / "a.dcm")
            except UnreadableFile as fault:
                said.append(str(fault))
    assert said
    assert not any("Doe" in text or "secret" in text for text in said)


def test_empty_random_and_foreign_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.dcm"
    path.write_bytes(b"")
    refused(path, "empty")
    path.write_bytes(np.random.default_rng(0).bytes(5000))
    refused(path, "not a DICOM file")
    path.write_bytes(bytes(128) + b"DICM" + np.random.default_rng(0).bytes(5000))
    refused(path, "damaged|no picture")


def test_a_length_that_lies_is_refused(tmp_path: Path) -> None:
    path = save(picture(0), tmp_path / "a.dcm")
    content = bytearray(path.read_bytes())
    place = content.index(b"\xe0\x7f\x10\x00OW") + 8
    content[place : place + 4] = struct.pack("<I", 0xFFFFFFF0)
    path.write_bytes(content)
    refused(path, "damaged|cut short|no pixel data")


def deflated(path: Path, body: bytes) -> Path:
    """A file of the deflated transfer syntax around an already deflated body."""
    content = save(picture(0), path).read_bytes()
    meta = pydicom.filereader.read_file_meta_info(path)
    head = content[: 144 + meta.FileMetaInformationGroupLength]
    old = struct.pack("<2s2sH", b"\x02\x00", b"\x10\x00", 0)[:4] + b"UI" + struct.pack("<H", 20)
    place = head.index(old)
    new = old[:-2] + struct.pack("<H", 22) + DEFLATED.encode()
    head = head[:place] + new + head[place + len(old) + 20 :]
    head = head[:140] + struct.pack("<I", len(head) - 144) + head[144:]
    path.write_bytes(head + body)
    return path


def test_a_deflated_file_is_read_and_a_deflate_bomb_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from isocenter.images.formats import dicom

    plain = save(picture(0), tmp_path / "plain.dcm")
    start = 144 + pydicom.filereader.read_file_meta_info(plain).FileMetaInformationGroupLength
    packer = zlib.compressobj(9, wbits=-15)
    body = packer.compress(plain.read_bytes()[start:]) + packer.flush()
    path = deflated(tmp_path / "a.dcm", body)
    np.testing.assert_array_equal(images.read(path).array[0, 0], PIXELS[0])
    refused(deflated(tmp_path / "b.dcm", body[: len(body) // 2]), "cut short")
    monkeypatch.setattr(dicom, "DEFLATE_LIMIT", 1 << 20)
    packer = zlib.compressobj(9, wbits=-15)
    bomb = b"".join(packer.compress(bytes(1 << 20)) for _ in range(32)) + packer.flush()
    refused(deflated(tmp_path / "c.dcm", bomb), "inflates to more than 1 MB")


def test_sequences_a_thousand_deep_are_refused(tmp_path: Path) -> None:
    path = save(picture(0, PixelData=None), tmp_path / "a.dcm")
    # SharedFunctionalGroupsSequence of undefined length, an item of undefined length, and again within.
    opened = b"\x00\x52\x29\x92SQ\0\0\xff\xff\xff\xff" + b"\xfe\xff\x00\xe0\xff\xff\xff\xff"
    path.write_bytes(path.read_bytes() + opened * 5000)
    refused(path, "damaged|no pixel data")


def test_a_codec_that_is_not_there_is_named_with_how_to_get_it(tmp_path: Path) -> None:
    content = picture(0)
    content.PixelData = pydicom.encaps.encapsulate([b"\xff\xd8\xff\xd9"])
    content["PixelData"].is_undefined_length = True
    content.file_meta.TransferSyntaxUID = UID("1.2.840.10008.1.2.4.100")  # MPEG-2
    refused(save(content, tmp_path / "a.dcm"), r"MPEG2.*no decoder.*isocenter\[dicom\]")


def test_compressed_pixels_that_are_damaged_are_refused(tmp_path: Path) -> None:
    content = picture(0)
    content.PixelData = pydicom.encaps.encapsulate([b"\xff\xd8\xff\xd9" * 9])
    content["PixelData"].is_undefined_length = True
    content.file_meta.TransferSyntaxUID = UID("1.2.840.10008.1.2.4.70")  # JPEG lossless
    refused(save(content, tmp_path / "a.dcm"), "damaged|no decoder")


def test_run_length_encoded_pixels_are_read(tmp_path: Path) -> None:
    content = picture(0)
    content.compress(pydicom.uid.RLELossless, generate_instance_uid=False)
    np.testing.assert_array_equal(images.read(save(content, tmp_path / "a.dcm")).array[0, 0], PIXELS[0])


# ---------------------------------------------------------------------------------------------- real data


@pytest.mark.parametrize("name", ["T1post", "FLAIRreg", "MaskTumor"])
def test_the_brain_tumour_series_read_as_simpleitk_reads_them(data: Callable[[str], Path], name: str) -> None:
    folder = data("brain_tumour_dicom") / name
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    theirs, image = reader.Execute(), images.read(folder)
    assert image.array.shape == (1, 24, 320, 260)
    assert image.spacing_mm == pytest.approx((6.5, 0.6875, 0.6875), abs=1e-6)
    np.testing.assert_array_equal(image.array[0], SimpleITK.GetArrayFromImage(theirs))
    np.testing.assert_allclose(image.affine, itk_affine(theirs), atol=1e-5)


def test_each_brain_tumour_series_is_one_source_and_all_lie_on_one_grid(data: Callable[[str], Path]) -> None:
    sources = images.find(data("brain_tumour_dicom"))
    assert [images.stem(source) for source in sources] == ["FLAIRreg", "MaskTumor", "T1post"]
    with pytest.warns(IsocenterWarning, match="taken as the same"):
        assert images.read_channels([sources[2], sources[0], sources[1]]).array.shape == (3, 24, 320, 260)
    assert set(np.unique(images.read_labels(sources[1]).array)) == {0, 1}
