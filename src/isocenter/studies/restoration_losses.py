"""Losses of restoration: is the best image the one whose squared error was made smallest?

The same network is trained under ℓ1, ℓ2, SSIM, MS-SSIM, and MS-SSIM with ℓ1; tuned non-local means or total
variation stand beside them.
"""

from __future__ import annotations

from isocenter.studies.study import Study
from isocenter.studies.variants import Variants

CARD = {
    "title": "Losses of restoration",
    "question": "Which loss gives the best images, and beats what is not learnt?",
    "reference": (
        "Zhao H, Gallo O, Frosio I, Kautz J. Loss functions for image restoration with neural networks. "
        "IEEE TCI 3, 47–57 (2017)."
    ),
    "data": "images with targets; by default low-dose CT of generated torsos",
}

METHOD = "restoration/dncnn"

STUDY: Study = Variants(
    {
        **{loss: (METHOD, {"settings.loss": loss}) for loss in ("l1", "l2", "ssim", "ms_ssim", "ms_ssim_l1")},
        "classic": ("restoration/non_local_means", {}),
    }
)
