"""Border weight: does it help touching objects apart when borders weigh more, or are a class of their own?

The same U-Net is trained four times: plain; with the weight map of Ronneberger et al. (2015); with a border
class; with both. Folds, seed, budget and decoding are the same, so that nothing else differs.
"""

from __future__ import annotations

from typing import Any

from isocenter.studies.study import Study
from isocenter.studies.variants import Variants

CARD = {
    "title": "Border weight",
    "question": "Do touching objects come apart better when borders weigh more, or are a class of their own?",
    "reference": (
        "Ronneberger O, Fischer P, Brox T. U-Net: convolutional networks for biomedical image segmentation. "
        "MICCAI 2015. Polzounov A et al. WordFence. ICIP 2017."
    ),
    "data": "images whose objects are numbered",
}

METHOD = "instances/border_unet"


def _borders(weight: bool, borders: str) -> tuple[str, dict[str, Any]]:
    return METHOD, {"settings.border_weight": weight, "settings.border_class": borders}


STUDY: Study = Variants(
    {
        "plain": _borders(False, "none"),
        "weight_map": _borders(True, "none"),
        "border_class": _borders(False, "all"),
        "both": _borders(True, "all"),
    },
    asked="instances",
    pairs=(
        ("weight_map", "plain", "The weight map"),
        ("border_class", "plain", "The border class"),
        ("both", "border_class", "The weight map beside the border class"),
    ),
    needs="images with numbered objects",
)
