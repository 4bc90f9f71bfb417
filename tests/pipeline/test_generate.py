"""Made images as files: what a grid and the names of files look like."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from isocenter.pipeline.generate import _file, grid


def test_a_grid_shows_every_image_windowed_alike() -> None:
    dark, bright = np.zeros((1, 4, 6)), np.full((1, 4, 6), 10.0)
    shown = np.asarray(Image.open(io.BytesIO(grid([dark, bright, dark]))))
    assert shown.shape == (2 * 4 + 2, 2 * 6 + 2)
    assert (shown[:4, :6] == 0).all()
    assert (shown[:4, 8:] == 255).all()
    assert (shown[6:, 8:] == 255).all()  # nothing lies there


def test_volumes_are_shown_by_their_middle_slice_and_colours_as_they_are() -> None:
    volume = np.zeros((1, 5, 3, 3))
    volume[:, 2] = 1
    assert np.asarray(Image.open(io.BytesIO(grid([volume, volume * 0])))).max() == 255
    colours = np.asarray(Image.open(io.BytesIO(grid([np.random.default_rng(0).random((3, 4, 4))]))))
    assert colours.shape == (4, 4, 3)


def test_a_class_names_its_files_whatever_it_is_called() -> None:
    assert _file("normal, benign") == "normal__benign"
    assert _file("../x") == "_x"
    assert _file("...") == "made"
