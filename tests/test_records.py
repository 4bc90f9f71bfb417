"""Records refuse what they do not know, and say what was meant."""

from __future__ import annotations

import json
import locale
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import isocenter
from isocenter.errors import BadPlan, IsocenterError
from isocenter.records import (
    Augmentation,
    Budget,
    Case,
    Channel,
    ChannelScheme,
    Choice,
    Dataset,
    Fold,
    Geometry,
    Interval,
    Label,
    Machine,
    Network,
    Normalisation,
    Plan,
    Prediction,
    Scores,
    Stage,
    Training,
    regions,
)


def a_plan() -> Plan:
    stage = Stage(
        name="3d",
        geometry=Geometry(
            dims=3,
            spacing_mm=(2.5, 0.8, 0.8),
            median_shape=(40, 200, 200),
            patch=(32, 96, 96),
            why={"patch": "It fits the budget."},
        ),
        normalisation=Normalisation(channels=(ChannelScheme(channel="T1", scheme="zscore"),)),
        network=Network(
            features=(16, 32),
            kernels=((3, 3, 3), (3, 3, 3)),
            strides=((1, 1, 1), (2, 2, 2)),
            convolutions=(2, 2),
            decoder_convolutions=(2,),
        ),
        training=Training(budget=Budget(seconds=900), batch=2, steps_per_epoch=80),
        augmentation=Augmentation(),
        prediction=Prediction(),
    )
    return Plan(
        isocenter="0.1.0",
        task="segmentation",
        method="segmentation/nnunet",
        seed=0,
        budget=Budget(seconds=900),
        machine=Machine(device="cpu", name="two cores", cores=2, memory_gb=24.0),
        dims=3,
        channels=(Channel(name="T1", modality="mri"),),
        stages=(stage,),
        folds=(Fold(train=("a", "b"), validation=("c",), test=("d",)),),
    )


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90),
        ("90 s", 90),
        ("15m", 900),
        (" 15 MIN ", 900),
        ("15 minutes", 900),
        ("2h", 7200),
        ("5 hours", 18_000),
        ("1h30m", 5400),
        ("1h 30 min", 5400),
        ("1.5d", 129_600),
        ("0.5m", 30),
    ],
)
def test_a_budget_of_time_is_read_in_seconds(text: str, seconds: float) -> None:
    assert Budget.read(text) == Budget(seconds=seconds)


@pytest.mark.parametrize(
    ("text", "epochs"), [("250 epochs", 250), ("1epoch", 1), ("1 epoch", 1), ("10 Epochs", 10)]
)
def test_a_budget_of_epochs_is_read_as_a_number(text: str, epochs: int) -> None:
    assert Budget.read(text) == Budget(epochs=epochs)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "15",
        "m",
        "-5m",
        "0m",
        "0 epochs",
        "1.5 epochs",
        "15 minutess",
        "30m 1h",
        "5m 5m",
        "1h 2 epochs",
        "1h30",
        "1,5h",
        "1e3m",
        "nan m",
        "9" * 400 + "m",
    ],
)
def test_what_is_no_budget_is_refused(text: str) -> None:
    with pytest.raises(BadPlan):
        Budget.read(text)


@pytest.mark.parametrize("text", ["0.5s", "90s", "15m", "2h", "1.5d", "250 epochs"])
def test_a_budget_is_printed_as_it_is_read(text: str) -> None:
    assert Budget.read(str(Budget.read(text))) == Budget.read(text)


@pytest.mark.parametrize(
    ("budget", "words"),
    [
        (Budget(seconds=6000), "1h 40m"),
        (Budget(seconds=5399.9999), "1h 30m"),
        (Budget(seconds=900), "15m"),
        (Budget(seconds=225), "3m 45s"),
        (Budget(seconds=86_400), "1d"),
        (Budget(seconds=7.5), "7.5s"),
        (Budget(epochs=1), "1 epoch"),
        (Budget(epochs=2), "2 epochs"),
    ],
)
def test_a_budget_is_printed_without_fractions_of_an_hour(budget: Budget, words: str) -> None:
    assert str(budget) == words


