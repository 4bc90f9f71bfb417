"""Maps of what a score rests on: gradient, integrated gradients, Grad-CAM, occlusion; in one to three axes.

All take images (1, channel, *space) and give maps (*space) for one class.

Sources: Simonyan, Vedaldi, Zisserman, arXiv:1312.6034 (gradient); Sundararajan, Taly, Yan, ICML 2017
(integrated gradients); Selvaraju et al., ICCV 2017 (Grad-CAM); Zeiler and Fergus, ECCV 2014 (occlusion).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

Scores = Callable[[Tensor], Tensor]
"""Scores (batch, class) of images (batch, channel, *space)."""

Map = NDArray[np.float32]

STEPS = 64
WINDOWS = {1: 16, 2: 8, 3: 4}
"""Occluding windows along each axis of signals, pictures and volumes that lie side by side."""
BATCH, BATCH_VOXELS = 16, 2**21
"""Images at once: so many, or fewer large ones, which hold so many voxels together."""
_LINEAR = {1: "linear", 2: "bilinear", 3: "trilinear"}


@dataclass(frozen=True)
class Integrated:
    """Integrated gradients, and how far they miss what they must add up to.

    Attributes:
        map: (*space), signed; what each voxel adds to the score.
        difference: The score of the image less that of the baseline.
        gap: The sum of the map less that difference, as a share of it: 0 if the integral were exact.
    """

    map: Map
    difference: float
    gap: float


def gradient(scores: Scores, image: Tensor, target: int) -> Map:
    """max over channels of |∂ s / ∂ x|."""
    found = _gradients(scores, image, target)
    return _plain(found.abs().amax(dim=1)[0])


def integrated_gradients(
    scores: Scores,
    image: Tensor,
    target: int,
    baseline: Tensor | None = None,
    steps: int = STEPS,
    together: int | None = None,
) -> Integrated:
    """(x - x') ∫ ∂ s / ∂ x (x' + a (x - x')) da over a from 0 to 1, summed over channels.

    The integral is taken at the middles of `steps` equal parts.

    Args:
        scores: The network.
        image: x, (1, channel, *space).
        target: The class.
        baseline: x'; zeros by default, the mean of an image brought to mean 0.
        steps: Parts of the path.
        together: Images that go through the network at once, `at_once` by default.
    """
    start = torch.zeros_like(image) if baseline is None else baseline
    shares = (torch.arange(steps, dtype=image.dtype, device=image.device) + 0.5) / steps
    total = torch.zeros_like(image)
    for part in torch.split(shares, together or at_once(image)):
        there = start + part.reshape(-1, *[1] * (image.ndim - 1)) * (image - start)
        total += _gradients(scores, there, target).sum(dim=0, keepdim=True)
    added = (image - start) * total / steps
    with torch.no_grad():
        ends = scores(torch.cat([start, image])).float()[:, target]
    difference = float(ends[1] - ends[0])
    found = _plain(added.sum(dim=1)[0])
    return Integrated(found, difference, gap_of(found, difference))


def gap_of(map_: Map, difference: float) -> float:
    """The sum of a map less what it must add up to, as a share of that."""
    return (float(map_.sum(dtype=np.float64)) - difference) / max(abs(difference), 1e-12)


def grad_cam(features: Scores, head: Callable[[Tensor], Tensor], image: Tensor, target: int) -> Map:
    """relu(Σ_k α_k A_k), α_k the mean of ∂ s / ∂ A_k over space, interpolated to the image.

    Args:
        features: The last features A (batch, k, *cells) of images.
        head: Scores of features.
        image: (1, channel, *space).
        target: The class.
    """
    with torch.no_grad():
        maps = features(image)
    with torch.enable_grad():
        maps = maps.detach().requires_grad_(True)
        score = head(maps).float()[:, target].sum()
        (slope,) = torch.autograd.grad(score, maps)
    weight = slope.flatten(2).mean(dim=2).reshape(*slope.shape[:2], *[1] * (slope.ndim - 2))
    cam = torch.relu((weight * maps.detach()).sum(dim=1, keepdim=True)).float()
    size = tuple(image.shape[2:])
    return _plain(functional.interpolate(cam, size=size, mode=_LINEAR[len(size)], align_corners=False)[0, 0])


def occlusion(
    scores: Scores,
    image: Tensor,
    target: int,
    windows: int | None = None,
    fill: float = 0.0,
    *,
    overlapping: bool = True,
    together: int | None = None,
) -> Map:
    """By how much the score falls when a window is covered, averaged over the windows that cover a voxel.

    Args:
        scores: The network.
        image: (1, channel, *space).
        target: The class.
        windows: How many lie along each axis without overlap, `WINDOWS` by default.
        fill: What the window is covered with; the mean of an image brought to mean 0.
        overlapping: Whether as many again lie half-way between.
        together: Images that go through the network at once, `at_once` by default.
    """
    space = tuple(image.shape[2:])
    total, count = np.zeros(space), np.zeros(space)
    with torch.no_grad():
        whole = float(scores(image).float()[0, target])
        places = list(covered(space, windows, overlapping=overlapping))
        together = together or at_once(image)
        for start in range(0, len(places), together):
            part = places[start : start + together]
            hidden = image.repeat(len(part), *[1] * (image.ndim - 1))
            for place, box in zip(hidden, part, strict=True):
                place[(slice(None), *box)] = fill
            for box, left in zip(part, scores(hidden).float()[:, target].tolist(), strict=True):
                total[box] += whole - left
                count[box] += 1
    return np.asarray(total / np.maximum(count, 1), dtype=np.float32)


def covered(
    space: Sequence[int], windows: int | None = None, *, overlapping: bool = True
) -> Iterator[tuple[slice, ...]]:
    """Windows that cover an image, each half of it covered again by the next where they overlap."""
    axes = []
    for edge in space:
        size = max(1, -(-edge // (windows or WINDOWS[len(space)])))
        step = max(1, size // 2) if overlapping else size
        last = max(1, edge - size // 2) if overlapping else edge
        axes.append([slice(start, min(edge, start + size)) for start in range(0, last, step)])
    yield from itertools.product(*axes)


def at_once(image: Tensor) -> int:
    """How many images of this size (1, channel, *space) go through a network together."""
    return max(1, min(BATCH, BATCH_VOXELS // image[0, 0].numel()))


def _gradients(scores: Scores, image: Tensor, target: int) -> Tensor:
    with torch.enable_grad():
        here = image.detach().clone().requires_grad_(True)
        (slope,) = torch.autograd.grad(scores(here).float()[:, target].sum(), here)
    return slope.detach().float()


def _plain(map_: Tensor) -> Map:
    return np.asarray(map_.detach().float().cpu().numpy(), dtype=np.float32)
