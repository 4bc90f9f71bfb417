"""Methods that make images, from files to a report, on a tiny made-up set of two classes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as Picturing

import isocenter
from isocenter import images, methods, tasks
from isocenter.errors import BadDataset, BadPlan
from isocenter.images.geometry import Geometry
from isocenter.images.placement import Placement
from isocenter.methods.generation.cyclegan import CycleGan
from isocenter.methods.makers import between, laid
from isocenter.pipeline.check import check
from isocenter.pipeline.run import Run
from isocenter.records import Budget, Fingerprint, Machine, Scores, Stage

SMALL = {"network.features": [4, 8, 8], "training.batch": 4, "geometry.patch": [12, 12]}


@pytest.fixture(scope="module")
def discs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty pictures of 12 × 12 pixels: a bright disc, or a ring, at a place that varies."""
    folder, rng = tmp_path_factory.mktemp("discs"), np.random.default_rng(0)
    y, x = np.mgrid[:12, :12]
    for number in range(40):
        kind = ("disc", "ring")[number % 2]
        centre = rng.uniform(4, 7, 2)
        distance = np.hypot(y - centre[0], x - centre[1])
        bright = distance < 3 if kind == "disc" else (distance < 4) & (distance > 2)
        shown = 20 + 160 * bright + rng.normal(0, 6, (12, 12))
        (folder / kind).mkdir(exist_ok=True)
        Picturing.fromarray(np.clip(shown, 1, 255).astype(np.uint8)).save(folder / kind / f"{number}.png")
    return folder


@pytest.mark.parametrize("key", ["generation/ddpm", "generation/gan", "generation/progan"])
def test_a_method_makes_a_held_out_set_of_the_classes_asked_for(
    key: str, discs: Path, tmp_path: Path
) -> None:
    own: dict[str, dict[str, object]] = {
        "generation/ddpm": {"settings.sampling_steps": 3},
        "generation/gan": {"settings.loss": "wasserstein"},
    }
    run = tmp_path / "run"
    scores = isocenter.train(
        discs,
        run,
        method=key,
        budget="2 epochs",
        overrides={**SMALL, **own.get(key, {})},
        device="cpu",
        workers=1,
    )
    found = scores.summary["all"]
    assert {"kernel_distance", "frechet", "precision", "recall", "nearest", "authenticity"} <= set(found)
    assert found["frechet"].mean is not None
    answers = run / "fold_0" / "answers"
    about = [json.loads(path.read_text()) for path in answers.glob("*_about.json")]
    assert len(about) == len(scores.cases) == len(list(answers.glob("*.png")))
    assert {name for each in about for name in each["asked"]} == {"disc", "ring"}
    assert len({each["seed"] for each in about}) == len(about)
    assert all(each["nearest"]["distance"] > 0 and each["neighbour"] for each in about)
    first = images.read(str(next(answers.glob("*.png"))))
    assert first.array.dtype == np.uint8
    assert first.shape == (12, 12)
    page = isocenter.report(run).read_text()
    assert "not FID or KID" in page
    assert "held-out real ones on the right" in page

    given = isocenter.predict(run, [next((discs / "disc").glob("*.png"))], tmp_path / "given")
    assert images.read(str(given[0])).shape == (12, 12)
    made = isocenter.generate(run, tmp_path / "made", count=3, label="ring", seed=5)
    assert [path.name for path in made] == ["ring_00000.png", "ring_00001.png", "ring_00002.png"]
    assert (tmp_path / "made" / "grid.png").is_file()
    assert len(tasks.load("generation").find(tmp_path / "made")) == 3
    assert len((tmp_path / "made" / "made.csv").read_text().splitlines()) == 4
    code = np.load(tmp_path / "made" / "ring_00000_latent.npy", allow_pickle=False)
    assert code.std() == pytest.approx(1, abs=0.3)
    threads = torch.get_num_threads()
    same = isocenter.generate(run, tmp_path / "same", count=1, label="ring", seed=5, workers=1)
    assert torch.get_num_threads() == threads
    np.testing.assert_array_equal(images.read(str(same[0])).array, images.read(str(made[0])).array)
    with pytest.raises(BadPlan, match="knows no class"):
        isocenter.generate(run, tmp_path / "none", label="square")
    _walks_from_code_to_code(run)
    _makes_a_dataset_with_as_many_of_each_class(run, tmp_path / "balanced")
    again = isocenter.evaluate(answers, discs, tmp_path / "again", task="generation")
    assert again.summary["all"]["frechet"].mean == pytest.approx(found["frechet"].mean)
    assert Scores.load(run / "scores.json").task == "generation"


