"""Values set of a plan: what is taken, what is refused, what follows from it."""

from __future__ import annotations

import pytest

from isocenter import methods
from isocenter.errors import BadPlan, IsocenterWarning
from isocenter.pipeline.overrides import apply_overrides
from isocenter.pipeline.plan import make, selected
from isocenter.pipeline.wording import explain
from isocenter.records import (
    Budget,
    Case,
    CaseMeasure,
    Channel,
    Dataset,
    Fingerprint,
    Label,
    Machine,
    Plan,
)

CPU = Machine(device="cpu", name="two cores", cores=2, memory_gb=24, precision="bfloat16")
SHAPES = {2: (64, 48), 3: (36, 50, 35)}


def planned(
    budget: str = "15m",
    method: str = "segmentation/nnunet",
    dims: int = 3,
    count: int = 20,
    **options: object,
) -> Plan:
    """A plan for images of one channel and two labels."""
    task, shape, ones = methods.task_of(method), SHAPES[dims], (1.0,) * dims
    channels = (Channel(name="T1", modality="mri"),)
    labels = (Label(name="Anterior", values=(1,)), Label(name="Posterior", values=(2,)))
    names = [f"c{number}" for number in range(count)]
    cases = tuple(Case(id=name, patient=name, inputs={"image": (f"{name}.nii.gz",)}) for name in names)
    dataset = Dataset(
        name="small", root="/data", layout="msd", task=task, channels=channels, labels=labels, cases=cases
    )
    fingerprint = Fingerprint(
        task=task,
        dataset="small",
        dims=dims,  # type: ignore[arg-type]  # 2 or 3
        channels=channels,
        labels=labels,
        intensities=(),
        cases=tuple(
            CaseMeasure(id=name, shape=shape, cropped_shape=shape, spacing_mm=ones) for name in names
        ),
        median_shape=shape,
        median_spacing_mm=ones,
    )
    return make(dataset, fingerprint, method, Budget.read(budget), machine=CPU, speed=7e10, **options)  # type: ignore[arg-type]


def test_a_value_is_overridden_in_every_stage_and_its_reason_noted() -> None:
    plan = planned("6h", overrides={"training.batch": 4})
    assert {stage.training.batch for stage in plan.stages} == {4}
    assert all(stage.training.why["batch"] == "Set by the user." for stage in plan.stages)
    assert plan.stage("3d_fullres").training.steps_per_epoch == 4


def test_a_value_is_overridden_in_one_stage() -> None:
    plan = planned("6h", overrides={"2d.training.learning_rate": 0.5})
    assert plan.stage("2d").training.learning_rate == plan.stage("2d_2").training.learning_rate == 0.5
    assert plan.stage("3d_fullres").training.learning_rate != 0.5


@pytest.mark.parametrize("keys", [("batch", "steps_per_epoch"), ("steps_per_epoch", "batch")])
def test_steps_of_an_epoch_that_are_set_stand_whatever_else_is_set(keys: tuple[str, ...]) -> None:
    plan = planned(overrides={f"training.{key}": 3 if key == "batch" else 7 for key in keys})
    training = plan.stages[0].training
    assert (training.batch, training.steps_per_epoch) == (3, 7)
    assert training.why["steps_per_epoch"] == "Set by the user."


@pytest.mark.parametrize("keys", [("", "2d."), ("2d.", "")])
def test_what_is_set_for_one_stage_stands_before_what_is_set_for_all(keys: tuple[str, ...]) -> None:
    plan = planned("6h", overrides={f"{key}training.batch": 6 if key else 4 for key in keys})
    assert plan.stage("2d").training.batch == 6
    assert plan.stage("3d_fullres").training.batch == 4


def test_values_that_only_fit_each_other_are_set_together() -> None:
    stage = planned().stages[0]
    less = {
        f"network.{key}": getattr(stage.network, key)[:-1]
        for key in ("features", "kernels", "strides", "convolutions", "decoder_convolutions")
    }
    assert len(planned(overrides=less).stages[0].unet.features) == len(stage.unet.features) - 1


