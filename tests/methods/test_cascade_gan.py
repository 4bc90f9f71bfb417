"""A cascade of GANs: later generators see the image and an earlier answer to it, always a held-out one."""

from __future__ import annotations

import json
from math import prod
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import isocenter
from isocenter import images
from isocenter.errors import BadPlan
from isocenter.images.geometry import Geometry
from isocenter.images.placement import Placement
from isocenter.methods.restoration.cascade_gan import CascadeGan
from isocenter.parts.losses.adversarial import gan_generator
from isocenter.parts.losses.quality import gradient_difference, squared
from isocenter.pipeline.prepare import Prepared
from isocenter.pipeline.run import Run
from isocenter.pipeline.speed import random_batch
from isocenter.records import Plan

KEY = "restoration/cascade_gan"
SMALL = {"network.features": [2, 2, 3, 3, 2], "training.batch": 4, "geometry.patch": [16, 16]}


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten pictures whose target is their negative."""
    folder, rng = tmp_path_factory.mktemp("pairs"), np.random.default_rng(0)
    for number in range(10):
        shown = np.kron(rng.integers(30, 220, (3, 3)), np.ones((8, 8))).astype(np.uint8)
        for part, image in (("inputs", shown), ("targets", 255 - shown)):
            (folder / part).mkdir(exist_ok=True)
            Image.fromarray(image).save(folder / part / f"{number}.png")
    return folder


def planned(pairs: Path, **settings: float) -> Plan:
    overrides = {**SMALL, **{f"settings.{name}": value for name, value in settings.items()}}
    return isocenter.plan(pairs, method=KEY, budget="1 epochs", overrides=overrides, device="cpu", workers=1)


def test_the_second_generator_learns_from_held_out_answers_of_the_first(pairs: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    scores = isocenter.train(
        pairs, run, method=KEY, budget="1 epochs", overrides=SMALL, device="cpu", workers=1
    )
    assert scores.summary["image"]["psnr"].mean is not None
    plan = Run(run).plan
    assert [(stage.name, stage.after) for stage in plan.stages] == [("round_1", None), ("round_2", "round_1")]
    answered: dict[str, int] = {}
    for number, fold in enumerate(plan.folds):
        found = {path.stem for path in (run / f"fold_{number}" / "round_1" / "answers").glob("*.png")}
        assert found == set(fold.test)
        answered |= dict.fromkeys(found, number)
    # What the second generator saw of a training case is what a network said that had not learnt from it.
    seen = Prepared(run / "earlier" / "round_2")
    method = CascadeGan(plan, plan.stages[1])
    for case in plan.folds[0].train:
        assert answered[case] != 0
        file = run / f"fold_{answered[case]}" / "round_1" / "answers" / f"{case}.png"
        expected = method.normalised(images.read(str(file)).array.astype(np.float32))
        np.testing.assert_allclose(seen.arrays(case)["earlier"], expected, atol=1e-5)
    for name in ("round_1", "round_2"):
        judged = json.loads((run / "fold_0" / name / "scores.json").read_text())["cases"]
        assert [case["case"] for case in judged] == sorted(plan.folds[0].test)
    assert json.loads((run / "choice.json").read_text())["members"] == ["round_2"]
    given = isocenter.predict(run, [pairs / "inputs" / "3.png"], tmp_path / "given")
    first = isocenter.predict(run, [pairs / "inputs" / "3.png"], tmp_path / "first", stage="round_1")
    assert images.read(str(given[0])).shape == images.read(str(first[0])).shape == (24, 24)
    assert "worst" in isocenter.report(run).read_text().lower()


def test_three_rounds_are_a_chain(pairs: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    overrides = {**SMALL, "settings.rounds": 3, "settings.adversary": 0, "folds": 2}
    isocenter.train(pairs, run, method=KEY, budget="1 epochs", overrides=overrides, device="cpu", workers=1)
    given = isocenter.predict(run, [pairs / "inputs" / "3.png"], tmp_path / "given")
    assert images.read(str(given[0])).shape == (24, 24)
    assert not any("critic" in name for name in CascadeGan(Run(run).plan, Run(run).plan.stages[2]).modules)


def test_one_round_is_a_gan_without_context(pairs: Path) -> None:
    plan = planned(pairs, rounds=1)
    assert [(stage.name, stage.after) for stage in plan.stages] == [("round_1", None)]
    with pytest.raises(BadPlan, match="rounds"):
        planned(pairs, rounds=0)
    with pytest.raises(BadPlan, match="redraw"):
        planned(pairs, redraw=True)


@pytest.mark.parametrize("number", [0, 1])
def test_the_generator_s_loss_is_the_sum_that_is_published(pairs: Path, number: int) -> None:
    plan = planned(pairs, adversary=0.5, squared=2.0, gradient=3.0)
    method = CascadeGan(plan, plan.stages[number])
    method.modules.eval()
    batch = random_batch(method)
    with torch.no_grad():
        made = method.forward(batch)["restored"]
        fooled = gan_generator(method.modules["critic"](made))
        expected = (
            2 * squared(made, batch["target"])
            + 3 * gradient_difference(made, batch["target"])
            + 0.5 * fooled / prod(plan.stages[number].geometry.patch)
        )
        assert method.loss(batch, "network").item() == pytest.approx(expected.item(), rel=1e-5)
    assert next(method.modules["network"].parameters()).shape[1] == 1 + number


@pytest.mark.parametrize("residual", [True, False])
def test_a_later_generator_starts_from_the_earlier_answer(pairs: Path, residual: bool) -> None:
    plan = planned(pairs, residual=residual)
    method = CascadeGan(plan, plan.stages[1])
    batch = random_batch(method)
    with torch.no_grad():
        same = torch.equal(method.forward(batch)["restored"], batch["earlier"])
    assert same == residual


def test_a_critic_s_step_leaves_the_generator_alone(pairs: Path) -> None:
    plan = planned(pairs)
    method = CascadeGan(plan, plan.stages[1])
    torch.autograd.backward(method.loss(random_batch(method), "critic"))
    assert all(parameter.grad is None for parameter in method.modules["network"].parameters())
    assert all(parameter.grad is not None for parameter in method.modules["critic"].parameters())


def test_an_earlier_answer_lies_on_the_grid_in_the_target_s_order(pairs: Path) -> None:
    plan = planned(pairs)
    method = CascadeGan(plan, plan.stages[1])
    scheme = plan.stages[1].normalisation.channels[0]
    answer = np.full((1, 24, 24), (scheme.low + scheme.high) / 2, dtype=np.float32)
    placement = Placement(Geometry.plain((24, 24)), (2, 3), (20, 18), (20, 18))
    assert method.earlier(answer, placement)["earlier"].shape == (1, 20, 18)
    assert method.earlier(answer, placement)["earlier"] == pytest.approx(0.5)


def test_rounds_share_the_time(pairs: Path) -> None:
    plan = isocenter.plan(
        pairs, method=KEY, budget="90s", overrides={"settings.rounds": 3}, device="cpu", workers=1
    )
    assert [stage.training.budget.seconds for stage in plan.stages] == pytest.approx([30, 30, 30])
    assert len({stage.unet.features for stage in plan.stages}) == 1
