"""Halvings, kernels, memory and work of a U-Net: against hand counts and a real network."""

from __future__ import annotations

import torch
from torch import nn

from isocenter.parts.rules.patch import largest_patch, shrunk
from isocenter.parts.rules.stage import unet
from isocenter.parts.rules.topology import elements, features, multiply_accumulates, padded, topology


def test_equal_axes_are_halved_together_until_four_voxels_remain() -> None:
    found = topology((40, 56, 40), (1.0, 1.0, 1.0))
    assert found.strides == ((1, 1, 1), (2, 2, 2), (2, 2, 2), (2, 2, 2))
    assert found.divisor == (8, 8, 8)


def test_a_coarse_axis_waits_and_gets_flat_kernels_meanwhile() -> None:
    found = topology((16, 256, 256), (4.0, 1.0, 1.0))
    assert found.strides[:4] == ((1, 1, 1), (1, 2, 2), (1, 2, 2), (2, 2, 2))
    assert found.kernels[:3] == ((1, 3, 3), (1, 3, 3), (3, 3, 3))


def test_an_exhausted_axis_does_not_stop_the_others() -> None:
    assert topology((4, 64, 64), (1.0, 1.0, 1.0)).divisor == (1, 16, 16)


def test_a_limit_on_halvings_is_kept() -> None:
    assert topology((512, 512), (1.0, 1.0), most=6).divisor == (64, 64)


def test_features_double_up_to_the_ceiling() -> None:
    assert features(32, 6, 320) == (32, 64, 128, 256, 320, 320)


def test_padding_rounds_up_to_whole_multiples() -> None:
    assert padded((36, 50, 35), (8, 8, 8)) == (40, 56, 40)


def test_rounding_up_may_allow_one_more_halving() -> None:
    found = largest_patch((320, 232), (1.0, 1.0), lambda *_: True, most=6)
    assert found.shape == (320, 256)
    assert found.topology.divisor == (64, 64)


def test_a_patch_shrinks_along_the_axis_that_covers_most() -> None:
    found = largest_patch((64, 128, 256), (1.0, 1.0, 1.0), lambda *_: True)
    smaller = shrunk(found, (64, 128, 300), (1.0, 1.0, 1.0))
    assert smaller is not None
    assert smaller.shape == (64, 112, 256)


def test_a_patch_that_never_fits_ends_small_instead_of_looping() -> None:
    found = largest_patch((100, 100, 100), (1.0, 1.0, 1.0), lambda *_: False)
    assert max(found.shape) <= 8


def test_elements_of_a_single_level_are_counted_by_hand() -> None:
    network = unet(topology((4, 4), (1.0, 1.0)), 10)
    assert elements(network, (4, 4), channels=2, outputs=3) == 16 * (2 + 3) + 2 * 10 * 16


class Counted(nn.Module):
    """A two-level U-Net in plain torch, whose multiplications are counted as it runs."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0
        self.first = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1))
        self.second = nn.Sequential(nn.Conv2d(8, 16, 3, stride=2, padding=1), nn.Conv2d(16, 16, 3, padding=1))
        self.up = nn.ConvTranspose2d(16, 8, 2, stride=2)
        self.last = nn.Sequential(
            nn.Conv2d(16, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 2, 1)
        )
        for module in self.modules():
            module.register_forward_hook(self._count)

    def _count(self, module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        if isinstance(module, nn.Conv2d):
            self.total += module.weight.numel() * output[0, 0].numel()
        if isinstance(module, nn.ConvTranspose2d):
            self.total += module.weight.numel() * inputs[0][0, 0].numel()

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        fine = self.first(image)
        out: torch.Tensor = self.last(torch.cat([self.up(self.second(fine)), fine], 1))
        return out


def test_multiply_accumulates_are_those_of_a_network_that_runs() -> None:
    network = Counted()
    network(torch.zeros(1, 1, 8, 8))
    planned = unet(topology((8, 8), (1.0, 1.0)), 8)
    assert multiply_accumulates(planned, (8, 8), channels=1, outputs=2) == network.total
