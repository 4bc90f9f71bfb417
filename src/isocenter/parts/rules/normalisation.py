"""How intensities are brought to order: absolute for CT, per image where scanners have no common scale."""

from __future__ import annotations

import numpy as np

from isocenter.records import ChannelScheme, Fingerprint, Intensities, Normalisation

COLOUR = frozenset({"rgb", "red", "green", "blue", "colour", "color", "photo", "unit"})
UNTOUCHED = frozenset({"none", "nonorm", "no norm", "label", "mask", "probability"})

NONZERO_SHARE = 0.75

IMAGENET_MEAN, IMAGENET_SD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet's red, green and blue between 0 and 1; as torchvision and timm publish their weights."""
OWN_PERCENTILES = (0.5, 99.5)
"""Between which an image's own range lies, as what CT numbers are clipped to."""


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


def as_imagenet(given: Normalisation, fingerprint: Fingerprint) -> Normalisation:
    """The same for weights that have learnt from ImageNet: a range as 0 … 1, then ImageNet's mean and spread.

    Three channels take the colours' places. Any other number of them is seen in grey: a kernel of summed
    colours with their mean statistics answers as colours that are all alike would be.
    """
    colours = len(given.channels) == len(IMAGENET_MEAN)
    mean, sd = np.mean(IMAGENET_MEAN), np.mean(IMAGENET_SD)
    measured = {found.channel: found for found in fingerprint.intensities}
    schemes, why = [], {}
    for place, own in enumerate(given.channels):
        scheme, reason = _window(own, measured.get(own.channel))
        schemes.append(
            scheme.changed(
                mean=IMAGENET_MEAN[place] if colours else float(f"{mean:.4g}"),
                sd=IMAGENET_SD[place] if colours else float(f"{sd:.4g}"),
            )
        )
        why[f"channels.{own.channel}"] = (
            f"The published weights have learnt from ImageNet's colours: {reason} becomes 0 to 1, of which "
            f"{'ImageNet' if colours else 'the mean over its colours'} has mean {schemes[-1].mean:g} and "
            f"spread {schemes[-1].sd:g}."
        )
    nonzero = given.nonzero and any(scheme.scheme == "own_window" for scheme in schemes)
    why["nonzero"] = (
        "Much of the images is empty: their own ranges are taken where they are not zero."
        if nonzero
        else "Ranges are taken over all voxels."
    )
    return given.changed(channels=tuple(schemes), nonzero=nonzero, why=why)


def _window(own: ChannelScheme, measured: Intensities | None) -> tuple[ChannelScheme, str]:
    """The range that becomes 0 … 1, and what it is."""
    if own.scheme == "zscore":
        low, high = OWN_PERCENTILES
        words = (
            f"each image's own range ({low:g} and {high:g} percentiles, for scanners have no common scale)"
        )
        return ChannelScheme(channel=own.channel, scheme="own_window"), words
    low, high = own.low, own.high
    if own.scheme == "none":
        low, high = (0.0, 1.0) if measured is None else (measured.minimum, measured.maximum)
    return (
        ChannelScheme(channel=own.channel, scheme="window", low=low, high=high),
        f"{low:.4g} to {high:.4g}",
    )


def normalise(values: np.ndarray, scheme: ChannelScheme, *, nonzero: bool = False) -> np.ndarray:
    """One channel brought to order.

    Args:
        values: (*space), any real type.
        scheme: What the plan says about this channel.
        nonzero: For `zscore`, take mean and spread where the image is not zero and leave zeros at zero; for
            `own_window`, take the image's range there.

    Returns:
        float32 (*space). A constant image becomes zero, or in a range of its own what 0 becomes.
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
    if scheme.scheme in ("window", "own_window"):
        low, high = scheme.low, scheme.high
        if scheme.scheme == "own_window":
            low, high = np.percentile(inside, OWN_PERCENTILES).tolist() if inside.size else (0.0, 0.0)
        np.clip(out, low, high, out=out)
        return _scaled(_scaled(out, low, high - low), scheme.mean, scheme.sd)
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
