"""Views of tiles: where they lie, that nothing is invented, and what stains and light do to colours."""

from __future__ import annotations

import torch

from isocenter.parts.augment.views import cut, parts, restained, view


def test_a_view_of_the_whole_is_the_tile() -> None:
    tiles = torch.rand(2, 3, 8, 8) * 2 - 1
    whole = torch.tensor([[1.0, 0, 0], [0, 1, 0]]).expand(2, 2, 3)
    assert torch.allclose(cut(tiles, whole, 8), tiles, atol=1e-6)


def test_turning_and_mirroring_move_pixels_and_change_none() -> None:
    tiles = torch.rand(1, 3, 8, 8) * 2 - 1
    mirrored = torch.tensor([[[-1.0, 0, 0], [0, 1, 0]]])
    transposed = torch.tensor([[[0.0, 1, 0], [1, 0, 0]]])
    assert torch.allclose(cut(tiles, mirrored, 8), tiles.flip(3), atol=1e-6)
    assert torch.allclose(cut(tiles, transposed, 8), tiles.transpose(2, 3), atol=1e-6)


def test_a_quarter_at_half_the_side_keeps_its_magnification() -> None:
    tiles = torch.rand(1, 3, 8, 8) * 2 - 1
    first = torch.tensor([[[0.5, 0, -0.5], [0, 0.5, -0.5]]])
    assert torch.allclose(cut(tiles, first, 4), tiles[..., :4, :4], atol=1e-6)


def test_parts_lie_inside_the_tile_and_have_the_area_that_was_asked_for() -> None:
    torch.manual_seed(0)
    maps = parts(500, (0.15, 0.4))
    sides = maps[:, :, :2].abs().sum(dim=2)
    assert (maps[:, :, 2].abs() + sides <= 1 + 1e-6).all()
    areas = sides.prod(dim=1)
    assert areas.min() >= 0.15 - 1e-6
    assert areas.max() <= 0.4 + 1e-6
    # All eight directions of the square occur.
    assert len({tuple(row) for row in maps[:, :, :2].sign().flatten(1).tolist()}) == 8


def test_stain_and_light_leave_white_nearly_white_and_order_as_it_was() -> None:
    torch.manual_seed(0)
    ramp = torch.linspace(-1, 1, 64).reshape(1, 1, 8, 8).expand(50, 3, 8, 8)
    changed = restained(ramp)
    assert changed[:, :, -1, -1].min() >= 0.9 - 1e-6
    assert (changed.flatten(2).diff(dim=2) >= 0).all()
    assert changed.std(dim=0).max() > 0.01


def test_mixed_precision_does_not_move_a_view() -> None:
    tiles, maps = torch.rand(4, 3, 128, 128), parts(4, (0.5, 1.0))
    exact = cut(tiles, maps, 128)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(cut(tiles, maps, 128), exact)


def test_views_follow_from_the_seed() -> None:
    tiles = torch.rand(4, 3, 32, 32) * 2 - 1
    torch.manual_seed(3)
    first = view(tiles, 16, (0.15, 0.4))
    torch.manual_seed(3)
    assert torch.equal(first, view(tiles, 16, (0.15, 0.4)))
    assert first.shape == (4, 3, 16, 16)
