"""Low-dose CT: six losses of one generator, with and without an adversary.

Squared error wins PSNR and loses texture; a critic, or features of an encoder, keep it. Look at the
texture's sd beside the target's: `--measure texture_sd`. Two controls learn no network: patches made of the
atoms of a dictionary, as published, and a tuned filter.
"""

from __future__ import annotations

from isocenter.studies.study import Study
from isocenter.studies.variants import Variants

CARD = {
    "title": "Low-dose CT under six losses",
    "question": "What do an adversary and a perceptual loss change: PSNR and SSIM, or texture?",
    "reference": (
        "Yang Q, Yan P, Zhang Y, et al. Low-dose CT image denoising using a generative adversarial network "
        "with Wasserstein distance and perceptual loss. IEEE TMI 37, 1348–1357 (2018)."
    ),
    "data": "images with targets; by default low-dose CT of generated torsos",
}

METHOD = "restoration/ldct"
VARIANTS = ("cnn_mse", "wgan_mse", "cnn_vgg", "wgan_vgg", "wgan", "gan")

STUDY: Study = Variants(
    {
        **{variant: (METHOD, {"settings.variant": variant}) for variant in VARIANTS},
        "dictionary": ("restoration/dictionary", {}),
        "classic": ("restoration/non_local_means", {}),
    }
)
