"""Fluorescence microscopy of cells of several classes, with the place and class of each, and datasets of it.

The microscope: cells add up, as widefield fluorescence does; the point spread is a Gaussian of sd 0.21
wavelength / aperture (Zhang, Zerubia & Olivo-Marin, Appl Opt 46 (2007) 1819, doi:10.1364/AO.46.001819), with
a share of the light spread wide from out of focus; photons are counted with Poisson noise, the camera adds
Gaussian noise and an offset.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from scipy import ndimage

from isocenter import files
from isocenter.phantoms import storing
from isocenter.phantoms.shapes import Field


@dataclass(frozen=True)
class Look:
    """A class of cells; all values are typical ones of nuclei and cells in culture.

    Attributes:
        radius_um: Mean, and relative sd between cells.
        elongation: Largest ratio of the long axis to the short one.
        brightness: Relative to the protocol's photons; and relative sd between cells.
        rim: From 0, evenly filled, to 1, bright at the rim alone.
        grain: Relative sd of the texture within a cell.
        share: Of all cells, on average; each image has its own mixture.
    """

    radius_um: tuple[float, float]
    elongation: float
    brightness: tuple[float, float]
    rim: float
    grain: float
    share: float


LOOKS: Mapping[str, Look] = {
    "small": Look((3.0, 0.1), 1.15, (1.0, 0.15), 0.0, 0.05, 0.45),
    "large": Look((5.6, 0.12), 1.6, (0.55, 0.15), 0.0, 0.30, 0.35),
    "ring": Look((4.6, 0.1), 1.25, (0.75, 0.15), 0.85, 0.08, 0.20),
}


GAIN, OFFSET = 1.5, 10.0
"""Grey values of a photon, and of darkness."""


@dataclass(frozen=True)
class Protocol:
    """How a dataset's images are made.

    Attributes:
        shape: In pixels, (y, x).
        pixel_um: Size of a pixel in the specimen.
        wavelength_um: Of the emitted light.
        aperture: Numerical aperture of the objective.
        haze: Share of the light that is out of focus.
        haze_um: How wide it is spread (sd).
        photons: At a cell of brightness 1; background is a tenth of it.
        read_noise: Sd of the camera's noise in photons.
        density: Smallest and largest mean number of cells in 100 x 100 um; log-uniform.
        clustering: Sd of the logarithm of the density within an image, over `patch_um`.
        patch_um: Size of denser places.
        looks: The classes.
    """

    shape: tuple[int, int] = (256, 256)
    pixel_um: float = 0.65
    wavelength_um: float = 0.52
    aperture: float = 0.4
    haze: float = 0.25
    haze_um: float = 5.0
    photons: float = 60.0
    read_noise: float = 1.5
    density: tuple[float, float] = (8.0, 80.0)
    clustering: float = 0.8
    patch_um: float = 18.0
    looks: Mapping[str, Look] = field(default_factory=lambda: LOOKS)


@dataclass(frozen=True)
class Cell:
    """Where a cell lies, in pixels from the centre of the first one (y, x), and its class."""

    place: tuple[float, float]
    label: str


@dataclass(frozen=True)
class Phantom:
    """Grey values, uint8 (y, x), and the cells whose centre is in the image."""

    image: NDArray[np.uint8]
    cells: tuple[Cell, ...]


def scan(rng: Generator, protocol: Protocol) -> Phantom:
    """One image; `rng` decides everything."""
    margin = int(np.ceil(12 / protocol.pixel_um))  # cells beyond the edge reach into the image
    shape = (protocol.shape[0] + 2 * margin, protocol.shape[1] + 2 * margin)
    light = np.zeros(shape, np.float32)
    cells = []
    shares = _mixture(rng, protocol)
    for y, x in _places(rng, protocol, shape):
        label = str(rng.choice(list(protocol.looks), p=shares))
        _draw_cell(rng, protocol.looks[label], (y, x), protocol.pixel_um, light)
        place = (float(y) - margin, float(x) - margin)
        if all(-0.5 <= at < size - 0.5 for at, size in zip(place, protocol.shape, strict=True)):
            cells.append(Cell(place, label))
    inner = (slice(margin, shape[0] - margin), slice(margin, shape[1] - margin))
    photons = protocol.photons * (_blurred(light, protocol)[inner] + 0.1)
    return Phantom(_detected(rng, photons, protocol), tuple(cells))


def write_dataset(
    folder: str | Path, cases: int = 40, seed: int = 0, *, protocol: Protocol | None = None
) -> Path:
    """Write a dataset for counting: `images/*.png`, `points.csv`, the manifest `cases.csv`, `isocenter.json`.

    `points.csv` has a row for each cell: its case, its class, and x and y in pixels, where whole numbers are
    the centres of pixels. Any image depends only on the seed and its own number.

    Args:
        folder: Where to write; made if absent.
        cases: How many images.
        seed: Of everything.
        protocol: By default 256 x 256 pixels of 0.65 um, with three classes.

    Returns:
        The folder.

    Raises:
        BadDataset: There are no cases to write.
    """
    folder, protocol = Path(folder), protocol or Protocol()

    def write(number: int) -> tuple[str, Phantom]:
        name, made = f"C{number + 1:03d}", scan(np.random.default_rng((seed, number)), protocol)
        storing.write_png(folder / f"images/{name}.png", made.image)
        return name, made

    written = storing.each_case(write, cases)
    points = [
        (name, cell.label, f"{cell.place[1]:.2f}", f"{cell.place[0]:.2f}")
        for name, made in written
        for cell in made.cells
    ]
    storing.write_table(folder / "points.csv", ("case", "label", "x", "y"), points)
    rows = [(name, f"images/{name}.png") for name, _ in written]
    storing.write_table(folder / "cases.csv", ("id", "image"), rows)
    labels = {"background": 0, **{label: value for value, label in enumerate(protocol.looks, start=1)}}
    said = {"name": "phantom_cells", "task": "counting", "channels": ["fluorescence"], "labels": labels}
    files.write_json(folder / "isocenter.json", said)
    return folder


def _mixture(rng: Generator, protocol: Protocol) -> NDArray[np.float64]:
    """Probabilities of the classes in one image, Dirichlet about their shares."""
    usual = np.array([look.share for look in protocol.looks.values()])
    return np.asarray(rng.dirichlet(8 * usual / usual.sum()))


def _places(rng: Generator, protocol: Protocol, shape: tuple[int, int]) -> NDArray[np.float64]:
    """A log-Gaussian Cox process: Poisson numbers about a density that varies within the image, (n, 2)."""
    mean = np.exp(rng.uniform(*np.log(protocol.density))) * (protocol.pixel_um / 100) ** 2
    smooth = ndimage.gaussian_filter(rng.normal(size=shape), protocol.patch_um / protocol.pixel_um)
    smooth *= protocol.clustering / smooth.std()
    density = mean * np.exp(smooth - protocol.clustering**2 / 2)
    rows, columns = np.nonzero(counts := rng.poisson(density))
    places = np.repeat(np.stack([rows, columns], axis=1), counts[rows, columns], axis=0)
    return np.asarray(places + rng.uniform(-0.5, 0.5, places.shape))


def _draw_cell(rng: Generator, look: Look, place: tuple[float, float], pixel_um: float, light: Field) -> None:
    """Add a cell's light: an ellipse with an irregular edge, filled or with a rim, and textured."""
    radius = look.radius_um[0] * np.exp(look.radius_um[1] * rng.normal()) / pixel_um
    brightness = look.brightness[0] * np.exp(look.brightness[1] * rng.normal())
    stretch, turn = np.sqrt(rng.uniform(1, look.elongation)), rng.uniform(0, np.pi)
    reach = int(np.ceil(1.6 * radius)) + 2
    box = tuple(
        slice(max(0, round(at) - reach), min(size, round(at) + reach + 1))
        for at, size in zip(place, light.shape, strict=True)
    )
    y, x = (np.arange(part.start, part.stop) - at for part, at in zip(box, place, strict=True))
    along = (np.cos(turn) * x + np.sin(turn) * y[:, None]) / stretch
    across = (np.cos(turn) * y[:, None] - np.sin(turn) * x) * stretch
    distance, angle = np.hypot(along, across), np.arctan2(across, along)
    bumps = sum(rng.normal(0, 0.05) * np.cos(k * angle + rng.uniform(0, 2 * np.pi)) for k in (2, 3, 4))
    edge = radius * (1 + bumps)
    inside = np.clip(edge - distance + 0.5, 0, 1)
    filling = 1 - look.rim + look.rim * np.exp(-(((distance - 0.8 * edge) / (0.16 * edge)) ** 2))
    texture = ndimage.gaussian_filter(rng.normal(size=inside.shape), 1.2)
    filling *= np.maximum(0, 1 + look.grain * texture / texture.std())
    light[box] += (brightness * inside * filling).astype(np.float32)


def _blurred(light: Field, protocol: Protocol) -> Field:
    """The point spread: what is in focus, and the haze of what is not."""
    sharp = 0.21 * protocol.wavelength_um / protocol.aperture / protocol.pixel_um
    in_focus = ndimage.gaussian_filter(light, sharp)
    haze = ndimage.gaussian_filter(light, protocol.haze_um / protocol.pixel_um)
    return np.asarray((1 - protocol.haze) * in_focus + protocol.haze * haze, dtype=np.float32)


def _detected(rng: Generator, photons: Field, protocol: Protocol) -> NDArray[np.uint8]:
    """Counts with the camera's noise; the gain puts overlapping cells below saturation."""
    counted = rng.poisson(photons) + rng.normal(0, protocol.read_noise, photons.shape)
    return np.clip(np.rint(GAIN * counted + OFFSET), 0, 255).astype(np.uint8)
