"""Translation on pairs: what an adversary, a loss of gradients, and the answer of an earlier generator add.

An encoder–decoder with and without an adversary (Liu et al.) beside the generator of Nie et al. under squared
errors alone, then with gradients, then with its adversary, then as a cascade whose second generator sees the
first one's answer. The rounds of a cascade share the budget that the others have for themselves.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from isocenter.images.layouts import open_dataset
from isocenter.phantoms import storing
from isocenter.phantoms.brain import WITH, WITHOUT, name_of, write_dataset
from isocenter.records import Dataset
from isocenter.studies.study import Study
from isocenter.studies.variants import TASK, Variants

CARD = {
    "title": "Translation on pairs",
    "question": "Does an adversary, a loss of gradients, or a cascade come nearer to the other modality?",
    "reference": (
        "Nie D, Trullo R, Lian J, et al. Medical image synthesis with context-aware generative adversarial "
        "networks. MICCAI 2017. Liu F, Jang H, Kijowski R, et al. Radiology 286, 676–684 (2018)."
    ),
    "data": "images with targets; by default generated slices of heads, FLAIR to T1",
}

PATIENTS = 150
PAIRS = "pairs.csv"
DECODER, CASCADE = "restoration/pseudo_ct", "restoration/cascade_gan"
ADVERSARY = 0.01
"""λ beside a mean absolute error: the balance of Isola et al., 1 to 100."""


@dataclass(frozen=True)
class Translation(Variants):
    """Variants on slices of heads in two contrasts."""

    def generate(self, folder: Path, seed: int) -> Dataset:
        """The same slices in FLAIR and in T1, every other patient with a lesion."""
        if not (folder / PAIRS).is_file():
            write_dataset(folder, PATIENTS, seed)
            storing.write_table(
                folder / PAIRS, ("id", "image", "target"), [_pair(n) for n in range(PATIENTS)]
            )
        return open_dataset(folder / PAIRS, TASK)


def _pair(number: int) -> storing.Row:
    name, version = name_of(number), WITH if number % 2 == 0 else WITHOUT
    return (name, f"images/{name}_flair_{version}.png", f"images/{name}_t1_{version}.png")


STUDY: Study = Translation(
    {
        "decoder": (DECODER, {}),
        "decoder_adversary": (DECODER, {"settings.adversary": ADVERSARY}),
        "squared": (CASCADE, {"settings.rounds": 1, "settings.adversary": 0, "settings.gradient": 0}),
        "gradients": (CASCADE, {"settings.rounds": 1, "settings.adversary": 0}),
        "adversary": (CASCADE, {"settings.rounds": 1}),
        "cascade": (CASCADE, {"settings.rounds": 2}),
    }
)
