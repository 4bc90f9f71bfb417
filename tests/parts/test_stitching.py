"""Tiles cover every voxel, weigh to one, and give what the network would give on the whole image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from isocenter.errors import BadPlan
from isocenter.parts.stitching import stitch, tile_starts, tile_weights


def image_of(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("size", "tile", "overlap", "expected"),
    [
        (96, 96, 0.5, (0,)),
        (256, 96, 0.5, (0, 40, 80, 120, 160)),
        (128, 96, 0.5, (0, 32)),
        (10, 4, 0.0, (0, 3, 6)),
        (3, 1, 0.0, (0, 1, 2)),
        (144, 96, 0.5, (0, 48)),
    ],
)
def test_tiles_lie_evenly_from_end_to_end(
    size: int, tile: int, overlap: float, expected: tuple[int, ...]
) -> None:
    assert tile_starts(size, tile, overlap) == expected


@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5, 0.9])
@pytest.mark.parametrize("size", [17, 40, 101])
def test_no_step_is_longer_than_asked(size: int, overlap: float) -> None:
    starts = tile_starts(size, 16, overlap)
    assert starts[0] == 0
    assert starts[-1] == size - 16
    assert max(np.diff(starts), default=0) <= np.ceil(16 * (1 - overlap))


@pytest.mark.parametrize("tile", [1, 2, 7, 96])
def test_weights_are_a_gaussian_that_is_never_zero(tile: int) -> None:
    weights = tile_weights(tile)
    assert weights.min() >= 1e-3
    np.testing.assert_array_equal(weights, weights[::-1])
    if tile == 96:  # one standard deviation (12 voxels) from the middle
        np.testing.assert_allclose(
            weights[48 + 12] / weights[48], np.exp(-(12.5**2 - 0.5**2) / 288), rtol=1e-5
        )


@pytest.mark.parametrize(
    ("shape", "tile"),
    [
        ((2, 50, 30, 40), (16, 24, 16)),
        ((1, 5, 30, 40), (16, 24, 16)),
        ((3, 50, 60), (16, 61)),
        ((1, 1, 1, 1), (8, 8, 8)),
        ((2, 33), (16,)),
    ],
)
@pytest.mark.parametrize("border", ["constant", "mirror"])
def test_a_pointwise_network_sees_the_image_as_if_whole(
    shape: tuple[int, ...], tile: tuple[int, ...], border: str
) -> None:
    image = image_of(*shape)
    result = stitch(image, tile, lambda x: 2 * x + 1, batch=3, border=border)  # type: ignore[arg-type]
    assert result.dtype == torch.float32
    torch.testing.assert_close(result, 2 * image + 1, atol=2e-6, rtol=0)


def test_tiles_are_weighed_by_the_gaussian() -> None:
    """Two tiles that answer 0 and 1: in their overlap the result is the second one's share of the weight."""
    answers = iter([0.0, 1.0])
    result = stitch(torch.zeros(1, 12), (8,), lambda x: torch.full_like(x, next(answers)), overlap=0.5)
    weights = tile_weights(8)
    share = weights[:4] / (weights[:4] + weights[4:])
    expected = np.concatenate([np.zeros(4), share, np.ones(4)])
    np.testing.assert_allclose(result[0].numpy(), expected, rtol=1e-6)


def test_slabs_that_overlap_many_times_lose_nothing() -> None:
    image = image_of(1, 60, 9)
    result = stitch(image, (20, 9), lambda x: x, overlap=0.9)
    torch.testing.assert_close(result, image, atol=1e-6, rtol=0)


def test_batches_do_not_change_the_result() -> None:
    image = image_of(1, 40, 30, 20)
    network = torch.nn.Conv3d(1, 3, 3, padding=1)
    alone = stitch(image, (16, 16, 16), network, batch=1)
    torch.testing.assert_close(stitch(image, (16, 16, 16), network, batch=7), alone, atol=1e-6, rtol=0)


