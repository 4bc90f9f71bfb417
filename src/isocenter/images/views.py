"""Several views of one patient that need not share a grid, and of which any may be absent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from isocenter.errors import UnreadableFile
from isocenter.images.image import Image
from isocenter.images.reading import read, read_channels
from isocenter.images.resample import resample


@dataclass(frozen=True, eq=False)
class Views(Image):
    """An image of one channel for each view, on the grid of the first view that is there.

    Attributes:
        views: Each view on its own grid, (1, *space); None where it is absent. In `array` an absent view is
            NaN, so that nobody takes it for an image of zeros.
    """

    views: tuple[Image | None, ...] = ()

    @property
    def present(self) -> tuple[bool, ...]:
        """Which views are there."""
        return tuple(view is not None for view in self.views)


def present_in(image: Image) -> tuple[bool, ...]:
    """Which channels of an image are there; all of one that is no set of views."""
    return image.present if isinstance(image, Views) else (True,) * image.channels


def read_views(sources: Sequence[str]) -> Image:
    """One image from a file for each view; an empty name stands for a view that is absent.

    Where all views are there and share a grid they are the channels of a plain image.

    Raises:
        UnreadableFile: A file cannot be read, several hold more than one channel, they differ in their number
            of axes, or none is there.
    """
    if len(sources) == 1:
        return read(sources[0])
    views = [read(source) if source else None for source in sources]
    there = [view for view in views if view is not None]
    if not there:
        raise UnreadableFile("none of its views is there.", cure="Give at least one file.")
    first = there[0]
    for view in there:
        if view.channels != 1 or view.dims != first.dims:
            raise UnreadableFile(
                f"it holds {view.channels} channels of {view.dims} axes where one of {first.dims} is due.",
                where=view.source,
                cure="Give one file for each view, all flat or all volumes.",
            )
    if len(there) == len(views) and all(first.geometry.difference(v.geometry) is None for v in there):
        return read_channels(sources)
    array = np.full((len(views), *first.shape), np.nan, dtype=np.float32)
    for place, seen in enumerate(views):
        if seen is not None:
            array[place] = resample(seen.array, first.shape, 1)[0]
    return Views(array, first.geometry, first.source, tuple(views))
