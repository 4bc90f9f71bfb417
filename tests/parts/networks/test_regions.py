"""Features of regions against loops written out, sample by sample, and against differences."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from isocenter.errors import IsocenterError
from isocenter.parts.networks import regions
from isocenter.parts.networks.regions import level_of, roi_align, roi_align_levels, roi_pool

STRIDES = {2: (4.0, 2.0), 3: (1.0, 2.0, 4.0)}
SIZES = {2: (2, 3), 3: (2, 1, 3)}


def _scene(dims: int) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Two images' features, with boxes inside, across the border, far outside, and tiny."""
    chance = torch.Generator().manual_seed(dims)
    features = torch.randn((2, 3, *(5, 6, 4)[:dims]), generator=chance, dtype=torch.float64)
    low = torch.rand((7, dims), generator=chance, dtype=torch.float64) * 16 - 5
    edge = 0.3 + torch.rand((7, dims), generator=chance, dtype=torch.float64) * 14
    boxes = torch.cat([low, low + edge], 1)
    return features, [boxes[:4], boxes[4:]]


def _interpolated(image: torch.Tensor, point: tuple[float, ...]) -> torch.Tensor:
    """Linear interpolation at indices of the map, corner by corner."""
    total = torch.zeros(image.shape[0], dtype=image.dtype)
    if any(p < -1 or p > n for p, n in zip(point, image.shape[1:], strict=True)):
        return total
    held = [min(max(p, 0.0), n - 1.0) for p, n in zip(point, image.shape[1:], strict=True)]
    for corner in itertools.product((0, 1), repeat=len(point)):
        weight, index = 1.0, []
        for p, upper, n in zip(held, corner, image.shape[1:], strict=True):
            base = math.floor(p)
            weight *= (p - base) if upper else 1 - (p - base)
            index.append(min(base + upper, n - 1))
        total += weight * image[(slice(None), *index)]
    return total


def _region(
    image: torch.Tensor, box: list[float], stride: tuple[float, ...], size: tuple[int, ...], samples: int
) -> torch.Tensor:
    dims = len(size)
    low = [box[axis] / stride[axis] - 0.5 for axis in range(dims)]
    width = [(box[dims + axis] - box[axis]) / stride[axis] / size[axis] for axis in range(dims)]
    out = torch.zeros((image.shape[0], *size), dtype=image.dtype)
    for place in itertools.product(*map(range, size)):
        for sample in itertools.product(range(samples), repeat=dims):
            point = tuple(low[a] + width[a] * (place[a] + (sample[a] + 0.5) / samples) for a in range(dims))
            out[(slice(None), *place)] += _interpolated(image, point) / samples**dims
    return out


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("samples", [1, 2, 3])
def test_aligned_regions_are_the_loop_written_out(dims: int, samples: int) -> None:
    features, boxes = _scene(dims)
    found = roi_align(features, boxes, STRIDES[dims], SIZES[dims], samples)
    expected = [
        _region(image, box, STRIDES[dims], SIZES[dims], samples)
        for image, own in zip(features, boxes, strict=True)
        for box in own.tolist()
    ]
    assert torch.allclose(found, torch.stack(expected), atol=1e-12)


