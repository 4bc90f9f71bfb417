"""Views of stained tissue for learning without labels: parts of tiles, turned and mirrored, stained anew.

Cutting, turning, mirroring and resizing are one interpolation on the device where the tiles are. All is drawn
by torch's own chance, which a training seeds step by step.

Two views of a tile differ by what says nothing about tissue. Under a microscope that is direction, how
strongly a slide is stained and how bright its light is; the size of nuclei is not among it, so parts are
hardly magnified. By Beer and Lambert I = I₀ 10^(−c v): a stain s times as strong gives I₀ (I / I₀)^s.

Source: Caron et al., ICCV 2021, for views as parts; that magnification should be kept, Zimmermann et al.,
"Adapting self-supervised learning for computational pathology", CVPR 2024 workshops, arXiv:2405.01688.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

STAIN, TINT, LIGHT = 0.2, 0.1, 0.05
"""By how much the stain's strength, that of each channel alone, and the light change at most, in parts."""
RATIO = 4 / 3
"""How far a part's sides may differ."""
_DARKEST = 1 / 255


def view(tiles: Tensor, edge: int, shares: tuple[float, float]) -> Tensor:
    """A random view (n, 3, edge, edge) of each tile.

    Args:
        tiles: (n, 3, y, x), colours from -1 to 1.
        edge: Pixels of a view's side.
        shares: The least and the largest part of a tile's area that a view shows.
    """
    return restained(cut(tiles, parts(len(tiles), shares).to(tiles.device), edge))


def parts(count: int, shares: tuple[float, float]) -> Tensor:
    """Maps (n, 2, 3) from a view's square −1 … 1 into the tile's: where a view lies, turned and mirrored."""
    area = torch.empty(count).uniform_(*shares)
    ratio = RATIO ** torch.empty(count).uniform_(-1, 1)
    sides = torch.stack([(area * ratio).sqrt(), (area / ratio).sqrt()], dim=1).clamp(max=1)
    middle = (torch.rand(count, 2) * 2 - 1) * (1 - sides)
    axes = torch.eye(2).expand(count, 2, 2) * (torch.randint(2, (count, 1, 2)) * 2 - 1)
    turned = torch.where(torch.randint(2, (count, 1, 1)) == 1, axes.flip(2), axes)
    return torch.cat([sides[:, :, None] * turned, middle[:, :, None]], dim=2)


def cut(tiles: Tensor, maps: Tensor, edge: int) -> Tensor:
    """The parts of the tiles (n, 3, y, x) where `maps` (n, 2, 3) put them, `edge` pixels a side, bilinear."""
    with torch.autocast(tiles.device.type, enabled=False):  # places in half precision are off by pixels
        grid = functional.affine_grid(maps, [len(tiles), tiles.shape[1], edge, edge], align_corners=False)
        return functional.grid_sample(tiles, grid, padding_mode="border", align_corners=False)


def restained(tiles: Tensor) -> Tensor:
    """Tiles (n, 3, y, x) of colours from -1 to 1 as other stains and another light would show them."""

    def about_one(most: float, width: int) -> Tensor:
        return (1 + (torch.rand(len(tiles), width, 1, 1) * 2 - 1) * most).to(tiles.device)

    light = ((tiles + 1) / 2).clamp(min=_DARKEST)
    changed = light ** (about_one(STAIN, 1) * about_one(TINT, 3)) * about_one(LIGHT, 1)
    return (changed * 2 - 1).clamp(-1, 1)
