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

from isocenter.errors import BadPlan, IsocenterError
from isocenter.records import (
    Augmentation,
    Budget,
    Case,
    Channel,
    ChannelScheme,
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
    override,
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


def test_an_absent_file_is_an_error_and_no_traceback(tmp_path: Path) -> None:
    with pytest.raises(BadPlan, match="cannot be read"):
        Plan.load(tmp_path / "plan.json")


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


def test_an_override_replaces_one_value_and_notes_the_reason() -> None:
    before = {"training": {"batch": 2, "clip": 12.0, "why": {"batch": "It fits."}}, "seed": 0}
    after = override(before, "training.batch", 4)
    assert after == {
        "training": {"batch": 4, "clip": 12.0, "why": {"batch": "Set by the user."}},
        "seed": 0,
    }
    assert before["training"] == {"batch": 2, "clip": 12.0, "why": {"batch": "It fits."}}


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
