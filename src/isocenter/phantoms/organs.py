"""MR and CT images of a pelvis with known prostate, bladder and lesions, and datasets of them.

The scanner: the anatomy is painted on a grid about twice as fine as the image, its signal follows the
spin-echo equation (or HU), a smooth coil sensitivity multiplies it, a Gaussian point spread and the slice
profile blur it, and noise is added as the scanner has it: Rician in MR (Gudbjartsson & Patz 1995,
doi:10.1002/mrm.1910340618), Gaussian in CT.
"""

from __future__ import annotations

import csv
import io
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from scipy import ndimage

from isocenter import files
from isocenter.errors import BadDataset, suggestion
from isocenter.phantoms import anatomy, storing
from isocenter.phantoms.tissues import PROPERTIES, Properties, SpinEcho, Tissue

LABELS = {"background": 0, "prostate": 1, "bladder": 2, "lesion": 3}
"""Names and values of the labels, which do not overlap: the prostate is that beside the lesions."""

Kind = Literal["organs", "anisotropic", "ct"]

_MR_SCALE = 1500.0  # stored value of fully relaxed water


@dataclass(frozen=True)
class Protocol:
    """How a dataset's images are made.

    Attributes:
        shape: In voxels, (z, y, x); each scan varies by up to `jitter`, as does the spacing.
        spacing_mm: Voxel size, (z, y, x).
        sites: Names of the scanners and their sequences; None stands for CT.
        noise: Standard deviation, in shares of fully relaxed water, or in HU.
        bias: Strength of the coil's sensitivity field, as the sd of its logarithm.
        oblique: Largest tilt of the slices in degrees.
        lesion_radius_mm: Smallest and largest.
        contrast: How much more than usual tissues vary between patients.
        jitter: Relative variation of spacing and shape between scans.
        twice: Every so manieth patient is scanned twice.
        point_spread: Full width at half maximum in voxels, within the slice.
        fine_mm: About how far the points lie apart that make up a voxel.
    """

    shape: tuple[int, int, int] = (24, 64, 64)
    spacing_mm: tuple[float, float, float] = (3.0, 1.15, 1.15)
    sites: tuple[tuple[str, SpinEcho | None], ...] = (
        ("north", SpinEcho(4000, 96, tesla=3.0)),
        ("south", SpinEcho(3200, 84, tesla=1.5)),
    )
    noise: float = 0.014
    bias: float = 0.16
    oblique: float = 12.0
    lesion_radius_mm: tuple[float, float] = (4.5, 8.0)
    contrast: float = 1.0
    jitter: float = 0.06
    twice: int = 4
    point_spread: float = 1.2
    fine_mm: tuple[float, float, float] = (1.5, 0.6, 0.6)


PROTOCOLS: dict[Kind, Protocol] = {
    "organs": Protocol(),
    "anisotropic": Protocol(
        shape=(14, 112, 112),
        spacing_mm=(6.0, 0.75, 0.75),
        noise=0.028,
        bias=0.28,
        oblique=20.0,
        lesion_radius_mm=(3.5, 7.5),
        contrast=1.8,
        jitter=0.12,
        fine_mm=(0.9, 0.75, 0.75),
    ),
    "ct": Protocol(
        spacing_mm=(3.0, 1.2, 1.2),
        sites=(("north", None), ("south", None)),
        noise=14.0,
        bias=0.0,
        oblique=0.0,
    ),
}


@dataclass(frozen=True)
class Phantom:
    """An image, int16 (z, y, x), its truth, uint8, and the affine from (x, y, z) to RAS mm."""

    image: NDArray[np.int16]
    label: NDArray[np.uint8]
    affine: NDArray[np.float64]


