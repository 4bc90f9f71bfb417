"""Networks that look at two images and say how one deforms into the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from isocenter.parts.fields.affine import affine_displacement
from isocenter.parts.fields.algebra import from_gradients
from isocenter.parts.networks.convolution import CONVOLUTIONS
from isocenter.parts.networks.unet import InstanceNorm, UNet
from isocenter.records import Network

# An untrained posterior is narrow: log variance −10, or a deviation of .007 voxels.
_START_LOG_VARIANCE = -10.0


class VelocityUNet(nn.Module):
    """U-Net that gives mean and log variance of a stationary velocity field at half the resolution.

    A convolution at full resolution, then a U-Net whose first level already halves it, so its plan begins
    with strides of two (see `velocity_plan`). Space must be divisible by the product of the strides. The
    velocities are in voxels of the half grid: integrate there, then `fields.algebra.resized` to the full one.

    Args:
        plan: Of the levels from half resolution on.
        inputs: Channels of the fixed and the moving image together.
        stem: Features at full resolution.

    Source: Dalca et al., MICCAI 2018 (arXiv:1805.04605), section 2.2.
    """

    def __init__(self, plan: Network, inputs: int = 2, stem: int = 16) -> None:
        super().__init__()
        dims = len(plan.kernels[0])
        convolution = CONVOLUTIONS[dims]
        width = plan.features[0]
        self.stem = nn.Sequential(convolution(inputs, stem, 3, padding=1), nn.LeakyReLU(0.2))
        self.trunk = UNet(plan, stem, width)
        self.mean = convolution(width, dims, 3, padding=1)
        self.log_variance = convolution(width, dims, 3, padding=1)
        # Both start near nothing: the first map is the identity, and almost certain of it.
        _start(self.mean, 1e-5, 0.0)
        _start(self.log_variance, 1e-10, _START_LOG_VARIANCE)

    def forward(self, fixed: Tensor, moving: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance, each (batch, dims, *half space), of images (batch, channel, *space)."""
        features = self.trunk(self.stem(torch.cat([moving, fixed], dim=1)))[0]
        features = functional.leaky_relu(features, 0.2)
        return self.mean(features), self.log_variance(features)


def velocity_plan(dims: int, features: Sequence[int] = (32, 32, 32, 32)) -> Network:
    """The published shape: one 3³ convolution per level, each level at half the resolution, no norm.

    Args:
        dims: 2 or 3.
        features: By level, half resolution first.

    Source: Dalca et al., MICCAI 2018: 16 features at full resolution, 32 at 1/2, 1/4, 1/8 and 1/16.
    """
    levels = len(features)
    return Network(
        features=tuple(features),
        kernels=((3,) * dims,) * levels,
        strides=((2,) * dims,) * levels,
        convolutions=(1,) * levels,
        decoder_convolutions=(1,) * (levels - 1),
        norm="none",
        deep_supervision=False,
    )


