"""Anomaly methods, from images to a report: learnt on the healthy, judged on both kinds."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

import isocenter
from isocenter import cli, images, methods
from isocenter.errors import BadPlan, IsocenterWarning
from isocenter.images.placement import Placement
from isocenter.methods.anomalies import LEAST_SPREAD, HealthyViews, UsualError, bounded, highest
from isocenter.methods.anomaly.anogan import Anogan
from isocenter.methods.method import Method, Trial
from isocenter.phantoms.heads import Protocol, write_dataset
from isocenter.records import ChannelScheme, Normalisation, Plan, Scores
from isocenter.tasks.anomaly import Normality

KEYS = ("anomaly/intensity", "anomaly/ae", "anomaly/vae", "anomaly/siamese_ae", "anomaly/anogan")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty small heads, eight of them with large lesions."""
    protocol = Protocol(shape=(32, 32), spacing_mm=5.8, radius_mm=(12.0, 18.0))
    return write_dataset(tmp_path_factory.mktemp("heads") / "data", 20, protocol=protocol)


def _trained(key: str, data: Path, out: Path, *sets: str) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ISOCENTER_CACHE", str(data.parent / "cache"))
        words = ["train", str(data), "--out", str(out), "--method", key, "--budget", "2 epochs"]
        words += [word for each in sets for word in ("--set", each)]
        assert cli.main([*words, "--device", "cpu", "--task", "anomaly"]) == cli.SUCCESS
    return out


@pytest.mark.parametrize(
    ("key", "sets"),
    [
        ("anomaly/intensity", ()),
        ("anomaly/intensity", ("settings.distance=plain",)),
        ("anomaly/ae", ("settings.bottleneck=dense",)),
        ("anomaly/vae", ("settings.map=combined",)),
        ("anomaly/siamese_ae", ()),
        ("anomaly/siamese_ae", ("settings.map=code",)),
        ("anomaly/anogan", ()),
        ("anomaly/anogan", ("settings.search=latent", "settings.steps=2")),
    ],
)
def test_from_images_to_a_report(key: str, sets: tuple[str, ...], data: Path, tmp_path: Path) -> None:
    run = _trained(key, data, tmp_path / "run", *sets)
    plan = Plan.load(run / "plan.json")
    abnormal = {path.stem for path in (data / "labels").iterdir() if images.read_labels(path).array.any()}
    assert len(abnormal) == 8
    assert all(not abnormal & {*fold.train, *fold.validation} for fold in plan.folds)
    assert abnormal & set(plan.folds[0].test)
    assert "never learnt from" in plan.why["folds"]
    summary = Scores.load(run / "scores.json").summary["abnormal"]
    assert {"roc_auc", "pr_auc", "sensitivity", "specificity", "voxel_roc_auc", "voxel_pr_auc"} <= set(
        summary
    )
    answer = run / "fold_0" / "answers" / f"{plan.folds[0].test[0]}.json"
    said = json.loads(answer.read_text())
    assert said["threshold"] is not None
    assert images.read(answer.with_name(f"{answer.stem}_map.tif")).shape == (32, 32)
    page = isocenter.report(run).read_text(encoding="utf-8")
    assert "ROC AUC" in page
    assert "threshold" in page
    assert "to find what healthy images do not show" in page


def test_new_images_get_a_score_and_a_map_on_their_grid(data: Path, tmp_path: Path) -> None:
    run = _trained("anomaly/intensity", data, tmp_path / "run")
    paths = isocenter.predict(run, [data / "images" / "H001.png"], tmp_path / "out", device="cpu")
    assert [path.name for path in paths] == ["H001.json"]
    assert (tmp_path / "out" / "H001_map.tif").is_file()