def scan(patient: Generator, visit: Generator, protocol: Protocol, sequence: SpinEcho | None) -> Phantom:
    """Image one patient once.

    Args:
        patient: Decides the anatomy and its tissues; the same state is the same patient.
        visit: Decides pose, bladder filling, slices, coil and noise.
        protocol: Of the dataset.
        sequence: Of the scanner; None for CT.
    """
    body = anatomy.draw(patient, protocol.lesion_radius_mm, fill=visit.uniform(0.85, 1.2))
    spacing, shape = _slices(visit, protocol)
    rotation = _tilt(visit, protocol.oblique)
    shift = visit.normal((4.0, 0.0, 0.0), (3.0, 2.0, 2.0))
    finer = tuple(max(1, round(step / part)) for step, part in zip(spacing, protocol.fine_mm, strict=True))
    points = _points(shape, spacing, finer, rotation, shift)
    tissue, truth = anatomy.paint(body, points)
    signal = _signal(patient, tissue, points, protocol, sequence)
    if protocol.bias:
        signal *= np.exp(protocol.bias * anatomy.waves(visit, points, 170.0))
    image = _blurred(signal, finer, protocol.point_spread)
    if sequence is None:
        stored = image + visit.normal(0, protocol.noise, shape)
    else:
        gain = _MR_SCALE * visit.uniform(0.5, 1.5)  # MR has no absolute scale
        real, imaginary = visit.normal(0, protocol.noise, (2, *shape))
        stored = gain * np.hypot(image + real, imaginary)
    affine = _affine(shape, spacing, rotation, shift)
    return Phantom(np.rint(stored).astype(np.int16), _majority(truth, finer), affine)