@pytest.mark.parametrize(
    ("key", "value", "cure"),
    [
        ("training.budget", "20 epochs", "--budget"),
        ("training.seconds_per_step", 0.1, "epochs"),
        ("geometry.dims", 2, "settings.configurations"),
        ("geometry.median_shape", (30, 30, 30), "geometry.spacing_mm"),
        ("geometry.orientation", (), "Store the images"),
    ],
)
def test_what_is_measured_is_not_set(key: str, value: object, cure: str) -> None:
    with pytest.raises(BadPlan, match=rf"{key}: .*cannot be set\. .*{cure}"):
        planned(overrides={key: value})


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("training.batsh", "Did you mean 'training.batch'"),
        ("batch", "Did you mean 'training.batch'"),
        ("trainig.power", "Did you mean 'training.power'"),
        ("prediction.batsh", "Did you mean 'prediction.batch'"),
        ("geometry.why", "the plan has no value 'geometry.why'"),
        ("training", "Known: training.batch"),
        ("4d.training.batch", "the plan has no value"),
        ("settings.nonsense", "nonsense"),
    ],
)
def test_a_misspelt_key_is_refused_with_a_suggestion(key: str, message: str) -> None:
    with pytest.raises(BadPlan, match=message):
        planned(overrides={key: 3})


def test_a_misspelt_key_is_told_before_anything_is_measured() -> None:
    dataset = Dataset(name="made up", root=".", layout="folders", task="segmentation", channels=(), cases=())
    known = {"seed": 1, "folds": 3, "training.batch": 2, "2d.training.batch": 2}
    assert selected(dataset, "segmentation/nnunet", known) == dataset
    with pytest.raises(BadPlan, match=r"no value 'training\.batsh'.*'training\.batch'"):
        selected(dataset, "segmentation/nnunet", {**known, "training.batsh": 2})


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("training.batch", "many", "training.batch"),
        ("training.batch", 0, "greater than 0"),
        ("training.batch", True, r"training\.batch: takes no true"),
        ("geometry.anisotropic_axis", False, "takes no false"),
        ("augmentation.mirror", (0, 0), "names axis 0 twice"),
        ("training.optimiser", "sdg", "sgd"),
        ("geometry.patch", (40, 55, 40), "take 56"),
        ("geometry.patch", (40, 56), "one value for each axis: 3, not 2"),
        ("network.features", (16, 32), "same number of levels"),
        ("seed", "lucky", "not a whole number"),
        ("seed", -1, "not a whole number from 0"),
        ("training.learning_rate", -1, r"3d_fullres\.training\.learning_rate.*greater than 0"),
        ("geometry.spacing_mm", (0, 1, 1), r"geometry\.spacing_mm.*greater than 0"),
        ("geometry.spacing_mm", (1, 1), r"geometry\.spacing_mm.*one value for each axis: 3, not 2"),
        ("normalisation.channels", (), r"normalisation\.channels.*for each channel, T1, not for none"),
        ("normalisation.channels", [{"channel": "T2", "scheme": "none"}], "T1, not for T2"),
        ("prediction.overlap", 2, r"prediction\.overlap.*less than 1"),
    ],
)
def test_a_value_that_cannot_be_is_refused(key: str, value: object, message: str) -> None:
    with pytest.raises(BadPlan, match=message):
        planned(overrides={key: value})


def test_the_seed_of_a_finished_plan_stays() -> None:
    with pytest.raises(BadPlan, match="Plan anew"):
        apply_overrides(planned(), {"seed": 3})


# --------------------------------------------------------------------------------------- what follows


def test_axes_that_training_no_longer_mirrors_prediction_does_not_mirror_either() -> None:
    assert planned("6h").stage("3d_fullres").prediction.mirror == (0, 1, 2)
    for axes in ((), (2,)):
        plan = planned("6h", overrides={"3d_fullres.augmentation.mirror": axes})
        prediction = plan.stage("3d_fullres").prediction
        assert prediction.mirror == axes
        assert "in training" in prediction.why["mirror"]
        assert "augmentation.mirror was set" in prediction.why["mirror"]


def test_axes_that_training_newly_mirrors_prediction_mirrors_too_where_nothing_else_forbids_it() -> None:
    assert planned("30s").stages[0].prediction.mirror == ()
    assert planned("30s", overrides={"augmentation.mirror": (1,)}).stages[0].prediction.mirror == (1,)
    answer = planned("1 epochs", "instances/stardist", overrides={"augmentation.mirror": (1,)})
    assert answer.stages[0].prediction.mirror == ()
    assert answer.stages[0].prediction.why["mirror"].startswith("Off: the mirror image of a spiral")


