"""Noise that comes and goes: the schedule's closed forms, and what an ideal network would make of it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from isocenter.parts.diffusion.sampling import denoised, guided, sample, times, white_noise
from isocenter.parts.diffusion.schedule import Schedule, Target
from isocenter.parts.networks.diffusion import DiffusionUNet, positions
from isocenter.records import Network

MEAN, SPREAD = 0.3, 0.2


def ideal(schedule: Schedule) -> object:
    """The best network for images whose voxels are independent and normal: E[x | x_t] in closed form."""

    def says(noisy: Tensor, time: Tensor) -> Tensor:
        wide = (-1, *[1] * (noisy.ndim - 1))
        signal, noise = schedule.signal(time).view(wide), schedule.noise(time).view(wide)
        gain = signal * SPREAD**2 / (signal**2 * SPREAD**2 + noise**2)
        clean = MEAN + gain * (noisy - signal * MEAN)
        if schedule.target == "noise":
            return (noisy - signal * clean) / noise
        return (signal * noisy - clean) / noise

    return says


@pytest.mark.parametrize("target", ["velocity", "noise"])
def test_what_a_network_should_say_gives_the_image_back(target: Target) -> None:
    schedule = Schedule(target=target)
    image, noise = torch.randn(4, 1, 5, 5), torch.randn(4, 1, 5, 5)
    time = torch.tensor([1, 200, 600, 900])
    noisy = schedule.noisy(image, noise, time)
    back = schedule.image(noisy, schedule.wanted(image, noise, time), time)
    torch.testing.assert_close(back, image, atol=1e-3, rtol=1e-3)


def test_the_cosine_schedule_is_that_of_nichol_and_dhariwal() -> None:
    schedule = Schedule()
    f = [math.cos((t / 1000 + 0.008) / 1.008 * math.pi / 2) ** 2 for t in (0, 500)]
    assert float(schedule.signal(torch.tensor([500]))) ** 2 == pytest.approx(f[1] / f[0], rel=1e-5)
    assert float(schedule.signal(torch.tensor([0]))) == 1.0
    assert float(schedule.signal(torch.tensor([1000]))) < 0.01


def test_signal_and_noise_have_unit_power_together() -> None:
    time = torch.arange(0, 1001)
    schedule = Schedule()
    torch.testing.assert_close(schedule.signal(time) ** 2 + schedule.noise(time) ** 2, torch.ones(1001))


@pytest.mark.parametrize("target", ["velocity", "noise"])
@pytest.mark.parametrize("chance", [0.0, 1.0])
def test_an_ideal_network_makes_images_of_the_right_distribution(target: Target, chance: float) -> None:
    schedule = Schedule(target=target)
    chaos = torch.Generator().manual_seed(0)
    noise = torch.randn((1, 1, 60, 60), generator=chaos)
    made = sample(
        schedule,
        ideal(schedule),
        noise,
        100,
        chance=chance,
        limit=None,
        generator=chaos,  # type: ignore[arg-type]
    )
    assert float(made.mean()) == pytest.approx(MEAN, abs=0.02)
    assert float(made.std()) == pytest.approx(SPREAD, rel=0.1)


def test_denoising_in_one_step_is_the_conditional_mean() -> None:
    schedule = Schedule()
    clean = MEAN + SPREAD * torch.randn((1, 1, 80, 80), generator=torch.Generator().manual_seed(1))
    noisy = clean + 0.4 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(2))
    found = denoised(schedule, ideal(schedule), noisy, 0.4, 1)  # type: ignore[arg-type]
    gain = SPREAD**2 / (SPREAD**2 + 0.4**2)  # Wiener's
    torch.testing.assert_close(found, MEAN + gain * (noisy - MEAN), atol=0.02, rtol=0)
    assert float((found - clean).square().mean()) < 0.3 * float((noisy - clean).square().mean())


def test_the_step_that_matches_a_deviation_holds_it() -> None:
    schedule = Schedule()
    for deviation in (0.05, 0.5, 3.0):
        time = torch.tensor([schedule.matching(deviation)])
        assert float(schedule.noise(time) / schedule.signal(time)) == pytest.approx(deviation, rel=0.03)


def test_steps_fall_from_the_start_to_zero() -> None:
    assert times(Schedule(), 1) == [1000, 0]
    assert times(Schedule(), 4, 10) == [10, 7, 4, 1, 0]
    assert times(Schedule(), 50, 3) == [3, 2, 1, 0]


def test_no_guidance_is_the_conditional_word() -> None:
    said, plain = torch.ones(2), torch.zeros(2)
    assert guided(said, plain, 0).tolist() == [1, 1]
    assert guided(said, plain, 2).tolist() == [3, 3]


def test_white_noise_is_measured_on_a_smooth_image() -> None:
    rng = np.random.default_rng(0)
    smooth = np.add.outer(np.linspace(0, 5, 100), np.linspace(0, 3, 100))[None]
    assert white_noise(smooth + rng.normal(0, 0.25, smooth.shape)) == pytest.approx(0.25, rel=0.05)
    assert white_noise(smooth) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("dims", [2, 3])
def test_the_network_hands_nothing_on_at_first_and_knows_time_and_class_when_it_has_learnt(dims: int) -> None:
    torch.manual_seed(0)
    ones, twos = (1,) * dims, (2,) * dims
    plan = Network(
        features=(8, 16),
        kernels=((3,) * dims,) * 2,
        strides=(ones, twos),
        convolutions=(1, 1),
        decoder_convolutions=(1,),
        norm="group",
    )
    network = DiffusionUNet(plan, (8,) * dims, 1, condition=3).eval()
    image, time = torch.randn((2, 1, *(8,) * dims)), torch.tensor([10.0, 900.0])
    condition = torch.tensor([[1.0, 0, 1], [0, 1, 1]])
    assert network(image, time, condition).abs().max() == 0
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    said = network(image, time, condition)
    assert said.shape == image.shape
    assert (network(image, time.flip(0), condition) - said).abs().max() > 1e-3
    assert (network(image, time, condition.flip(0)) - said).abs().max() > 1e-3


def test_positions_are_sines_and_cosines() -> None:
    found = positions(torch.tensor([0.0, 1.0]), 4)
    assert found[0].tolist() == [0, 0, 1, 1]
    assert found[1, 0].item() == pytest.approx(math.sin(1))
