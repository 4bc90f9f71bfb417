"""The questions: what truth looks like, how an answer is judged, drawn and saved. No networks, no losses."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, cast

from isocenter.errors import BadPlan, suggestion

if TYPE_CHECKING:
    from isocenter.tasks.task import Task

_NOT_TASKS = (
    "__init__",
    "affine_files",
    "bag_files",
    "box_files",
    "case_files",
    "class_files",
    "count_files",
    "label_files",
    "regions",
    "single",
    "task",
)


def names() -> tuple[str, ...]:
    """The tasks that exist, listed without importing them."""
    return tuple(sorted(p.stem for p in Path(__file__).parent.glob("*.py") if p.stem not in _NOT_TASKS))


def load(name: str) -> Task:
    """Give the task of that name; only its own module is imported.

    Raises:
        BadPlan: There is no such task; the message names the nearest one.
    """
    if name not in names():
        raise BadPlan(f"there is no task '{name}'.", cure=suggestion(name, names()))
    return cast("Task", importlib.import_module(f"isocenter.tasks.{name}").TASK)
