"""Masks there and back, border weights, components."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from isocenter.parts.encodings.borders import border_weights
from isocenter.parts.encodings.components import keep_largest
from isocenter.parts.encodings.masks import IGNORED, MaskEncoding
from isocenter.records import Label

ORGANS = (Label(name="liver", values=(1,)), Label(name="kidney", values=(4, 5)))
NESTED = (
    Label(name="whole", values=(1, 2, 3)),
    Label(name="core", values=(2, 3)),
    Label(name="active", values=(3,)),
)


def test_classes_come_back_as_the_first_value_of_their_label() -> None:
    mask = torch.tensor([[0, 1, 4], [5, 1, 0]])
    encoding = MaskEncoding(ORGANS)
    classes = encoding.encode(mask)["classes"]
    scores = torch.nn.functional.one_hot(classes, encoding.outputs).movedim(-1, 0).numpy()
    assert encoding.decode(scores).tolist() == [[0, 1, 4], [4, 1, 0]]


def test_nested_regions_are_painted_over_each_other() -> None:
    mask = torch.tensor([0, 1, 2, 3])
    encoding = MaskEncoding(NESTED, paint=(1, 2, 3))
    assert encoding.overlapping
    encoded = encoding.encode(mask)
    assert encoded["regions"].tolist() == [[0, 1, 1, 1], [0, 0, 1, 1], [0, 0, 0, 1]]
    scores = encoded["regions"].numpy().astype(np.float32) * 2 - 1
    assert encoding.decode(scores).tolist() == mask.tolist()


def test_ignored_voxels_are_marked_and_not_counted() -> None:
    mask = torch.tensor([0, 1, 9])
    assert MaskEncoding(ORGANS, ignore=9).encode(mask)["classes"].tolist() == [0, 1, IGNORED]
    assert MaskEncoding(NESTED, (1, 2, 3), ignore=9).encode(mask)["counted"].tolist() == [1, 1, 0]


def test_the_border_weight_is_the_printed_formula_between_two_cells() -> None:
    objects = np.zeros((1, 9), dtype=np.int32)
    objects[0, :2], objects[0, 7:] = 1, 2
    weights = border_weights(objects, w0=10, sigma=5)
    balance = 0.5 / (1 - 4 / 9)
    for column in range(2, 7):
        expected = balance + 10 * math.exp(-((column - 1 + 7 - column) ** 2) / 50)
        assert weights[0, column] == pytest.approx(expected, rel=1e-5)
    assert weights[0, 0] == pytest.approx(0.5 / (4 / 9), rel=1e-5)


def test_the_border_weight_equals_full_distance_transforms() -> None:
    from scipy.ndimage import distance_transform_edt

    rng = np.random.default_rng(0)
    objects = np.zeros((40, 40), dtype=np.int32)
    for number in range(1, 9):
        row, column = rng.integers(0, 36, 2)
        objects[row : row + 4, column : column + 4] = number
    numbers = np.unique(objects)[1:]
    distances = np.sort([distance_transform_edt(objects != number) for number in numbers], axis=0)
    border = 10 * np.exp(-((distances[0] + distances[1]) ** 2) / (2 * 3**2))
    weights = border_weights(objects, w0=10, sigma=3)
    share = (objects > 0).mean()
    outside = objects == 0
    assert np.allclose(weights[outside], 0.5 / (1 - share) + border[outside], atol=2e-2)


def test_balanced_classes_weigh_the_same_in_total() -> None:
    objects = np.zeros((10, 10), dtype=np.int32)
    objects[:2] = 1
    weights = border_weights(objects)
    assert weights[objects > 0].sum() == pytest.approx(weights[objects == 0].sum())
    assert weights.mean() == pytest.approx(1.0)


def test_only_the_largest_component_is_kept_and_other_labels_stay() -> None:
    mask = np.array([[1, 1, 0, 1], [0, 0, 0, 0], [2, 0, 2, 2]])
    assert keep_largest(mask, (1,)).tolist() == [[1, 1, 0, 0], [0, 0, 0, 0], [2, 0, 2, 2]]
    assert keep_largest(mask, (1, 2)).tolist() != mask.tolist()
    assert keep_largest(np.zeros((3, 3), dtype=int), (1,)).sum() == 0
