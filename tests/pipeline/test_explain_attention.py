"""Attention is tested by making the network random, and failed where it does not follow."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import isocenter
from isocenter.errors import BadPlan, IsocenterWarning
from isocenter.images.geometry import Geometry
from isocenter.images.image import Image
from isocenter.methods.bags import HeadMethod
from isocenter.pipeline.explain import told
from isocenter.pipeline.explain_attention import AttentionTest, paths
from isocenter.pipeline.predict import Model
from isocenter.tasks.bag_files import Attended

WIDTH, INSTANCES = 40, 300


class Following(nn.Module):
    """Attends to what a linear layer, as learnt, says of each instance."""

    def __init__(self) -> None:
        super().__init__()
        self.weigh, self.answer = nn.Linear(WIDTH, 1), nn.Linear(WIDTH, 1)
        nn.init.zeros_(self.weigh.weight)
        nn.init.constant_(self.weigh.weight[:, 0], 1.0)

    def forward(self, bag: Tensor) -> tuple[Tensor, Tensor]:
        weights = torch.softmax(self.weigh(bag), dim=0)
        return self.answer((weights * bag).sum(dim=0)), weights.T


class Deaf(Following):
    """Attends to the first feature, whatever was learnt."""

    def forward(self, bag: Tensor) -> tuple[Tensor, Tensor]:
        return super().forward(bag)[0], torch.softmax(bag[:, :1], dim=0).T


class Same(Following):
    """Attends to all instances alike."""

    def forward(self, bag: Tensor) -> tuple[Tensor, Tensor]:
        return super().forward(bag)[0], torch.full((1, len(bag)), 1 / len(bag))


class Answering(HeadMethod):
    """A method that is its network alone, about the second of two classes."""

    def __init__(self, network: nn.Module) -> None:
        self.modules = nn.ModuleDict({"network": network})
        self.given_device = torch.device("cpu")
        self.plan = SimpleNamespace(  # type: ignore[assignment]
            labels=[SimpleNamespace(name="normal"), SimpleNamespace(name="tumour")],
            channels=[SimpleNamespace(modality="features")],
            method="mil/abmil",
        )
        self.stage = SimpleNamespace(  # type: ignore[assignment]
            geometry=SimpleNamespace(patch=(INSTANCES, WIDTH), orientation=())
        )
        self.settings = SimpleNamespace(exclusive=True, positive="tumour")  # type: ignore[assignment]


def examined(network: nn.Module) -> AttentionTest:
    """The test of a method on two bags of noise."""
    method = Answering(network)
    model = SimpleNamespace(members=[SimpleNamespace(methods=[method])], plan=method.plan)
    test = AttentionTest(cast(Model, model), ["attention"])
    rng = np.random.default_rng(0)
    bags = [rng.standard_normal((1, INSTANCES, WIDTH)).astype(np.float32) for _ in range(2)]
    test.test([Image(bag, Geometry.plain((INSTANCES, WIDTH))) for bag in bags])
    return test


def test_attention_that_follows_what_was_learnt_passes() -> None:
    test = examined(Following())
    assert test.passed("attention")
    assert not list(told(test))
    assert paths(test, Path("a.json"))[0].name == "a_attention.csv"
    about = test.about()["attention"]
    assert isinstance(about, dict)
    assert (about["passed"], about["images"], about["networks"]) == (True, 2, 1)


@pytest.mark.parametrize(
    ("network", "words"), [(Deaf(), "correlates 1.00"), (Same(), "same everywhere for 2 of 2 images")]
)
def test_attention_that_does_not_change_with_the_network_is_shown_as_failed(
    network: nn.Module, words: str
) -> None:
    test = examined(network)
    assert not test.passed("attention")
    (sentence,) = told(test)
    assert words in sentence
    assert paths(test, Path("a.json"))[0].name == "a_attention_FAILED.csv"


def test_a_model_of_bags_has_no_other_maps() -> None:
    model = SimpleNamespace(members=[SimpleNamespace(methods=[Answering(Following())])])
    with pytest.raises(BadPlan, match="no map 'gradcam' of a bag"):
        AttentionTest(cast(Model, model), ["gradcam"])


def test_answers_of_a_run_say_how_their_attention_stood_the_test(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ISOCENTER_CACHE", str(tmp_path / "cache"))
    rng = np.random.default_rng(1)
    rows = ["bag,label"]
    for number in range(10):
        bag = rng.standard_normal((20, 5)).astype(np.float32) + number % 2
        np.savez(tmp_path / f"bag_{number}.npz", features=bag)
        rows.append(f"bag_{number}.npz,{('normal', 'tumour')[number % 2]}")
    (tmp_path / "manifest.csv").write_text("\n".join(rows))
    run, out, bag_file = tmp_path / "run", tmp_path / "out", tmp_path / "bag_3.npz"
    isocenter.train(
        isocenter.open(tmp_path), run, method="mil/abmil", budget="1 epochs", device="cpu", workers=1
    )
    isocenter.predict(run, [bag_file], out, device="cpu", workers=1)
    monkeypatch.setattr("isocenter.parts.explain.randomisation.HIGHEST", -1.0)  # nothing passes
    monkeypatch.setattr("isocenter.pipeline.explain.HIGHEST", -1.0)
    with pytest.warns(IsocenterWarning, match="attention fails the randomisation test"):
        isocenter.predict(run, [bag_file], out, device="cpu", workers=1, explain=["attention"])
    assert not (out / "bag_3_attention.csv").exists()
    told_ = json.loads((out / "bag_3_explanations.json").read_text(encoding="utf-8"))
    assert told_["maps"]["attention"]["passed"] is False
    task = isocenter.load(run, device="cpu").task
    assert not [path for path in task.find(out) if "attention" in path.name]
    truth = SimpleNamespace(case="bag_3", names=("normal", "tumour"))
    answer = task.read_answer(out / "bag_3.json", truth, isocenter.open(tmp_path))
    assert isinstance(answer, Attended)
    assert len(answer.attention["tumour"]) == 20
