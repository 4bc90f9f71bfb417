"""Classification as a task: tables and JSON of classes and scores read, judged, charted and saved."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from isocenter import tasks
from isocenter.errors import BadDataset, UnreadableFile
from isocenter.images.geometry import Geometry
from isocenter.images.image import Image
from isocenter.images.placement import Placement
from isocenter.records import Case, CaseScore, Channel, Dataset, Label
from isocenter.tasks.classification import Classified, Scored

TASK = tasks.load("classification")
CAT_DOG = (Label(name="Cat", values=(0,)), Label(name="dog", values=(1,)))


def a_dataset(root: Path | str = "/", labels: tuple[Label, ...] = ()) -> Dataset:
    return Dataset(
        name="test",
        root=str(root),
        layout="files",
        task="classification",
        channels=(Channel(name="image"),),
        labels=labels,
        cases=(),
    )


def truth_in(path: Path, case: str = "a", labels: tuple[Label, ...] = ()) -> Classified:
    named = Case(id=case, patient=case, inputs={}, truth=TASK.truth_from(path.name))
    return TASK.read_truth(a_dataset(path.parent, labels), named)


def a_truth(*present: float, exclusive: bool = True) -> Classified:
    return Classified("a", ("Cat", "dog"), np.array(present), exclusive)


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


# ------------------------------------------------------------------------------------------ truths


def test_a_column_with_one_class_per_case_makes_classes_exclude_each_other(tmp_path: Path) -> None:
    truth = truth_in(write(tmp_path / "t.csv", "case,label\na.png,dog\nb.png,Cat\n"))
    assert (truth.names, truth.present.tolist(), truth.exclusive) == (("Cat", "dog"), [0, 1], True)


def test_joined_findings_are_questions_of_their_own_and_no_finding_is_none(tmp_path: Path) -> None:
    table = write(
        tmp_path / "t.csv", "image,patient,age,findings\na,1,7,Mass|Edema\nb,1,7,No Finding\nc,2,7,Edema\n"
    )
    assert truth_in(table).names == ("Edema", "Mass")
    assert truth_in(table).present.tolist() == [1, 1]
    assert truth_in(table, "b").present.tolist() == [0, 0]
    assert not truth_in(table, "c").exclusive
    cases = TASK.several(table)
    assert cases is not None
    assert [(case.id, case.patient) for case in cases] == [("a", "1"), ("b", "1"), ("c", "2")]


def test_a_column_of_yes_and_no_for_each_finding_may_leave_some_unknown(tmp_path: Path) -> None:
    truth = truth_in(write(tmp_path / "t.csv", "case,cat,dog\na,1,\nb,0,1\n"), labels=CAT_DOG)
    assert truth.names == ("Cat", "dog")
    assert truth.present[0] == 1
    assert np.isnan(truth.present[1])


def test_a_class_may_stand_in_the_dataset_itself() -> None:
    case = Case(id="a", patient="a", inputs={}, truth={"label": "dog"})
    assert TASK.read_truth(a_dataset("/", CAT_DOG), case).present.tolist() == [0, 1]
    case = Case(id="a", patient="a", inputs={}, truth={"label": ["dog", "Cat"]})
    assert TASK.read_truth(a_dataset("/", CAT_DOG), case).present.tolist() == [1, 1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("case,label\na,dgo\n", "the class 'dgo', which is not known. Did you mean 'dog'?"),
        ("case,label\na,dog\na,dog\n", "2 rows are about case 'a'"),
        ("case,label\nb,dog\n", "0 rows are about case 'a'"),
        ("case,label\na,\n", "the class '', which is not known"),
        ("case,cat,dog\na,1,0.5\n", "'dog' of case 'a' is '0.5'"),
        ("case,cat\na,1\n", "no column 'dog'"),
    ],
)
def test_a_truth_that_cannot_be_understood_says_why(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(BadDataset, match=re.escape(message)):
        truth_in(write(tmp_path / "t.csv", text), labels=CAT_DOG)


# ------------------------------------------------------------------------------------------ answers


def test_one_table_of_scores_answers_all_cases_in_any_order_of_columns(tmp_path: Path) -> None:
    path = write(tmp_path / "s.csv", "dog,image,cat\n0.3,x/b.png,0.7\n0.9,x/a.png,0.1\n")
    assert TASK.read_answer(path, a_truth(0, 1), a_dataset()).scores.tolist() == [0.1, 0.9]


@pytest.mark.parametrize(
    "text", ['{"scores": {"dog": 0.9, "Cat": 0.1}}', '{"a": {"dog": 0.9, "cat": 0.1}, "b": {}}']
)
def test_json_answers_one_case_or_many(tmp_path: Path, text: str) -> None:
    path = write(tmp_path / "a.json", text)
    assert TASK.read_answer(path, a_truth(0, 1), a_dataset()).scores.tolist() == [0.1, 0.9]


def test_a_yes_or_no_question_may_have_a_column_called_score(tmp_path: Path) -> None:
    path = write(tmp_path / "s.csv", "case,probability\na,0.25\n")
    truth = Classified("a", ("pneumonia",), np.array([1.0]), exclusive=False)
    assert TASK.read_answer(path, truth, a_dataset()).scores.tolist() == [0.25]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("case,cat\na,1\n", "no score for the class 'dog'"),
        ("case,cat,dog,owl\na,1,0,0\n", "'owl' is no class"),
        ("case,cat,dog\na,nan,0\n", "the score of case 'a' for 'cat' is 'nan', not a finite number"),
        ("case,cat,dog\na,high,0\n", "not a finite number"),
        ("case,cat,dog\nb,1,0\n", "0 rows are about case 'a'"),
    ],
)
def test_scores_that_cannot_be_judged_say_why(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(BadDataset, match=re.escape(message)):
        TASK.read_answer(write(tmp_path / "s.csv", text), a_truth(0, 1), a_dataset())


def test_broken_json_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnreadableFile, match="no JSON"):
        TASK.read_answer(write(tmp_path / "a.json", "{"), a_truth(0, 1), a_dataset())


def test_what_is_saved_is_read_again_from_either_file(tmp_path: Path) -> None:
    answer = Scored(("Cat", "dog"), np.array([0.25, 0.75]))
    path = tmp_path / f"a{TASK.suffix(2, 'a.png')}"
    TASK.save(answer, path, Image(np.zeros((1, 2, 2)), Geometry.plain((2, 2))))
    for file in (path, tmp_path / "a.csv"):
        assert TASK.read_answer(file, a_truth(0, 1), a_dataset()).scores.tolist() == [0.25, 0.75]
    assert TASK.find(tmp_path) == [path]


# ------------------------------------------------------------------------------------------ judging


def judged(
    case: str, answer: Scored, truth: Classified, patient: str = "", group: str | None = None
) -> CaseScore:
    return CaseScore(
        case=case,
        patient=patient or case,
        group=group,
        values=TASK.score(answer, truth, a_dataset()),
        evidence=TASK.evidence(answer, truth, a_dataset()),
    )


def a_set(count: int = 30) -> list[CaseScore]:
    rng = np.random.default_rng(0)
    cases = []
    for place in range(count):
        dog = float(place % 2)
        score = np.clip(0.3 + 0.4 * dog + rng.normal(0, 0.2), 0, 1)
        answer = Scored(("Cat", "dog"), np.array([1 - score, score]))
        cases.append(
            judged(str(place), answer, a_truth(1 - dog, dog), group="north" if place < 15 else "south")
        )
    return cases


def test_a_single_case_is_right_or_wrong_with_its_squared_error() -> None:
    values = TASK.score(Scored(("Cat", "dog"), np.array([0.2, 0.8])), a_truth(0, 1), a_dataset())
    assert values["all"] == {"accuracy": 1.0, "brier": pytest.approx(0.08)}
    assert values["dog"] == {"brier": pytest.approx(0.04)}


def test_a_set_has_what_single_cases_have_not() -> None:
    summary = TASK.summarise(a_set())
    area = summary["dog"]["roc_auc"]
    assert area.mean is not None
    assert area.low is not None
    assert area.high is not None
    assert 0.8 < area.low < area.mean <= area.high <= 1
    assert summary["mean"]["classes"].mean == 2
    assert set(TASK.groups(a_set())) == {"north", "south"}
    assert TASK.summarise([]) == {}
    assert {measure for label in summary.values() for measure in label} <= set(TASK.measures)


def test_a_missing_answer_is_wrong_without_a_squared_error() -> None:
    values = TASK.score(TASK.no_answer(a_truth(0, 1)), a_truth(0, 1), a_dataset())
    assert values["all"] == {"accuracy": 0.0, "brier": None}


def test_cases_of_differing_classes_are_no_set() -> None:
    other = Classified("b", ("owl",), np.array([1.0]), exclusive=True)
    cases = [*a_set(2), judged("b", Scored(("owl",), np.array([1.0])), other)]
    with pytest.raises(BadDataset, match="differ in their classes"):
        TASK.summarise(cases)


def test_undeclared_classes_are_named_by_the_truth() -> None:
    names = TASK.values(TASK.no_answer(a_truth(0, 1)), a_truth(0, 1))
    assert [label.name for label in TASK.labels(names)] == ["Cat", "dog"]


# ------------------------------------------------------------------------------------------ training


def test_a_class_is_placed_as_its_number_and_findings_as_flags() -> None:
    placement = Placement(Geometry.plain((2, 2)), (0, 0), (2, 2), (2, 2))
    placed = TASK.place(a_truth(0, 1), placement, a_dataset())
    assert placed["number"] == 1
    assert placed["classes"].tolist() == [0, 1]
    assert set(TASK.place(a_truth(1, 1, exclusive=False), placement, a_dataset())) == {"classes"}


def test_the_fingerprint_is_told_which_classes_a_case_has() -> None:
    image = Image(np.zeros((1, 2, 2)), Geometry.plain((2, 2)))
    case = Case(id="a", patient="a", inputs={})
    measured = TASK.measure(a_truth(0, 1), image, a_dataset(), case)
    assert (measured.components, measured.findings) == ({"Cat": 0, "dog": 1}, ())
    unknown = TASK.measure(a_truth(np.nan, np.nan, exclusive=False), image, a_dataset(), case)
    assert [finding.level for finding in unknown.findings] == ["warning"]


# ------------------------------------------------------------------------------------------ pictures


def test_two_classes_that_exclude_each_other_have_one_curve() -> None:
    (chart,) = TASK.charts({"": a_set()})
    root = ElementTree.fromstring(chart.svg)
    assert sum(element.get("fill-opacity") is not None for element in root.iter()) == 1
    assert "30 cases" in chart.caption
    assert TASK.charts({"": []}) == ()
    assert TASK.charts({"": a_set(1)}) == ()


def test_several_who_answered_share_one_picture_of_each_class() -> None:
    (chart,) = TASK.charts({"a network": a_set(), "a <reader>": a_set()})
    assert "a network" in chart.svg
    assert "a &lt;reader&gt;" in chart.svg
    assert chart.caption.startswith("dog: ROC curves over")
    crowd = {f"reader {number}": a_set() for number in range(8)}
    assert TASK.charts(crowd)[0].caption.endswith("2 more contestants are not shown.")


def test_a_case_is_drawn_with_what_it_is_and_what_was_answered() -> None:
    image = Image(np.random.default_rng(0).random((1, 8, 8)), Geometry.plain((8, 8)))
    answer = Scored(("Cat", "dog"), np.array([0.2, 0.8]))
    drawn = TASK.draw(image, answer, a_truth(1, 0), a_dataset())
    ElementTree.fromstring(drawn.svg)
    assert drawn.caption == "As stored; true Cat, answered dog 0.80, Cat 0.20."


# ------------------------------------------------------------------------------------------ real data


@pytest.mark.data
def test_chest_films_with_their_findings_are_read_from_one_table(data: Callable[[str], Path]) -> None:
    path = data("xray_nih64") / "labels.csv"
    cases = TASK.several(path)
    assert cases is not None
    assert len(cases) == 764
    assert len({case.patient for case in cases}) < 764
    dataset = a_dataset(path.parent)
    truths = [TASK.read_truth(dataset, case.changed(truth=TASK.truth_from("labels.csv"))) for case in cases]
    assert len(truths[0].names) == 14
    present = np.stack([truth.present for truth in truths]).sum(axis=0)
    assert dict(zip(truths[0].names, present.tolist(), strict=True))["Effusion"] == 148


# ----------------------------------------------------------------------------- what a dataset itself says


def test_truths_of_a_dataset_name_one_class_or_several_or_what_is_known() -> None:
    dataset = a_dataset(labels=CAT_DOG)

    def read(truth: dict[str, object]) -> Classified:
        return TASK.read_truth(
            dataset, Case.model_validate({"id": "a", "patient": "a", "inputs": {}, "truth": truth})
        )

    one, several, known = (
        read({"class": ["dog"]}),
        read({"classes": ["Cat", "dog"]}),
        read({"classes": {"Cat": None, "dog": 0}}),
    )
    assert (one.present.tolist(), one.exclusive) == ([0, 1], True)
    assert (several.present.tolist(), several.exclusive) == ([1, 1], False)
    assert np.isnan(known.present[0])
    assert known.present[1] == 0
    with pytest.raises(BadDataset, match="the class 'cow', which is not known"):
        read({"classes": {"cow": 1}})


def test_an_answer_may_say_itself_which_classes_are_there(tmp_path: Path) -> None:
    truth = a_truth(1, 0, exclusive=False)
    answer = Scored(truth.names, np.array([0.2, 0.3]), chosen=np.array([True, False]))
    TASK.save(answer, tmp_path / "a.json", Image(np.zeros((1, 2, 2)), Geometry.plain((2, 2))))
    again = TASK.read_answer(tmp_path / "a.json", truth, a_dataset(tmp_path))
    assert again.chosen is not None
    assert again.chosen.tolist() == [True, False]
    assert TASK.score(again, truth, a_dataset())["all"]["accuracy"] == 1.0
    silent = Scored(truth.names, np.array([0.2, 0.3]))
    assert TASK.score(silent, truth, a_dataset())["all"]["accuracy"] == 0.0


def test_of_classes_that_exclude_each_other_an_answer_may_name_one(tmp_path: Path) -> None:
    truth = a_truth(0, 1, exclusive=True)
    named = Scored(truth.names, np.array([0.7, 0.3]), chosen=np.array([False, True]))
    TASK.save(named, tmp_path / "a.json", Image(np.zeros((1, 2, 2)), Geometry.plain((2, 2))))
    again = TASK.read_answer(tmp_path / "a.json", truth, a_dataset(tmp_path))
    assert TASK.score(again, truth, a_dataset())["all"]["accuracy"] == 1.0
    for said in (None, np.array([True, True])):  # who names both leaves it to the scores
        silent = Scored(truth.names, np.array([0.7, 0.3]), chosen=said)
        assert TASK.score(silent, truth, a_dataset())["all"]["accuracy"] == 0.0
