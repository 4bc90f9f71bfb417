"""Feature pyramids and heads: shapes, what flows where, and that answers lie in the anchors' order."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from isocenter.errors import BadPlan
from isocenter.parts.encodings.anchors import anchors
from isocenter.parts.networks.pyramid import DenseHead, FeaturePyramid
from isocenter.records import Network


def _plan(dims: int = 3) -> Network:
    flat = (1, 2, 2)[-dims:]
    return Network(
        features=(4, 6, 8),
        kernels=((3,) * dims,) * 3,
        strides=((1,) * dims, flat, (2,) * dims),
        convolutions=(1, 1, 1),
        decoder_convolutions=(1, 1),
        norm="none",
    )


@pytest.mark.parametrize("upsampling", ["nearest", "transposed"])
def test_maps_of_all_levels_have_equal_channels_and_known_strides(upsampling: str) -> None:
    pyramid = FeaturePyramid(_plan(), inputs=2, channels=5, upsampling=upsampling)
    image = torch.zeros(2, 2, 6, 16, 12)
    maps = pyramid(image)
    assert pyramid.strides == ((1, 1, 1), (1, 2, 2), (2, 4, 4))
    assert [tuple(level.shape) for level in maps] == [(2, 5, 6, 16, 12), (2, 5, 6, 8, 6), (2, 5, 3, 4, 3)]


@pytest.mark.parametrize("upsampling", ["nearest", "transposed"])
def test_odd_sides_are_allowed(upsampling: str) -> None:
    maps = FeaturePyramid(_plan(), 1, 4, upsampling=upsampling)(torch.zeros(1, 1, 5, 9, 11))
    assert [tuple(level.shape[2:]) for level in maps] == [(5, 9, 11), (5, 5, 6), (3, 3, 3)]


def test_a_pyramid_is_the_printed_sum() -> None:
    pyramid = FeaturePyramid(_plan(2), 1, 4)
    image = torch.randn(1, 1, 8, 8)
    levels = pyramid.encoder(image)
    side = [lateral(level) for lateral, level in zip(pyramid.lateral, levels, strict=True)]
    middle = side[1] + functional.interpolate(side[2], scale_factor=2.0)
    finest = side[0] + functional.interpolate(middle, scale_factor=2.0)
    expected = [
        smooth(level) for smooth, level in zip(pyramid.smooth, (finest, middle, side[2]), strict=True)
    ]
    for found, level in zip(pyramid(image), expected, strict=True):
        assert torch.allclose(found, level, atol=1e-6)


def test_a_pyramid_may_end_at_a_coarser_level() -> None:
    pyramid = FeaturePyramid(_plan(2), 1, 4, finest=1)
    assert [tuple(level.shape[2:]) for level in pyramid(torch.zeros(1, 1, 16, 16))] == [(8, 8), (4, 4)]
    assert pyramid.strides == ((2, 2), (4, 4))
    with pytest.raises(BadPlan, match="no level 3"):
        FeaturePyramid(_plan(2), 1, 4, finest=3)


@pytest.mark.parametrize("norm", ["group", "instance", "none"])
def test_every_anchor_of_every_level_gets_logits_and_deltas(norm: str) -> None:
    head = DenseHead(3, channels=8, anchors=2, classes=3, depth=1, norm=norm)
    maps = [torch.randn(2, 8, 4, 4, 4), torch.randn(2, 8, 2, 2, 2)]
    logits, deltas = head(maps)
    assert logits.shape == (2, 2 * (64 + 8), 3)
    assert deltas.shape == (2, 2 * (64 + 8), 6)


def test_an_untrained_head_answers_with_the_prior() -> None:
    head = DenseHead(2, channels=16, anchors=3, classes=1, prior=0.02)
    logits, deltas = head([torch.randn(1, 16, 8, 8)])
    assert torch.sigmoid(logits).mean().item() == pytest.approx(0.02, rel=0.1)
    assert deltas.abs().mean().item() < 0.5


def test_answers_lie_in_the_order_of_the_anchors() -> None:
    # A head that copies the map: its channel 0 goes to the first anchor's logit, channel 1 to the second's.
    head = DenseHead(2, channels=2, anchors=2, classes=1, depth=0)
    with torch.no_grad():
        head.class_answer.weight.zero_()
        head.class_answer.bias.zero_()
        head.class_answer.weight[0, 0, 1, 1] = head.class_answer.weight[1, 1, 1, 1] = 1.0
    features = torch.zeros(1, 2, 3, 4)
    features[0, 1, 2, 1] = 7.0
    logits, _ = head([features])
    placed = anchors((3, 4), (8.0, 8.0), ((4.0, 4.0), (6.0, 2.0)))
    best = placed[logits[0, :, 0].argmax()]
    assert best.tolist() == [20 - 3, 12 - 1, 20 + 3, 12 + 1]


def test_the_same_weights_serve_all_levels() -> None:
    head = DenseHead(2, channels=8, anchors=1, classes=1, depth=2)
    level = torch.randn(1, 8, 5, 5)
    logits, _ = head([level, level])
    assert torch.equal(logits[:, :25], logits[:, 25:])
