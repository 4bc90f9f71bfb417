"""Restoration: the image as it should have been, from one that is noisy, low in dose, or damaged."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isocenter import images
from isocenter.errors import BadDataset
from isocenter.images.geometry import Geometry
from isocenter.images.image import Image
from isocenter.images.layouts import TARGET, read_target
from isocenter.images.layouts.draft import IMAGE
from isocenter.images.placement import Placement
from isocenter.images.resample import resample
from isocenter.parts.metrics import quality
from isocenter.parts.metrics.gamma import Criterion, gamma_pass_rate
from isocenter.records import Case, Dataset, Finding, Label
from isocenter.tasks import single
from isocenter.tasks.label_files import refuse_other_grid, where
from isocenter.tasks.single import SingleImage
from isocenter.tasks.task import Facts, Measure, Measured, Picture, Task, Values

Restored = NDArray[np.float32]
"""An answer: (channel, *space) in the unit of the file."""

LABEL = "image"
"""All measures are of the whole image."""

CT_WINDOW = (-160.0, 240.0)
"""HU; the window in which Yang et al., IEEE TMI 37 (2018), show and judge low-dose CT."""

GAMMA = Criterion(dose_percent=3.0, distance_mm=3.0, cutoff_percent=20.0)

_PICTURES = (".png", ".jpg", ".jpeg", ".bmp")
_TIFF = (".tif", ".tiff")
_WINDOW_VOXELS = 2 * quality.RADIUS + 1
_SCALES_VOXELS = _WINDOW_VOXELS * 2 ** (len(quality.SCALE_WEIGHTS) - 1)
_TEXTURE_SHARE = 16
_TEXTURE_VOXELS = (4, 32)
_TEXTURE_MARGIN = 0.1
_FLAT = 1e-6


@dataclass(frozen=True, eq=False)
class Wanted:
    """A case's truth.

    Attributes:
        image: What the answer should be.
        given: The damaged image, `(c, *spatial)`, where the case names one on the same grid.
    """

    image: Image
    given: NDArray[Any] | None = None

    @property
    def array(self) -> Restored:
        """The target's values, (channel, *space)."""
        return np.asarray(self.image.array, dtype=np.float32)


