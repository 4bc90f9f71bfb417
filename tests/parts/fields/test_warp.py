"""Warping against values worked by hand and against SimpleITK."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from isocenter.parts.fields.warp import positions, sample, warp


def _chance(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("shape", [(5, 7), (4, 5, 6), (1, 5), (1, 4, 3)])
def test_no_displacement_leaves_the_image(shape: tuple[int, ...]) -> None:
    image = torch.randn((2, 3, *shape), generator=_chance(0))
    still = torch.zeros(1, len(shape), *shape)
    assert torch.allclose(warp(image, still), image, atol=1e-5)


def test_a_displacement_says_where_to_look_along_its_own_axis() -> None:
    image = torch.arange(12.0).view(1, 1, 3, 4)
    down = torch.zeros(1, 2, 3, 4)
    down[:, 0] = 1
    assert torch.allclose(warp(image, down)[0, 0, :2], image[0, 0, 1:], atol=1e-5)
    assert torch.allclose(warp(image, down)[0, 0, 2], torch.zeros(4), atol=1e-5)
    assert torch.allclose(warp(image, down, "border")[0, 0, 2], image[0, 0, 2], atol=1e-5)


def test_halfway_between_voxels_is_their_mean_and_half_beyond_the_border_is_half() -> None:
    image = torch.tensor([[[[2.0, 6.0]]]])
    half = torch.zeros(1, 2, 1, 2)
    half[:, 1] = 0.5
    assert warp(image, half).flatten().tolist() == pytest.approx([4.0, 3.0])


def test_warping_agrees_with_simple_itk() -> None:
    sitk = pytest.importorskip("SimpleITK")
    chance = np.random.default_rng(0)
    image, field = chance.normal(size=(9, 10, 11)), chance.uniform(-1.4, 1.4, size=(3, 9, 10, 11))
    vectors = sitk.GetImageFromArray(np.moveaxis(field[::-1], 0, -1), isVector=True)
    theirs = sitk.Resample(
        sitk.GetImageFromArray(image), sitk.DisplacementFieldTransform(vectors), sitk.sitkLinear, 0.0
    )
    ours = warp(torch.from_numpy(image)[None, None], torch.from_numpy(field)[None])[0, 0].numpy()
    inner = (slice(2, -2),) * 3
    assert ours[inner] == pytest.approx(sitk.GetArrayFromImage(theirs)[inner], abs=1e-6)


def test_the_result_has_the_grid_of_the_displacement() -> None:
    image = torch.arange(20.0).view(1, 1, 4, 5)
    places = torch.tensor([[[1.0, 3.0]], [[2.0, 4.0]]])[None]
    assert sample(image, places).flatten().tolist() == pytest.approx([7.0, 19.0], abs=1e-4)
    assert warp(image, places - positions((1, 2), places)).shape == (1, 1, 1, 2)


def test_gradients_reach_image_and_displacement() -> None:
    image = torch.randn((1, 1, 4, 5), generator=_chance(1), dtype=torch.float64, requires_grad=True)
    field = 0.3 + 0.2 * torch.rand((1, 2, 4, 5), generator=_chance(2), dtype=torch.float64)
    assert torch.autograd.gradcheck(warp, (image, field.requires_grad_()))
