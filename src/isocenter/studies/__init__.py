"""The lectures' comparisons, each a command: one file a study, whose `CARD` says what it asks."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path
from typing import TYPE_CHECKING

from isocenter.errors import BadPlan, suggestion

if TYPE_CHECKING:
    from isocenter.studies.study import Study

ROOM = Path(__file__).parent


def catalogue() -> dict[str, dict[str, str]]:
    """Every study's card by name, read from the source without importing it."""
    cards = {path.stem: _card(path) for path in sorted(ROOM.glob("*.py"))}
    return {name: card for name, card in cards.items() if card}


def load(name: str) -> Study:
    """The study of that name.

    Raises:
        BadPlan: There is none.
    """
    known = catalogue()
    if name not in known:
        raise BadPlan(f"there is no study '{name}'.", cure=suggestion(name, known))
    study: Study = importlib.import_module(f"isocenter.studies.{name}").STUDY
    return study


def _card(path: Path) -> dict[str, str]:
    """The CARD literal at the head of a study's file; empty for the files that all studies share."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == ["CARD"]:
            card: dict[str, str] = ast.literal_eval(node.value)
            return card
    return {}