def test_the_mirroring_of_prediction_stands_where_it_is_set_as_well() -> None:
    wishes = {"augmentation.mirror": (), "prediction.mirror": (0,)}
    prediction = planned("6h", overrides=wishes).stage("3d_fullres").prediction
    assert (prediction.mirror, prediction.why["mirror"]) == ((0,), "Set by the user.")


def test_the_recipe_of_another_optimiser_follows_it() -> None:
    before, after = (
        planned(overrides=each).stages[0].training for each in ({}, {"training.optimiser": "sgd"})
    )
    assert (before.optimiser, before.learning_rate, before.clip) == ("adamw", 2e-3, 1.0)
    assert (after.learning_rate, after.weight_decay, after.momentum) == (1e-2, 3e-5, 0.99)
    assert (after.warmup, after.power, after.clip) == (0.0, 0.9, 12.0)
    assert "AdamW" not in " ".join(after.why[key] for key in ("learning_rate", "momentum", "warmup", "clip"))
    assert after.why["learning_rate"].endswith("Decided anew: training.optimiser was set.")
    own = planned(overrides={"training.optimiser": "sgd", "training.learning_rate": 0.5})
    assert own.stages[0].training.why["learning_rate"] == "Set by the user."


def test_a_recipe_of_the_methods_own_stays_and_says_for_which_optimiser_it_was_made() -> None:
    wishes = {"training.optimiser": "sgd", "training.momentum": 0.9}
    training = planned("1 epochs", "classification/chexnet", 2, overrides=wishes).stages[0].training
    assert (
        training.learning_rate
        == planned("1 epochs", "classification/chexnet", 2).stages[0].training.learning_rate
    )
    assert training.why["learning_rate"].endswith("Decided for adamw; training.optimiser was set since.")


def test_what_was_decided_for_another_patch_and_batch_says_so() -> None:
    wishes = {"geometry.patch": (32, 32, 32), "training.batch": 4}
    stage = planned(overrides=wishes).stages[0]
    patch = "40 × 56 × 40"
    for section, key, former in (
        ("network", "features", f"{patch} and 2; geometry.patch and training.batch were set since."),
        ("network", "strides", f"{patch}; geometry.patch was set since."),
        ("training", "batch_dice", f"{patch}; geometry.patch was set since."),
        ("training", "seconds_per_step", f"{patch} and 2; geometry.patch and training.batch were set since."),
    ):
        assert getattr(stage, section).why[key].endswith(f" Decided for {former}")
    assert (
        planned(overrides={"geometry.patch": (32, 32, 32)}).stages[0].training.why["batch"].endswith("since.")
    )


def test_a_value_that_is_set_to_what_was_planned_changes_no_reason_but_its_own() -> None:
    before, after = planned().stages[0], planned(overrides={"geometry.patch": (40, 56, 40)}).stages[0]
    assert after.geometry.why["patch"] == "Set by the user."
    assert (after.network, after.training) == (before.network, before.training)


def test_the_median_case_and_the_coarse_axis_follow_the_spacing() -> None:
    geometry = planned(overrides={"geometry.spacing_mm": (4.0, 1.0, 1.0)}).stages[0].geometry
    assert geometry.median_shape == (9, 50, 35)
    assert (geometry.anisotropic_axis, geometry.through_order) == (0, 0)
    assert geometry.why["through_order"].startswith("Nearest along the coarse axis")
    assert geometry.why["patch"].endswith("Decided for 1 × 1 × 1; geometry.spacing_mm was set since.")


def test_the_scheme_of_a_channel_that_is_set_is_said_with_its_numbers_and_its_reason() -> None:
    scheme = {"channel": "T1", "scheme": "ct", "mean": 40, "sd": 12.5, "low": -100, "high": 240}
    plan = planned(overrides={"normalisation.channels": [scheme]})
    assert plan.stages[0].normalisation.why["channels.T1"] == "Set by the user."
    words = " ".join(explain(plan).split())
    assert "T1: ct, -100 to 240, mean 40, spread 12.5. Set by the user." in words
    assert "Decided for T1 by zscore; normalisation.channels was set since." in words
    assert "Channels:" not in words
    assert "channel=" not in words