def drawn(mean: Tensor, log_variance: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """One velocity field from N(μ, Σ), differentiable in both: μ + exp(½ log Σ) ε.

    Args:
        mean: μ.
        log_variance: log Σ.
        generator: On the tensors' device; torch's own if not given.
    """
    noise = torch.randn(mean.shape, generator=generator, device=mean.device, dtype=mean.dtype)
    return mean + torch.exp(log_variance / 2) * noise


@dataclass(frozen=True)
class LinearAndDeformable:
    """What `DilatedRegistration` found.

    Attributes:
        displacement: The whole map, (batch, dims, *space) in voxels.
        gradients: ∂G_d/∂x_d of the deformable part, in (0, 2), (batch, dims, *space).
        matrix: The linear part, (batch, dims, dims + 1), about the grid's centre, translation in halves of
            the longest axis.
    """

    displacement: Tensor
    gradients: Tensor
    matrix: Tensor


class DilatedRegistration(nn.Module):
    """Dilated encoder, and two decoders: the grid's spacing along each axis, and an affine matrix.

    The encoder is five 3³ convolutions at full resolution, whose outputs and the two images are concatenated.
    The dilations 1, 1, 2, 3, 5 see 25 voxels, and the widths make 290 features. One branch weighs them by
    squeeze and excitation and decodes ∇G = 2 σ(·), which lies in (0, 2), one for no change; the grid
    is its cumulative sum along each axis, so that neighbours never change places along it. The other branch
    averages over space and gives A − I. The map is x → A G(x); the moving image is read there (pull).

    A counts from the grid's centre, with translations in halves of its longest axis, so that its twelve
    entries are of one size; the authors' code counts voxels from the corner.

    Args:
        dims: 2 or 3.
        inputs: Channels of the fixed and the moving image together.
        widths: Of the encoder's convolutions.
        decoder: Of the convolutions before the gradients.
        affine: Whether the linear branch is there; without it the matrix is the identity.

    Source: Christodoulidis et al., RAMBO MICCAI 2018 (arXiv:1809.06226); the logistic function and
    the zero start as in the authors' code, github.com/stergioc/smooth-transformer.
    """

    DILATIONS = (1, 1, 2, 3, 5)

    def __init__(
        self,
        dims: int,
        inputs: int = 2,
        widths: Sequence[int] = (32, 64, 128, 32, 32),
        decoder: Sequence[int] = (128, 64, 32, 16),
        affine: bool = True,
    ) -> None:
        super().__init__()
        self.encoder = nn.ModuleList()
        channels = inputs
        for width, dilation in zip(widths, self.DILATIONS, strict=True):
            self.encoder.append(_unit(dims, channels, width, dilation))
            channels = width
        merged = inputs + sum(widths)
        self.excitation = SqueezeExcitation(merged)
        steps = [merged, *decoder]
        self.decoder = nn.Sequential(*(_unit(dims, before, after) for before, after in pairwise(steps)))
        self.gradients = CONVOLUTIONS[dims](steps[-1], dims, 3, padding=1)
        self.linear = nn.Linear(merged, dims * (dims + 1)) if affine else None
        _zero(self.gradients)
        if self.linear is not None:
            _zero(self.linear)

    def forward(self, fixed: Tensor, moving: Tensor) -> LinearAndDeformable:
        """The map from the fixed to the moving image, both (batch, channel, *space)."""
        features = [torch.cat([moving, fixed], dim=1)]
        last = features[0]
        for unit in self.encoder:
            last = unit(last)
            features.append(last)
        merged = torch.cat(features, dim=1)
        gradients = 2 * torch.sigmoid(self.gradients(self.decoder(self.excitation(merged))).float())
        dims = gradients.shape[1]
        matrix = torch.eye(dims, dims + 1, device=gradients.device).expand(len(gradients), -1, -1)
        grid = from_gradients(gradients)
        if self.linear is None:
            return LinearAndDeformable(grid, gradients, matrix)
        pooled = merged.flatten(2).mean(2)
        matrix = matrix + self.linear(pooled).float().view(-1, dims, dims + 1)
        return LinearAndDeformable(after_deformation(matrix, grid), gradients, matrix)


def after_deformation(matrix: Tensor, displacement: Tensor) -> Tensor:
    """x → A (x + u(x)), A about the grid's centre with translations in halves of the longest axis.

    Args:
        matrix: A, (batch, dims, dims + 1).
        displacement: u, (batch, dims, *space) in voxels.
    """
    shape = displacement.shape[2:]
    dims = len(shape)
    linear = matrix[:, :, :dims]
    slope = linear - torch.eye(dims, device=matrix.device, dtype=matrix.dtype)
    shifted = torch.cat([linear, matrix[:, :, dims:] * (max(shape) - 1) / 2], dim=2)
    moved = displacement + torch.einsum("bij,bj...->bi...", slope, displacement)
    return moved + affine_displacement(shifted, shape, about_centre=True)


class SqueezeExcitation(nn.Module):
    """Weigh each channel by what all of them are on average: x · σ(W₂ ReLU(W₁ mean x)).

    Args:
        channels: Of the tensor.
        reduction: How many times narrower the layer between is.

    Source: Hu et al., "Squeeze-and-excitation networks", CVPR 2018.
    """

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        inner = max(1, channels // reduction)
        self.weigh = nn.Sequential(
            nn.Linear(channels, inner), nn.ReLU(), nn.Linear(inner, channels), nn.Sigmoid()
        )

    def forward(self, inputs: Tensor) -> Tensor:
        """The tensor (batch, channel, *space), weighed."""
        weights: Tensor = self.weigh(inputs.flatten(2).mean(2))
        return inputs * weights.view(*weights.shape, *[1] * (inputs.ndim - 2))


def _unit(dims: int, inputs: int, outputs: int, dilation: int = 1) -> nn.Sequential:
    convolution = CONVOLUTIONS[dims](inputs, outputs, 3, padding=dilation, dilation=dilation, bias=False)
    return nn.Sequential(convolution, InstanceNorm(outputs), nn.LeakyReLU(0.01))


def _start(layer: nn.Module, deviation: float, bias: float) -> None:
    nn.init.normal_(layer.get_parameter("weight"), std=deviation)
    nn.init.constant_(layer.get_parameter("bias"), bias)


def _zero(layer: nn.Module) -> None:
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
