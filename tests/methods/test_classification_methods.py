"""Classifiers: what is not known is not learnt from, what is absent is not made up, all run end to end."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from sklearn.svm import LinearSVC

import isocenter
from isocenter import images
from isocenter.compute import Compute
from isocenter.errors import BadModel, BadPlan, IsocenterWarning, RunFailed
from isocenter.images.geometry import Geometry
from isocenter.images.image import Image
from isocenter.images.layouts import open_dataset, read_image
from isocenter.images.views import Views
from isocenter.methods.classes import (
    Classifier,
    Exclusive,
    plain_network,
    weighted_binary_cross_entropy,
)
from isocenter.methods.classification.auxloss import answered
from isocenter.methods.classification.finetune import FineTune, network_of, one_machine, support_vectors
from isocenter.methods.classification.hemis import moments
from isocenter.methods.method import Batch, Method, Request, Trial
from isocenter.methods.views import MultiView
from isocenter.parts.explain import maps
from isocenter.parts.networks.published import load_published
from isocenter.parts.networks.resnet import ResNet
from isocenter.parts.rules.budget import again
from isocenter.pipeline import checkpoint
from isocenter.pipeline import explain as explaining
from isocenter.pipeline.explain import Explainer
from isocenter.pipeline.predict import Model
from isocenter.pipeline.prepare import prepare_inputs
from isocenter.pipeline.progress import Bar
from isocenter.pipeline.run import Run
from isocenter.records import Budget, Fingerprint, Label, Machine, Stage
from isocenter.tasks import load
from isocenter.tasks.class_files import Classified

Built = Callable[[str, int], Method]
Measuring = Callable[[str, int], Fingerprint]
FUSIONS = ("stacked", "hemis", "dualnet", "auxloss")


def a_classifier(built: Built, key: str = "chexnet") -> Classifier:
    """One of the test's own: others share what `built` gives."""
    shared = built(f"classification/{key}", 2)
    method = type(shared)(shared.plan, shared.stage)
    assert isinstance(method, Classifier)
    return method


# ------------------------------------------------------------------------------------------------- losses


def test_the_weighted_loss_is_chexnets() -> None:
    scores = torch.tensor([[2.0], [-1.0]])
    truth = torch.tensor([[1.0], [0.0]])
    share = torch.tensor([0.2])  # a fifth has the finding: positives count 0.8, the others 0.2
    p = torch.sigmoid(scores)
    expected = (-0.8 * torch.log(p[0, 0]) - 0.2 * torch.log(1 - p[1, 0])) / (2 * 2 * 0.2 * 0.8)
    assert weighted_binary_cross_entropy(scores, truth, share).item() == pytest.approx(expected.item(), 1e-6)


def test_a_finding_that_is_not_known_changes_nothing() -> None:
    scores, share = torch.randn(3, 2, generator=torch.Generator().manual_seed(0)), torch.tensor([0.3, 0.6])
    truth = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, float("nan")]])
    changed = scores.clone()
    changed[2, 1] = 50.0
    one, other = (weighted_binary_cross_entropy(s, truth, share) for s in (scores, changed))
    assert one == other


def test_guessing_costs_ln_2_however_rare_a_finding_is() -> None:
    truth = torch.zeros(100, 1)
    truth[:2] = 1
    loss = weighted_binary_cross_entropy(torch.zeros(100, 1), truth, torch.tensor([0.02]))
    assert loss.item() == pytest.approx(np.log(2), rel=1e-5)


# ---------------------------------------------------------------------------------------------- answering


def test_a_method_is_calibrated_and_says_which_findings_are_there(built: Built) -> None:
    method = a_classifier(built)
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(400, 1))
    has = (rng.random((400, 1)) < 1 / (1 + np.exp(-logits))).astype(float)
    overconfident = 4 * logits

    def trials() -> list[Trial]:
        return [
            Trial({"scores": score}, None, Classified("a", ("object",), row, False))  # type: ignore[arg-type]
            for score, row in zip(overconfident, has, strict=True)
        ]

    method.tuned = method.tune(lambda: iter(trials()))
    assert method.tuned["temperature"] == pytest.approx(4, rel=0.2)
    answer = method.decode({"scores": overconfident[0]}, None)  # type: ignore[arg-type]  # has no place
    assert answer.scores[0] == pytest.approx(1 / (1 + np.exp(-logits[0, 0])), abs=0.05)
    assert answer.chosen is not None
    assert answer.chosen[0] == (answer.scores[0] >= method.tuned["thresholds"][0])  # type: ignore[index]
    method.tuned = {}


