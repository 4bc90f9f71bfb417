"""How recordings over time are learnt from: how long a step, how long a window, how signals are scaled."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from isocenter.records import ChannelScheme, Fingerprint, Normalisation

STEPS_PER_SEGMENT = 15
"""Steps in which the median segment is seen: its course shows, and memory need not reach further."""
SEGMENTS_PER_WINDOW = 8
"""Median segments in a window: what comes before and after tells as much as the movement itself."""
MOST_STEPS = 256
FEWEST_FRAMES = 16


def segment_frames(fingerprint: Fingerprint) -> float:
    """The median length of a segment, in frames of the median recording's rate; 0 where none is known."""
    rate = fingerprint.median_spacing_mm[0]
    lengths = [
        edges[0] * case.spacing_mm[0] / rate
        for case in fingerprint.cases
        for boxes in case.extents.values()
        for edges in boxes
    ]
    return float(np.median(lengths)) if lengths else 0.0


def stride(fingerprint: Fingerprint) -> tuple[int, str]:
    """How many frames make a step of the network, and why."""
    length = segment_frames(fingerprint)
    frames = max(1, int(length // STEPS_PER_SEGMENT))
    seconds = length * fingerprint.median_spacing_mm[0]
    return frames, (
        f"The median segment lasts {seconds:.3g} s, {length:.0f} frames: {STEPS_PER_SEGMENT} steps show its "
        "course, and means over several frames take out tremor and noise."
        if frames > 1
        else f"The median segment lasts {length:.0f} frames: each of them is needed."
    )


def window(fingerprint: Fingerprint, step: int) -> tuple[int, str]:
    """Frames of a training window, a multiple of the step, and why."""
    longest = max((case.shape[0] for case in fingerprint.cases), default=FEWEST_FRAMES)
    wanted = SEGMENTS_PER_WINDOW * segment_frames(fingerprint) or longest
    frames = max(FEWEST_FRAMES, min(wanted, MOST_STEPS * step, longest))
    whole = int(np.ceil(frames / step) * step)
    return whole, (
        f"About {SEGMENTS_PER_WINDOW} segments, at most {MOST_STEPS} steps: gradients go back through the "
        "whole window and no further; answers are given for whole recordings at once."
    )


def scaling(fingerprint: Fingerprint) -> Normalisation:
    """Each signal of each recording with mean 0 and spread 1."""
    names = [channel.name for channel in fingerprint.channels]
    reason = "Users differ in reach and in where the field lies: mean 0 and spread 1 in each recording."
    why = {f"channels.{name}": reason for name in names[:1]}
    why |= {f"channels.{name}": f"As {names[0]}." for name in names[1:]}
    return Normalisation(
        channels=tuple(ChannelScheme(channel=name, scheme="zscore") for name in names), why=why
    )


def class_weights(fingerprint: Fingerprint, names: Sequence[str]) -> tuple[float, ...]:
    """Weights of labels against their share of frames, with a mean of 1 over frames; 0 for absent ones."""
    frames = [sum(case.voxels.get(name, 0) for case in fingerprint.cases) for name in names]
    there = sum(count > 0 for count in frames)
    return tuple(float(f"{sum(frames) / (there * count):.4g}") if count else 0.0 for count in frames)
