"""Border weight: does it help touching objects apart when borders weigh more, or are a class of their own?

The same U-Net is trained four times: plain; with the weight map of Ronneberger et al. (2015); with a border
class; with both. Folds, seed, budget and decoding are the same, so that nothing else differs.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from isocenter.errors import BadPlan
from isocenter.records import Dataset
from isocenter.studies.findings import Findings
from isocenter.studies.study import Point, Study, Wishes
from isocenter.studies.variants import effect

CARD = {
    "title": "Border weight",
    "question": "Do touching objects come apart better when borders weigh more, or are a class of their own?",
    "reference": (
        "Ronneberger O, Fischer P, Brox T. U-Net: convolutional networks for biomedical image segmentation. "
        "MICCAI 2015. Polzounov A et al. WordFence. ICIP 2017."
    ),
    "data": "images whose objects are numbered",
}

TASK, METHOD = "instances", "instances/border_unet"
VARIANTS: Mapping[str, tuple[bool, str]] = {
    "plain": (False, "none"),
    "weight_map": (True, "none"),
    "border_class": (False, "all"),
    "both": (True, "all"),
}
"""By name, whether the weight map is used, and which borders are a class."""

_PAIRS = (
    ("weight_map", "plain", "The weight map"),
    ("border_class", "plain", "The border class"),
    ("both", "border_class", "The weight map beside the border class"),
)


class BorderWeight:
    """One network with and without what is to part neighbours."""

    options = frozenset({"folds"})
    across = ""
    measure = ""

    def task(self, wishes: Wishes) -> str | None:
        """Instances."""
        return TASK

    def generate(self, folder: Path, seed: int) -> Dataset:
        """Nothing: the study is about the user's objects.

        Raises:
            BadPlan: Always.
        """
        raise BadPlan(
            "this study needs images with numbered objects.",
            cure="Name them: isocenter study border_weight DATA --out DIR.",
        )

    def points(self, dataset: Dataset, wishes: Wishes) -> tuple[Point, ...]:
        """The four variants.

        Raises:
            BadPlan: The dataset asks for something else than instances.
        """
        if dataset.task != TASK:
            raise BadPlan(f"this study is about instances, but the dataset asks for '{dataset.task}'.")
        folds = (0,) if wishes.folds is None else wishes.folds or None
        return tuple(
            Point(
                series=name,
                place="",
                dataset=dataset,
                method=METHOD,
                folds=folds,
                changes={"settings.border_weight": weight, "settings.border_class": borders},
            )
            for name, (weight, borders) in VARIANTS.items()
        )

    def conclude(self, found: Findings) -> tuple[str, ...]:
        """What each device changes, and whether that can be told from chance."""
        return tuple(said for pair in _PAIRS if (said := effect(found, *pair)) is not None)


STUDY: Study = BorderWeight()
