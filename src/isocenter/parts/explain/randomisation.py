"""Does a map depend on what the network has learnt? Its weights are made random, and the map must change.

`cascading` makes layer after layer random, from the scores back to the image, each on top of those before;
`independent` makes one layer random at a time. A map that stays the same shows the image, not the network.

Source: Adebayo et al., "Sanity checks for saliency maps", NeurIPS 2018, whose rank correlations, with and
without signs, these are. Arun et al., Radiology: AI 2021, found none of eight maps to pass every test.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import rankdata
from torch import nn

Map = NDArray[np.float32]
Explain = Callable[[nn.Module], Map]
"""The map that a network gives for one image and class."""

HIGHEST = 0.5
"""A map passes if its mean rank correlation with those of a wholly random network is at most this: half-way
between maps that have nothing in common and the same map."""
STEPS = 6
DRAWS = 2


@dataclass(frozen=True)
class Likeness:
    """How like a random network's map is to the learnt network's.

    Attributes:
        layers: The first and last layer made random, in the network's order.
        ranks: Spearman's correlation of the absolute values, mean over draws.
        signed: The same of the values as they are.
        compared: Some random network's map was not constant; else there is nothing to be like.
    """

    layers: str
    ranks: float
    signed: float
    compared: bool = True


@dataclass(frozen=True)
class Outcome:
    """A randomisation test of one kind of map.

    Attributes:
        cascading: One row for each step, from the scores to the image; the last has no learnt weight left.
        independent: One row for each group of layers made random by itself.
        constant: The learnt network's map has one value everywhere: it says nothing, and cannot pass.
    """

    cascading: tuple[Likeness, ...]
    independent: tuple[Likeness, ...] = ()
    constant: bool = False

    @property
    def passed(self) -> bool:
        """Whether the map says something, and changes with the network."""
        last = self.cascading[-1]
        return not self.constant and last.compared and last.ranks <= HIGHEST


def randomised(
    network: nn.Module,
    explain: Explain,
    *,
    seed: int = 0,
    steps: int = STEPS,
    draws: int = DRAWS,
    independent: bool = False,
) -> Outcome:
    """Run the test on a network, of which only copies are changed.

    Args:
        network: As learnt, in evaluation mode.
        explain: Gives the map of a network.
        seed: Of the random weights.
        steps: Into how many groups the layers are divided.
        draws: Random networks for each step.
        independent: Also make each group random by itself.
    """
    own = explain(network)
    groups = grouped(layers(network)[::-1], steps)
    sofar = [[name for group in groups[: step + 1] for name in group] for step in range(len(groups))]
    cascading = [_likeness(network, explain, own, names, seed, draws) for names in sofar]
    alone = [_likeness(network, explain, own, group, seed, draws) for group in groups] if independent else []
    return Outcome(tuple(cascading), tuple(alone), constant=is_constant(own))


def layers(network: nn.Module) -> list[str]:
    """Modules with weights of their own, in the order in which they were built."""
    return [
        name
        for name, module in network.named_modules()
        if next(module.parameters(recurse=False), None) is not None
    ]


def grouped(names: Sequence[str], count: int) -> list[list[str]]:
    """Names in at most `count` groups of about equal size, the first alone: it gives the scores."""
    if len(names) <= 1:
        return [list(names)]
    rest = np.array_split(np.arange(1, len(names)), max(1, min(count - 1, len(names) - 1)))
    return [[names[0]], *([names[place] for place in part] for part in rest if len(part))]


def is_constant(map_: Map) -> bool:
    """Whether a map has one value everywhere, as Grad-CAM's where nothing speaks for the class."""
    return bool(map_.min() == map_.max())


def likeness_of(own: Map, other: Map) -> tuple[float, float]:
    """Spearman's correlation of two maps' absolute values and of their values.

    A map that is constant, as Grad-CAM's can be, points at nothing that another network would not point at:
    1 where `own` is. Where only `other` is, nothing can be told: NaN.
    """
    return _correlation(np.abs(own), np.abs(other)), _correlation(own, other)


def mean_likeness(found: Sequence[float]) -> float:
    """The mean of those that tell something; 1, and so no pass, where none does."""
    told = [likeness for likeness in found if np.isfinite(likeness)]
    return float(np.mean(told)) if told else 1.0


def _likeness(
    network: nn.Module, explain: Explain, own: Map, names: Sequence[str], seed: int, draws: int
) -> Likeness:
    found = []
    for draw in range(draws):
        other = copy.deepcopy(network)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed * 1000 + draw)
            for name in names:
                _forget(other.get_submodule(name))
        found.append(likeness_of(own, explain(other)))
    ranks, signed = (mean_likeness(each) for each in zip(*found, strict=True))
    title = names[0] if len(names) == 1 else f"{names[0]} … {names[-1]}"
    compared = any(np.isfinite(told) for told, _ in found)
    return Likeness(title or "all", ranks, signed, compared)


def _forget(module: nn.Module) -> None:
    """Weights as before any learning; what a normalisation has measured is kept, so that scales stay."""
    if isinstance(module, nn.modules.batchnorm._NormBase):
        nn.init.ones_(module.weight)
        nn.init.zeros_(module.bias)
    elif hasattr(module, "reset_parameters"):
        module.reset_parameters()  # type: ignore[operator]  # a method, by PyTorch's convention
    else:
        for parameter in module.parameters(recurse=False):
            nn.init.normal_(parameter, std=0.02)


def _correlation(own: Map, other: Map) -> float:
    one, two = (rankdata(values.ravel()) for values in (own, other))
    one, two = one - one.mean(), two - two.mean()
    if not (one**2).sum() > 0:
        return 1.0
    spread = float(np.sqrt((one**2).sum() * (two**2).sum()))
    return float((one * two).sum() / spread) if spread > 0 else float("nan")
