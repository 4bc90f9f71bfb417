"""Perceptual loss: how unlike two images are in the features of a fixed encoder.

    L(x, y) = mean over features of (φ(x) − φ(y))²

φ is the sixteen convolutions of VGG-19. Their weights are either read from a file, or drawn from a fixed
seed: untrained, such an encoder already compares edges and textures rather than pixels, and nothing has to
be had from elsewhere. A volume is compared slice by slice, across its first axis.

Sources: Johnson et al., ECCV 2016; Yang et al., IEEE TMI 37 (2018), for CT; He, Wang and Hopcroft, "A
powerful generative model using random weights for the deep image representation", NeurIPS 2016.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from isocenter.parts.rules.normalisation import IMAGENET_MEAN, IMAGENET_SD

VGG19 = (64, 64, 0, 128, 128, 0, 256, 256, 256, 256, 0, 512, 512, 512, 512, 0, 512, 512, 512, 512)
"""Features of each convolution; 0 is a max-pooling."""

SEED = 19
NARROWED = 4
"""An encoder of random weights has so many times fewer features: their number is not what counts."""


class Encoder(nn.Module):
    """The convolutions of VGG-19, fixed; layers are numbered as in torchvision's `features`.

    Args:
        weights: A `.safetensors` file with torchvision's names (`features.0.weight` …); None for weights
        drawn
            from a fixed seed.

    Raises:
        BadModel: The file is no such file.
    """

    _mean: Tensor
    _sd: Tensor

    def __init__(self, weights: Path | None = None) -> None:
        super().__init__()
        share = 1 if weights is not None else NARROWED
        layers: list[nn.Module] = []
        inputs = 3
        for count in VGG19:
            if not count:
                layers.append(nn.MaxPool2d(2))
                continue
            layers += [nn.Conv2d(inputs, count // share, 3, padding=1), nn.ReLU()]
            inputs = count // share
        self.features = nn.Sequential(*layers)
        if weights is None:
            _draw(self.features)
        else:
            from isocenter.parts.networks.published import load_published

            load_published(self, weights)
        self.register_buffer("_mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1))
        self.register_buffer("_sd", torch.tensor(IMAGENET_SD).view(1, 3, 1, 1))
        self.requires_grad_(False)
        self.eval()

    def forward(self, image: Tensor) -> Tensor:
        """The last features (batch, feature, y, x) of images (batch, 3, y, x) between 0 and 1."""
        features: Tensor = self.features((image - self._mean) / self._sd)
        return features


def perceptual(encoder: Encoder, answer: Tensor, target: Tensor) -> Tensor:
    """Mean squared difference of features; one channel is shown in grey, of several the first three at most.

    Args:
        encoder: On the images' device.
        answer: (batch, channel, *space), 0 to 1, at least 16 pixels along the last two axes.
        target: Of the same shape; no gradient goes back into it.
    """
    with torch.no_grad():
        wanted = encoder(_coloured(target))
    seen = encoder(_coloured(answer))
    apart: Tensor = seen.float() - wanted.float()
    return apart.square().mean()


def _coloured(images: Tensor) -> Tensor:
    """Flat images of three channels."""
    if images.ndim == 5:
        images = images.transpose(1, 2).flatten(0, 1)
    shown = images[:, [min(place, images.shape[1] - 1) for place in range(3)]]
    return shown.float()


def _draw(layers: nn.Module) -> None:
    """He's normal weights from the fixed seed, whatever chance does elsewhere; no offsets."""
    chance = torch.Generator().manual_seed(SEED)
    for module in layers.modules():
        if isinstance(module, nn.Conv2d):
            taps = module.in_channels * 9
            drawn = torch.randn(module.weight.shape, generator=chance) * (2 / taps) ** 0.5
            module.weight.data.copy_(drawn)
            if module.bias is not None:
                module.bias.data.zero_()