def test_baseline_and_learnt_methods_are_compared_on_the_same_cases(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ISOCENTER_CACHE", str(data.parent / "cache"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", IsocenterWarning)  # twelve healthy cases are few
        result = isocenter.compare(
            data,
            ["anomaly/intensity", "anomaly/ae"],
            tmp_path / "compared",
            budget="1 epochs",
            device="cpu",
            task="anomaly",
        )
    assert [one.name for one in result.contestants] == ["intensity", "ae"]
    assert result.headline == "roc_auc"


def test_a_view_may_be_as_fine_as_the_images_if_it_can_be_halved(data: Path, tmp_path: Path) -> None:
    run = _trained(
        "anomaly/anogan", data, tmp_path / "fine", "geometry.spacing_mm=[2.9,2.9]", "geometry.patch=[64,64]"
    )
    assert Plan.load(run / "plan.json").stages[0].geometry.patch == (64, 64)
    plan = Plan.load(run / "plan.json")
    stage = plan.stages[0].changed(geometry=plan.stages[0].geometry.changed(patch=(64, 50)))
    with pytest.raises(BadPlan, match=r"64 × 50 voxels.*such as 64"):
        Anogan(plan, stage)


def test_the_threshold_is_the_percentile_of_healthy_scores(built: object) -> None:
    method: Method = built("anomaly/intensity", 2)  # type: ignore[operator]
    placement = Placement(images.Geometry.plain((64, 64)), (0, 0), (64, 64), (64, 64))

    def trials() -> object:
        for number in range(101):
            yield Trial({"score": np.array(number / 100)}, placement, Normality("a", number > 100))

    assert method.tune(trials) == {"threshold": pytest.approx(0.95), "healthy": 101}  # type: ignore[arg-type]
    assert method.tune(lambda: iter(())) == {}


def test_the_mean_of_the_healthy_lasts_and_strangers_stand_out(built: object) -> None:
    method: Method = built("anomaly/intensity", 2)  # type: ignore[operator]
    assert isinstance(method, HealthyViews)
    chance = np.random.default_rng(0)
    usual = chance.normal(0, 1, (1, 64, 64)).astype(np.float32)
    cases = {
        f"{n}": {"image": usual + chance.normal(0, 0.1, usual.shape).astype(np.float32)} for n in range(8)
    }
    method.gather(cases)
    again = type(method)(method.plan, method.stage)
    again.load(method.state())
    strange = usual.copy()
    strange[0, 20:30, 40:50] += 2
    outputs = again.respond({"image": strange}, lambda batch: {})
    assert outputs["map"][20:30, 40:50].mean() > 5 * np.delete(outputs["map"], slice(40, 50), axis=1).mean()
    assert outputs["score"] == pytest.approx(highest(outputs["map"], 0.02))


def test_errors_count_where_they_are_larger_than_usual() -> None:
    usual, chance = UsualError((4, 4)), torch.Generator().manual_seed(0)
    error = np.full((4, 4), 0.3, np.float32)
    assert usual.beyond(error) is error  # nothing is known yet
    edges = torch.zeros(4, 4)
    edges[0] = 0.3
    for _ in range(200):
        noise = 0.01 * torch.randn((8, 1, 4, 4), generator=chance)
        usual.learn(edges + noise, torch.zeros(8, 1, 4, 4))
    found = usual.beyond(error)
    assert found[0].max() < 0.1
    np.testing.assert_allclose(found[1:], (0.3 - 0.008) / (LEAST_SPREAD + 0.006), rtol=0.05)


def test_values_lie_between_minus_one_and_one() -> None:
    schemes = (ChannelScheme(channel="a", scheme="unit"), ChannelScheme(channel="b", scheme="zscore"))
    view = np.array([[0.0, 0.5, 1.0], [-9.0, 0.0, 1.5]], dtype=np.float32)
    np.testing.assert_allclose(bounded(view, Normalisation(channels=schemes)), [[-1, 0, 1], [-1, 0, 0.5]])