def test_a_budget_is_time_or_epochs_and_not_both() -> None:
    for content in ({}, {"seconds": 1, "epochs": 1}, {"seconds": 0}, {"epochs": -1}):
        with pytest.raises(BadPlan, match="content"):
            Budget.parse(content)


def test_a_share_of_a_budget_is_never_nothing() -> None:
    assert Budget(seconds=100).share(0.25) == Budget(seconds=25)
    assert Budget(epochs=3).share(0.1) == Budget(epochs=1)


def test_a_plan_survives_the_disk(tmp_path: Path) -> None:
    a_plan().save(tmp_path / "plan.json")
    assert Plan.load(tmp_path / "plan.json") == a_plan()


@pytest.mark.parametrize(
    ("place", "misspelt", "meant"),
    [
        ((), "sede", "seed"),
        (("budget",), "second", "seconds"),
        (("stages", 0), "trainig", "training"),
        (("stages", 0, "training"), "learning_rat", "learning_rate"),
        (("stages", 0, "normalisation", "channels", 0), "shceme", "scheme"),
        (("folds", 0), "tests", "test"),
    ],
)
def test_a_misspelt_key_is_refused_at_any_depth_and_the_right_one_suggested(
    tmp_path: Path, place: tuple[str | int, ...], misspelt: str, meant: str
) -> None:
    content: Any = json.loads(a_plan().model_dump_json())
    inner = content
    for part in place:
        inner = inner[part]
    inner[misspelt] = 1
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(BadPlan) as fault:
        Plan.load(path)
    assert f"'{'.'.join(map(str, (*place, misspelt)))}' is not a known key" in str(fault.value)
    assert f"Did you mean '{meant}'?" in str(fault.value)
    assert str(path) in str(fault.value)


def test_a_misspelt_key_inside_a_mapping_of_mappings_is_suggested_too() -> None:
    interval = {"mean": 0.9, "low": 0.8, "high": 0.95, "n": 40, "hihg": 1}
    with pytest.raises(BadPlan, match="Did you mean 'high'"):
        Scores.parse({"task": "segmentation", "cases": [], "summary": {"left": {"dice": interval}}})


def test_an_absurd_key_lists_what_is_known() -> None:
    with pytest.raises(BadPlan, match="Known: high, low, mean, n"):
        Interval.parse({"mean": 1.0, "low": 1.0, "high": 1.0, "n": 1, "xyzzy": 1})


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"\xff\xfe", b'{"seconds": "soon"}', b'{"seconds": NaN}']
)
def test_a_file_that_is_no_record_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "budget.json"
    path.write_bytes(content)
    with pytest.raises(BadPlan, match=r"budget\.json"):
        Budget.load(path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "this is not valid JSON (EOF while parsing a value at line 1 column 0)."),
        (b'{"seconds": ', "this is not valid JSON (EOF while parsing a value at line 1 column 12)."),
        (b"\xff\xfe", "this is no text in UTF-8."),
    ],
)
def test_a_file_that_is_cut_short_is_to_be_mended_or_copied(
    tmp_path: Path, content: bytes, said: str
) -> None:
    (tmp_path / "choice.json").write_bytes(content)
    with pytest.raises(BadPlan) as fault:
        Choice.load(tmp_path / "choice.json")
    assert fault.value.what == said
    assert fault.value.cure == "Mend the file, or take a whole copy of it."


def test_an_absent_file_is_an_error_and_no_traceback(tmp_path: Path) -> None:
    with pytest.raises(BadPlan, match="cannot be read") as fault:
        Plan.load(tmp_path / "plan.json")
    assert fault.value.cure


# -------------------------------------------------------------------------------------- values that cannot be


def edited(place: str, value: object) -> Any:
    """The content of a plan's file with the value at a dotted place replaced."""
    content: Any = json.loads(a_plan().model_dump_json())
    inner, parts = content, [int(part) if part.isdecimal() else part for part in place.split(".")]
    for part in parts[:-1]:
        inner = inner[part]
    inner[parts[-1]] = value
    return content


