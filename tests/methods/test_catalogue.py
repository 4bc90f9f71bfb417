"""How a method is found: by its key, by a file of the user's own, or as a change of another one."""

from __future__ import annotations

from pathlib import Path

import pytest

from isocenter import methods
from isocenter.errors import BadPlan
from isocenter.methods.segmentation.nnunet import NnUNet

OWN = """
from isocenter.methods.supervised import SupervisedMasks
from isocenter.parts.networks.unet import UNet
from isocenter.records import Record

CARD = {"title": "Mine", "reference": "Me.", "row": "", "summary": "A file of my own."}


class Settings(Record):
    depth: int = 2


class Mine(SupervisedMasks):
    Settings = Settings

    def network(self, inputs, outputs):
        return UNet(self.stage.network, inputs, outputs)


METHOD = Mine
"""

VARIANT = """
CARD = {"title": "Gentle", "reference": "Me.", "row": "", "summary": "A smaller rate."}
BASE = "segmentation/nnunet"
CHANGES = {"training.learning_rate": 0.001, "training.momentum": 0.9}
"""


def _file(folder: Path, name: str, text: str) -> str:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_a_key_is_the_place_of_a_file() -> None:
    assert methods.load("segmentation/nnunet") is NnUNet
    assert methods.task_of("segmentation/nnunet") == "segmentation"
    assert methods.changes("segmentation/nnunet") == {}


def test_the_catalogue_can_be_narrowed_to_a_task() -> None:
    assert set(methods.catalogue("segmentation")) <= set(methods.catalogue())
    assert methods.catalogue("astrology") == {}


def test_a_misspelt_key_is_answered_with_the_right_one() -> None:
    with pytest.raises(BadPlan, match="Did you mean 'segmentation/nnunet'"):
        methods.load("segmentation/nnnet")


def test_no_key_leads_out_of_the_catalogue() -> None:
    for key in ("../methods/segmentation/nnunet", "segmentation/../supervised", "segmentation/__init__"):
        with pytest.raises(BadPlan, match="there is no method"):
            methods.load(key)


def test_a_file_of_the_users_own_is_a_method_like_any_other(tmp_path: Path) -> None:
    key = _file(tmp_path, "mine.py", OWN)
    assert methods.load(key).__name__ == "Mine"
    assert methods.load(key).Settings().model_dump() == {"depth": 2}
    assert methods.card(key).title == "Mine"
    assert methods.task_of(key) == "segmentation"


def test_two_files_of_one_name_do_not_meet(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    first = _file(tmp_path, "mine.py", OWN)
    second = _file(tmp_path / "other", "mine.py", OWN.replace("depth: int = 2", "depth: int = 3"))
    kinds = [methods.load(key) for key in (first, second, first)]
    assert [kind.Settings().model_dump()["depth"] for kind in kinds] == [2, 3, 2]


def test_a_variant_is_its_base_with_changes(tmp_path: Path) -> None:
    key = _file(tmp_path, "gentle.py", VARIANT)
    assert methods.load(key) is NnUNet
    assert methods.changes(key) == {"training.learning_rate": 0.001, "training.momentum": 0.9}
    assert methods.task_of(key) == "segmentation"


def test_a_variant_of_a_variant_adds_to_its_changes_and_overrules_them(tmp_path: Path) -> None:
    first = _file(tmp_path, "gentle.py", VARIANT)
    changes = "{'training.momentum': 0.5, 'training.batch': 2}"
    second = _file(tmp_path, "gentler.py", f"BASE = {first!r}\nCHANGES = {changes}\n")
    assert methods.load(second) is NnUNet
    assert methods.changes(second) == {
        "training.learning_rate": 0.001,
        "training.momentum": 0.5,
        "training.batch": 2,
    }
    assert methods.card(second).title == "gentler"


def test_a_file_that_is_no_method_says_where_to_read(tmp_path: Path) -> None:
    with pytest.raises(BadPlan, match="neither METHOD nor BASE"):
        methods.load(_file(tmp_path, "empty.py", "x = 1\n"))
    with pytest.raises(BadPlan, match="no such method file"):
        methods.load(str(tmp_path / "absent.py"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("import isocenter_that_is_not_there\n", "isocenter_that_is_not_there"),
        ("METHOD = (\n", "never closed"),
        ("METHOD = 1 / 0\n", "division by zero"),
    ],
)
def test_a_file_that_fails_is_the_users_fault_and_says_why(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(BadPlan, match=said):
        methods.load(_file(tmp_path, "broken.py", text))


def test_a_faulty_card_is_told_before_anything_is_learnt(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text('CARD = {"title": str(1)}\nBASE = "segmentation/nnunet"\n')
    with pytest.raises(BadPlan, match="CARD must be a plain literal"):
        methods.load(str(path))


def test_a_card_that_is_no_literal_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadPlan, match="CARD must be a plain literal"):
        methods.card(_file(tmp_path, "clever.py", "CARD = {'title': str(1)}\n"))


def test_every_task_with_methods_has_one_that_is_taken_by_default() -> None:
    known = methods.catalogue()
    assert {key.split("/")[0] for key in known} == methods.DEFAULTS.keys()
    assert all(methods.default(task) in known for task in methods.DEFAULTS)
    with pytest.raises(BadPlan, match="no method answers 'dowsing'"):
        methods.default("dowsing")