def test_the_highest_share_of_a_map_makes_the_score() -> None:
    map_ = np.arange(10, dtype=np.float32).reshape(2, 5)
    assert highest(map_, 1.0) == pytest.approx(4.5)
    assert highest(map_, 0.2) == pytest.approx(8.5)
    assert highest(map_, 0.01) == 9


def test_the_encoder_learns_from_a_frozen_game(built: object) -> None:
    method: Method = built("anomaly/anogan", 2)  # type: ignore[operator]
    assert isinstance(method, Anogan)
    method.modules.train()
    batch = {"image": torch.stack([method.example(np.random.default_rng(n))["image"] for n in range(2)])}
    method.progress = 0.9
    for turn in method.turns:
        method.modules.zero_grad(set_to_none=True)
        method.loss(batch, turn).backward()
        touched = {
            name
            for name, part in method.modules.items()
            if any(p.grad is not None for p in part.parameters())
        }
        assert touched == {"encoder"}
    method.progress = 0.0
    method.modules.zero_grad(set_to_none=True)
    method.loss(batch, "critic").backward()
    assert all(p.grad is None for p in method.modules["encoder"].parameters())
    assert all(p.grad is None for p in method.modules["generator"].parameters())


def test_the_score_is_the_papers_where_all_voxels_count_and_by_default_that_of_the_most_unlike(
    built: object,
) -> None:
    method: Method = built("anomaly/anogan", 2)  # type: ignore[operator]
    assert isinstance(method, Anogan)
    view = method.example(np.random.default_rng(0))["image"]
    usual = method.modules["usual"]
    assert isinstance(usual, UsualError)
    usual.learn(torch.zeros_like(view)[None], view[None] / 2)
    method.modules.eval()

    def score() -> float:
        with torch.no_grad():
            return float(
                method.respond({"image": view.numpy(), "view": view.numpy()}, method.forward)["score"]
            )

    with torch.no_grad():
        given = method.forward({"image": view[None]})
    error = (given["made"][0] - view).abs().mean(dim=0).numpy()
    apart = float((given["features"] - given["true"]).abs().mean())
    assert score() == pytest.approx(0.9 * highest(usual.beyond(error), 0.02) + 0.1 * apart, rel=1e-4)
    method.settings = method.settings.changed(relative=False, top=1.0)
    assert score() == pytest.approx(0.9 * float(error.mean()) + 0.1 * apart, rel=1e-4)


def test_the_search_comes_nearer_to_the_image(data: Path, tmp_path: Path) -> None:
    run = _trained("anomaly/anogan", data, tmp_path / "run", "settings.search=latent", "settings.steps=1")
    plan = Plan.load(run / "plan.json")
    view = np.tanh(np.random.default_rng(0).normal(size=(1, 32, 32))).astype(np.float32)
    errors = []
    for steps in (1, 30):
        changed = plan.changed(settings={**plan.settings, "steps": steps, "discrimination": 0.0})
        torch.manual_seed(0)  # the same generator each time
        method = methods.load(plan.method)(changed, changed.stages[0])
        method.modules.eval()
        with torch.no_grad():
            outputs = method.respond({"image": view}, method.forward)
        errors.append(float(outputs["map"].mean()))
    assert errors[1] < errors[0]


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("dims", [2, 3])
def test_maps_lie_on_the_files_own_grid(key: str, dims: int, built: object) -> None:
    method: Method = built(key, dims)  # type: ignore[operator]
    method.modules.eval()
    shape, whole = (20, 30, 26)[-dims:], (22, 33, 30)[-dims:]
    image = np.random.default_rng(0).normal(size=(1, *shape)).astype(np.float32)
    with torch.no_grad():
        outputs = method.respond({"image": image}, method.forward)
    start, cropped = (1, 2, 3)[-dims:], tuple(size - 4 for size in shape)
    answer = method.decode(outputs, Placement(images.Geometry.plain(whole), start, cropped, shape))
    assert answer.map.shape == whole
    assert not answer.map[0].any()
    assert np.isfinite(answer.score)
