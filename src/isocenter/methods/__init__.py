"""The catalogue: each file below is one published way to answer a task's question; its path is its key."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from isocenter.errors import BadPlan, IsocenterError, suggestion

if TYPE_CHECKING:
    from isocenter.methods.method import Method
    from isocenter.records import Card

ROOM = Path(__file__).parent

DEFAULTS = {
    "anomaly": "anomaly/ae",
    "classification": "classification/chexnet",
    "counting": "counting/density",
    "detection": "detection/retinanet",
    "generation": "generation/ddpm",
    "instances": "instances/border_unet",
    "localisation": "localisation/box_regression",
    "mil": "mil/abmil",
    "registration": "registration/voxelmorph",
    "restoration": "restoration/dncnn",
    "segmentation": "segmentation/nnunet",
    "sequences": "sequences/gesture_lstm",
}
"""The method that answers a task where the user names none."""


def default(task: str) -> str:
    """The method that answers a task where the user names none.

    Raises:
        BadPlan: No method of the catalogue answers it.
    """
    if task not in DEFAULTS:
        raise BadPlan(f"no method answers '{task}' yet.", cure=f"Known: {', '.join(DEFAULTS)}.")
    return DEFAULTS[task]


def catalogue(task: str | None = None) -> dict[str, dict[str, object]]:
    """Every method's card by key, read from the source without importing it."""
    found = {}
    for path in sorted(ROOM.glob("*/*.py")):
        if path.stem == "__init__" or (task is not None and path.parent.name != task):
            continue
        found[f"{path.parent.name}/{path.stem}"] = _literal(path)
    return found


def card(key: str) -> Card:
    """The card of a method by its key or of a user's own method file."""
    from isocenter.records import Card

    return Card.parse(_literal(_path(key)), where=key)


def load(key: str) -> type[Method]:
    """The class of a method, by key (`segmentation/nnunet`) or by the path of a user's own file.

    A file says `METHOD = TheClass`; or `BASE = "task/other"` and `CHANGES = {"training.batch": 4}` for a
    variant that differs from another method only in its plan.

    Raises:
        BadPlan: There is no such method, or its file does not say what it is.
    """
    module = _module(key)
    if hasattr(module, "METHOD"):
        return module.METHOD  # type: ignore[no-any-return]
    if hasattr(module, "BASE"):
        return load(module.BASE)
    raise BadPlan("the file names neither METHOD nor BASE.", where=key, cure="See docs/adding-a-method.md.")


def changes(key: str) -> dict[str, object]:
    """What a variant changes in the plan: its file's CHANGES, over those of its BASE."""
    module = _module(key)
    base = changes(module.BASE) if hasattr(module, "BASE") else {}
    return {**base, **getattr(module, "CHANGES", {})}


def task_of(key: str) -> str:
    """The task that a method answers: its folder, or TASK in a user's own file."""
    if key.endswith(".py"):
        module = _module(key)
        return (
            task_of(module.BASE) if hasattr(module, "BASE") else str(getattr(module, "TASK", "segmentation"))
        )
    return key.split("/", maxsplit=1)[0]


def _path(key: str) -> Path:
    if key.endswith(".py"):
        path = Path(key).expanduser()
        if not path.is_file():
            raise BadPlan("there is no such method file.", where=key)
        return path
    known = set(_keys())
    if key not in known:
        raise BadPlan(f"there is no method '{key}'.", cure=suggestion(key, known))
    return ROOM / f"{key}.py"


def _keys() -> Iterator[str]:
    return (f"{path.parent.name}/{path.stem}" for path in ROOM.glob("*/*.py") if path.stem != "__init__")


def _module(key: str) -> ModuleType:
    path = _path(key)
    if path.is_relative_to(ROOM):
        return importlib.import_module(f"isocenter.methods.{key.replace('/', '.')}")
    name = f"isocenter_user_method_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise BadPlan("this file cannot be imported.", where=path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except IsocenterError:
        raise
    except Exception as error:
        what = f"the method file fails ({type(error).__name__}: {error})."
        raise BadPlan(what, where=path, cure="Mend the file.") from error
    card(key)  # a report asks for it in the end: what is wrong with it is said before anything is learnt
    return module


def _literal(path: Path) -> dict[str, object]:
    """The CARD literal at the head of a method's file."""
    try:
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == ["CARD"]:
                literal: dict[str, object] = ast.literal_eval(node.value)
                return literal
    except (SyntaxError, ValueError) as error:
        raise BadPlan("CARD must be a plain literal.", where=path, cure=f"Mend it: {error}.") from error
    return {"title": path.stem, "reference": "", "row": "", "summary": ""}
