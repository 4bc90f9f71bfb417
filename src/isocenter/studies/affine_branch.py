"""Affine branch: what is gained when a network says an affine map beside the grid that it deforms?

`registration/christodoulidis` is trained with its linear branch and without it, as Christodoulidis et al. do.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from isocenter.images.layouts import open_dataset
from isocenter.records import Dataset
from isocenter.studies.study import Study
from isocenter.studies.variants import Variants

CARD = {
    "title": "The linear branch of a registration network",
    "question": "Do images come together better when a network also says an affine map?",
    "reference": (
        "Christodoulidis S, Sahasrabudhe M, Vakalopoulou M, et al. Linear and deformable image registration "
        "with 3D convolutional neural networks. RAMBO, MICCAI 2018, arXiv:1809.06226: Dice of lungs .9148 "
        "with the branch and .9128 without it from inhale to exhale, .8234 and .8175 of all pairs."
    ),
    "data": "images to be brought together, labels to judge by; by default generated torsos",
}

METHOD = "registration/christodoulidis"
WITH, WITHOUT = "with_branch", "without_branch"
PATIENTS = 60
SHAPE, SPACING_MM = (48, 32, 48), (11.0, 9.5, 9.0)
"""The torsos' grid: coarse, since both images of a pair are seen whole."""


@dataclass(frozen=True)
class AffineBranch(Variants):
    """One network with and without its linear branch."""

    asked: str = "registration"

    def generate(self, folder: Path, seed: int) -> Dataset:
        """Torsos, each of another patient, with their organs."""
        from isocenter.phantoms.torso import Protocol, write_dataset

        if not (folder / "isocenter.json").is_file():
            protocol = Protocol(shape=SHAPE, spacing_mm=SPACING_MM, twice=0)
            write_dataset(folder, PATIENTS, seed, protocol=protocol, slices=False)
        return open_dataset(folder, self.asked)


STUDY: Study = AffineBranch(
    {
        WITH: (METHOD, {"settings.affine": True}),
        WITHOUT: (METHOD, {"settings.affine": False}),
    },
    pairs=((WITH, WITHOUT, "The linear branch"),),
)