def test_of_two_classes_the_second_has_a_threshold_of_its_own(built: Built) -> None:
    shared = built("classification/chexnet", 2)
    labels = tuple(Label(name=name, values=(place,)) for place, name in enumerate(("dark", "bright")))
    plan = shared.plan.changed(labels=labels, settings={**shared.plan.settings, "exclusive": True})
    method = type(shared)(plan, plan.stages[0])
    assert isinstance(method, Classifier)
    logits = np.random.default_rng(0).normal(-2, 1, 200)  # the second class is rare
    has = np.arange(200) % 4 == 0
    scores = np.stack([-logits - 2.0 * has, logits + 2.0 * has], axis=1) / 2
    truth = np.stack([~has, has], axis=1).astype(float)
    rows = zip(scores, truth, strict=True)
    seen = [Trial({"scores": s}, None, Classified("a", ("dark", "bright"), t, True)) for s, t in rows]  # type: ignore[arg-type]
    method.tuned = method.tune(lambda: iter(seen))
    assert method.tuned["of"] == "bright"
    assert cast(float, method.tuned["threshold"]) < 0.4
    answers = [method.decode({"scores": s}, None).chosen for s in scores]  # type: ignore[arg-type]
    said = np.array([chosen is not None and chosen[1] for chosen in answers])
    balanced = (said[has].mean() + (~said)[~has].mean()) / 2
    likeliest = method.calibrated(scores)[:, 1] > 0.5
    assert balanced > (likeliest[has].mean() + (~likeliest)[~has].mean()) / 2


def test_a_rare_finding_that_nothing_speaks_for_has_its_prevalence(built: Built) -> None:
    method = a_classifier(built)
    rows = {str(number): {"classes": np.array([float(number < 5)])} for number in range(198)}
    method.gather(rows)
    assert method.prevalence[0] == pytest.approx(6 / 200)
    assert method.calibrated(np.zeros(1))[0] == pytest.approx(6 / 200, rel=1e-5)


def test_mirrored_views_are_averaged(built: Built) -> None:
    method = a_classifier(built)
    assert method.stage.prediction.mirror == (1,)
    image = np.random.default_rng(1).standard_normal((1, 64, 64)).astype(np.float32)
    method.modules.eval()
    with torch.inference_mode():
        both = method.respond({"image": image}, method.forward)["scores"]
        turned = method.respond({"image": np.ascontiguousarray(image[:, :, ::-1])}, method.forward)["scores"]
    np.testing.assert_allclose(both, turned, atol=1e-6)


