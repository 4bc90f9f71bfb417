"""What a deformation costs by itself, whatever it does to the images.

Fields are (batch, dims, *space) in voxels and array order.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def gradient_penalty(displacement: Tensor, spacing: Sequence[float] | None = None) -> Tensor:
    """Diffusion: the sum over axes of the mean over neighbours of |u(x + e) − u(x)|² / h².

    Args:
        displacement: u; a velocity serves as well.
        spacing: h by axis, in the unit of u; one if not given.

    Source: Balakrishnan et al., IEEE TMI 38, 1788 (2019).
    """
    steps = _steps(displacement, spacing)
    return torch.stack(
        [(displacement.diff(dim=2 + axis) / step).square().sum(1).mean() for axis, step in enumerate(steps)]
    ).sum()


def velocity_divergence(mean: Tensor, log_variance: Tensor, precision: float) -> Tensor:
    """KL divergence of a velocity field's posterior N(μ, Σ) from its smooth prior N(0, Λ⁻¹), per voxel.

        Λ = λ L,  L = D − A
        KL = ½ [ tr(λ D Σ) − log|Σ| + μᵀ Λ μ ] + constant,   μᵀ L μ = Σ_{neighbours i, j} |μ_i − μ_j|²

    Σ is diagonal; A joins voxels that share a face, D counts each voxel's neighbours, fewer at the border.
    The constant is left out. The sum over voxels is divided by their number, so the images' term beside it is
    a mean over voxels too, |f − m|² / (2 σ²).

    Args:
        mean: μ, (batch, dims, *space).
        log_variance: log of Σ's diagonal, same shape.
        precision: λ.

    Source: Dalca et al., MICCAI 2018 (arXiv:1805.04605), section 2.1.
    """
    voxels = mean[0, 0].numel()
    neighbours = _degree(mean)
    spread = (precision * neighbours * log_variance.exp() - log_variance).sum()
    rough = torch.stack([mean.diff(dim=2 + axis).square().sum() for axis in range(mean.shape[1])]).sum()
    return (spread + precision * rough) / (2 * voxels * len(mean))


def affine_prior(matrix: Tensor) -> Tensor:
    """‖A − I‖₁: the sum over the matrix's entries, mean over the batch.

    Args:
        matrix: A, (batch, dims, dims + 1); I is the identity without translation.

    Source: Christodoulidis et al., RAMBO 2018.
    """
    identity = torch.eye(*matrix.shape[1:], device=matrix.device, dtype=matrix.dtype)
    return (matrix - identity).abs().sum((1, 2)).mean()


def spacing_prior(gradients: Tensor) -> Tensor:
    """‖∇G − 1‖₁: the sum over axes, mean over voxels and batch.

    A mean, where the paper prints the sum of the norm, so that its weight does not hang on the image's size.

    Args:
        gradients: ∂G_d/∂x_d, (batch, dims, *space), all ones for the identity.

    Source: Christodoulidis et al., RAMBO 2018.
    """
    return (gradients - 1).abs().sum(1).mean()


def _steps(displacement: Tensor, spacing: Sequence[float] | None) -> list[float]:
    dims = displacement.shape[1]
    steps = [1.0] * dims if spacing is None else [float(step) for step in spacing]
    if len(steps) != dims or displacement.ndim != dims + 2:
        raise ValueError(f"{len(steps)} spacings do not fit a field of shape {tuple(displacement.shape)}")
    return steps


def _degree(field: Tensor) -> Tensor:
    """How many neighbours each voxel has, (1, 1, *space)."""
    degree = field.new_zeros(1, 1, *field.shape[2:])
    for axis in range(2, field.ndim):
        size = field.shape[axis]
        count = field.new_full((size,), 2.0)
        count[0] -= 1
        count[-1] -= 1
        degree = degree + count.view(-1, *[1] * (field.ndim - 1 - axis))
    return degree