@pytest.mark.parametrize(
    ("name", "value", "chance"),
    [("elastic", 3.0, 0.2), ("noise", 0.2, 0.1), ("gamma", (0.5, 2.0), 0.3), ("blur", (0.5, 1.0), 0.2)],
)
def test_a_variation_whose_strength_is_set_happens(name: str, value: object, chance: float) -> None:
    off = {f"augmentation.{name}_probability": 0.0}
    if name == "gamma":
        off["augmentation.gamma_inverted_probability"] = 0.0
    still = apply_overrides(planned(), off)
    section = apply_overrides(still, {f"augmentation.{name}": value}).stages[0].augmentation
    assert getattr(section, f"{name}_probability") == chance
    assert f"augmentation.{name} was set" in section.why[f"{name}_probability"]


def test_a_variation_that_is_kept_off_in_so_many_words_stays_off() -> None:
    wishes = {"augmentation.elastic": 3.0, "augmentation.elastic_probability": 0.0}
    assert planned(overrides=wishes).stages[0].augmentation.elastic_probability == 0.0


def test_elastic_deformation_that_is_set_tells_how_far_its_nodes_lie_apart() -> None:
    assert "Elastic spacing" not in explain(planned())
    words = " ".join(explain(planned(overrides={"augmentation.elastic": 3.0})).split())
    assert "Elastic spacing: 16. Voxels between the nodes that are displaced" in words


@pytest.mark.parametrize(
    ("wishes", "cure"),
    [
        ({"augmentation.elastic_probability": 0.3}, "Set augmentation.elastic, too"),
        ({"augmentation.elastic_spacing": 8.0}, "Set augmentation.elastic, too"),
        ({"augmentation.noise": 0.0, "augmentation.noise_probability": 0.3}, "Set augmentation.noise, too"),
        ({"augmentation.scale": (1, 1), "augmentation.scale_probability": 1}, "Set augmentation.scale, too"),
    ],
)
def test_how_often_nothing_happens_is_not_set(wishes: dict[str, object], cure: str) -> None:
    with pytest.raises(BadPlan, match=cure):
        planned(overrides=wishes)


# ------------------------------------------------------------------------------------- without effect


def test_who_sets_what_has_no_effect_for_the_method_is_told_why() -> None:
    said = r"`network.norm` has no effect for method classification/chexnet: in this network it is as pub"
    with pytest.warns(IsocenterWarning, match=said):
        plan = planned(method="classification/chexnet", overrides={"network.norm": "group"})
    assert plan.stages[0].network is not None
    assert plan.stages[0].network.norm == "group"
    assert plan.stages[0].network.why["norm"].startswith("Without effect: ")


def test_what_is_set_of_one_stage_alone_is_told_of_that_stage() -> None:
    said = "`whole.training.batch_dice` has no effect for method classification/chexnet: no overlap"
    with pytest.warns(IsocenterWarning, match=said):
        planned(method="classification/chexnet", overrides={"whole.training.batch_dice": True})


def test_what_has_an_effect_until_another_value_is_set_is_told_of_only_then() -> None:
    planned(overrides={"geometry.image_order": 1})
    said = "`geometry.image_order` has no effect .* nothing is resampled"
    with pytest.warns(IsocenterWarning, match=said):
        planned(overrides={"geometry.image_order": 1, "geometry.own_grid": True})


def test_a_plan_names_what_has_no_effect_and_gives_no_other_reason_for_it() -> None:
    words = " ".join(explain(planned(method="classification/chexnet")).split())
    shown, _, idle = words.partition("Without effect")
    assert "Normalisation layers" not in shown
    assert "Batch dice" not in shown
    assert "training.batch_dice, training.label_weights: no overlap is measured." in idle
    assert "prediction.overlap, prediction.batch, prediction.border: images are answered whole." in idle


@pytest.mark.parametrize("method", ["segmentation/atlas_segmentation", "registration/affine"])
def test_the_plan_of_a_method_that_learns_nothing_has_no_word_on_learning(method: str) -> None:
    words = explain(planned(method=method))
    assert "\nLearning\n" not in words
    assert "\nVariation of the training samples\n" not in words
    assert "No network: nothing is learnt by gradient." in words
    assert "all of training: nothing is learnt by gradient." in words
