"""What all tests share: the benchmark data, where it lies; and a small DICOM series with segmentations."""

from __future__ import annotations

import functools
import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, generate_uid

CT = "1.2.840.10008.5.1.4.1.1.2"
SHAPE = (6, 7, 8)
SPACING = (2.5, 0.75, 0.5)
TURN = np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))[0].round(9)


@pytest.fixture(scope="session")
def data() -> Callable[[str], Path]:
    """Give the folder of a named benchmark set, or skip the test and say why."""
    root = Path(os.environ.get("ISOCENTER_DATA", Path(__file__).parents[2] / "shared" / "data"))

    def folder(name: str) -> Path:
        path = root / name
        if not path.exists():
            pytest.skip(f"benchmark data '{name}' is not at {root} (set ISOCENTER_DATA)")
        return path

    return folder


@pytest.fixture
def slices() -> list[Dataset]:
    """A CT of 6 slices of 7 × 8 pixels whose axes lie oblique to the patient's."""
    return _series()


@pytest.fixture
def saved() -> Callable[[Dataset, Path], Path]:
    """Write a DICOM data set, with whatever fault it was given, and give its path."""

    def save(content: Dataset, path: Path) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            content.save_as(path, enforce_file_format=True)
        return path

    return save


@pytest.fixture
def segmented(slices: list[Dataset]) -> Callable[..., Dataset]:
    """Make a Segmentation of `slices` from labels and the names of the segments."""
    return functools.partial(_segmentation, slices)


def _series() -> list[Dataset]:
    study, frame_of_reference, own = generate_uid(), generate_uid(), generate_uid()
    normal = np.cross(TURN[0], TURN[1])
    pixels = np.random.default_rng(0).integers(0, 2000, SHAPE).astype(np.uint16)
    slices = []
    for index in range(SHAPE[0]):
        content = Dataset()
        content.file_meta = FileMetaDataset()
        content.file_meta.TransferSyntaxUID = UID("1.2.840.10008.1.2.1")
        content.file_meta.MediaStorageSOPClassUID = UID(CT)
        content.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        place = np.array([5.0, -60, 7]) + SPACING[0] * index * normal
        fields = {
            "SOPClassUID": CT,
            "SOPInstanceUID": content.file_meta.MediaStorageSOPInstanceUID,
            "StudyInstanceUID": study,
            "SeriesInstanceUID": own,
            "FrameOfReferenceUID": frame_of_reference,
            "PositionReferenceIndicator": "",
            "Modality": "CT",
            "PatientName": "Doe^Jane",
            "PatientID": "secret-4711",
            "PatientBirthDate": "",
            "PatientSex": "",
            "StudyDate": "",
            "StudyTime": "",
            "StudyID": "",
            "AccessionNumber": "",
            "ReferringPhysicianName": "",
            "SeriesNumber": 1,
            "InstanceNumber": index + 1,
            "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
            "Rows": SHAPE[1],
            "Columns": SHAPE[2],
            "BitsAllocated": 16,
            "BitsStored": 16,
            "HighBit": 15,
            "PixelRepresentation": 0,
            "SamplesPerPixel": 1,
            "PhotometricInterpretation": "MONOCHROME2",
            "PixelSpacing": [SPACING[1], SPACING[2]],
            "SliceThickness": 2,
            "SpacingBetweenSlices": SPACING[0],
            "ImageOrientationPatient": [*TURN[0], *TURN[1]],
            "ImagePositionPatient": place.round(9).tolist(),
            "PixelData": pixels[index].tobytes(),
        }
        for name, value in fields.items():
            setattr(content, name, value)
        slices.append(content)
    return slices


def _segmentation(
    slices: Sequence[Dataset],
    labels: NDArray[Any],
    names: Sequence[str],
    kind: str = "BINARY",
    **options: Any,
) -> Dataset:
    """A Segmentation of the slices.

    Args:
        slices: The images.
        labels: (z, y, x) of segment numbers, or (z, y, x, segment) of masks or shares.
        names: Of the segments, numbered from 1.
        kind: `BINARY`, `FRACTIONAL` or `LABELMAP`.
        options: More for highdicom.
    """
    import highdicom
    from pydicom.sr.codedict import codes

    described = [
        highdicom.seg.SegmentDescription(
            segment_number=number,
            segment_label=name,
            segmented_property_category=codes.SCT.Organ,
            segmented_property_type=codes.SCT.Liver,
            algorithm_type="MANUAL",
        )
        for number, name in enumerate(names, 1)
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made: Dataset = highdicom.seg.Segmentation(
            source_images=slices,
            pixel_array=labels,
            segmentation_type=kind,
            segment_descriptions=described,
            series_instance_uid=generate_uid(),
            series_number=2,
            sop_instance_uid=generate_uid(),
            instance_number=1,
            manufacturer="none",
            manufacturer_model_name="none",
            software_versions="0",
            device_serial_number="0",
            **options,
        )
    return made