@pytest.mark.parametrize("dims", [2, 3])
def test_gradients_of_features_and_boxes_are_those_of_differences(dims: int) -> None:
    features, _ = _scene(dims)
    middle = torch.tensor([[2.1] * dims + [6.3] * dims, [3.2] * dims + [5.9] * dims], dtype=torch.float64)

    def call(maps: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
        return roi_align(maps[:1], [boxes], (2.0,) * dims, (2,) * dims)

    assert torch.autograd.gradcheck(call, (features.requires_grad_(), middle.requires_grad_()))


def test_a_ramp_is_read_at_the_bins_centres() -> None:
    # Voxel i is centred at i + 1/2, so a ramp of i + 1/2 gives the places themselves.
    ramp = (torch.arange(8.0) + 0.5).expand(1, 1, 8, 8)
    found = roi_align(ramp, [torch.tensor([[2.0, 2.0, 6.0, 6.0]])], (1.0, 1.0), (1, 4))
    assert found[0, 0, 0].tolist() == pytest.approx([2.5, 3.5, 4.5, 5.5])


def test_regions_in_portions_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    features, boxes = _scene(3)
    whole = roi_align(features, boxes, STRIDES[3], SIZES[3])
    monkeypatch.setattr(regions, "REGIONS", 2)
    assert torch.equal(roi_align(features, boxes, STRIDES[3], SIZES[3]), whole)


def test_no_boxes_give_no_regions() -> None:
    features, _ = _scene(2)
    none = [torch.zeros(0, 4, dtype=torch.float64)] * 2
    assert roi_align(features, none, (1.0, 1.0), (7, 7)).shape == (0, 3, 7, 7)
    assert roi_pool(features, none, (1.0, 1.0), (7, 7)).shape == (0, 3, 7, 7)


def test_pooled_regions_are_the_maximum_of_rounded_bins() -> None:
    features, boxes = _scene(2)
    found = roi_pool(features, boxes, STRIDES[2], SIZES[2])
    at = 0
    for image, own in zip(features, boxes, strict=True):
        for box in own.tolist():
            walls = [math.floor(box[axis] / STRIDES[2][axis % 2] + 0.5) for axis in range(4)]
            low = [min(max(walls[a], 0), image.shape[1 + a] - 1) for a in range(2)]
            width = [max(min(walls[2 + a], image.shape[1 + a]) - low[a], 1) for a in range(2)]
            for place in itertools.product(*map(range, SIZES[2])):
                bins = [
                    slice(
                        low[a] + math.floor(place[a] * width[a] / SIZES[2][a]),
                        low[a] + math.ceil((place[a] + 1) * width[a] / SIZES[2][a]),
                    )
                    for a in range(2)
                ]
                assert torch.equal(found[(at, slice(None), *place)], image[(slice(None), *bins)].amax((1, 2)))
            at += 1


def test_pooling_in_three_dimensions_covers_the_box_and_nothing_else() -> None:
    features = torch.zeros(1, 1, 4, 4, 4)
    features[0, 0, 1, 2, 3], features[0, 0, 3, 3, 3] = 5.0, 9.0
    box = torch.tensor([[0.0, 0.0, 0.0, 4.0, 8.0, 16.0]])
    found = roi_pool(features, [box], (2.0, 2.0, 4.0), (2, 2, 2))
    assert found[0, 0].flatten().tolist() == [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 5.0]


def test_levels_follow_the_printed_rule() -> None:
    def square(edge: float, dims: int = 2) -> torch.Tensor:
        return torch.tensor([[0.0] * dims + [edge] * dims])

    for edge, level in {1: 0, 111: 0, 112: 1, 223: 1, 224: 2, 447: 2, 448: 3, 5000: 3}.items():
        assert level_of(square(edge), 4).item() == level
    assert level_of(torch.tensor([[0.0, 0.0, 112.0, 448.0]]), 4).item() == 2
    assert level_of(square(16.0, 3), 3, canonical=8.0, home=0).item() == 1
    assert level_of(torch.zeros(1, 6), 3).item() == 0


def test_every_box_is_read_from_its_own_level() -> None:
    maps = [torch.zeros(2, 1, 8, 8), torch.ones(2, 1, 4, 4)]
    boxes = [torch.tensor([[0.0, 0.0, 4.0, 4.0], [0.0, 0.0, 8.0, 8.0]]), torch.tensor([[0.0, 0.0, 8.0, 8.0]])]
    levels = [level_of(own, 2, canonical=8.0, home=1) for own in boxes]
    found = roi_align_levels(maps, boxes, ((1.0, 1.0), (2.0, 2.0)), levels, (1, 1))
    assert found.flatten().tolist() == [0.0, 1.0, 1.0]


def test_boxes_of_other_axes_than_the_features_are_refused() -> None:
    with pytest.raises(IsocenterError, match="do not fit"):
        roi_align(torch.zeros(1, 1, 4, 4), [torch.zeros(1, 6)], (1.0, 1.0), (2, 2))
    with pytest.raises(IsocenterError, match="axes"):
        roi_pool(torch.zeros(1, 1, 4, 4), [torch.zeros(1, 4)], (1.0,), (2, 2))