@pytest.mark.parametrize(
    ("place", "value", "key", "said"),
    [
        ("seed", -1, "seed", "greater than or equal to 0"),
        ("stages", [], "stages", "at least one value"),
        ("task", "counting", "task", "the method 'segmentation/nnunet' answers 'segmentation'"),
        ("dims", 2, "stages.0.geometry.spacing_mm", "takes one value for each axis: 2, not 3"),
        ("channels", [{"name": "T1"}, {"name": "T2"}], None, "takes one value for each channel: 2, not 1"),
        ("stages.0.normalisation.channels", [], None, "takes one value for each channel: 1, not 0"),
        ("stages.0.normalisation.channels.0.sd", -1, None, "greater than or equal to 0"),
        ("stages.0.normalisation.channels.0.high", -1, None, "-1 is less than low, 0"),
        ("stages.0.geometry.spacing_mm", [0, 1, 1], "stages.0.geometry.spacing_mm.0", "greater than 0"),
        ("stages.0.geometry.spacing_mm", [1, 1], None, "one value for each axis: 3, not 2"),
        ("stages.0.geometry.median_shape", [40, 200], None, "one value for each axis: 3, not 2"),
        ("stages.0.geometry.patch", [32, 96], None, "one value for each axis: 3, not 2"),
        ("stages.0.geometry.patch", [0, 96, 96], "stages.0.geometry.patch.0", "greater than 0"),
        ("stages.0.geometry.patch", [31, 96, 96], None, "31 voxels along axis 0 do not divide by 2: take 32"),
        ("stages.0.geometry.anisotropic_axis", 3, None, "there is no axis 3, the last of 3 is 2"),
        ("stages.0.geometry.image_order", 2, None, "0, 1 or 3"),
        ("stages.0.network.features", [], None, "at least one value"),
        ("stages.0.network.features", [0, 32], "stages.0.network.features.0", "greater than 0"),
        ("stages.0.network.kernels", [[3, 3], [3, 3]], "stages.0.network", "as many axes as the patch"),
        ("stages.0.training.learning_rate", -1, None, "greater than 0"),
        ("stages.0.training.momentum", 0, None, "Nesterov's steps, which need more than 0"),
        ("stages.0.training.momentum", 1, None, "less than 1"),
        ("stages.0.training.warmup", 1, None, "less than 1"),
        ("stages.0.training.batch", 0, None, "greater than 0"),
        ("stages.0.training.label_weights", [1, 2], None, "one value for each label: 0, not 2"),
        ("stages.0.augmentation.scale", [1.4, -0.7], "stages.0.augmentation.scale.1", "greater than 0"),
        (
            "stages.0.augmentation.scale",
            [1.4, 0.7],
            None,
            "1.4 is more than 0.7; write the smaller",
        ),
        ("stages.0.augmentation.noise_probability", 2, None, "less than or equal to 1"),
        ("stages.0.augmentation.mirror", [3], None, "the patch has no axis 3"),
        ("stages.0.prediction.mirror", [0, 7], None, "the patch has no axis 7"),
        ("stages.0.prediction.overlap", 2, None, "less than 1"),
    ],
)
def test_a_value_that_cannot_be_is_refused_with_its_file_and_key(
    tmp_path: Path, place: str, value: object, key: str | None, said: str
) -> None:
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(edited(place, value)))
    with pytest.raises(BadPlan) as fault:
        Plan.load(path)
    named = {"channels": "stages.0.normalisation.channels"}.get(place, place)
    assert fault.value.where == str(path)
    assert fault.value.what.startswith(f"'{key or named}': ")
    assert said in fault.value.what


def test_without_momentum_adamw_learns_all_the_same() -> None:
    training = a_plan().stages[0].training.changed(optimiser="adamw", momentum=0.0)
    assert training.momentum == 0


def test_a_method_of_the_user_s_own_answers_whatever_task_it_says() -> None:
    assert a_plan().changed(method="mine/my_method.py", task="counting").task == "counting"


def test_a_choice_names_somebody() -> None:
    with pytest.raises(BadPlan, match=r"'members': .*at least one value"):
        Choice.parse({"members": []})