def test_features_and_head_together_are_the_scores(built: Built) -> None:
    image = torch.randn(2, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    batch = {"image": image, "present": torch.ones(2, 1)}
    for key in ("chexnet", "finetune", *FUSIONS):
        method = a_classifier(built, key)
        method.modules.eval()
        with torch.inference_mode():
            again = method.head(method.features(batch), batch)
            torch.testing.assert_close(again, method.scores(batch))


def test_shuffled_labels_are_those_of_other_cases_and_stay_with_an_image(built: Built) -> None:
    plain = a_classifier(built)
    settings = {**plain.plan.settings, "shuffled": True}
    method = type(plain)(plain.plan.changed(settings=settings), plain.stage)
    rng = np.random.default_rng(0)
    shape = plain.stage.geometry.patch
    cases = {
        str(number): {
            "image": rng.standard_normal((1, *shape)).astype(np.float32),
            "classes": np.array([number % 2], np.float32),
        }
        for number in range(60)
    }
    method.gather(cases)

    def learnt(drawn: int) -> list[float]:
        chance = np.random.default_rng(drawn)
        found = [method.sample(case, chance, Request(shape, shape, False)) for case in cases.values()]
        return [float(sample["classes"][0]) for sample in found]

    assert learnt(0) == learnt(1)
    agreed = np.mean([one == number % 2 for number, one in enumerate(learnt(0))])
    assert 0.2 < agreed < 0.8


# ------------------------------------------------------------------------------------------------- views


def test_mean_and_variance_leave_out_what_is_absent() -> None:
    features = torch.tensor([[[1.0], [5.0], [90.0]], [[2.0], [0.0], [0.0]]])
    mean, variance = moments(features, torch.tensor([[1.0, 1.0, 0.0], [1.0, 0.0, 0.0]]))
    assert mean.flatten().tolist() == [3.0, 2.0]
    assert variance.flatten().tolist() == [8.0, 0.0]


def test_without_a_view_the_others_answer() -> None:
    joint, single = torch.tensor([[9.0], [9.0]]), torch.tensor([[[1.0], [3.0]], [[1.0], [3.0]]])
    given = answered(joint, single, torch.tensor([[1.0, 1.0], [0.0, 1.0]]))
    assert given.flatten().tolist() == [9.0, 3.0]


@pytest.mark.parametrize("key", FUSIONS)
def test_what_stands_where_a_view_is_absent_does_not_matter(
    key: str, two_views: MultiView, built: Built
) -> None:
    kind = type(a_classifier(built, key))
    method = kind(two_views.plan, two_views.stage)
    method.modules.eval()
    image = torch.randn(1, 2, 64, 64, generator=torch.Generator().manual_seed(0))
    other = image.clone()
    other[:, 1] = 7.0
    present = torch.tensor([[1.0, 0.0]])
    with torch.inference_mode():
        one, two = (method.scores({"image": each, "present": present}) for each in (image, other))
        whole = method.scores({"image": image, "present": torch.ones(1, 2)})
    torch.testing.assert_close(one, two)
    assert not torch.equal(one, whole)


def test_views_are_left_out_of_samples_but_never_all(two_views: MultiView) -> None:
    shape = two_views.stage.geometry.patch
    arrays = {
        "image": np.ones((2, *shape), np.float32),
        "present": np.ones(2, np.float32),
        "classes": np.ones(1),
    }
    rng = np.random.default_rng(0)
    seen = [two_views.sample(arrays, rng, Request(shape, shape, False))["present"] for _ in range(300)]
    assert min(one.sum() for one in seen) == 1
    assert np.mean([one[0] == 0 for one in seen]) == pytest.approx(0.25 - 0.03, abs=0.06)
    watched = two_views.sample(arrays, rng, Request(shape, shape, True))["present"]
    assert watched.tolist() == [1, 1]


def test_views_of_other_shapes_are_resized_and_an_absent_one_is_marked(two_views: MultiView) -> None:
    small = Image(np.full((1, 10, 12), 3.0, np.float32), Geometry.plain((10, 12)))
    views = Views(
        np.stack([small.array[0], np.full((10, 12), np.nan, np.float32)]), small.geometry, None, (small, None)
    )
    laid = two_views.lay(views)
    assert laid is not None
    assert laid[0]["image"].shape == (2, 64, 64)
    assert laid[0]["present"].tolist() == [1, 0]
    assert np.isfinite(laid[0]["image"]).all()


@pytest.fixture
def two_views(built: Built) -> MultiView:
    """HeMIS on two channels."""
    method = built("classification/hemis", 2)
    channel = method.plan.channels[0]
    scheme = method.stage.normalisation.channels[0]
    normalisation = method.stage.normalisation.changed(
        channels=(scheme.changed(channel="pa"), scheme.changed(channel="lateral"))
    )
    stage = method.stage.changed(normalisation=normalisation)
    plan = method.plan.changed(
        channels=(channel.changed(name="pa"), channel.changed(name="lateral")), stages=(stage,)
    )
    made = type(method)(plan, stage)
    assert isinstance(made, MultiView)
    return made


# ------------------------------------------------------------------------------------------- fine-tuning


def test_rates_fall_towards_the_image_and_shallow_tuning_keeps_the_first_levels(built: Built) -> None:
    plain = built("classification/finetune", 2)
    plan = plain.plan.changed(settings={**plain.plan.settings, "decay": 0.5, "depth": "shallow"})
    method = FineTune(plan, plain.stage)
    assert method.pace("network.fc.weight") == 1
    assert method.pace("network.layer4.0.conv1.weight") == 0.5
    assert method.pace("network.conv1.weight") == 0.5**5
    learning = {name.split(".")[1] for name, p in method.modules.named_parameters() if p.requires_grad}
    assert learning == {"layer4", "fc"}
    before = method.modules["network"].bn1.running_mean.clone()  # type: ignore[union-attr,operator]
    method.modules.train()
    method.loss({"image": torch.randn(4, 1, 64, 64), "classes": torch.ones(4, 1)}, "network")
    assert torch.equal(before, method.modules["network"].bn1.running_mean)  # type: ignore[arg-type,union-attr]


def test_published_weights_are_taken_before_the_first_step_and_refused_while_planning(
    built: Built, measured: Callable[[str, int], Fingerprint], tmp_path: Path
) -> None:
    plain = built("classification/finetune", 2)
    with torch.random.fork_rng():
        torch.manual_seed(7)
        source = type(plain)(plain.plan, plain.stage).modules["network"].state_dict()
    save_file(source, tmp_path / "weights.safetensors")
    settings = {**plain.plan.settings, "weights": str(tmp_path / "weights.safetensors")}
    method = FineTune(plain.plan.changed(settings=settings), plain.stage)
    method.gather({"a": {"classes": np.ones(1, np.float32)}})
    assert torch.equal(method.modules["network"].state_dict()["conv1.weight"], source["conv1.weight"])
    with pytest.raises(BadModel, match="there are no weights here"):
        FineTune.decide(
            measured("classification/finetune", 2), FineTune.Settings(weights="nowhere.safetensors")
        )


def test_a_grey_image_is_seen_by_published_weights_as_a_picture_of_three_colours(
    measured: Measuring, built: Built, tmp_path: Path
) -> None:
    weights = tmp_path / "resnet18.safetensors"
    method = published(measured, built, weights, colours=3)
    halves = np.repeat([0.0, 2000.0], 32)[None, :, None].repeat(64, axis=2)  # of no known unit
    arrays, _ = prepare_inputs([Image(halves, Geometry.plain((64, 64)))], method)
    arrays["classes"] = np.ones(1, np.float32)
    learnt = method.sample(arrays, np.random.default_rng(0), whole(method))["image"]
    answered_ = method.questions(arrays)["image"][0].numpy()
    for seen in (learnt, answered_):
        np.testing.assert_allclose(seen[0, 0], (0 - 0.449) / 0.226, atol=1e-4)
        np.testing.assert_allclose(seen[0, -1], (1 - 0.449) / 0.226, atol=1e-4)
    assert "ImageNet" in method.stage.normalisation.why["channels.image"]
    method.gather({"a": {"classes": np.ones(1, np.float32)}})
    coloured = network_of("resnet18", method.stage.unet, 3, 1)
    load_published(coloured, weights)
    own = cast(ResNet, method.modules["network"].eval())
    grey = torch.from_numpy(answered_)[None]
    one, two = own.maps(grey), cast(ResNet, coloured.eval()).maps(grey.expand(-1, 3, -1, -1))
    torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-3)


