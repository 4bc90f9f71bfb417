"""Any format: whatever flipped bytes do to a file, it gives an image or a clear error, never another."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
import tifffile
from numpy.typing import NDArray
from PIL import Image as Pillow

from isocenter import images
from isocenter.errors import IsocenterWarning, UnreadableFile

VOXELS: NDArray[Any] = np.random.default_rng(0).integers(0, 200, (5, 6, 7)).astype(np.int16)


def with_itk(path: Path) -> None:
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(VOXELS), path, True)


WRITERS: dict[str, Callable[[Path], object]] = {
    "a.nii": lambda path: nib.save(nib.Nifti1Image(VOXELS, np.eye(4)), path),
    "b.nii": lambda path: nib.save(nib.Nifti2Image(VOXELS, np.eye(4)), path),
    "a.nii.gz": lambda path: nib.save(nib.Nifti1Image(VOXELS, np.eye(4)), path),
    "a.mha": with_itk,
    "a.nrrd": with_itk,
    "a.png": lambda path: Pillow.fromarray(VOXELS[0].astype(np.uint8)).save(path),
    "a.jpg": lambda path: Pillow.fromarray(VOXELS[0].astype(np.uint8)).save(path),
    "a.tif": lambda path: tifffile.imwrite(path, VOXELS, compression="zlib"),
    "a.ome.tif": lambda path: tifffile.imwrite(path, VOXELS, metadata={"axes": "ZYX", "PhysicalSizeX": 0.5}),
}


@pytest.mark.parametrize("name", WRITERS)
def test_flipped_bytes_give_an_image_or_a_clear_error(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    WRITERS[name](path)
    sound, rng, refused = path.read_bytes(), np.random.default_rng(1), 0
    for _ in range(80):
        broken = bytearray(sound)
        for _ in range(3):
            broken[rng.integers(min(len(broken), 600))] = rng.integers(256)
        path.write_bytes(broken)
        for read in (images.read, images.read_labels, images.read_geometry):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", IsocenterWarning)
                try:
                    read(path)
                except UnreadableFile:
                    refused += 1
    assert refused
