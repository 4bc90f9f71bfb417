"""Random changes of training samples: a seeded draw of parameters over deterministic transforms."""

from isocenter.parts.augment.augmenter import Augmenter, Kind, Parameters

__all__ = ["Augmenter", "Kind", "Parameters"]
