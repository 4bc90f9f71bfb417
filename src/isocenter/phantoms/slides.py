"""Whole slides of stained tissue in which regions of tumour are planted, and datasets of them.

Stains follow Beer and Lambert: I = 243 · 10^−(c_H v_H + c_E v_E), with the unit vectors of haematoxylin and
eosin of Ruifrok and Johnston (Anal. Quant. Cytol. Histol. 23 (2001) 291) and concentrations c that differ
from slide to slide as staining does. Tissue is a wavy patch with fibres of eosin; in it lie nuclei as
ellipses of haematoxylin, evenly spread, and clusters of small dark ones (lymphocytes), which every slide has.
Tumour is a region with larger and denser nuclei; that is all that sets it apart.

| nuclei | radius in µm | per mm² |
|---|---|---|
| of tissue | 3.2 ± 0.5 | 1500 |
| of lymphocytes | 2.4 ± 0.2 | 6000 |
| of tumour | 5.2 ± 1.0 | 4000 |
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from scipy import ndimage

from isocenter import files
from isocenter.phantoms import storing

Field = NDArray[np.float32]
Mask = NDArray[np.bool_]

HAEMATOXYLIN = (0.65, 0.70, 0.29)
EOSIN = (0.07, 0.99, 0.11)
"""Optical density of red, green and blue (Ruifrok and Johnston 2001, table 1)."""

TUMOUR, NORMAL = "tumour", "normal"
COLUMNS = ("id", "slide", "label", "patient", "regions")

_COARSE = 32
"""Pixels of the grid on which outlines are drawn."""
_STORED_TILE = 256
_REDUCED = 4
"""Each level of the pyramid has a quarter of the last one's rows and columns."""


@dataclass(frozen=True)
class Nuclei:
    """Nuclei of one kind: radius and its spread in µm, number per mm², haematoxylin in each."""

    radius_um: float
    spread_um: float
    per_mm2: float
    stain: float


TISSUE = Nuclei(3.2, 0.5, 1500, 0.75)
LYMPHOCYTES = Nuclei(2.4, 0.2, 6000, 1.0)
CANCER = Nuclei(5.2, 1.0, 4000, 0.65)


@dataclass(frozen=True, eq=False)
class Phantom:
    """A slide with what is known of it.

    Attributes:
        colours: (rows, columns, 3) bytes.
        mpp: µm of a pixel.
        tumour: (rows / 32, columns / 32) where tumour was planted.
    """

    colours: NDArray[np.uint8]
    mpp: float
    tumour: Mask

    @property
    def regions(self) -> list[NDArray[np.float64]]:
        """The outline of each region of tumour, (point, 2) x and y in pixels, closed."""
        from skimage.measure import find_contours

        rings = find_contours(np.pad(self.tumour, 1).astype(np.float32), 0.5)  # type: ignore[no-untyped-call]  # skimage is untyped
        return [np.asarray((ring[:, ::-1] - 0.5) * _COARSE) for ring in rings]


