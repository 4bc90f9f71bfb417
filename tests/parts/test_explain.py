"""Maps add up to what they explain, see what was planted, and fail where they ignore the network."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from isocenter.parts.explain import maps
from isocenter.parts.explain.randomisation import (
    count,
    grouped,
    layers,
    likeness_of,
    mean_likeness,
    randomised,
)

SPACES = [(32,), (16, 20), (8, 10, 12)]


def image(space: tuple[int, ...], channels: int = 2) -> Tensor:
    return torch.randn((1, channels, *space), generator=torch.Generator().manual_seed(1))


def linear(weight: Tensor) -> maps.Scores:
    return lambda x: (x * weight).flatten(1).sum(dim=1, keepdim=True)


@pytest.mark.parametrize("space", SPACES)
def test_the_gradient_of_a_linear_score_is_its_weight(space: tuple[int, ...]) -> None:
    weight = image(space)
    found = maps.gradient(linear(weight), image(space), 0)
    np.testing.assert_allclose(found, weight.abs().amax(dim=1)[0].numpy(), rtol=1e-5)


@pytest.mark.parametrize("space", SPACES)
def test_integrated_gradients_of_a_linear_score_are_weight_times_image(space: tuple[int, ...]) -> None:
    weight, shown = image(space), image(space) + 1
    found = maps.integrated_gradients(linear(weight), shown, 0, steps=4)
    np.testing.assert_allclose(found.map, (weight * shown).sum(dim=1)[0].numpy(), rtol=1e-4, atol=1e-5)
    assert found.gap == pytest.approx(0, abs=1e-4)


def test_integrated_gradients_add_up_to_the_difference_of_a_curved_score() -> None:
    shown = image((16, 20))
    curved: maps.Scores = lambda x: torch.tanh(x.mean(dim=1) ** 3).flatten(1).sum(dim=1, keepdim=True)  # noqa: E731
    found = maps.integrated_gradients(curved, shown, 0, steps=200)
    assert found.difference == pytest.approx(float(curved(shown)), rel=1e-5)
    assert float(found.map.sum()) == pytest.approx(found.difference, rel=1e-3)
    assert abs(maps.integrated_gradients(curved, shown, 0, steps=2).gap) > abs(found.gap)


@pytest.mark.parametrize("space", SPACES)
def test_grad_cam_shows_the_feature_that_the_score_asks_for(space: tuple[int, ...]) -> None:
    shown = torch.zeros((1, 2, *space))
    corner = tuple(slice(0, edge // 2) for edge in space)
    shown[(0, 0, *corner)] = 1.0
    shown[(0, 1, *(slice(edge // 2, None) for edge in space))] = 1.0

    def head(features: Tensor) -> Tensor:
        return features.flatten(2).mean(dim=2) @ torch.tensor([[1.0], [-1.0]])

    found = maps.grad_cam(lambda x: x, head, shown, 0)
    assert found[corner].min() > 0
    assert found[tuple(slice(edge // 2, None) for edge in space)].max() == 0


@pytest.mark.parametrize("space", SPACES)
def test_occlusion_finds_the_only_bright_voxel_and_no_other_window(space: tuple[int, ...]) -> None:
    shown = torch.zeros((1, 1, *space))
    place = tuple(edge // 4 for edge in space)
    shown[(0, 0, *place)] = 3.0
    found = maps.occlusion(lambda x: x.flatten(1).sum(dim=1, keepdim=True), shown, 0, windows=4)
    assert found[place] == pytest.approx(3.0)
    assert found[tuple(edge - 1 for edge in space)] == 0
    assert found.shape == space


def test_windows_cover_every_voxel_and_side_by_side_no_voxel_twice() -> None:
    for overlapping in (True, False):
        seen = np.zeros((7, 13))
        for box in maps.covered((7, 13), 4, overlapping=overlapping):
            seen[box] += 1
        assert seen.min() >= 1
        assert (seen.max() == 1) != overlapping


def test_fewer_large_images_go_through_a_network_together() -> None:
    assert maps.at_once(torch.zeros(1, 3, 64, 64)) == 16
    assert maps.at_once(torch.zeros(1, 1, 64, 64, 64)) == 8
    assert maps.at_once(torch.zeros(1, 1, 256, 256, 256)) == 1


# --------------------------------------------------------------------------------------- randomisation


def a_network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Conv2d(6, 6, 3, padding=1),
        nn.AdaptiveAvgPool2d(4),
        nn.Flatten(),
        nn.Linear(96, 2),
    ).eval()


def test_a_map_that_only_shows_edges_fails_and_one_that_follows_the_weights_passes() -> None:
    network, shown = a_network(), image((16, 16), channels=1)
    edges = randomised([network], lambda _: np.abs(shown[0, 0].numpy()), draws=2)
    assert not edges.passed
    assert edges.cascading[-1].ranks == pytest.approx(1)

    def signed(nets: Sequence[nn.Module]) -> np.ndarray:
        return maps.integrated_gradients(nets[0], torch.ones_like(shown), 0, steps=4).map  # a flat image

    assert randomised([network], signed, draws=2).passed


def test_the_network_itself_is_left_as_it_was_and_the_test_repeats_itself() -> None:
    network, shown = a_network(), image((16, 16), channels=1)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    torch.manual_seed(5)

    def explain(nets: Sequence[nn.Module]) -> np.ndarray:
        return maps.gradient(nets[0], shown, 1)

    one = randomised([network], explain, draws=1)
    assert one == randomised([network], explain, draws=1)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert len(one.independent) == len(one.cascading) == 4
    assert one.cascading[0].layers == "6"


def test_the_verdict_alone_takes_few_maps_and_all_steps_as_many_as_are_counted() -> None:
    made = []

    def explain(nets: Sequence[nn.Module]) -> np.ndarray:
        made.append(len(nets))
        return maps.gradient(nets[-1], image((16, 16), channels=1), 1)

    networks = [a_network(), a_network()]
    for every, maps_ in ((False, 3), (True, 9)):
        made.clear()
        outcome = randomised(networks, explain, every=every)
        assert made == [2] * maps_ == [2] * count(networks[0], every=every)
        assert len(outcome.cascading) == (4 if every else 1)
        assert outcome.independent[:1] == outcome.cascading[:1] * every


def test_layers_are_made_random_from_the_scores_back_to_the_image() -> None:
    assert layers(a_network()) == ["0", "1", "3", "6"]
    assert grouped(["6", "3", "1", "0"], 3) == [["6"], ["3", "1"], ["0"]]


def test_rank_correlation_is_spearmans() -> None:
    one = np.array([[0.1, 0.5], [0.3, 0.9]], np.float32)
    assert likeness_of(one, one**3)[0] == pytest.approx(1)
    assert likeness_of(one, -one) == pytest.approx((1, -1))


def test_a_map_that_is_constant_fails_and_a_random_network_s_tells_nothing() -> None:
    network, nothing = a_network(), np.zeros((4, 4), np.float32)
    some = np.arange(16, dtype=np.float32).reshape(4, 4)
    assert likeness_of(nothing, some) == (1, 1)
    assert all(np.isnan(likeness_of(some, nothing)))
    assert mean_likeness([float("nan"), 0.25]) == 0.25
    empty = randomised([network], lambda nets: nothing if nets[0] is network else some)
    assert empty.constant
    assert not empty.passed
    alone = randomised([network], lambda nets: some if nets[0] is network else nothing)
    assert not alone.constant
    assert not alone.cascading[-1].compared
    assert not alone.passed