def _walks_from_code_to_code(run: Path) -> None:
    walked = isocenter.generate(run, run / "walks", count=9, walk=4, seed=5)
    names = [f"walk_{row:03d}_{step:03d}.png" for row in (0, 1) for step in range(4)]
    assert [path.name for path in walked] == names
    codes = [np.load(path.with_name(f"{path.stem}_latent.npy"), allow_pickle=False) for path in walked[:4]]
    np.testing.assert_allclose(codes[1], between(codes[0], codes[3], 1 / 3), atol=1e-5)
    about = [json.loads(path.with_name(f"{path.stem}_about.json").read_text()) for path in walked]
    assert [each["asked"] for each in about] == 4 * [["disc"]] + 4 * [["ring"]]
    assert [each["seed"] is None for each in about[:4]] == [False, True, True, False]
    with Picturing.open(run / "walks" / "grid.png") as picture:
        assert picture.size == (4 * 14 - 2, 2 * 14 - 2)
    assert "Made afterwards: walks." in isocenter.report(run).read_text()


def _makes_a_dataset_with_as_many_of_each_class(run: Path, out: Path) -> None:
    isocenter.generate(run, out, per_class=3)
    made = isocenter.open(out, task="classification")
    assert [case.truth["class"] for case in made.cases] == 3 * [["disc"]] + 3 * [["ring"]]
    assert str(made.cases[0].inputs["image"][0]) == "disc/disc_00000.png"
    assert not [finding for finding in check(made) if finding.level == "error"]


def test_numbers_that_make_no_sense_together_are_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    for wishes, message in (
        ({"count": 0}, "0 images cannot be made"),
        ({"count": 5, "per_class": 5}, "goes with no other wish"),
        ({"walk": 2}, "a walk of 2 images"),
        ({"count": 3, "walk": 4}, "a walk of 4 images is not among 3"),
    ):
        with pytest.raises(BadPlan, match=message):
            isocenter.generate(tmp_path, tmp_path / "made", **wishes)


def test_codes_between_two_are_as_far_from_the_middle_as_these() -> None:
    first, second = np.array([2.0, 0.0]), np.array([0.0, 2.0])
    np.testing.assert_allclose(between(first, second, 0.5), [2**0.5, 2**0.5])
    np.testing.assert_allclose(between(first, second, 1 / 3), [3**0.5, 1.0])
    np.testing.assert_allclose(between(first, first, 0.3), first)


