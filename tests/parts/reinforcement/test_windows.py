"""Windows are what cutting and interpolating one image gives."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from isocenter.parts.reinforcement.windows import windows


@pytest.mark.parametrize("interpolation", ["linear", "nearest"])
@pytest.mark.parametrize("dims", [2, 3])
def test_a_box_of_as_many_voxels_as_cells_is_cut_out_unchanged(dims: int, interpolation: str) -> None:
    images = torch.rand(3, 2, *(7, 8, 9)[:dims], generator=torch.Generator().manual_seed(0))
    boxes = torch.tensor([[1.0, 2, 3][:dims] + [5.0, 6, 7][:dims]] * 2)
    seen = windows(images, torch.tensor([2, 0]), boxes, (4,) * dims, interpolation=interpolation)
    inside = (slice(None), slice(1, 5), slice(2, 6), slice(3, 7))[: dims + 1]
    assert torch.allclose(seen[0], images[2][inside], atol=1e-4)
    assert torch.allclose(seen[1], images[0][inside], atol=1e-4)


def test_between_voxels_it_is_what_torch_interpolates() -> None:
    images = torch.rand(2, 1, 12, 12, generator=torch.Generator().manual_seed(1))
    seen = windows(images, torch.tensor([1]), torch.tensor([[0.0, 0, 12, 12]]), (5, 7))
    assert torch.allclose(seen, functional.interpolate(images[1:], (5, 7), mode="bilinear"), atol=1e-5)


def test_beyond_an_image_its_own_border_is_repeated_not_its_neighbour() -> None:
    images = torch.stack([torch.full((1, 4, 4), float(value)) for value in (1, 2, 3)])
    seen = windows(images, torch.tensor([1]), torch.tensor([[-4.0, -4, 8, 8]]), (6, 6))
    assert torch.allclose(seen, torch.full((1, 1, 6, 6), 2.0), atol=1e-4)
