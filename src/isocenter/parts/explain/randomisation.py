"""Does a map depend on what the network has learnt? Its weights are made random, and the map must change.

`cascading` makes layer after layer random, from the scores back to the image, each on top of those before;
`independent` makes one layer random at a time. A map that stays the same shows the image, not the network.
Networks that answer together are made random together, the same layers in each.

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
Explain = Callable[[Sequence[nn.Module]], Map]
"""The map that networks which answer together give for one image and class."""

HIGHEST = 0.5
"""A map passes if its mean rank correlation with those of a wholly random network is at most this: half-way
between maps that have nothing in common and the same map."""
STEPS = 6
DRAWS = 2
"""Wholly random networks that the verdict rests on; the steps before it, which decide nothing, have one."""


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
        cascading: One row for each step, from the scores to the image; the last, of which alone the verdict
            is made, has no learnt weight left.
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
    networks: Sequence[nn.Module],
    explain: Explain,
    *,
    seed: int = 0,
    steps: int = STEPS,
    draws: int = DRAWS,
    every: bool = True,
) -> Outcome:
    """Run the test on networks that answer together, of which only copies are changed.

    Args:
        networks: As learnt, in evaluation mode, of one architecture.
        explain: Gives their map.
        seed: Of the random weights.
        steps: Into how many groups the layers are divided.
        draws: Random networks for the last step.
        every: Take also the steps on the way there, and make each group random by itself.
    """
    own = explain(networks)
    groups = grouped(layers(networks[0])[::-1], steps)
    sofar = [[name for group in groups[: step + 1] for name in group] for step in range(len(groups))]
    last = _likeness(networks, explain, own, sofar[-1], seed, draws)
    if not every:
        return Outcome((last,), constant=is_constant(own))
    cascading = [*(_likeness(networks, explain, own, names, seed, 1) for names in sofar[:-1]), last]
    # The first group by itself is the cascade's first step.
    alone = [_likeness(networks, explain, own, group, seed, 1) for group in groups[1:]]
    return Outcome(tuple(cascading), (cascading[0], *alone), constant=is_constant(own))


def count(network: nn.Module, *, steps: int = STEPS, draws: int = DRAWS, every: bool = True) -> int:
    """How many maps `randomised` makes."""
    groups = len(grouped(layers(network), steps))
    return 1 + draws + (2 * (groups - 1) if every else 0)


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
    networks: Sequence[nn.Module], explain: Explain, own: Map, names: Sequence[str], seed: int, draws: int
) -> Likeness:
    found = []
    for draw in range(draws):
        others = [copy.deepcopy(network) for network in networks]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed * 1000 + draw)
            for other in others:
                for name in names:
                    _forget(other.get_submodule(name))
        found.append(likeness_of(own, explain(others)))
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
