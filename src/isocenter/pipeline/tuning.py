"""What a method tunes after training, on cases that are not scored, and keeps beside its weights."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from pydantic import JsonValue

from isocenter import files
from isocenter.errors import BadModel
from isocenter.images.layouts import read_inputs
from isocenter.methods.method import Trial
from isocenter.records import Case, Dataset

if TYPE_CHECKING:
    from isocenter.pipeline.predict import Model

FILE = "tuned.json"


def tune(model: Model, dataset: Dataset, cases: Sequence[str], folder: Path) -> dict[str, JsonValue]:
    """Let a trained stage's method tune itself on some cases' truths, and write down what it decided.

    Args:
        model: The stage of one fold.
        dataset: Whose truths are read.
        cases: Never those that are scored.
        folder: Where `tuned.json` goes, beside the weights.
    """
    method = model.members[0].methods[0]
    questions = model.task.questions(dataset, list(cases)[: method.tuning_cases])

    def trials() -> Iterator[Trial]:
        for question in questions:
            # Outputs too large for memory lie there until the next trial is asked for.
            with tempfile.TemporaryDirectory(prefix="isocenter-") as room:
                yield _trial(model, dataset, question, Path(room))

    decided = method.tune(trials)
    files.write_text(folder / FILE, json.dumps(decided, indent=2, allow_nan=False) + "\n")
    return decided


def _trial(model: Model, dataset: Dataset, question: Case, folder: Path) -> Trial:
    inputs = read_inputs(dataset, question, model.task.read, partial=model.task.partial)
    given = model.task.given(dataset, question)
    outputs, placement = model.outputs(list(inputs.values()), folder, given=given)
    return Trial(outputs, placement, model.task.read_truth(dataset, question))


def read(folder: Path) -> dict[str, JsonValue]:
    """What was tuned for the weights in a folder; empty where nothing was.

    Raises:
        BadModel: The file is not what `tune` writes.
    """
    path = folder / FILE
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadModel("cannot be read.", where=path, cure="Train this fold again.") from error
    if not isinstance(content, dict):
        raise BadModel("holds no tuned values.", where=path, cure="Train this fold again.")
    return content


def together(several: Sequence[dict[str, JsonValue]]) -> dict[str, JsonValue]:
    """What several folds tuned as one: the mean of numbers, and the first fold's word for all else."""
    first = several[0] if several else {}
    return {name: _mean([each.get(name) for each in several]) for name in first}


def _mean(values: Sequence[JsonValue]) -> JsonValue:
    numbers = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
    if len(numbers) != len(values) or any(isinstance(value, int) for value in values):
        return values[0]
    return float(np.mean(numbers))
