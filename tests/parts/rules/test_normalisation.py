"""Intensities: schemes by modality, and their arithmetic."""

from __future__ import annotations

import numpy as np
import pytest

from isocenter.parts.rules.normalisation import as_imagenet, normalisation, normalise
from isocenter.records import Channel, ChannelScheme, Fingerprint, Intensities


def fingerprint(modality: str, crop_share: float = 1.0, maximum: float = 3000.0) -> Fingerprint:
    return Fingerprint(
        task="segmentation",
        dataset="test",
        dims=3,
        channels=(Channel(name="image", modality=modality),),
        intensities=(
            Intensities(
                channel="image",
                modality=modality,
                mean=50,
                sd=20,
                median=50,
                low=-100,
                high=200,
                minimum=-1024,
                maximum=maximum,
            ),
        ),
        cases=(),
        median_shape=(10, 10, 10),
        median_spacing_mm=(1, 1, 1),
        crop_share=crop_share,
    )


def test_ct_is_clipped_and_scaled_alike_for_all_cases() -> None:
    (scheme,) = normalisation(fingerprint("ct")).channels
    assert scheme == ChannelScheme(channel="image", scheme="ct", mean=50, sd=20, low=-100, high=200)
    assert normalise(np.array([-1000.0, 50.0, 1000.0]), scheme).tolist() == [-7.5, 0.0, 7.5]


def test_mri_is_scaled_image_by_image() -> None:
    found = normalisation(fingerprint("mri"))
    assert found.channels[0].scheme == "zscore"
    values = np.random.default_rng(0).normal(1000, 50, (20, 20, 20))
    out = normalise(values, found.channels[0])
    assert out.dtype == np.float32
    assert out.mean() == pytest.approx(0, abs=1e-4)
    assert out.std() == pytest.approx(1, abs=1e-4)


def test_mostly_empty_images_are_scaled_inside_and_stay_zero_outside() -> None:
    found = normalisation(fingerprint("mri", crop_share=0.5))
    assert found.nonzero
    out = normalise(np.array([0.0, 0.0, 1.0, 3.0]), found.channels[0], nonzero=True)
    assert out.tolist() == [0, 0, -1, 1]


def test_colour_keeps_its_proportions() -> None:
    (scheme,) = normalisation(fingerprint("colour", maximum=250)).channels
    assert normalise(np.array([0, 51, 255]), scheme) == pytest.approx(np.array([0, 0.2, 1]))


@pytest.mark.parametrize("value", [0.0, 7.3, 1e6])
def test_a_constant_image_becomes_zero(value: float) -> None:
    out = normalise(np.full((5, 5), value), ChannelScheme(channel="image", scheme="zscore"))
    assert np.abs(out).max() < 1e-3 * max(1, value * 1e-3)


def test_an_empty_image_stays_empty() -> None:
    scheme = ChannelScheme(channel="image", scheme="zscore")
    assert not normalise(np.zeros((3, 3)), scheme, nonzero=True).any()


# ---------------------------------------------------------------------------- weights learnt from ImageNet


def test_colours_are_seen_as_imagenets_whatever_their_range() -> None:
    photo = fingerprint("rgb", maximum=255)
    photo = photo.changed(
        channels=tuple(Channel(name=name, modality="rgb") for name in ("red", "green", "blue")),
        intensities=tuple(
            photo.intensities[0].changed(channel=name, minimum=0) for name in ("red", "green", "blue")
        ),
    )
    found = as_imagenet(normalisation(photo), photo)
    pixel = np.array([124.0, 116.0, 104.0])
    seen = [
        normalise(value, scheme).item() for value, scheme in zip(pixel[:, None], found.channels, strict=True)
    ]
    torchvisions = (pixel / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    np.testing.assert_allclose(seen, torchvisions, atol=1e-5)
    assert found.why["channels.green"].startswith("The published weights have learnt from ImageNet's colours")


def test_ct_numbers_become_zero_to_one_within_their_window_before_imagenets_scale() -> None:
    ct = fingerprint("ct")
    found = as_imagenet(normalisation(ct), ct)
    seen = normalise(np.array([-1000.0, -100.0, 50.0, 200.0, 900.0]), found.channels[0])
    np.testing.assert_allclose(seen, (np.array([0, 0, 0.5, 1, 1]) - 0.449) / 0.226, atol=1e-5)


def test_images_without_a_common_scale_become_zero_to_one_each_by_its_own_range() -> None:
    mri = fingerprint("mri", crop_share=0.5)
    found = as_imagenet(normalisation(mri), mri)
    values = np.array([0.0] * 500 + list(np.linspace(1000, 2000, 401)))
    for scale in (1, 7):
        seen = normalise(scale * values, found.channels[0], nonzero=found.nonzero)
        assert seen[0] == pytest.approx((0 - 0.449) / 0.226, abs=1e-4)
        assert seen[500 + 200] == pytest.approx((0.5 - 0.449) / 0.226, abs=1e-4)
        assert seen.max() == pytest.approx((1 - 0.449) / 0.226, abs=1e-4)