def test_weights_of_one_channel_see_images_as_the_plan_orders_them(
    measured: Measuring, built: Built, tmp_path: Path
) -> None:
    method = published(measured, built, tmp_path / "medical.safetensors", colours=1)
    assert [scheme.scheme for scheme in method.stage.normalisation.channels] == ["zscore"]


def test_the_weights_of_a_run_are_left_to_starting_from_it(measured: Measuring, tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    checkpoint.save(path, {"network.conv1.weight": torch.zeros(4, 3, 7, 7)}, {})
    with pytest.raises(BadModel, match=r"belong to a run.*--from"):
        FineTune.decide(measured("classification/finetune", 2), FineTune.Settings(weights=str(path)))


def published(measured: Measuring, built: Built, weights: Path, colours: int) -> FineTune:
    """A small network, planned for a file of weights that have learnt from so many channels."""
    fingerprint = measured("classification/finetune", 2)
    narrow = plain_network([4, 8, 16, 32], ((4, 4), *((2, 2),) * 3), [2, 2, 2, 2])
    with torch.random.fork_rng():
        torch.manual_seed(7)
        save_file(network_of("resnet18", narrow, colours, 2).state_dict(), weights)
    settings, _ = FineTune.decide(fingerprint, FineTune.Settings(weights=str(weights)))
    machine = Machine(device="cpu", name="a test", cores=1, memory_gb=8.0)
    (stage,) = FineTune.configure(fingerprint, Budget(epochs=1), machine, None, settings)
    stage = stage.changed(network=narrow)
    plain = built("classification/finetune", 2)
    plan = plain.plan.changed(settings=settings.model_dump(), stages=(stage,))
    return FineTune(plan, stage)


def whole(method: Method) -> Request:
    """The question for a sample of a whole image, as it is."""
    patch = method.stage.geometry.patch
    return Request(patch, patch, foreground=False)


def test_support_vectors_tell_clusters_apart_and_leave_out_what_is_not_known() -> None:
    rng = np.random.default_rng(0)
    has = np.repeat([0.0, 1.0], 40)
    features = rng.normal(size=(80, 6)).astype(np.float32) + 3 * has[:, None].astype(np.float32)
    truth = np.stack([has, np.where(np.arange(80) % 2, np.nan, 1 - has), np.ones(80)], axis=1)
    found = support_vectors(features, truth)
    scores = (features - found["mean"]) / found["spread"] @ found["weights"].T + found["offset"]
    assert ((scores[:, 0] > 0) == (has == 1)).all()
    assert ((scores[:, 1] > 0) == (has == 0)).all()
    assert (scores[:, 2] == 0).all()


def test_a_machine_is_that_of_liblinear() -> None:
    rng = np.random.default_rng(0)
    has = rng.random(150) < 0.2
    features = rng.normal(size=(150, 8)) + 0.7 * has[:, None]
    peer = LinearSVC(C=0.1, class_weight="balanced", dual=False, tol=1e-9, max_iter=100_000).fit(
        features, has
    )
    weights, offset = one_machine(features, has, 0.1)
    np.testing.assert_allclose(weights, peer.coef_[0], atol=2e-4)
    assert offset == pytest.approx(peer.intercept_[0], abs=2e-4)


# --------------------------------------------------------------------------------------------- end to end


def bright_and_dark(folder: Path, cases: int = 20, views: int = 1) -> Path:
    """Bright and dark pictures, as a table of classes; with several views the last is absent in places."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    columns = ["image"] if views == 1 else [f"image_v{view}" for view in range(views)]
    rows = [",".join([*columns, "id", "label", "patient"])]
    for number in range(cases):
        names = []
        for view in range(views):
            size = (16, 16 + 4 * view)
            picture = rng.integers(0, 60, size).astype(np.uint8)
            picture[4:12, 4:12] += np.uint8(150 if number % 2 else 0)
            names.append(f"{number}_{view}.png")
            images.write(picture[None], folder / names[-1], Geometry.plain(size))
        if views > 1 and number % 5 == 4:
            names[-1] = ""
        rows.append(",".join([*names, f"c{number}", "bright" if number % 2 else "dark", f"p{number // 2}"]))
    (folder / "manifest.csv").write_text("\n".join(rows) + "\n")
    return folder


def small(data: Path, key: str) -> dict[str, object]:
    """A network of a few features, whatever its levels."""
    plan = isocenter.plan(data, method=f"classification/{key}", budget="1 epoch", device="cpu")
    levels = len(plan.stages[0].unet.features)
    return {"network.features": [12] * levels, "network.convolutions": [1] * levels}


@pytest.mark.filterwarnings("ignore::isocenter.errors.IsocenterWarning")
@pytest.mark.parametrize(
    ("key", "views", "more"),
    [
        ("chexnet", 1, {}),
        *((key, 2, {}) for key in FUSIONS),
        ("finetune", 1, {}),
        ("finetune", 1, {"settings.depth": "features"}),
    ],
)
def test_every_classifier_learns_bright_from_dark(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, views: int, more: dict[str, object]
) -> None:
    monkeypatch.setenv("ISOCENTER_CACHE", str(tmp_path / "cache"))
    data, run = bright_and_dark(tmp_path / "data", views=views), tmp_path / "run"
    scores = isocenter.train(
        data,
        run,
        method=f"classification/{key}",
        budget="9 epochs",
        folds=[0],
        device="cpu",
        workers=1,
        overrides={**small(data, key), "training.learning_rate": 0.01, "training.batch": 8, **more},
    )
    assert len(scores.cases) == 4
    assert scores.summary["all"]["accuracy"].mean is not None
    assert scores.summary["bright"]["roc_auc"].mean == 1.0
    tuned = json.loads((run / "fold_0" / "tuned.json").read_text())
    assert 0.05 <= tuned["temperature"] <= 20
    model = isocenter.load(run)
    dataset = open_dataset(data)
    case = dataset.case("c4")
    answer = model.predict(read_image(dataset, case, read=load("classification").read, partial=True)).answer
    assert answer.scores.sum() == pytest.approx(1)
    assert isocenter.report(run).is_file()


@pytest.mark.filterwarnings("ignore::isocenter.errors.IsocenterWarning")
def test_classifiers_that_answer_together_are_calibrated_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ISOCENTER_CACHE", str(tmp_path / "cache"))
    data, run = bright_and_dark(tmp_path / "data"), tmp_path / "run"
    plan = isocenter.plan(
        data,
        method="classification/chexnet",
        budget="6 epochs",
        device="cpu",
        out=run,
        overrides={**small(data, "chexnet"), "training.learning_rate": 0.01, "training.batch": 8},
    )
    plan.changed(stages=(plan.stages[0], again(plan.stages[0], 2))).save(run / "plan.json")
    isocenter.train(data, run, folds=[0], device="cpu", workers=1)
    together = run / "fold_0" / "whole+whole_2" / "tuned.json"
    assert "temperature" in json.loads(together.read_text())
    together.write_text('{"temperature": 3.0}')
    model = Model(Run(run), folds=[0], members=("whole", "whole_2"), device="cpu")
    ((method,), _) = (member.methods for member in model.members)
    assert isinstance(method, Classifier)
    assert method.tuned == {"temperature": 3.0}
    (run / "fold_0" / "whole" / "tuned.json").unlink()  # as if training had been stopped before it
    isocenter.train(data, run, folds=[0], device="cpu", workers=1, resume=True)
    assert (run / "fold_0" / "whole" / "tuned.json").is_file()
    case = open_dataset(data).case("c4")
    image = read_image(open_dataset(data), case, read=load("classification").read, partial=True)
    arrays, _ = prepare_inputs([image], method)
    alone = [member.outputs(arrays, tmp_path)["scores"] for member in model.members]
    expected = method.calibrated(np.mean(alone, axis=0).astype(np.float64))
    assert model.predict(image).answer.scores == pytest.approx(expected, abs=1e-6)


def test_time_that_one_network_cannot_use_is_shared_by_several(measured: Measuring) -> None:
    fingerprint = measured("classification/chexnet", 2)
    settings = Exclusive(exclusive=True)
    machine = Machine(device="cpu", name="a test", cores=2, memory_gb=8)

    def planned(budget: str) -> tuple[Stage, ...]:
        return Classifier.configure(fingerprint, Budget.read(budget), machine, lambda stage: 0.1, settings)

    assert len(planned("30s")) == 1
    stages = planned("20m")
    assert [stage.repeats for stage in stages] == [None, "whole", "whole", "whole"]
    assert stages[0].training.budget.seconds == 300
    assert "answer together" in stages[0].geometry.why["dims"]
    assert len(planned("1000 epochs")) == 1


@pytest.mark.filterwarnings("ignore::isocenter.errors.IsocenterWarning")
def test_signals_are_classified_by_their_rhythm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ISOCENTER_CACHE", str(tmp_path / "cache"))
    data, rng = tmp_path / "data", np.random.default_rng(0)
    data.mkdir()
    rows = ["image,id,label"]
    for number in range(20):
        time = np.arange(64) / 64
        values = np.sin(2 * np.pi * (3 if number % 2 else 12) * time + rng.uniform(0, 6))
        lines = [f"{t:.4f},{v:.4f}" for t, v in zip(time, values, strict=True)]
        (data / f"{number}.csv").write_text("time,lead\n" + "\n".join(lines) + "\n")
        rows.append(f"{number}.csv,c{number},{'slow' if number % 2 else 'fast'}")
    (data / "manifest.csv").write_text("\n".join(rows) + "\n")
    plan = isocenter.plan(data, task="classification", budget="1 epoch", device="cpu")
    assert plan.dims == 1
    levels = len(plan.stages[0].unet.features)
    more = {"network.features": [12] * levels, "network.convolutions": [1] * levels, "training.batch": 8}
    scores = isocenter.train(
        data,
        tmp_path / "run",
        task="classification",
        budget="6 epochs",
        device="cpu",
        workers=1,
        overrides={**more, "training.learning_rate": 0.01},
    )
    assert scores.summary["fast"]["roc_auc"].mean == 1.0
    assert isocenter.report(tmp_path / "run").is_file()


@pytest.mark.filterwarnings("ignore::isocenter.errors.IsocenterWarning")
def test_explanations_are_written_on_the_files_grid_with_the_test_that_they_passed_or_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ISOCENTER_CACHE", str(tmp_path / "cache"))
    data, run, out = bright_and_dark(tmp_path / "data"), tmp_path / "run", tmp_path / "out"
    more = {**small(data, "chexnet"), "training.batch": 8}
    isocenter.train(data, run, budget="2 epochs", device="cpu", workers=1, overrides=more)
    kinds = ("gradient", "integrated", "gradcam", "occlusion")
    picture = data / "1_0.png"
    (answer,) = isocenter.predict(run, [picture], out, device="cpu", workers=1)
    answer.write_text("mine")
    isocenter.predict(run, [picture], out, device="cpu", workers=1, explain=kinds, explained="bright")
    assert answer.read_text() == "mine"  # what an answer lacks is added to it
    told = json.loads((out / "1_0_explanations.json").read_text())
    assert told["class"] == "bright"
    assert abs(told["maps"]["integrated"]["completeness_gap"]) < 0.5
    for kind in kinds:
        mark = "" if told["maps"][kind]["passed"] else "_FAILED"
        ranks = told["maps"][kind]["cascading"][-1]["rank_correlation"]
        says = not told["maps"][kind]["constant"]
        assert told["maps"][kind]["passed"] == (says and ranks <= told["maps"][kind]["highest"])
        found = images.read(out / f"1_0_{kind}{mark}.nii.gz")
        assert found.array.size == 16 * 16
    explainer = Explainer(isocenter.load(run, device="cpu"), ["gradcam", "gradient"])
    same = explainer.against(isocenter.load(run, device="cpu"), [images.read(picture)])
    assert same == {"gradient": pytest.approx(1), "gradcam": pytest.approx(1)}
    with pytest.raises(BadPlan, match="Did you mean 'gradcam'"):
        isocenter.predict(run, [picture], tmp_path / "other", device="cpu", workers=1, explain=["grad-cam"])


class Counting(Bar):
    """Counts what is done."""

    done = 0.0

    def advance(self, amount: float = 1.0) -> None:
        self.done += amount


def a_model(*networks: Classifier) -> Model:
    """The networks as one model, of no run."""
    members = [SimpleNamespace(stage=networks[0].stage, methods=networks)]
    return cast(Model, SimpleNamespace(members=members, plan=networks[0].plan))


@pytest.fixture
def several(built: Built, monkeypatch: pytest.MonkeyPatch) -> tuple[Classifier, Classifier]:
    """Two networks, explained by few passes."""
    monkeypatch.setattr(explaining, "TEST_STEPS", 2)
    monkeypatch.setattr(maps, "STEPS", 8)
    monkeypatch.setitem(maps.WINDOWS, 2, 2)
    networks = a_classifier(built, "finetune"), a_classifier(built, "finetune")
    for network in networks:
        network.modules.eval()
    return networks


def a_picture() -> Image:
    noise = np.random.default_rng(0).standard_normal((1, 64, 64), dtype=np.float32)
    return Image(noise, Geometry.plain((64, 64)))


def test_all_networks_are_explained_by_the_mean_of_their_maps(
    several: tuple[Classifier, Classifier],
) -> None:
    kinds = ("gradient", "integrated", "gradcam", "occlusion")
    both = Explainer(a_model(*several), kinds).explain(a_picture())
    each = [Explainer(a_model(network), kinds).explain(a_picture(), both[0].label) for network in several]
    for mean, one, two in zip(both, *each, strict=True):
        np.testing.assert_allclose(mean.map, (one.map + two.map) / 2, atol=1e-6)


def test_the_passes_of_all_maps_and_tests_are_known_beforehand(
    several: tuple[Classifier, Classifier], monkeypatch: pytest.MonkeyPatch
) -> None:
    explainer = Explainer(a_model(several[0]), ("gradient", "integrated", "gradcam", "occlusion"))
    assert explainer.begin(a_picture(), 3) > 0
    assert explainer.overlapping
    monkeypatch.setattr(explaining, "LONGEST", 0.0)
    explainer.begin(a_picture(), 3)
    assert not explainer.overlapping  # there is no time for it
    explainer.shown = shown = Counting()
    explainer.test([a_picture()] * 3)
    assert shown.done == explainer.work_of_tests(3)
    for _ in range(3):
        explainer.explain(a_picture())
    assert shown.done == explainer.work(3)


def short_of_memory(network: Classifier, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a network ask for more memory than there is, whenever more images come at once than `most`."""
    plain = network.scores

    def ask(batch: Batch) -> torch.Tensor:
        if len(batch["image"]) > most:
            torch.empty(2**55)
        return plain(batch)

    monkeypatch.setattr(network, "scores", ask)


def test_maps_for_which_memory_runs_out_are_made_in_smaller_batches_and_it_is_said(
    several: tuple[Classifier, Classifier], monkeypatch: pytest.MonkeyPatch
) -> None:
    explainer = Explainer(a_model(several[0]), ("integrated", "occlusion"))
    expected = explainer.explain(a_picture())
    short_of_memory(several[0], 4, monkeypatch)
    with pytest.warns(IsocenterWarning, match="batches 4 times smaller") as told:
        found = explainer.explain(a_picture())
    assert len(told) == 1
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one.map, other.map, atol=1e-5)


