"""The world in which boxes are moved over images until they hold the organ, for many searchers at once.

In 3D a box has 11 actions: it moves along each axis by a share of its side, there and back (6); it shrinks or
grows about its centre, keeping its proportions (2); it shrinks along one axis (3: thinner, flatter, lower),
which together with growing reaches every proportion. In 2D these are 4 + 2 + 2.

There is no action to stop with: in training an episode ends when the box overlaps the organ enough, at test
when the searcher oscillates (`oscillation`).

Source: Navarro et al., "Deep reinforcement learning for organ localization in CT", MIDL 2020; the step as a
    share of the side: Caicedo and Lazebnik, "Active object localization with deep reinforcement learning",
    ICCV 2015.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from isocenter.parts.encodings.boxes import paired_iou
from isocenter.parts.reinforcement.outcome import Outcome
from isocenter.parts.reinforcement.state import SearchState, memory_vector, memory_width, new_state
from isocenter.parts.reinforcement.windows import Interpolation, windows


def move(boxes: Tensor, action: Tensor, step: Tensor, extent: Tensor, smallest: float) -> Tensor:
    """Boxes after one action each.

    A side's change is a share of that side. A box is moved back into the image whole where it would leave it,
    and its sides are kept between `smallest` voxels and the image's.

    Args:
        boxes: (box, 2 d), low… then high….
        action: Numbers (box,): for each array axis forward, then back; shrink; grow; for each axis shrink
            along it.
        step: Share of a side (box,).
        extent: Sizes of the image of each box (box, d).
        smallest: The least side, in voxels.
    """
    dims = boxes.shape[1] // 2
    low, high = boxes[:, :dims], boxes[:, dims:]
    side = high - low
    shift, stretch = _tables(dims, boxes.device, boxes.dtype)
    share = step.to(boxes.dtype)[:, None]
    centre = (low + high) / 2 + shift[action] * share * side
    side = side * (1 + stretch[action] * share)
    side = torch.minimum(side.clamp(min=smallest), extent)
    centre = torch.minimum(torch.maximum(centre, side / 2), extent - side / 2)
    return torch.cat([centre - side / 2, centre + side / 2], dim=1)


def _tables(dims: int, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """By action and axis: how the centre moves, and how the side changes, in steps."""
    count = 3 * dims + 2
    shift = torch.zeros(count, dims, device=device, dtype=dtype)
    stretch = torch.zeros_like(shift)
    for axis in range(dims):
        shift[2 * axis, axis], shift[2 * axis + 1, axis] = 1, -1
        stretch[2 * dims + 2 + axis, axis] = -1
    stretch[2 * dims], stretch[2 * dims + 1] = -1, 1
    return shift, stretch


@dataclass(frozen=True)
class BoxWorld:
    """Images with one organ each, and the rules by which boxes are moved over them.

    Attributes:
        images: (image, channel, *space), 2D or 3D; smaller images are padded at their ends.
        truths: The organ's box in each (image, 2 d), in voxels; None where it is searched for.
        extents: Voxels of each image that are not padding (image, d); all when None.
        grid: What a searcher sees, in cells.
        margins: For each scale at which it sees, how far beyond the box, as a share of its sides on either
            side; 0 is the box itself.
        steps: Shares of a side by which a box is changed, from the coarsest level to the finest.
        history: How many of its actions a searcher remembers.
        smallest: The least side of a box, in voxels.
        arrived: Intersection over union from which an episode of training ends.
        interpolation: How the box's content is resampled.
        owners: The image of each search, where several things are looked for in one: searches, and
            truths, are then numbered apart from images. Searches are images when None.
    """

    images: Tensor
    truths: Tensor | None = None
    extents: Tensor | None = None
    grid: tuple[int, ...] = (24, 24, 24)
    margins: tuple[float, ...] = (0.0,)
    steps: tuple[float, ...] = (0.2,)
    history: int = 10
    smallest: float = 4.0
    arrived: float = 0.85
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
    def dims(self) -> int:
        """Spatial axes."""
        return self.images.ndim - 2

    @property
    def actions(self) -> int:
        """Number of actions: 11 in 3D, 8 in 2D."""
        return 3 * self.dims + 2

    @property
    def channels(self) -> int:
        """Channels of what a searcher sees."""
        return int(self.images.shape[1]) * len(self.margins)

    @property
    def memory(self) -> int:
        """Numbers that a searcher knows besides."""
        return memory_width(self.history, self.actions, len(self.steps))

    def start(self, index: Tensor, generator: torch.Generator | None = None) -> SearchState:
        """Set searchers down: on the whole image, or, given a generator, on random boxes.

        A random box has sides of a quarter to the whole of the image's, anywhere inside it.

        Args:
            index: The image of each searcher (searcher,).
            generator: On the CPU, whatever the images' device.
        """
        sizes = self._sizes[self._owner(index)]
        boxes = torch.cat([torch.zeros_like(sizes), sizes], dim=1)
        if generator is not None:
            chance = torch.rand(2, *sizes.shape, generator=generator).to(sizes)
            side = torch.maximum(sizes * (0.25 + 0.75 * chance[0]), sizes.clamp(max=self.smallest))
            low = (sizes - side) * chance[1]
            boxes = torch.cat([low, low + side], dim=1)
        return new_state(index, boxes, self.history)

    def observe(self, state: SearchState) -> tuple[Tensor, Tensor]:
        """What searchers see (searcher, scale · channel, *grid) and know besides (searcher, number)."""
        views = [
            windows(
                self.images,
                self._owner(state.index),
                _widened(state.place, margin),
                self.grid,
                extents=self._sizes,
                interpolation=self.interpolation,
            )
            for margin in self.margins
        ]
        return torch.cat(views, dim=1), memory_vector(state, self.actions, len(self.steps))

    def go(self, state: SearchState, action: Tensor) -> SearchState:
        """The searchers after one action each, whether or not the truth is known."""
        step = torch.tensor(self.steps, device=state.place.device)[state.level]
        boxes = move(state.place, action, step, self._sizes[self._owner(state.index)], self.smallest)
        return state.moved(boxes, action)

    def step(self, state: SearchState, action: Tensor) -> Outcome:
        """Act, and be rewarded: +1 where the overlap with the organ has grown, −1 elsewhere.

        A box that lies beside the organ has no overlap to gain, so every action there earns −1, as published.
        """
        after = self.go(state, action)
        overlap = self.overlap(after)
        gained = overlap > self.overlap(state) + 1e-6
        return Outcome(after, torch.where(gained, 1.0, -1.0), overlap >= self.arrived)

    def rewards(self, state: SearchState) -> Tensor:
        """What every action would earn (searcher, action): the world is known where the truth is."""
        each = [
            self.step(state, torch.full_like(state.index, action)).reward for action in range(self.actions)
        ]
        return torch.stack(each, dim=1)

    def overlap(self, state: SearchState) -> Tensor:
        """Intersection over union with the truth (searcher,)."""
        if self.truths is None:
            raise ValueError("where the organ lies is not known: nothing can be rewarded")
        return paired_iou(state.place, self.truths.to(state.place)[state.index])

    def _owner(self, index: Tensor) -> Tensor:
        return index if self.owners is None else self.owners[index]


def _widened(boxes: Tensor, margin: float) -> Tensor:
    dims = boxes.shape[1] // 2
    more = margin * (boxes[:, dims:] - boxes[:, :dims])
    return boxes + torch.cat([-more, more], dim=1)