class Restoration(SingleImage):
    """What an image should have been.

    An answer is float32 `(channel, *spatial)` in the unit of the input's file; a truth is a `Wanted`. Where
    the input has more channels than the target, its last ones are those that are to be restored.
    """

    name = "restoration"
    aim = "to restore images"
    headline = "psnr"
    rules: Mapping[str, str] = {
        "data range": "PSNR and SSIM are computed for a range of values that stands beside them: 0 to 255 "
        f"where targets are stored in 8 bits; {CT_WINDOW[0]:g} to {CT_WINDOW[1]:g} HU for CT, to which "
        "answer and target are clipped first (Yang et al. 2018); otherwise from the target's smallest to its "
        "largest value.",
        "psnr": "10 log₁₀(range² / mean squared error); undefined for an answer without any error.",
        "psnr_gain": "PSNR of the answer less that of the input as it was given.",
        "ssim": "Mean over windows of 11 voxels (Gaussian, sigma 1.5) that lie inside the image, and over "
        "channels; slice by slice where a volume has an axis shorter than the window. MS-SSIM only where "
        f"five scales fit: {_SCALES_VOXELS} voxels.",
        "error": "MAE and RMSE are in the file's unit, over all voxels, nothing clipped.",
        "snr": "10 log₁₀(sum of the target's squares / sum of the squared errors), nothing clipped; "
        "undefined for an answer without any error and for a target of zeros.",
        "correlation": "Pearson's, of the values, nothing clipped; undefined where an image is constant.",
        "edge_preservation": "The correlation of the two images' Laplacians.",
        "texture": "Mean and sd of the values in the part of the target with least structure, a sixteenth "
        "of its shortest side wide, of those whose mean lies in the middle four fifths of the range. An "
        "answer whose sd is far below the target's has lost texture, whatever its PSNR.",
        "gamma_pass_rate": "For doses (channels called dose…): share of voxels above "
        f"{GAMMA.cutoff_percent:g} % of the maximum with gamma ≤ 1 at {GAMMA.dose_percent:g} % / "
        f"{GAMMA.distance_mm:g} mm, global.",
        **single.RULES,
        "missing answer": "A case without an answer is judged as an image of zeros, and is listed under "
        "failures.",
    }
    measures: Mapping[str, Measure] = {
        "psnr": Measure("PSNR", unit="dB", digits=2, shown=True, ranked=True),
        "psnr_gain": Measure("PSNR gain", unit="dB", digits=2, shown=True),
        "data_range": Measure("Range of PSNR and SSIM", better="none", digits=1, shown=True),
        "ssim": Measure("SSIM", shown=True, ranked=True),
        "ms_ssim": Measure("MS-SSIM"),
        "gamma_pass_rate": Measure("Gamma pass rate", shown=True, ranked=True),
        "rmse": Measure("RMSE", better="low", shown=True),
        "mae": Measure("MAE", better="low", shown=True),
        "snr": Measure("SNR", unit="dB", digits=2),
        "correlation": Measure("Correlation"),
        "edge_preservation": Measure("Edge preservation"),
        "texture_mean": Measure("Texture mean", better="none", digits=1),
        "texture_sd": Measure("Texture sd", better="none", digits=2, shown=True),
        "target_texture_mean": Measure("Texture mean of the target", better="none", digits=1),
        "target_texture_sd": Measure("Texture sd of the target", better="none", digits=2, shown=True),
    }

    # ------------------------------------------------------------------------------------------- files

    def truth_from(self, file: str) -> dict[str, Any]:
        """How a case names a truth that lies in one file."""
        return {TARGET: file}

    def read_truth(self, dataset: Dataset, case: Case) -> Wanted:
        """Read what the image should be, and what it is.

        Raises:
            BadDataset: The case names no target.
            UnreadableFile: A file cannot be read.
        """
        wanted = read_target(dataset, case)
        files = case.inputs.get(IMAGE, ())
        if not files or None in files:
            return Wanted(wanted)
        given = images.read_channels([str(dataset.path(str(file))) for file in files])
        return Wanted(wanted, given.array if given.shape == wanted.shape else None)

    def read_answer(self, path: Path, truth: Wanted, dataset: Dataset) -> Restored:
        """Read an answer as float32 `(channel, *spatial)`.

        Raises:
            BadDataset: It lies on another grid than the target, or has other channels.
            UnreadableFile: The file cannot be read.
        """
        found = images.read(path)
        _refuse_other_grid(found, truth.image, path)
        array: Restored = np.asarray(found.array, dtype=np.float32)
        if found.channels == truth.image.channels:
            return array
        if truth.image.channels == 1 and (array == array[:1]).all():
            return array[:1]  # a grey picture saved as colour
        raise BadDataset(
            f"the answer has {found.channels} channels, the target {truth.image.channels}.",
            where=path,
            cure="Save one channel for each of the target's.",
        )

    def no_answer(self, truth: Wanted) -> Restored:
        """Zero everywhere."""
        return np.zeros_like(truth.array)

    def suffix(self, dims: int, source: str) -> str:
        """`.png` for a picture, `.tif` for a TIFF, `.nii.gz` otherwise."""
        lower = source.lower()
        if lower.endswith(_TIFF):
            return ".tif"
        return ".png" if dims == 2 and lower.endswith(_PICTURES) else ".nii.gz"

    def save(self, answer: Restored, path: Path, like: Image) -> None:
        """Write an image on the grid of `like`: whole numbers of its type where it has such, else float32."""
        kind = like.array.dtype
        if kind.kind in "iu":
            limits = np.iinfo(kind)
            answer = np.clip(np.rint(answer), limits.min, limits.max)
        images.write(answer.astype(kind if kind.kind in "iu" else np.float32), path, like)

    # ------------------------------------------------------------------------------------------- training

    def measure(self, truth: Wanted, image: Image, dataset: Dataset, case: Case) -> Measured:
        """Whether image and target fit each other; the target's channels, and its content."""
        findings = _findings(truth.image, image, dataset, case)
        if any(finding.level == "error" for finding in findings):
            return Measured(findings)
        target = truth.image.array
        content = hashlib.blake2b(f"{target.dtype.name} {target.shape}".encode(), digest_size=16)
        content.update(np.ascontiguousarray(target).data)
        voxels = {f"{TARGET} {number}": int(plane.size) for number, plane in enumerate(target)}
        return Measured(findings, voxels=voxels, digest=content.hexdigest())

    def place(self, truth: Wanted, placement: Placement, facts: Facts) -> dict[str, NDArray[Any]]:
        """`target`: (channel, *space) on the network's grid, in the unit of the file.

        Raises:
            BadDataset: Image and target do not share a grid.
        """
        if problem := placement.geometry.difference(truth.image.geometry):
            raise BadDataset(f"image and target do not share a grid: {problem}", where=truth.image.source)
        return {TARGET: resample(placement.inside(truth.array), placement.shape, 3)}

    # ------------------------------------------------------------------------------------------- judging

    def score(self, answer: Restored, truth: Wanted, facts: Facts) -> Values:
        """Error, structure and texture of one case."""
        target, window = truth.array, window_of(truth.image, facts)
        answer = np.asarray(answer, dtype=np.float32)
        said, true = (np.clip(values, *window) if is_ct(facts) else values for values in (answer, target))
        span = window[1] - window[0]
        values: dict[str, float | None] = {
            "psnr": quality.psnr(said, true, span) if span > 0 else None,
            "psnr_gain": _gain(said, true, truth.given, window, facts),
            "data_range": span,
            "ssim": _ssim(said, true, span),
            "rmse": math.sqrt(quality.mean_squared_error(answer, target) or 0.0),
            "mae": quality.mean_absolute_error(answer, target),
            "snr": quality.snr(answer, target),
            "correlation": quality.correlation(answer, target),
            "edge_preservation": quality.edge_preservation(said[0], true[0]),
            **_texture(answer, target, window),
        }
        if span > 0 and min(target.shape[1:]) >= _SCALES_VOXELS:
            scaled = [quality.ms_ssim(one, other, span) for one, other in zip(said, true, strict=True)]
            values["ms_ssim"] = float(np.mean(scaled))
        if is_dose(facts) and target.max() > 0:
            values["gamma_pass_rate"] = gamma_pass_rate(answer[0], target[0], truth.image.spacing_mm, GAMMA)
        return {LABEL: values}

    def values(self, answer: Restored, truth: Wanted) -> set[int]:
        """One: the image is judged as a whole."""
        return {1}

    def labels(self, values: Iterable[Any]) -> tuple[Label, ...]:
        """The image is judged as a whole."""
        return (Label(name=LABEL, values=(1,)),)

    def draw(
        self, image: Image, answer: Restored, truth: Wanted, facts: Facts, among: Sequence[Restored] = ()
    ) -> Picture:
        """Input, answer, target and their difference at the worst place."""
        from isocenter.tasks.pictures.restoration import worst_place

        return worst_place(image, answer, truth.array, window_of(truth.image, facts), among)