def test_a_device_that_is_too_small_for_one_image_is_left_for_the_cpu_and_it_is_said(
    several: tuple[Classifier, Classifier], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = a_model(several[0])
    compute = Compute(torch.device("cuda"), several[0].stage.training)
    model.members[0].compute = compute
    plain = maps.gradient

    def too_large(*given: object) -> maps.Map:
        if compute.device.type != "cpu":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB")
        return plain(*given)  # type: ignore[arg-type]  # handed on as they came

    monkeypatch.setattr(maps, "gradient", too_large)
    with pytest.warns(IsocenterWarning, match="made on the CPU from now on"):
        (found,) = Explainer(model, ("gradient",)).explain(a_picture())
    assert found.map.any()


def test_memory_that_no_image_can_do_with_ends_the_explaining_with_a_cure(
    several: tuple[Classifier, Classifier], monkeypatch: pytest.MonkeyPatch
) -> None:
    short_of_memory(several[0], 0, monkeypatch)
    model = a_model(several[0])
    model.members[0].compute = Compute(torch.device("cpu"), several[0].stage.training)
    with pytest.raises(RunFailed, match="memory ran out") as fault:
        Explainer(model, ("gradient",)).explain(a_picture())
    assert "--explain" in fault.value.cure


def test_a_method_of_one_view_refuses_cases_without_a_channel(tmp_path: Path) -> None:
    data = bright_and_dark(tmp_path / "data", views=2)
    with (
        pytest.warns(isocenter.errors.IsocenterWarning),
        pytest.raises(BadPlan, match="4 cases lack a channel"),
    ):
        isocenter.plan(data, method="classification/chexnet", budget="1 epoch", device="cpu")
