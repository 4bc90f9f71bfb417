"""Non-local means, or total variation: classic denoising, tuned on training cases and not trained.

Non-local means: every voxel becomes the mean of voxels whose surroundings look alike, weighed by
exp(−max(d² − 2σ², 0) / h²) with d² the mean squared difference of two surroundings. Total variation: the
image u that makes ½‖u − y‖² + λ TV(u) smallest. The noise's σ is estimated from each image; λ/σ and h/σ,
and which of the two it is, are tuned.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import Any, ClassVar, Literal

import numpy as np

from isocenter.images.placement import Placement
from isocenter.methods.method import Arrays, Network, Trial
from isocenter.methods.restoring import AnsweredSettings, WholeRestorer
from isocenter.records import Record

CARD = {
    "title": "Non-local means",
    "reference": (
        "Buades A, Coll B, Morel JM. A non-local algorithm for image denoising. CVPR 2005, 60–65; fast form "
        "of Darbon et al., ISBI 2008. Total variation: Chambolle A. J Math Imaging Vis 20, 89–97 (2004)."
    ),
    "row": "G1",
    "summary": "The free classic baseline: non-local means or total variation, tuned but not trained.",
    "published": {"BM3D on X-rays, σ 15 and 25, PSNR": "40.018 and 37.265"},
}

TRIALS = 8
STRENGTHS: dict[str, tuple[float, ...]] = {
    "non_local_means": (0.5, 0.65, 0.8, 1.0, 1.4, 2.0, 3.0),
    "total_variation": (0.4, 0.6, 0.8, 1.1, 1.5, 2.5, 4.0),
}
"""h by σ, and λ by σ; the large ones are for noise with a grain, which σ is estimated too small for."""

SURROUNDINGS = {2: (5, 6), 3: (3, 3)}
"""Edge of what is compared, and how far away it is looked for, by axes of space."""

Filter = Literal["non_local_means", "total_variation"]


class ClassicSettings(AnsweredSettings):
    """`filter` and `strength` (in shares of σ) are tuned where they are None."""

    filter: Filter | None = None
    strength: float | None = None


class NonLocalMeans(WholeRestorer):
    """Classic filters of scikit-image."""

    Settings: ClassVar[type[Record]] = ClassicSettings
    settings: ClassicSettings

    def respond(self, arrays: Arrays, network: Network) -> Arrays:
        """The channels to be restored as they are: they are filtered when it is known how."""
        return {"noisy": np.array(arrays["image"][-self.answered :], dtype=np.float32)}

    def decode(self, outputs: Mapping[str, np.ndarray], placement: Placement) -> np.ndarray:
        """The filtered image on the file's own grid, in its own unit."""
        name, strength = self._chosen()
        return self.on_file(filtered(outputs["noisy"], name, strength), placement)

    def tune(self, trials: Callable[[], Iterator[Trial]]) -> dict[str, Any]:
        """The filter and strength with the smallest mean squared error on cases that are not scored."""
        options = [
            (name, strength)
            for name, strengths in STRENGTHS.items()
            if self.settings.filter in (None, name)
            for strength in (strengths if self.settings.strength is None else (self.settings.strength,))
        ]
        wrong = np.zeros(len(options))
        for trial in islice(trials(), TRIALS):
            inside = trial.placement.inside(trial.truth.array)
            target = self.normalised(np.asarray(inside, dtype=np.float32))
            for place, (name, strength) in enumerate(options):
                answer = filtered(trial.outputs["noisy"], name, strength)
                wrong[place] += float(np.mean((answer - target) ** 2))
        name, strength = options[int(wrong.argmin())]
        return {"filter": name, "strength": strength}

    def _chosen(self) -> tuple[str, float]:
        """What was set, else what was tuned, else the middle of what could be."""
        name = str(self.settings.filter or self.tuned.get("filter") or "non_local_means")
        middle = STRENGTHS[name][len(STRENGTHS[name]) // 2]
        tuned = self.tuned.get("strength", middle)
        strength = self.settings.strength or (tuned if isinstance(tuned, int | float) else middle)
        return name, float(strength)


def filtered(image: np.ndarray, name: str, strength: float) -> np.ndarray:
    """An image (channel, *space) without its noise, channel by channel; `strength` in shares of its σ."""
    from skimage.restoration import denoise_nl_means, denoise_tv_chambolle

    planes = []
    for plane in image:
        noise = noise_level(plane)
        if noise <= 0:
            planes.append(plane)
        elif name == "total_variation":
            smooth = denoise_tv_chambolle(plane, weight=strength * noise)  # type: ignore[no-untyped-call]
            planes.append(smooth)
        else:
            size, reach = SURROUNDINGS.get(plane.ndim, SURROUNDINGS[3])
            planes.append(
                denoise_nl_means(
                    plane,
                    patch_size=size,
                    patch_distance=reach,
                    h=strength * noise,
                    sigma=noise,
                    fast_mode=True,
                )
            )
    return np.stack(planes).astype(np.float32)


def noise_level(plane: np.ndarray) -> float:
    """σ of white noise in an image (*space), from second differences along every axis, edges left out.

    The product of the filters (1, −2, 1) along all axes takes away whatever is smooth and has norm √6 for
    each axis; the median absolute value of what is left is that of noise, whose edges are few.

    Source: Immerkær, "Fast noise variance estimation", CVIU 64 (1996), with the median of Donoho and
    Johnstone (1994) in place of his mean.
    """
    rest = np.asarray(plane, dtype=np.float64)
    axes = [axis for axis, size in enumerate(rest.shape) if size > 2]
    for axis in axes:
        rest = np.diff(rest, n=2, axis=axis)
    if not axes or not rest.size:
        return 0.0
    return float(np.median(np.abs(rest)) / 0.6745 / math.sqrt(6) ** len(axes))


METHOD = NonLocalMeans
