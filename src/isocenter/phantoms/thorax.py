"""The chest without nodules: wall, bones, mediastinum, two lungs with their vessels and bronchi.

Positions are in mm from the centre of the chest, in array order: z towards the head, y towards the back, x
towards the left. Sizes not given a source are typical ones of adults; they vary by patient.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.random import Generator
from scipy import ndimage

from isocenter.phantoms.shapes import Field, Grid, Place, Rod, Waves, blend, ellipse_depth, rods_share, share
from isocenter.phantoms.tissues import PROPERTIES, Tissue
from isocenter.phantoms.trees import Branch, grow

AIR = -1000.0
BLOOD = 42.0
"""HU of unenhanced blood, typical; that of vessels, heart and soft tissue of the mediastinum."""

_FAT, _MUSCLE, _MARROW = (PROPERTIES[t].hounsfield for t in (Tissue.FAT, Tissue.MUSCLE, Tissue.MARROW))
_CORTEX = 600.0  # less than compact bone has, as the cortex of ribs is thinner than the voxels
_LIVER = 58.0

# Unenhanced lungs in inspiration are about -850 HU, and denser behind: by up to 200 HU over the lung in
# expiration, much less in inspiration (Robinson & Kreel, J Comput Assist Tomogr 3 (1979) 740), nearly nothing
# at total lung capacity (Millar & Denison, Thorax 44 (1989) 485, doi:10.1136/thx.44.6.485).
_LUNG, _LUNG_SD = -850.0, 20.0
_GRADIENT_PER_MM = (0.15, 0.5)
_TEXTURE, _TEXTURE_MM = 22.0, 1.6

# Of the lumen of a bronchus to the artery beside it, at sea level: Kim et al., J Comput Assist Tomogr 21
# (1997) 306. Its wall is about a fifth of its outer diameter thick.
_BRONCHUS_TO_ARTERY, _WALL_SHARE = 0.62, 0.33

_ROUNDING_MM = 3.0
_END_RADIUS_MM = 0.72  # makes the arteries at the hilum 13 mm wide
_EDGE_MM = 5.0  # no vessel is seen nearer to the pleura
_REACH_MM = np.array([140.0, 105.0, 140.0])  # a box about both lungs


@dataclass(frozen=True)
class Chest:
    """One patient's chest.

    Attributes:
        cage: Semi-axes (y, x) of the inside of the ribs, in mm.
        fat: Thickness of the fat under the skin, in mm.
        domes: Height z of the tops of the diaphragm: right, left.
        top: Height above which the cage narrows.
        heart: Centre and semi-axes.
        lung: HU at the centre of the lungs, and its rise per mm towards the back.
        fissures: Whether they are seen.
        waves: What makes the surfaces irregular.
        arteries, veins: Of both lungs, with the trunks that lead to them.
        texture: Seed of the texture.
    """

    cage: tuple[float, float]
    fat: float
    domes: tuple[float, float]
    top: float
    heart: tuple[Place, Place]
    lung: tuple[float, float]
    fissures: bool
    waves: Waves
    arteries: tuple[Branch, ...]
    veins: tuple[Branch, ...]
    texture: int

    def lung_depth(self, points: Sequence[Field]) -> Field:
        """How deep points lie in a lung, in mm, at broadcastable z, y and x; negative outside."""
        return _lung_depth(self, self.waves.moved(points))

    def places(self, rng: Generator, count: int, depth_mm: float, side: int = 0) -> Place:
        """Random places at least so deep in the lungs, or in that on one side (1 left, -1 right): (n, 3)."""
        return _places(self, rng, count, depth_mm, side)


def draw(rng: Generator, ends: int = 420) -> Chest:
    """Draw a patient.

    Args:
        rng: Decides everything.
        ends: Of the arteries seen in each lung; the veins have three quarters as many.
    """
    size = rng.uniform(0.92, 1.05)
    cage = (84.0 * size * rng.uniform(0.94, 1.06), 119.0 * size)
    dome = rng.uniform(-92, -62)
    heart = np.array([-48.0, -24.0, 22.0]) + rng.normal(0, 3.0, 3), np.array([50.0, 43.0, 54.0]) * size
    bare = Chest(
        cage=cage,
        fat=float(rng.uniform(6, 26)),
        domes=(dome + rng.uniform(5, 14), dome),
        top=float(rng.uniform(0, 30)),
        heart=heart,
        lung=(float(rng.normal(_LUNG, _LUNG_SD)), float(rng.uniform(*_GRADIENT_PER_MM))),
        fissures=bool(rng.random() < 0.7),
        waves=Waves.draw(rng, 90.0, 2.0),
        arteries=(),
        veins=(),
        texture=int(rng.integers(2**31)),
    )
    arteries, veins = list(_trunks()), []
    for side in (-1, 1):
        hilum = np.array([0.0, 8.0, side * 40.0])
        arteries += grow(rng, hilum, bare.places(rng, ends, _EDGE_MM, side), _END_RADIUS_MM)
        lower = hilum + np.array([-18.0, 0.0, -side * 6.0])
        veins += grow(rng, lower, bare.places(rng, 3 * ends // 4, _EDGE_MM, side), _END_RADIUS_MM)
    return Chest(**{**vars(bare), "arteries": tuple(arteries), "veins": tuple(veins)})


def paint(chest: Chest, grid: Grid) -> tuple[Field, Field]:
    """HU without nodules, point spread and noise, and the depth in the lungs in mm, both (z, y, x)."""
    points = chest.waves.moved(grid.axes)
    image, depth = _wall(chest, points, grid), _lung_depth(chest, points)
    _mediastinum(chest, points, grid, image)
    blend(image, share(depth, grid.width_mm), _parenchyma(chest, points, grid))
    _vessels(chest, grid, image)
    return image, depth


def _lung_depth(chest: Chest, points: Sequence[Field]) -> Field:
    z, y, x = points
    size = 1 - np.float32(0.35) * np.clip((z - chest.top) / np.float32(110), 0, 1.15) ** 2
    cage = size * ellipse_depth((y / size, x / size), (0.0, 0.0), chest.cage)
    column = -ellipse_depth((y, x), (8.0, 0.0), (62.0, 27.0))
    spine = -ellipse_depth((y, x), (chest.cage[0] - 13, 0.0), (32.0, 27.0))
    heart = -ellipse_depth(points, *chest.heart)
    septum = np.abs(x - 4) - np.float32(3.0)
    floor = np.where(x < 0, np.float32(chest.domes[0]), np.float32(chest.domes[1]))
    across, along = (np.abs(x) - np.float32(60)) / np.float32(62), (y + 8) / np.float32(90)
    dome = (z - floor + np.float32(38) * np.clip(across**2 + along**2, 0, 2)) * np.float32(0.8)
    return _lowest([cage, column, spine, heart, septum, dome])


def _lowest(depths: Sequence[Field]) -> Field:
    """The smallest of depths, with the edges between their surfaces rounded off."""
    total = sum(np.exp(np.clip(-depth / np.float32(_ROUNDING_MM), -80, 25)) for depth in depths)
    return np.asarray(-np.float32(_ROUNDING_MM) * np.log(total), dtype=np.float32)


def _places(chest: Chest, rng: Generator, count: int, depth_mm: float, side: int) -> Place:
    found: list[Place] = []
    while sum(map(len, found)) < count:
        tried = rng.uniform(-1, 1, (4000, 3)) * _REACH_MM
        z, y, x = tried.T.astype(np.float32)
        fits = chest.lung_depth((z, y, x)) > depth_mm
        found.append(tried[fits & (x * side >= 0)])
    return np.concatenate(found)[:count]


def _trunks() -> Iterator[Branch]:
    """The pulmonary trunk and its two arteries as far as the hila."""
    fork = np.array([4.0, -14.0, 10.0])
    yield Branch(Rod(np.array([-25.0, -36.0, 18.0]), fork, 13.0), 0)
    for side, radius in ((-1, 9.5), (1, 9.0)):
        yield Branch(Rod(fork, np.array([0.0, 8.0, side * 40.0]), radius), 0)


def _wall(chest: Chest, points: Sequence[Field], grid: Grid) -> Field:
    """Air about the body, skin, fat, muscles, ribs, sternum and spine; fat in the mediastinum."""
    z, y, x = points
    depth, width = chest.cage
    top = np.clip((z - chest.top) / np.float32(110), 0, 1.15)
    size = 1 - np.float32(0.35) * top**2
    inner = size * ellipse_depth((y / size, x / size), (0.0, 0.0), (depth, width))
    outline = ellipse_depth((y, x), (4.0, 0.0), (depth + 30 + chest.fat * 0.7, width + 20 + chest.fat))
    image = np.full(grid.shape, AIR, np.float32)
    blend(image, share(outline, grid.width_mm), _MUSCLE)
    blend(image, share(outline - 2, grid.width_mm), _FAT)
    for muscle in _muscles(chest, points, inner, outline):
        blend(image, share(muscle, grid.width_mm), _MUSCLE)
    blend(image, share(inner, grid.width_mm), _FAT + 30)
    for shell, marrow in ((True, _CORTEX), (False, _MARROW)):
        blend(image, _bones(chest, grid, shell), marrow)
    _spine(chest, points, grid, image)
    return image


def _muscles(chest: Chest, points: Sequence[Field], inner: Field, outline: Field) -> Iterator[Field]:
    """Between the ribs, on the chest in front, beside the spine, and on the back."""
    _, y, x = points
    depth, width = chest.cage
    yield np.minimum(inner + 9, outline - 4)
    for side in (-1, 1):
        front = ellipse_depth((y, x), (-depth - 14, side * 62.0), (9.0, 50.0))
        beside = ellipse_depth((y, x), (depth + 15, side * 32.0), (16.0, 27.0))
        back = ellipse_depth((y, x), (depth * 0.62, side * (width + 8)), (42.0, 11.0))
        yield np.minimum(np.maximum(np.maximum(front, beside), back), outline - 4)


def _bones(chest: Chest, grid: Grid, shell: bool) -> Field:
    """Ribs and sternum, with their cortex or only the marrow."""
    depth, width = chest.cage
    thin = 0.0 if shell else 1.4
    rods = []
    for height in np.arange(-130, 190, 23.0):
        for side in (-1, 1):
            turn = np.linspace(0.06, 0.86, 22) * np.pi  # from the spine to the front
            down = height - 58 * (1 - np.cos(turn)) / 2
            narrow = 1 - 0.35 * np.clip((down - chest.top) / 110, 0, 1.15) ** 2
            around = (depth + 4.5) * np.cos(turn), side * (width + 4.5) * np.sin(turn)
            path = np.stack([down, around[0] * narrow, around[1] * narrow], axis=1)
            rods += [Rod(a, b, 4.6 - thin) for a, b in pairwise(path)]
    for left in (-9.0, 0.0, 9.0):
        front = -depth - 5.0
        rods.append(Rod(np.array([-60.0, front, left]), np.array([110.0, front, left]), 5.5 - thin))
    return rods_share(grid, rods)


def _spine(chest: Chest, points: Sequence[Field], grid: Grid, image: Field) -> None:
    z, y, x = points
    middle = chest.cage[0] - 8
    body = ellipse_depth((y, x), (middle, 0.0), (15.0, 18.0))
    between = np.abs((z + 11) % np.float32(23) - np.float32(11.5)) - np.float32(2.2)  # 23 mm a vertebra
    blend(image, share(body, grid.width_mm), 80.0)
    bone = np.minimum(body, between)
    blend(image, share(bone, grid.width_mm), 420.0)
    blend(image, share(bone - 1.8, grid.width_mm), 170.0)
    arch = ellipse_depth((y, x), (middle + 23, 0.0), (12.0, 15.0))
    blend(image, share(arch, grid.width_mm), 380.0)
    process = np.minimum(7 - np.abs(y - middle - 38), 3.5 - np.abs(x))
    blend(image, share(process, grid.width_mm), 320.0)
    blend(image, share(ellipse_depth((y, x), (middle + 21, 0.0), (7.5, 9.5)), grid.width_mm), 30.0)


def _mediastinum(chest: Chest, points: Sequence[Field], grid: Grid, image: Field) -> None:
    """Heart, great vessels, oesophagus, nodes, and what lies below the diaphragm."""
    z, y, x = points
    floor = np.where(x < 0, np.float32(chest.domes[0]), np.float32(chest.domes[1]))
    across, along = (np.abs(x) - np.float32(60)) / np.float32(62), (y + 8) / np.float32(90)
    below = floor - np.float32(38) * np.clip(across**2 + along**2, 0, 2) - 2 - z
    cage = ellipse_depth((y, x), (0.0, 0.0), chest.cage)
    blend(image, share(np.minimum(below, cage - 1), grid.width_mm), np.where(x < 12, _LIVER, _LIVER - 12))
    centre, semi = chest.heart
    heart = ellipse_depth(points, centre, semi - 3)
    blend(image, share(heart, grid.width_mm), BLOOD)
    back = chest.cage[0] - 32
    rods = [
        *_line([(-150, back, 14), (20, back + 2, 20), (38, back - 8, 20)], 12.0),  # aorta, down the back,
        *_line([(38, back - 8, 20), (44, back - 30, 14), (36, -22, -4), (-20, -20, -2)], 13.5),  # its arch
        *_line([(140, -2, -22), (-20, -6, -24)], 8.5),  # superior vena cava
        *_line([(140, back - 12, 3), (-140, back - 10, 4)], 6.0),  # oesophagus
        *_line([(44, back - 28, 16), (140, 10, 24)], 5.5),  # left subclavian and carotid arteries,
        *_line([(44, -6, 4), (140, -8, 14)], 5.0),
        *_line([(42, -18, -6), (140, -6, -12)], 6.5),  # and the brachiocephalic one
    ]
    blend(image, rods_share(grid, rods), BLOOD)


def _line(places: Sequence[Sequence[float]], radius: float) -> list[Rod]:
    points = [np.asarray(place, float) for place in places]
    return [Rod(a, b, radius) for a, b in pairwise(points)]


def _parenchyma(chest: Chest, points: Sequence[Field], grid: Grid) -> Field:
    """HU of the lungs: denser behind, with a texture of vessels and walls too small to be seen, and
    the fissures, which are thinner than a voxel."""
    z, y, _ = points
    level, slope = chest.lung
    rng = np.random.default_rng(chest.texture)
    grain = rng.standard_normal(grid.shape, dtype=np.float32)
    sd = [_TEXTURE_MM / step for step in grid.spacing_mm]
    grain = ndimage.gaussian_filter(grain, sd, mode="wrap", truncate=3)
    values = level + np.float32(slope) * y + grain * np.float32(_TEXTURE / grain.std())
    if chest.fissures:
        # at a slant, from behind above to the front below
        sheet = (z + 12 + np.float32(0.9) * y) * np.float32(0.74)
        blend(values, np.float32(0.16) * share(1 - np.abs(sheet), grid.width_mm), BLOOD)
    return np.asarray(values)


def _vessels(chest: Chest, grid: Grid, image: Field) -> None:
    """Vessels, then the bronchi beside the arteries with their walls, then the trachea."""
    blend(image, rods_share(grid, (b.rod for b in (*chest.arteries, *chest.veins))), BLOOD)
    walls, lumina = [], []
    for lumen in (*_bronchi(chest), *_airway()):
        walls.append(Rod(lumen.start, lumen.end, lumen.radius * (1 + _WALL_SHARE) + 0.3))
        lumina.append(lumen)
    blend(image, rods_share(grid, walls), BLOOD)
    blend(image, rods_share(grid, lumina), AIR)


def _bronchi(chest: Chest) -> Iterator[Rod]:
    """A bronchus goes beside each artery within the lungs, and is seen where its lumen is wide enough."""
    arteries = [b.rod for b in chest.arteries if b.supplied and _BRONCHUS_TO_ARTERY * b.rod.radius > 0.75]
    z, y, x = np.reshape([artery.end for artery in arteries], (-1, 3)).T.astype(np.float32)
    for artery, depth in zip(arteries, chest.lung_depth((z, y, x)), strict=True):
        if depth > 0:
            radius = _BRONCHUS_TO_ARTERY * artery.radius
            apart = artery.radius + radius * (1 + _WALL_SHARE) + 0.3
            aside = apart * np.array([0.55, 0.6, -0.58 * np.sign(artery.start[2])])
            yield Rod(artery.start + aside, artery.end + aside, radius)


def _airway() -> Iterator[Rod]:
    """Trachea, carina and main bronchi."""
    carina = np.array([26.0, 18.0, -2.0])
    yield Rod(np.array([150.0, 2.0, 0.0]), carina, 8.2)
    for side, radius in ((-1, 6.6), (1, 5.8)):
        yield Rod(carina, np.array([4.0, 16.0, side * 34.0]), radius)