def window_of(target: Image, facts: Facts) -> tuple[float, float]:
    """The smallest and largest value for which PSNR and SSIM of a target are computed."""
    if is_ct(facts):
        return CT_WINDOW
    if target.array.dtype == np.uint8:
        return 0.0, 255.0
    return float(target.array.min()), float(target.array.max())


def is_ct(facts: Facts) -> bool:
    """Whether values are CT numbers."""
    return bool(facts.channels) and all(channel.modality == "ct" for channel in facts.channels)


def is_dose(facts: Facts) -> bool:
    """Whether values are doses."""
    return bool(facts.channels) and all(channel.name.lower().startswith("dose") for channel in facts.channels)


def _gain(
    said: Restored,
    true: Restored,
    given: NDArray[Any] | None,
    window: tuple[float, float],
    facts: Facts,
) -> float | None:
    """How much nearer the answer came than the input was, in dB."""
    span = window[1] - window[0]
    if given is None or len(given) < len(true) or span <= 0:
        return None
    before = np.asarray(given[-len(true) :], dtype=np.float32)
    before = np.clip(before, *window) if is_ct(facts) else before
    now, then = quality.psnr(said, true, span), quality.psnr(before, true, span)
    return None if now is None or then is None else now - then


def _ssim(said: Restored, true: Restored, span: float) -> float | None:
    """The mean over channels; slice by slice across an axis that is shorter than the window."""
    short = [axis for axis, size in enumerate(true.shape[1:]) if size < _WINDOW_VOXELS]
    if span <= 0 or true.ndim - 1 - len(short) < 2:
        return None
    pairs = list(zip(said, true, strict=True))
    for axis in reversed(short):
        pairs = [
            (np.take(one, place, axis), np.take(other, place, axis))
            for one, other in pairs
            for place in range(other.shape[axis])
        ]
    found = [value for one, other in pairs if (value := quality.ssim(one, other, span)) is not None]
    return float(np.mean(found))


