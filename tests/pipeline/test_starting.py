"""Starting from a trained model: what comes from it, what the user may set, what stays as it is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import isocenter
from isocenter.errors import BadModel, BadPlan, RunFailed
from isocenter.pipeline import starting, train
from isocenter.records import Plan

Planned = Callable[..., Path]


@pytest.fixture
def only_planned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training ends once the plan is made."""
    monkeypatch.setattr(train, "_each_fold", lambda *_: None)
    monkeypatch.setattr(train, "finish", lambda *_: None)


@pytest.fixture
def model(blobs: Path, make_run: Planned) -> Path:
    """A model that has learnt nothing, of a network and a spacing that no rule would plan for the data."""
    folder = make_run()
    plan = Plan.load(folder / "plan.json")
    stage = plan.stages[0]
    geometry = stage.geometry.changed(spacing_mm=(3.0, 1.0, 1.0))
    plan = plan.changed(stages=(stage.changed(geometry=geometry),))
    plan.save(folder / "plan.json")
    (folder / "fold_0").mkdir()
    network = train.methods.load(plan.method)(plan, plan.stages[0]).modules
    save_file(network.state_dict(), folder / "fold_0" / "weights.safetensors")
    return folder


def _train(data: Path, run: Path, model: Path, **overrides: object) -> Plan:
    isocenter.train(data, run, start=model, budget="2 epochs", overrides=overrides, device="cpu", workers=1)
    return Plan.load(run / "plan.json")


@pytest.mark.usefixtures("only_planned")
def test_what_comes_from_the_model_says_so_and_what_the_user_sets_stands(
    blobs: Path, model: Path, tmp_path: Path
) -> None:
    there = Plan.load(model / "plan.json").stages[0]
    wishes: dict[str, Any] = {
        "geometry.spacing_mm": [2, 1, 1],
        "training.batch": 3,
        "network.activation": "relu",
    }
    own = _train(blobs, tmp_path / "run", model, **wishes).stages[0]
    assert there.network is not None
    assert own.network is not None
    assert own.network.features == there.network.features
    assert own.geometry.patch == there.geometry.patch
    assert own.geometry.spacing_mm == (2.0, 1.0, 1.0)
    assert (own.training.batch, own.network.activation) == (3, "relu")
    for section, by_user in (
        (own.geometry, "spacing_mm"),
        (own.network, "activation"),
        (own.normalisation, ""),
    ):
        assert section.why.pop(by_user, "Set by the user.") == "Set by the user."
        assert all(
            why.startswith("As in the model that training starts from.") for why in section.why.values()
        )
    assert "channels.image" in own.normalisation.why
    _train(blobs, tmp_path / "run", model, **wishes)  # the same plan still fits


@pytest.mark.usefixtures("only_planned")
def test_a_wish_with_which_the_weights_would_not_fit_is_refused(
    blobs: Path, model: Path, tmp_path: Path
) -> None:
    network = Plan.load(model / "plan.json").stages[0].network
    assert network is not None
    wider = [2 * count for count in network.features]
    for key in ("network.features", "3d_fullres.network.features"):
        with pytest.raises(BadPlan, match=r"\[16, 32.*was asked for.* are for \[8, 16") as fault:
            _train(blobs, tmp_path / "run", model, **{key: wider})
        assert fault.value.where == key
    assert not (tmp_path / "run" / "plan.json").exists()


def test_a_plan_that_lies_there_must_fit_the_model(blobs: Path, model: Path, make_run: Planned) -> None:
    run = make_run()
    with pytest.raises(
        BadPlan, match=r"geometry\.spacing_mm is \[1\.5.* there, \[3\.0.* in the model\."
    ) as fault:
        _train(blobs, run, model)
    assert fault.value.where == str(run / "plan.json")
    plan = Plan.load(run / "plan.json")
    stage = plan.stages[0]
    assert stage.network is not None
    wide = stage.network.changed(features=tuple(3 * count for count in stage.network.features))
    plan.changed(stages=(stage.changed(network=wide),)).save(run / "plan.json")
    with pytest.raises(BadPlan, match=r"network\.features is \[24, 48.* there, \[8, 16"):
        _train(blobs, run, model)


def test_a_model_that_cannot_be_started_from_says_why(
    blobs: Path, model: Path, make_run: Planned, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run()
    plan = Plan.load(run / "plan.json")
    lacking = plan.changed(stages=(plan.stages[0].changed(name="2d"),))
    with pytest.raises(BadPlan, match="has no stage '2d'"):
        starting.like(lacking, model, {})
    repeated = plan.changed(
        stages=(plan.stages[0], plan.stages[0].changed(name="second", repeats="3d_fullres"))
    )
    assert starting.like(repeated, model, {}).stages[1].geometry.spacing_mm == (3.0, 1.0, 1.0)
    more = plan.channels * 2
    schemes = plan.stages[0].normalisation.changed(channels=plan.stages[0].normalisation.channels * 2)
    several = plan.changed(channels=more, stages=(plan.stages[0].changed(normalisation=schemes),))
    with pytest.raises(BadPlan, match=r"takes 3D images of 1 channels .*, the dataset has 3D images of 2"):
        starting.like(several, model, {})
    weights = model / "fold_0" / "weights.safetensors"
    save_file({"other": torch.zeros(1)}, weights)
    with pytest.raises(BadModel, match="nothing in its weights fits"):
        starting.like(plan, model, {})
    weights.unlink()
    with pytest.raises(RunFailed, match="is not trained"):
        starting.like(plan, model, {})


@pytest.mark.parametrize(
    ("part", "said"), [("head", "no part 'head'.*decoder, encoder"), ("network", "nothing is left to learn")]
)
def test_a_part_that_cannot_be_kept_is_told_before_anything_is_prepared(
    blobs: Path, make_run: Planned, monkeypatch: pytest.MonkeyPatch, part: str, said: str
) -> None:
    monkeypatch.setattr(train, "prepare", None)
    run = make_run()
    with pytest.raises(BadPlan, match=said):
        isocenter.train(blobs, run, freeze=part, device="cpu", workers=1)
    assert not (run / "fold_0").exists()