def write_dataset(
    folder: str | Path,
    cases: int = 24,
    seed: int = 0,
    *,
    kind: Kind = "organs",
    protocol: Protocol | None = None,
) -> Path:
    """Write a dataset of phantoms: `images/`, `labels/`, the manifest `cases.csv`, and `isocenter.json`.

    The manifest has columns id, image, label, patient and group. Some patients have two scans, and the group
    is the site that made the scan. Any case depends only on the seed and its own number: more cases leave
    the first ones as they are.

    Args:
        folder: Where to write; made if absent.
        cases: How many scans.
        seed: Of everything.
        kind: "organs" is quick and clear, for the demo; "anisotropic" has thick slices, more noise, more
            variation and smaller lesions; "ct" shows the same anatomy in HU.
        protocol: Instead of the kind's.

    Returns:
        The folder.

    Raises:
        BadDataset: The kind is unknown, or there are no cases to write.
    """
    if kind not in PROTOCOLS:
        raise BadDataset(f"'{kind}' is not a kind of phantom.", cure=suggestion(kind, PROTOCOLS))
    if cases < 1:
        raise BadDataset("a dataset needs at least one case.")
    folder, protocol = Path(folder), protocol or PROTOCOLS[kind]
    with ThreadPoolExecutor() as threads:
        rows = list(threads.map(lambda number: _write_case(folder, number, seed, protocol), range(cases)))
    table = io.StringIO()
    writer = csv.DictWriter(table, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    channel = "CT" if protocol.sites[0][1] is None else "T2w"
    files.write_json(
        folder / "isocenter.json", {"name": f"phantom_{kind}", "channels": [channel], "labels": LABELS}
    )
    files.write_text(folder / "cases.csv", table.getvalue())
    return folder


def _write_case(folder: Path, number: int, seed: int, protocol: Protocol) -> dict[str, str]:
    patient, visit = storing.visit_of(number, protocol.twice)
    site, sequence = protocol.sites[(patient + visit) % len(protocol.sites)]
    made = scan(
        np.random.default_rng((seed, patient)),
        np.random.default_rng((seed, patient, visit + 1)),
        protocol,
        sequence,
    )
    name = f"P{patient + 1:03d}_{'ab'[visit]}"
    row = {
        "id": name,
        "image": f"images/{name}.nii.gz",
        "label": f"labels/{name}.nii.gz",
        "patient": f"P{patient + 1:03d}",
        "group": site,
    }
    storing.write_nifti(folder / row["image"], made.image, made.affine)
    storing.write_nifti(folder / row["label"], made.label, made.affine)
    return row


def _slices(visit: Generator, protocol: Protocol) -> tuple[tuple[float, ...], tuple[int, ...]]:
    through, within = 1 + protocol.jitter * visit.uniform(-1, 1, 2)
    spacing = np.round(np.array(protocol.spacing_mm) * (through, within, within), 3)
    counts = np.array(protocol.shape) / (through, within, within)
    return tuple(spacing.tolist()), tuple(int(n) for n in np.rint(counts))


def _tilt(visit: Generator, degrees: float) -> NDArray[np.float64]:
    """A rotation in array order by up to so many degrees about x, and a third of it about the others."""
    rotation = np.eye(3)
    for (first, second), share in (((0, 1), 1.0), ((0, 2), 1 / 3), ((1, 2), 1 / 3)):
        angle = np.deg2rad(visit.uniform(-1, 1) * degrees * share)
        turn = np.eye(3)
        turn[first, first] = turn[second, second] = np.cos(angle)
        turn[first, second], turn[second, first] = -np.sin(angle), np.sin(angle)
        rotation = rotation @ turn
    return rotation


def _points(
    shape: tuple[int, ...],
    spacing: tuple[float, ...],
    finer: tuple[int, ...],
    rotation: NDArray[np.float64],
    shift: NDArray[np.float64],
) -> anatomy.Field:
    """Where the fine grid's voxels lie in the patient, (3, *fine) in mm."""
    axes = [
        ((np.arange(n * parts) + 0.5) / parts - n / 2) * step
        for n, parts, step in zip(shape, finer, spacing, strict=True)
    ]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"))
    return np.asarray(np.tensordot(rotation, grid, 1) + shift[:, None, None, None], dtype=np.float32)


def _affine(
    shape: tuple[int, ...],
    spacing: tuple[float, ...],
    rotation: NDArray[np.float64],
    shift: NDArray[np.float64],
) -> NDArray[np.float64]:
    """From (x, y, z) indices to RAS mm: x grows to the left, y to the back, as DICOM has axial slices."""
    signs = np.array([1.0, -1.0, -1.0])[:, None]  # (up, back, left) to (up, front, right)
    matrix = signs * (rotation @ np.diag(spacing))
    origin = signs[:, 0] * shift - matrix @ ((np.array(shape) - 1) / 2)
    affine = np.eye(4)
    affine[:3, :3] = matrix[::-1, ::-1]
    affine[:3, 3] = origin[::-1]
    return affine


def _signal(
    patient: Generator,
    tissue: NDArray[np.uint8],
    points: anatomy.Field,
    protocol: Protocol,
    sequence: SpinEcho | None,
) -> NDArray[np.floating]:
    """The image without coil, blur and noise: shares of fully relaxed water, or HU."""
    grains = [anatomy.smooth_field(patient, points, grain) for grain in (3.0, 7.0)]
    varied = [_varied(patient, PROPERTIES[kind], protocol.contrast) for kind in Tissue]
    rough = np.array([p.texture / np.sqrt(2) for p in varied], np.float32)[tissue] * (grains[0] + grains[1])
    if sequence is None:
        return np.asarray(np.array([p.hounsfield for p in varied], np.float32)[tissue] + 25 * rough)
    relaxed = np.array([sequence.relaxed(p) for p in varied], np.float32)
    decay = np.array([sequence.echo_ms / p.t2_ms for p in varied], np.float32)
    return np.asarray(relaxed[tissue] * np.exp(-decay[tissue] * np.exp(-rough)))


def _varied(patient: Generator, usual: Properties, contrast: float) -> Properties:
    """A patient's own tissue."""
    t1, t2 = np.exp(usual.variation * contrast * patient.normal(size=2))
    shift = 100 * usual.variation * contrast * patient.normal()
    return replace(usual, t1_ms=usual.t1_ms * t1, t2_ms=usual.t2_ms * t2, hounsfield=usual.hounsfield + shift)


def _blurred(
    signal: NDArray[np.floating], finer: tuple[int, ...], point_spread: float
) -> NDArray[np.floating]:
    """Point spread within slices, overlap of neighbouring slices, and the mean over each voxel."""
    sd = point_spread / 2.3548  # of a Gaussian with that full width at half maximum
    blurred = ndimage.gaussian_filter(signal, [0.2 * finer[0], sd * finer[1], sd * finer[2]], mode="nearest")
    return np.asarray(_grouped(blurred, finer).mean(axis=(1, 3, 5)))


def _majority(truth: NDArray[np.uint8], finer: tuple[int, ...]) -> NDArray[np.uint8]:
    """The label that fills the largest part of each voxel, the lower one of equals."""
    shares = [_grouped(truth == value, finer).sum(axis=(1, 3, 5)) for value in LABELS.values()]
    return np.asarray(np.argmax(shares, axis=0), dtype=np.uint8)


def _grouped(fine: NDArray[Any], finer: tuple[int, ...]) -> NDArray[Any]:
    """Each axis as two: the voxel, and its parts."""
    shape = [size for n, parts in zip(fine.shape, finer, strict=True) for size in (n // parts, parts)]
    return fine.reshape(shape)