def test_the_same_call_gives_the_same_bits() -> None:
    image = image_of(1, 40, 30, 20)
    network = torch.nn.Conv3d(1, 2, 3, padding=1)
    first, second = (stitch(image, (16, 16, 16), network, batch=4, mirror=(0, 1, 2)) for _ in range(2))
    assert torch.equal(first, second)


def test_mirrors_average_all_orientations() -> None:
    """A network that answers with the coordinate along an axis, mirrored and averaged, gives the middle."""

    def coordinate(tiles: Tensor) -> Tensor:
        return torch.arange(8.0).expand(len(tiles), 1, 8, 8)

    result = stitch(torch.zeros(1, 8, 8), (8, 8), coordinate, mirror=(1,))
    torch.testing.assert_close(result, torch.full((1, 8, 8), 3.5))
    untouched = stitch(torch.zeros(1, 8, 8), (8, 8), coordinate, mirror=(0,))
    torch.testing.assert_close(untouched, coordinate(torch.zeros(1))[0])


def test_a_small_image_is_padded_with_zeros_or_its_mirror() -> None:
    seen: list[Tensor] = []

    def remember(tiles: Tensor) -> Tensor:
        seen.append(tiles.clone())
        return tiles

    image = torch.tensor([[1.0, 2.0, 3.0]])
    for border in ("constant", "mirror"):
        stitch(image, (9,), remember, border=border)  # type: ignore[arg-type]
    assert seen[0].flatten().tolist() == [0, 0, 0, 1, 2, 3, 0, 0, 0]
    assert seen[1].flatten().tolist() == [2, 3, 2, 1, 2, 3, 2, 1, 2]


def test_a_margin_gives_the_border_its_surroundings() -> None:
    seen: list[Tensor] = []

    def remember(tiles: Tensor) -> Tensor:
        seen.append(tiles.clone())
        return tiles

    image = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    result = stitch(image, (8,), remember, border="mirror", margin=2)
    assert seen[0].flatten().tolist() == [3, 2, 1, 2, 3, 4, 3, 2]
    torch.testing.assert_close(result, image)


def test_outputs_may_go_to_a_memory_map_of_half_floats(tmp_path: Path) -> None:
    image = image_of(2, 30, 20, 20)
    stored = np.lib.format.open_memmap(tmp_path / "out.npy", "w+", np.float16, (2, 30, 20, 20))
    stitch(image, (8, 16, 16), lambda x: x, out=stored)
    np.testing.assert_allclose(np.asarray(stored, np.float32), image.numpy(), atol=2e-3)


def test_progress_is_told_after_each_batch() -> None:
    told: list[tuple[int, int]] = []
    stitch(torch.zeros(1, 16), (4,), lambda x: x, overlap=0, batch=3, progress=lambda *now: told.append(now))
    assert told == [(3, 4), (4, 4)]


def test_bfloat16_outputs_are_added_in_float32() -> None:
    image = torch.ones(1, 40, 40)
    result = stitch(image, (16, 16), lambda x: x.bfloat16())
    torch.testing.assert_close(result, image, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    "options",
    [
        {"tile": (8, 8, 8)},
        {"tile": (8, 0)},
        {"overlap": 1.0},
        {"mirror": (2,)},
        {"batch": 0},
        {"border": "wrap"},
        {"margin": -1},
        {"out": np.zeros((1, 9, 9), np.float32)},
        {"forward": lambda x: x[..., :-1]},
        {"image": torch.zeros(1, 20, 20, dtype=torch.int16)},
    ],
)
def test_what_makes_no_sense_is_refused(options: dict[str, object]) -> None:
    usual: dict[str, object] = {"image": torch.zeros(1, 20, 20), "tile": (8, 8), "forward": lambda x: x}
    with pytest.raises(BadPlan):
        stitch(**(usual | options))  # type: ignore[arg-type]
