"""What every task must be."""

from __future__ import annotations

import subprocess
import sys

import pytest

from isocenter import tasks
from isocenter.errors import BadPlan


@pytest.mark.parametrize("name", tasks.names())
def test_a_task_is_called_as_its_file(name: str) -> None:
    task = tasks.load(name)
    assert task.name == name
    assert task.inputs
    assert task.rules


@pytest.mark.parametrize("name", tasks.names())
def test_an_answer_to_signals_is_called_without_their_suffix(name: str) -> None:
    assert tasks.load(name).called("in/s1.csv") == "s1"


def test_a_misspelt_task_is_told_its_neighbour() -> None:
    with pytest.raises(BadPlan, match="Did you mean 'segmentation'"):
        tasks.load("segmentatoin")


def test_listing_the_tasks_imports_nothing_heavy() -> None:
    code = (
        "import sys, isocenter.tasks as t; t.names(); print({'numpy', 'torch', 'scipy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_judging_does_not_import_torch() -> None:
    code = "import sys, isocenter.tasks as t; t.load('segmentation'); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize("name", tasks.names())
def test_no_two_measures_have_the_same_title(name: str) -> None:
    titles = [measure.title for measure in tasks.load(name).measures.values()]
    assert len(set(titles)) == len(titles)
