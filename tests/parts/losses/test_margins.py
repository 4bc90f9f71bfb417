"""The smooth top-1 SVM loss: its formula, and the losses that it lies between."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional

from isocenter.parts.losses.margins import smooth_top1_svm

SCORES = torch.tensor([[2.0, -1.0], [0.3, 0.1]])
CLASSES = torch.tensor([0, 1])


def test_two_classes_by_hand() -> None:
    first = math.log(math.exp(2) + math.exp(-1 + 1)) - 2
    second = math.log(math.exp(0.3 + 1) + math.exp(0.1)) - 0.1
    assert float(smooth_top1_svm(SCORES, CLASSES)) == pytest.approx((first + second) / 2)


def test_without_a_margin_it_is_cross_entropy() -> None:
    found = smooth_top1_svm(SCORES, CLASSES, margin=0)
    assert float(found) == pytest.approx(float(functional.cross_entropy(SCORES, CLASSES)))


def test_hardly_smoothed_it_is_the_hinge_loss() -> None:
    found = smooth_top1_svm(SCORES, CLASSES, smoothness=1e-3)
    hinge = torch.tensor([max(0.0, -1 + 1 - 2), max(0.0, 0.3 + 1 - 0.1)]).mean()
    assert float(found) == pytest.approx(float(hinge), abs=1e-3)
