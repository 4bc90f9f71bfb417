"""How intensities are brought to order: absolute for CT, per image where scanners have no common scale."""

from __future__ import annotations

import numpy as np

from isocenter.records import ChannelScheme, Fingerprint, Intensities, Normalisation

COLOUR = frozenset({"rgb", "red", "green", "blue", "colour", "color", "photo", "unit"})
UNTOUCHED = frozenset({"none", "nonorm", "no norm", "label", "mask", "probability"})

NONZERO_SHARE = 0.75


def normalisation(fingerprint: Fingerprint) -> Normalisation:
    """One scheme per channel, after its modality (Isensee et al. 2021, "intensity normalization")."""
    measured = {found.channel: found for found in fingerprint.intensities}
    schemes, why = [], {}
    for channel in fingerprint.channels:
        scheme, reason = _scheme(channel.name, channel.modality, measured.get(channel.name))
        schemes.append(scheme)
        why[f"channels.{channel.name}"] = reason
    nonzero = fingerprint.crop_share < NONZERO_SHARE and any(s.scheme == "zscore" for s in schemes)
    why["nonzero"] = (
        "Much of the images is empty (the median case keeps "
        f"{fingerprint.crop_share:.0%} of its voxels when empty borders are cut off): mean and spread are "
        f"taken "
        "where the image is not zero, or the size of the empty part would set the contrast."
        if nonzero
        else "Images are filled to their borders, so mean and spread are taken over all voxels."
    )
    return Normalisation(channels=tuple(schemes), nonzero=nonzero, why=why)


def _scheme(name: str, modality: str, measured: Intensities | None) -> tuple[ChannelScheme, str]:
    kind = modality.lower()
    if kind == "ct" and measured is not None and measured.sd > 0:
        return ChannelScheme(
            channel=name,
            scheme="ct",
            mean=measured.mean,
            sd=measured.sd,
            low=measured.low,
            high=measured.high,
        ), (
            f"CT numbers mean the same in every scanner: clipped to {measured.low:.4g} to "
            f"{measured.high:.4g} (0.5 and "
            "99.5 percentiles inside the labelled structures), then one mean and spread for all cases."
        )
    if kind in COLOUR:
        high = 255.0 if measured is None or measured.maximum > 1 else 1.0
        if measured is not None and measured.maximum > 255:
            high = measured.maximum
        return ChannelScheme(channel=name, scheme="unit", low=0.0, high=high), (
            f"Colour has a fixed range: 0 to {high:g} becomes 0 to 1, and hues keep their proportions."
        )
    if kind in UNTOUCHED:
        return ChannelScheme(
            channel=name, scheme="none"
        ), "The values are already in order: left as they are."
    return ChannelScheme(channel=name, scheme="zscore"), (
        f"Values of this modality ({modality}) depend on scanner and sequence, so each image gets mean 0 "
        f"and spread 1 of "
        "its own."
    )


def normalise(values: np.ndarray, scheme: ChannelScheme, *, nonzero: bool = False) -> np.ndarray:
    """One channel brought to order.

    Args:
        values: (*space), any real type.
        scheme: What the plan says about this channel.
        nonzero: For `zscore`, take mean and spread where the image is not zero and leave zeros at zero.

    Returns:
        float32 (*space). A constant image becomes zero.
    """
    out = values.astype(np.float32)
    if scheme.scheme == "none":
        return out
    if scheme.scheme == "ct":
        np.clip(out, scheme.low, scheme.high, out=out)
        return _scaled(out, scheme.mean, scheme.sd)
    if scheme.scheme == "unit":
        return _scaled(out, scheme.low, scheme.high - scheme.low)
    seen = out != 0 if nonzero else np.ones(out.shape, dtype=bool)
    inside = out[seen]
    if inside.size:
        # Sums in double precision: in single, the mean of a large bright volume loses its last digits.
        mean, sd = float(inside.mean(dtype=np.float64)), float(inside.std(dtype=np.float64))
        out[seen] = _scaled(inside, mean, sd)
    return out


def _scaled(values: np.ndarray, offset: float, spread: float) -> np.ndarray:
    """In place: (values - offset) / spread; only shifted when there is no spread."""
    values -= np.float32(offset)
    # Rounding leaves a constant image a spread of about its size times the precision of its type.
    if spread > 1e-6 * abs(offset) and spread > 0:
        values /= np.float32(spread)
    return values