def _texture(answer: Restored, target: Restored, window: tuple[float, float]) -> dict[str, float | None]:
    """Mean and sd of both in the part of the target's first channel with least structure."""
    part = _flattest(target[0], window)
    if part is None:
        return {}
    return {
        "texture_mean": float(answer[0][part].mean()),
        "texture_sd": float(answer[0][part].std()),
        "target_texture_mean": float(target[0][part].mean()),
        "target_texture_sd": float(target[0][part].std()),
    }


def _flattest(plane: NDArray[np.float32], window: tuple[float, float]) -> tuple[slice, ...] | None:
    """A block with little structure, but some texture, whose mean lies well inside the window.

    Structure is what a Gaussian of a quarter of the block leaves: by the values themselves, the block that
    happens to be least noisy would be found, and its noise would be taken for less than it is.
    """
    from scipy.ndimage import gaussian_filter

    edges = [
        min(size, int(np.clip(min(plane.shape) // _TEXTURE_SHARE, *_TEXTURE_VOXELS))) for size in plane.shape
    ]
    values = plane.astype(np.float64)
    mean, spread = _moments(values, edges)
    structure = _moments(gaussian_filter(values, max(edges) / 4), edges)[1]
    # Only blocks that lie wholly inside: the filter is centred on voxel edge // 2 of each.
    inside = tuple(
        slice(edge // 2, size - (edge - 1) // 2) for edge, size in zip(edges, plane.shape, strict=True)
    )
    mean, spread, structure = mean[inside], spread[inside], structure[inside]
    least = (_FLAT * max(window[1] - window[0], _FLAT)) ** 2 + 1e-12 * mean**2
    margin = _TEXTURE_MARGIN * (window[1] - window[0])
    fitting = (spread > least) & (mean > window[0] + margin) & (mean < window[1] - margin)
    if not fitting.any():
        return None
    start = np.unravel_index(int(np.where(fitting, structure, np.inf).argmin()), structure.shape)
    return tuple(slice(int(at), int(at) + edge) for at, edge in zip(start, edges, strict=True))


def _moments(
    values: NDArray[np.float64], edges: Sequence[int]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and variance of the block about every voxel."""
    from scipy.ndimage import uniform_filter

    mean = uniform_filter(values, edges)
    return mean, np.maximum(uniform_filter(values**2, edges) - mean**2, 0)


def _refuse_other_grid(answer: Image, truth: Image, path: Path) -> None:
    # A picture has no spacing of its own: only its pixels can be compared.
    plain = Geometry.plain(truth.shape)
    pictures = any(image.geometry.difference(plain) is None for image in (answer, truth))
    if not (pictures and answer.shape == truth.shape):
        refuse_other_grid(answer, truth, path)


def _findings(target: Image, image: Image, dataset: Dataset, case: Case) -> tuple[Finding, ...]:
    place = where(dataset, case, TARGET)
    if moved := image.geometry.difference(target.geometry):
        what = f"the target does not lie on the image's grid: {moved}."
        cure = "Resample the target onto the image, or correct the header that is wrong."
        return (Finding(level="error", where=place, what=what, cure=cure),)
    if target.channels > image.channels:
        what = f"the target has {target.channels} channels, the image only {image.channels}."
        cure = "Give an image of at least as many channels."
        return (Finding(level="error", where=place, what=what, cure=cure),)
    if target.array.min() == target.array.max():
        cure = "Check the export; nothing can be learnt from a target that is the same everywhere."
        return (Finding(level="warning", where=place, what="the target is constant.", cure=cure),)
    return ()


TASK: Task = Restoration()
