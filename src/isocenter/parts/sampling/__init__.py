"""What a training step looks at: patches drawn from cases, balanced over what they show."""

from isocenter.parts.sampling.patches import annotated_index, foreground_index, sample_patch

__all__ = ["annotated_index", "foreground_index", "sample_patch"]