@pytest.mark.parametrize(("place", "value"), [("stages.0.training.new_option", 3), ("seed", -1)])
def test_what_a_newer_version_wrote_is_said_to_be_newer(tmp_path: Path, place: str, value: object) -> None:
    content = {**edited(place, value), "isocenter": "99.0.0"}
    (tmp_path / "plan.json").write_text(json.dumps(content))
    with pytest.raises(BadPlan) as fault:
        Plan.load(tmp_path / "plan.json")
    told = f"it was written by isocenter 99.0.0, this is {isocenter.__version__}. '{place}'"
    assert fault.value.what.startswith(told)
    assert "Did you mean" not in fault.value.what
    assert fault.value.cure == "Upgrade isocenter."


@pytest.mark.parametrize("version", ["99.0.0", "0.0.1", "soon", 7])
def test_a_plan_that_fits_is_read_whoever_wrote_it(tmp_path: Path, version: object) -> None:
    (tmp_path / "plan.json").write_text(json.dumps({**edited("seed", 4), "isocenter": str(version)}))
    assert Plan.load(tmp_path / "plan.json").seed == 4


def test_a_changed_record_is_validated_again() -> None:
    assert Budget(seconds=10).changed(seconds=20) == Budget(seconds=20)
    with pytest.raises(BadPlan, match="positive"):
        Budget(seconds=10).changed(seconds=-1)


def test_labels_that_share_a_value_are_regions() -> None:
    whole, core = Label(name="whole", values=(1, 2)), Label(name="core", values=(2,))
    assert regions((whole, core))
    assert not regions((Label(name="left", values=(1,)), Label(name="right", values=(2, 2))))


def test_a_label_without_a_value_is_refused() -> None:
    with pytest.raises(BadPlan, match="at least one value"):
        Label.parse({"name": "nothing", "values": []})


def test_a_dataset_finds_its_cases_and_names_what_is_absent() -> None:
    case = Case(id="a", patient="a", inputs={"image": ("a.nii.gz", None)})
    dataset = Dataset(
        name="d",
        root="/data",
        layout="csv",
        task="segmentation",
        channels=(Channel(name="T1"),),
        cases=(case,),
    )
    assert dataset.case("a") is case
    assert dataset.path("a.nii.gz") == Path("/data/a.nii.gz")
    with pytest.raises(IsocenterError, match="no case 'b'"):
        dataset.case("b")


def test_a_stage_is_found_by_name_or_suggested() -> None:
    assert a_plan().stage("3d").name == "3d"
    with pytest.raises(BadPlan, match="Did you mean '3d'"):
        a_plan().stage("3dd")


ROUND_TRIP = """
import locale, sys
from pathlib import Path
for name in ("de_DE.UTF-8", "de_DE.utf8", ""):
    try:
        locale.setlocale(locale.LC_ALL, name)
        break
    except locale.Error:
        pass
from isocenter.records import Budget, Label
path = Path(sys.argv[1])
Label(name="Großhirn", values=(1,)).save(path)
assert Label.load(path).name == "Großhirn"
assert Budget.read("1.5h").seconds == 5400.0
assert str(Budget(seconds=1.5)) == "1.5s", str(Budget(seconds=1.5))
"""


@pytest.mark.parametrize("language", ["C", "POSIX", "de_DE.UTF-8"])
def test_neither_the_language_nor_a_decimal_comma_changes_what_is_written(
    tmp_path: Path, language: str
) -> None:
    surroundings = {
        **os.environ,
        "LC_ALL": language,
        "LANG": language,
        "PYTHONUTF8": "0",
        "PYTHONCOERCECLOCALE": "0",
    }
    script, path = tmp_path / "script.py", tmp_path / "label.json"
    script.write_text(ROUND_TRIP, encoding="utf-8")
    subprocess.run([sys.executable, str(script), str(path)], env=surroundings, check=True)
    assert "Großhirn" in path.read_text(encoding="utf-8")


def test_a_decimal_comma_set_inside_the_process_is_harmless(monkeypatch: pytest.MonkeyPatch) -> None:
    comma = {**locale.localeconv(), "decimal_point": ",", "thousands_sep": "."}
    monkeypatch.setattr(locale, "localeconv", lambda: comma)
    assert Budget.read("1.5h") == Budget(seconds=5400)
    assert json.loads(Budget(seconds=0.5).model_dump_json()) == {"seconds": 0.5, "epochs": None}
