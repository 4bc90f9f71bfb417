"""Pseudo-CT with and without an adversary."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import isocenter
from isocenter.methods import load
from isocenter.parts.networks.vgg import VggAutoencoder
from isocenter.pipeline.speed import random_batch


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """Twelve pictures whose target is their negative."""
    rng = np.random.default_rng(0)
    for number in range(12):
        shown = np.kron(rng.integers(30, 220, (4, 4)), np.ones((8, 8))).astype(np.uint8)
        for part, image in (("inputs", shown), ("targets", 255 - shown)):
            (tmp_path / part).mkdir(exist_ok=True)
            Image.fromarray(image).save(tmp_path / part / f"{number}.png")
    return tmp_path


def test_an_adversary_adds_a_critic_and_its_turn(pairs: Path) -> None:
    small = {"network.features": [4, 4, 8, 8, 8], "training.batch": 2}
    for adversary, turns in ((0.0, {"network"}), (0.1, {"network", "critic"})):
        plan = isocenter.plan(
            pairs,
            method="restoration/pseudo_ct",
            budget="1 epochs",
            overrides={**small, "settings.adversary": adversary},
            device="cpu",
            workers=1,
        )
        method = load("restoration/pseudo_ct")(plan, plan.stages[0])
        assert set(method.turns) == set(method.modules) == turns
        losses = {turn: method.loss(random_batch(method), turn) for turn in turns}
        assert all(torch.isfinite(loss) for loss in losses.values())


def test_it_has_the_thirteen_convolutions_of_vgg_16_and_their_mirror() -> None:
    design = load("restoration/pseudo_ct").design(2)  # type: ignore[attr-defined]  # of restorers
    network = VggAutoencoder(design.network.changed(features=(2, 2, 2, 2, 2)), 1, 1)
    kinds = [
        sum(isinstance(part, torch.nn.Conv2d) for part in side.modules())
        for side in (network.encoder, network.decoder)
    ]
    assert kinds == [13, 10]
    assert network(torch.zeros(1, 1, 32, 16)).shape == (1, 1, 32, 16)
