"""The world in which one slice is looked for along the first axis, for many searchers at once.

There are two actions, a step up and a step down. A searcher sees a window around its slice: of projections
(frontal and sagittal maxima, a few kilobytes a scan) or of the slices themselves. A step brings +1 when it
has come nearer to the slice that is looked for, −1 otherwise. In training an episode ends at that slice; at
test when the searcher oscillates (`oscillation`); with several step sizes it then goes on with the next one.

Sources: Laousy et al., "Deep reinforcement learning for L3 slice localization in sarcopenia assessment",
    MLMI 2021; the finer and finer steps: Alansary et al., Medical Image Analysis 53 (2019). The size of the
    window is a setting here, not theirs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional

from isocenter.parts.reinforcement.outcome import Outcome
from isocenter.parts.reinforcement.state import SearchState, memory_vector, memory_width, new_state
from isocenter.parts.reinforcement.windows import Interpolation, windows

UP, DOWN = 0, 1


def projections(volume: Tensor, width: int, axes: Sequence[int] = (0, 1)) -> Tensor:
    """Maximum intensity projections of a volume, as one image with a channel for each.

    Args:
        volume: (channel, z, y, x).
        width: To which the axis that is left beside z is resampled.
        axes: Projected along y (0, the frontal view) or along x (1, the sagittal one).

    Returns:
        (channel · view, z, width), float32.
    """
    views = [volume.amax(dim=2 + axis).float() for axis in axes]
    return torch.cat([functional.interpolate(view, size=width, mode="linear") for view in views])


@dataclass(frozen=True)
class SliceWorld:
    """Scans with one slice each that is looked for, and the rules by which searchers scroll through them.

    A position is in voxels along the first axis, slice i having its centre at i + ½.

    Attributes:
        images: (scan, channel, z, *rest): projections (…, z, x) or volumes (…, z, y, x); shorter scans are
            padded at their ends.
        truths: Position of the slice in each (scan,); None where it is searched for.
        extents: Voxels of each scan that are not padding (scan, d); all when None.
        grid: Cells of what a searcher sees, along z and the rest.
        reach: How far it sees from its position to either side, in voxels.
        steps: Of an action, in voxels, from the coarsest level to the finest.
        history: How many of its actions a searcher remembers.
        arrived: Distance at which an episode of training ends, in voxels.
        interpolation: How the window's content is resampled.
        owners: The scan of each search, where several things are looked for in one: searches, and
            truths, are then numbered apart from scans. Searches are scans when None.
    """

    images: Tensor
    truths: Tensor | None = None
    extents: Tensor | None = None
    grid: tuple[int, ...] = (48, 48)
    reach: float = 24.0
    steps: tuple[float, ...] = (1.0,)
    history: int = 0
    arrived: float = 0.5
    interpolation: Interpolation = "linear"
    owners: Tensor | None = None
    _sizes: Tensor = field(init=False, repr=False)

    def __post_init__(self) -> None:
        # One channel after the other in memory, as `windows` reads them without a copy.
        images = self.images.transpose(0, 1).contiguous().transpose(0, 1)
        whole = torch.tensor(images.shape[2:], device=images.device, dtype=torch.float32)
        sizes = whole.repeat(len(images), 1) if self.extents is None else self.extents.float()
        object.__setattr__(self, "images", images)
        object.__setattr__(self, "_sizes", sizes.to(images.device))

    @property
    def actions(self) -> int:
        """Up and down."""
        return 2

    @property
    def channels(self) -> int:
        """Channels of what a searcher sees."""
        return int(self.images.shape[1])

    @property
    def memory(self) -> int:
        """Numbers that a searcher knows besides."""
        return memory_width(self.history, self.actions, len(self.steps))

    def start(self, index: Tensor, generator: torch.Generator | None = None) -> SearchState:
        """Set searchers down: in the middle of the scan, or, given a generator, anywhere.

        Args:
            index: The scan of each searcher (searcher,).
            generator: On the CPU, whatever the images' device.
        """
        length = self._sizes[self._owner(index), 0]
        share = torch.full_like(length, 0.5)
        if generator is not None:
            share = torch.rand(len(index), generator=generator).to(length)
        return new_state(index, _centred(share * length, length)[:, None], self.history)

    def observe(self, state: SearchState) -> tuple[Tensor, Tensor]:
        """What searchers see (searcher, channel, *grid), and what they know besides (searcher, number)."""
        low = torch.zeros(len(state), self.images.ndim - 2, device=state.place.device)
        high = self._sizes[self._owner(state.index)].clone()
        low[:, 0], high[:, 0] = state.place[:, 0] - self.reach, state.place[:, 0] + self.reach
        boxes = torch.cat([low, high], dim=1)
        seen = windows(
            self.images,
            self._owner(state.index),
            boxes,
            self.grid,
            extents=self._sizes,
            interpolation=self.interpolation,
        )
        return seen, memory_vector(state, self.actions, len(self.steps))

    def go(self, state: SearchState, action: Tensor) -> SearchState:
        """The searchers after one action each, whether or not the truth is known."""
        step = torch.tensor(self.steps, device=state.place.device)[state.level]
        position = state.place[:, 0] + torch.where(action == UP, step, -step)
        length = self._sizes[self._owner(state.index), 0]
        position = torch.minimum(position.clamp(min=0.5), length - 0.5)
        return state.moved(position[:, None], action)

    def step(self, state: SearchState, action: Tensor) -> Outcome:
        """Act, and be rewarded: +1 where the slice has come nearer, −1 elsewhere."""
        after = self.go(state, action)
        distance = self.distance(after)
        nearer = distance < self.distance(state) - 1e-6
        return Outcome(after, torch.where(nearer, 1.0, -1.0), distance <= self.arrived)

    def distance(self, state: SearchState) -> Tensor:
        """From the slice that is looked for, in voxels (searcher,)."""
        if self.truths is None:
            raise ValueError("where the slice lies is not known: nothing can be rewarded")
        return (state.place[:, 0] - self.truths.to(state.place)[state.index]).abs()

    def _owner(self, index: Tensor) -> Tensor:
        return index if self.owners is None else self.owners[index]


def _centred(position: Tensor, length: Tensor) -> Tensor:
    """The centre of the slice that a position lies in."""
    return torch.minimum(position.floor(), length - 1) + 0.5
