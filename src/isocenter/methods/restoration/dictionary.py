"""Dictionary learning: every patch of an image is made of a few atoms, which are learnt from good images.

K-SVD learns the atoms from patches of the training cases' targets. To restore, every patch, its mean apart,
is coded with as few atoms as bring its squared error below n (C σ)², n being its voxels, and patches are
averaged where they overlap. σ is the noise of the training cases, by which their images differ from their
targets; C is tuned on cases that are not scored.

Xu et al. reconstruct from projections, whose likelihood holds the image to what was measured. Here nothing
but images is given, as to Elad and Aharon. The model holds the atoms and σ.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from math import ceil, prod
from typing import Any, ClassVar

import numpy as np

from isocenter.errors import BadDataset, BadModel
from isocenter.images.layouts import TARGET
from isocenter.images.placement import Placement
from isocenter.methods.method import Arrays, Network, Trial
from isocenter.methods.restoring import AnsweredSettings, WholeRestorer
from isocenter.parts.encodings.sparse_codes import approximated, draw_patches, learn_atoms
from isocenter.records import Record

CARD = {
    "title": "Dictionary learning",
    "reference": (
        "Xu Q, Yu H, Mou X, Zhang L, Hsieh J, Wang G. Low-dose X-ray CT reconstruction via dictionary "
        "learning. IEEE TMI 31, 1682–1697 (2012). From images alone: Elad M, Aharon M. Image denoising via "
        "sparse and redundant representations over learned dictionaries. IEEE TIP 15, 3736–3745 (2006)."
    ),
    "row": "G2",
    "summary": "Patches made of few atoms, which K-SVD learns from the training cases' targets; no network.",
    "published": {
        "low-dose CT, two images, PSNR/SSIM (input)": "24.25/.815 (19.79/.750), 24.10/.763 (18.45/.647)",
        "texture mean/SD (full dose)": "4/11 (9/36), 111/13 (118/38)",
    },
}

EDGE = {1: 32, 2: 8, 3: 4}
"""Of a patch, by axes of space: 64 pixels as published, and as many voxels."""

STEP = {1: 1, 2: 1, 3: 2}
"""From patch to patch: in space every voxel lies in eight of them."""

STRENGTHS = (0.85, 1.0, 1.15, 1.5, 2.0, 3.0, 4.5)
"""C, of which 1.15 is published for white noise; the large ones are for noise with a grain, or stronger in
some places than in others."""

MOST_CASES = 200
MOST = 16
"""Atoms that a patch may be made of: a quarter of its voxels."""

LEAST_SD = 1e-3
"""Of a patch from which atoms are learnt, where an image reaches from 0 to 1."""


class DictionarySettings(AnsweredSettings):
    """Numbers of atoms, of those that a patch is made of while they are learnt, and of patches that they are
    learnt from; `strength` is C, tuned where it is None."""

    atoms: int = 256
    sparsity: int = 5
    patches: int = 20_000
    strength: float | None = None


class Dictionary(WholeRestorer):
    """K-SVD and orthogonal matching pursuit of `parts/encodings/sparse_codes`."""

    Settings: ClassVar[type[Record]] = DictionarySettings
    tuning_cases: ClassVar[int] = 4
    settings: DictionarySettings
    atoms: np.ndarray | None = None
    sd: float = 0.0

    def gather(self, cases: Mapping[str, Arrays]) -> None:
        """Learn atoms from patches of the targets, as many from each case, drawn by the plan's seed; and σ.

        Raises:
            BadDataset: No training case has a target with anything to be seen.
        """
        rng = np.random.default_rng(self.plan.seed)
        order = rng.permutation(sorted(cases))[:MOST_CASES]
        edge = (EDGE[self.plan.dims],) * self.plan.dims
        each = ceil(self.settings.patches / (self.answered * len(order)))
        drawn, apart = [], []
        for arrays in (cases[str(name)] for name in order):
            for noisy, target in zip(arrays["image"][-self.answered :], arrays[TARGET], strict=True):
                clean = np.asarray(target, dtype=np.float64)
                drawn.append(draw_patches(clean, edge, each, rng))
                apart.append(np.mean((noisy - clean) ** 2))
        signals = np.concatenate(drawn).reshape(-1, prod(edge))
        signals -= signals.mean(axis=1, keepdims=True)
        signals = signals[signals.std(axis=1) > LEAST_SD]
        if not len(signals):
            what = "no training case has a target with anything to be seen: there are no atoms to be learnt."
            raise BadDataset(what, where=self.plan.method)
        found = learn_atoms(signals, self.settings.atoms, self.settings.sparsity, rng)
        self.atoms, self.sd = found.reshape(-1, *edge).astype(np.float32), float(np.sqrt(np.mean(apart)))

    def state(self) -> Arrays:
        """The atoms (atom, *edge), once they are learnt, and σ."""
        return {} if self.atoms is None else {"atoms": self.atoms, "sd": np.array([self.sd])}

    def load(self, arrays: Arrays) -> None:
        """Take the atoms and σ back.

        Raises:
            BadModel: They are missing, or the atoms are of another kind of image.
        """
        if not {"atoms", "sd"} <= arrays.keys() or arrays["atoms"].ndim != self.plan.dims + 1:
            raise BadModel("its atoms are not whole.", cure="Train this fold again.")
        self.atoms, self.sd = arrays["atoms"], float(arrays["sd"][0])

    def respond(self, arrays: Arrays, network: Network) -> Arrays:
        """`options` (strength, channel, *space): the image restored with each strength that may be chosen."""
        noisy = np.asarray(arrays["image"][-self.answered :], dtype=np.float32)
        return {"options": np.stack([self._restored(noisy, strength) for strength in self._strengths])}

    def decode(self, outputs: Mapping[str, np.ndarray], placement: Placement) -> np.ndarray:
        """The restored image on the file's own grid, in its own unit; of several strengths the middle one."""
        options = outputs["options"]
        return self.on_file(options[len(options) // 2], placement)

    def tune(self, trials: Callable[[], Iterator[Trial]]) -> dict[str, Any]:
        """The strength with the smallest mean squared error on cases that are not scored."""
        wrong = np.zeros(len(self._strengths))
        for trial in islice(trials(), self.tuning_cases):
            inside = trial.placement.inside(trial.truth.array)
            target = self.normalised(np.asarray(inside, dtype=np.float32))
            wrong += [float(np.mean((option - target) ** 2)) for option in trial.outputs["options"]]
        return {"strength": self._strengths[int(wrong.argmin())]} if wrong.any() else {}

    @property
    def _strengths(self) -> tuple[float, ...]:
        """What was set, else what was tuned, else all that come into question."""
        known = self.settings.strength or self.tuned.get("strength")
        return (float(known),) if isinstance(known, int | float) else STRENGTHS

    def _restored(self, noisy: np.ndarray, strength: float) -> np.ndarray:
        if self.atoms is None:
            raise BadModel("this model holds no atoms.", cure="Train it again.")
        tolerance = self.atoms[0].size * (strength * self.sd) ** 2
        planes = [approximated(plane, self.atoms, MOST, tolerance, STEP[self.plan.dims]) for plane in noisy]
        return np.stack(planes).astype(np.float32)


METHOD = Dictionary