def test_guidance_may_be_asked_for_when_images_are_made(discs: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    overrides = {**SMALL, "settings.sampling_steps": 3, "settings.guidance": 1.0}
    isocenter.train(
        discs, run, method="generation/ddpm", budget="2 epochs", overrides=overrides, device="cpu", workers=1
    )

    def made(name: str, **wishes: float) -> np.ndarray:
        return images.read(str(isocenter.generate(run, tmp_path / name, count=1, **wishes)[0])).array

    planned, asked, strong = made("planned"), made("asked", guidance=1.0), made("strong", guidance=30.0)
    np.testing.assert_array_equal(planned, asked)
    assert not np.array_equal(planned, strong)
    assert json.loads((tmp_path / "strong" / "made_00000_about.json").read_text())["guidance"] == 30
    with pytest.raises(BadPlan, match="is no guidance"):
        made("none", guidance=-1.0)


def test_cyclegan_turns_each_held_out_image_into_the_other_domain(discs: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    scores = isocenter.train(
        discs,
        run,
        method="generation/cyclegan",
        budget="1 epochs",
        overrides={**SMALL, "settings.pool": 3},
        device="cpu",
        workers=1,
    )
    pairs = {(str(case.evidence["classes"]), str(case.evidence["asked"])) for case in scores.cases}
    assert pairs == {("['disc']", "['ring']"), ("['ring']", "['disc']")}
    with pytest.raises(BadPlan, match="makes no new images"):
        isocenter.generate(run, tmp_path / "made")


def test_cyclegan_needs_two_domains(tmp_path: Path) -> None:
    for number in range(8):
        Picturing.fromarray(np.full((12, 12), 20 * number + 5, np.uint8)).save(tmp_path / f"{number}.png")
    with pytest.raises(BadPlan, match="two domains are needed, and there are no classes"):
        isocenter.plan(tmp_path, method="generation/cyclegan", budget="1 epochs", device="cpu", workers=1)


@pytest.fixture(scope="module")
def scanned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty-one pictures from three scanners; a manifest says which, and names no class."""
    folder, rng = tmp_path_factory.mktemp("scanned"), np.random.default_rng(0)
    rows = ["image,scanner"]
    for number in range(21):
        shown = rng.integers(1, 90, (12, 12)) + 60 * (number % 3)
        Picturing.fromarray(shown.astype(np.uint8)).save(folder / f"{number}.png")
        rows.append(f"{number}.png,{('Aera', 'Skyra', 'Vida')[number % 3]}")
    (folder / "manifest.csv").write_text("\n".join(rows) + "\n")
    return folder


def test_cyclegan_s_domains_may_be_two_of_the_groups(scanned: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    overrides = {**SMALL, "settings.domains": "groups", "settings.pair": ["Vida", "Aera"], "folds": 2}
    scores = isocenter.train(
        scanned,
        run,
        method="generation/cyclegan",
        budget="1 epochs",
        overrides=overrides,
        device="cpu",
        workers=1,
    )
    plan = Run(run).plan
    assert [label.name for label in plan.labels] == ["Vida", "Aera"]
    learnt = {*plan.folds[0].train, *plan.folds[0].validation, *plan.folds[0].test}
    assert learnt == {str(number) for number in range(21) if number % 3 != 1}
    pairs = {(str(case.evidence["classes"]), str(case.evidence["asked"])) for case in scores.cases}
    assert pairs == {("['Vida']", "['Aera']"), ("['Aera']", "['Vida']")}
    given = isocenter.predict(run, [scanned / "1.png"], tmp_path / "given")
    about = json.loads(given[0].with_name("1_about.json").read_text())
    assert about["asked"] == ["Aera"]  # of a scanner that is not known: into the second domain


@pytest.mark.parametrize(
    ("settings", "fault", "message"),
    [
        ({}, BadPlan, "there are no classes"),
        ({"domains": "groups"}, BadPlan, r"there are 3 groups \(Aera, Skyra, Vida\)"),
        ({"domains": "groups", "pair": ["Aera", "Aera"]}, BadPlan, "there is 1 group"),
        (
            {"domains": "groups", "pair": ["Aera", "Vita"]},
            BadDataset,
            "'Vita' has no image.*Did you mean 'Vida'",
        ),
        ({"domains": "scanner"}, BadPlan, "domains"),
    ],
)
def test_domains_without_images_are_refused_before_anything_is_measured(
    settings: dict[str, object], fault: type[Exception], message: str, scanned: Path
) -> None:
    overrides = {f"settings.{name}": value for name, value in settings.items()}
    with pytest.raises(fault, match=f"(?s){message}"):
        isocenter.plan(
            scanned,
            method="generation/cyclegan",
            budget="1 epochs",
            overrides=overrides,
            device="cpu",
            workers=1,
        )


def test_a_domain_without_training_images_is_named(discs: Path) -> None:
    plan = isocenter.plan(
        discs, method="generation/cyclegan", budget="1 epochs", overrides=SMALL, device="cpu", workers=1
    )
    method = CycleGan(plan, plan.stages[0])
    shown = np.zeros((1, 12, 12), np.float32)
    rings = {f"{number}": {"image": shown, "classes": np.array([0.0, 1.0])} for number in range(3)}
    with pytest.raises(BadDataset, match="domain 'disc' has no image among the 3 training images"):
        method.stream(rings, 0, 0)


def test_a_pool_gives_back_what_it_was_given_earlier(discs: Path) -> None:
    plan = isocenter.plan(
        discs, method="generation/cyclegan", budget="1 epochs", overrides=SMALL, device="cpu", workers=1
    )
    method = CycleGan(plan, plan.stages[0])
    torch.manual_seed(0)
    given = torch.arange(60.0).view(60, 1, 1, 1)
    torch.testing.assert_close(method._pooled(given[:50], "first"), given[:50])
    later = method._pooled(given[50:], "first").flatten()
    assert 0 < (later < 50).sum() < 10
    assert len(method.pools["first"]) == 50


@pytest.mark.parametrize(("seconds", "width", "tried"), [(10, 16, 1), (500, 48, 3), (10_000, 96, 5)])
def test_the_widest_network_that_the_budget_can_train_is_planned(
    seconds: float, width: int, tried: int, measured: Callable[[str, int], Fingerprint]
) -> None:
    asked: list[int] = []

    def speed(stage: Stage) -> float:
        asked.append(stage.unet.features[0])
        return (asked[-1] / 48) ** 2 * 0.1

    kind = methods.load("generation/ddpm")
    machine = Machine(device="cpu", name="a test", cores=1, memory_gb=8.0)
    stage = kind.configure(
        measured("generation/ddpm", 2), Budget(seconds=seconds), machine, speed, kind.Settings()
    )[0]
    assert stage.unet.features[0] == width
    assert len(asked) == tried
    assert stage.training.seconds_per_step == pytest.approx((width / 48) ** 2 * 0.1)


def test_what_is_laid_into_a_patch_is_cut_or_surrounded_evenly() -> None:
    image = np.linspace(-1, 1, 12, dtype=np.float32).reshape(1, 3, 4)
    found = laid(image, (5, 2), np.array([-1.0]))
    assert found.shape == (1, 5, 2)
    assert (found[0, [0, 4]] == -1).all()
    np.testing.assert_array_equal(found[0, 1:4], image[0, :, 1:3])


def test_an_image_returns_to_the_file_in_its_own_intensities_and_place(discs: Path, tmp_path: Path) -> None:
    plan = isocenter.plan(
        discs, method="generation/gan", budget="1 epochs", overrides=SMALL, device="cpu", workers=1
    )
    method = methods.load("generation/gan")(plan, plan.stages[0])
    scheme = plan.stages[0].normalisation.channels[0]
    placement = Placement(Geometry.plain((20, 30)), (4, 10), (12, 12), (12, 12))
    shown = np.full((1, 12, 12), 0.5, np.float32)
    whole = method.in_file(shown, placement)
    assert whole.shape == (1, 20, 30)
    assert whole[0, 4:16, 10:22] == pytest.approx(scheme.low + 0.75 * (scheme.high - scheme.low))
    assert whole.sum() == pytest.approx(whole[0, 4:16, 10:22].sum())