def make(rng: Generator, *, tumour: bool, shape: tuple[int, int] = (2048, 2048), mpp: float = 1.0) -> Phantom:
    """A slide, with tumour in it or without.

    Args:
        rng: All chance.
        tumour: Whether one to three regions of it are planted.
        shape: Rows and columns, multiples of 32.
        mpp: µm of a pixel.
    """
    coarse = (shape[0] // _COARSE, shape[1] // _COARSE)
    tissue = _blob(rng, coarse, centre=(0.5, 0.5), radius=0.36)
    immune = _patches(rng, tissue, int(rng.integers(1, 4)), radius=0.05)
    planted = np.zeros(coarse, dtype=bool)
    if tumour:
        planted = ndimage.binary_fill_holes(_patches(rng, tissue, int(rng.integers(1, 4)), radius=0.10))
    immune &= ~planted
    haematoxylin = np.zeros(shape, dtype=np.float32)
    for kind, where in ((TISSUE, tissue & ~planted & ~immune), (LYMPHOCYTES, immune), (CANCER, planted)):
        _stain_nuclei(rng, haematoxylin, where, kind, mpp)
    inside = ndimage.zoom(tissue.astype(np.float32), _COARSE, order=1)
    eosin = inside * _fibres(rng, shape) * (1 - 0.7 * haematoxylin)
    return Phantom(_developed(rng, haematoxylin, eosin), mpp, planted)


def write_slide(phantom: Phantom, path: Path) -> None:
    """Write a slide as a tiled pyramid in TIFF, JPEG inside, with its pixel size per centimetre."""
    import tifffile

    levels = [phantom.colours]
    while max(levels[-1].shape) > 2 * _STORED_TILE:
        levels.append(_reduced(levels[-1]))
    with files.written_whole(path, suffix=".tif") as beside, tifffile.TiffWriter(beside) as writer:
        for number, level in enumerate(levels):
            per_cm = 1e4 / (phantom.mpp * _REDUCED**number)
            writer.write(
                level,
                subifds=len(levels) - 1 if number == 0 else None,
                subfiletype=0 if number == 0 else 1,
                tile=(_STORED_TILE, _STORED_TILE),
                photometric="rgb",
                compression="jpeg",
                compressionargs={"level": 92},
                resolution=(per_cm, per_cm),
                resolutionunit="CENTIMETER",
                metadata=None,
            )


def write_dataset(
    folder: Path,
    slides: int = 40,
    *,
    seed: int = 0,
    shape: tuple[int, int] = (2048, 2048),
    mpp: float = 1.0,
) -> Path:
    """Write slides, every other one with tumour, and `manifest.csv` with the regions of those.

    Raises:
        BadDataset: There are no slides to write.
    """

    def one(number: int) -> tuple[object, ...]:
        diseased = number % 2 == 1
        phantom = make(np.random.default_rng([seed, number]), tumour=diseased, shape=shape, mpp=mpp)
        name = f"slide_{number:03d}"
        write_slide(phantom, folder / "slides" / f"{name}.tif")
        region = f"regions/{name}.geojson" if diseased else ""
        if diseased:
            files.write_json(folder / region, _as_geojson(phantom.regions))
        return name, f"slides/{name}.tif", TUMOUR if diseased else NORMAL, f"P{number:03d}", region

    storing.write_table(folder / "manifest.csv", COLUMNS, storing.each_case(one, slides))
    return folder


def _as_geojson(rings: list[NDArray[np.float64]]) -> dict[str, object]:
    """Outlines as annotations that QuPath imports."""
    properties = {"objectType": "annotation", "classification": {"name": TUMOUR}}
    return {
        "type": "FeatureCollection",
        "features": [
            {
                "type": "Feature",
                "geometry": {"type": "Polygon", "coordinates": [ring.round(2).tolist()]},
                "properties": properties,
            }
            for ring in rings
        ],
    }


# ------------------------------------------------------------------------------------------------ outlines


def _smooth(rng: Generator, shape: tuple[int, ...], sigma: float) -> Field:
    """Noise with mean 0 and spread 1 that varies over `sigma` pixels."""
    field = ndimage.gaussian_filter(rng.standard_normal(shape).astype(np.float32), sigma, mode="reflect")
    return np.asarray((field - field.mean()) / max(float(field.std()), 1e-6), dtype=np.float32)


def _blob(rng: Generator, shape: tuple[int, int], centre: tuple[float, float], radius: float) -> Mask:
    """A round patch with a wavy border; centre and radius in shares of the slide."""
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    edge = min(shape)
    away = np.hypot(rows - centre[0] * shape[0], columns - centre[1] * shape[1]) / edge
    return np.asarray(away + 0.25 * radius * _smooth(rng, shape, radius * edge / 3) < radius)


def _patches(rng: Generator, tissue: Mask, count: int, radius: float) -> Mask:
    """So many patches somewhere in the tissue."""
    found = np.zeros_like(tissue)
    inner = np.argwhere(
        ndimage.binary_erosion(tissue, iterations=max(1, int(radius * min(tissue.shape) / 2)))
    )
    places = inner if len(inner) else np.argwhere(tissue)
    for _ in range(count):
        row, column = places[int(rng.integers(len(places)))] / np.array(tissue.shape)
        found |= _blob(rng, (tissue.shape[0], tissue.shape[1]), (row, column), radius * rng.uniform(0.7, 1.2))
    return found & tissue


# -------------------------------------------------------------------------------------------------- stains


def _stain_nuclei(rng: Generator, stain: Field, where: Mask, kind: Nuclei, mpp: float) -> None:
    """Put nuclei of one kind where the coarse mask is, the darkest on top, in place."""
    cells = np.argwhere(where)
    if not len(cells):
        return
    area = len(cells) * (_COARSE * mpp / 1000) ** 2
    count = int(rng.poisson(area * kind.per_mm2))
    centres = (cells[rng.integers(len(cells), size=count)] + rng.random((count, 2))) * _COARSE
    radii = np.clip(rng.normal(kind.radius_um, kind.spread_um, count), 1.0, None) / mpp
    longer = rng.uniform(1.0, 1.5, count) ** 0.5
    angles = rng.uniform(0, np.pi, count)
    depth = np.clip(rng.normal(kind.stain, 0.12, count), 0.3, 1.3)
    for centre, radius, stretch, angle, dark in zip(centres, radii, longer, angles, depth, strict=True):
        _stamp(stain, centre, (radius * stretch, radius / stretch), float(angle), float(dark))


def _stamp(
    stain: Field, centre: NDArray[np.float64], axes: tuple[float, float], angle: float, dark: float
) -> None:
    """One ellipse with an edge a pixel wide, the darker of itself and what is there."""
    reach = int(max(axes)) + 2
    low = np.maximum(centre.astype(int) - reach, 0)
    high = np.minimum(centre.astype(int) + reach + 1, stain.shape)
    rows = np.arange(low[0], high[0], dtype=np.float32)[:, None] - np.float32(centre[0])
    columns = np.arange(low[1], high[1], dtype=np.float32)[None] - np.float32(centre[1])
    along = (rows * np.sin(angle) + columns * np.cos(angle)) / axes[0]
    across = (rows * np.cos(angle) - columns * np.sin(angle)) / axes[1]
    depth = (1 - np.sqrt(along**2 + across**2)) * min(axes)
    here = stain[low[0] : high[0], low[1] : high[1]]
    np.maximum(here, dark * np.clip(depth + 0.5, 0, 1), out=here, casting="unsafe")


def _fibres(rng: Generator, shape: tuple[int, int]) -> Field:
    """Eosin of fibres that run mostly one way."""
    fine = ndimage.gaussian_filter(rng.standard_normal(shape).astype(np.float32), (1.5, 6))
    fine /= max(float(fine.std()), 1e-6)
    return np.asarray(np.clip(0.32 + 0.06 * fine, 0.05, 0.8), dtype=np.float32)


def _developed(rng: Generator, haematoxylin: Field, eosin: Field) -> NDArray[np.uint8]:
    """Colours from concentrations, with the slide's own strength of each stain and the camera's noise."""
    density = np.zeros((*haematoxylin.shape, 3), dtype=np.float32)
    for amount, vector in ((haematoxylin, HAEMATOXYLIN), (eosin, EOSIN)):
        direction = np.array(vector, dtype=np.float32) / np.float32(np.linalg.norm(vector))
        density += (amount * np.float32(rng.uniform(0.8, 1.2)))[..., None] * direction
    light = np.float32(243 * rng.uniform(0.98, 1.02)) * np.power(np.float32(10), -density)
    light += rng.standard_normal(light.shape, dtype=np.float32) * np.float32(1.5)
    return np.clip(np.round(light), 0, 255).astype(np.uint8)


def _reduced(colours: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The next level of a pyramid: the mean of every 4 × 4 pixels."""
    from PIL import Image

    return np.asarray(Image.fromarray(colours).reduce(_REDUCED))
