"""Label gestures of users who were left out, beside a logistic regression on single frames.

`python benchmarks/sequences.py 3m`: eight users of the kinematic phantom, four recordings each; every user is
left out once, and each fold is trained for the budget. The baseline sees one frame at a time, scaled as the
network's signals are, and learns from the same recordings.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression

import isocenter
from isocenter import tasks
from isocenter.images.layouts import read_image
from isocenter.phantoms.kinematics import write_dataset
from isocenter.records import Dataset, Plan
from isocenter.tasks.sequences import Said
from record import record

METHOD = "sequences/gesture_lstm"
MEASURES = ("accuracy", "edit", "segmental_f1")


def main() -> None:
    """Run the benchmark."""
    arguments = _arguments()
    out = Path(arguments.out) / f"sequences_{arguments.budget}_{arguments.direction}"
    data = out / "data"
    if not data.exists():
        write_dataset(data, arguments.users, arguments.trials, seed=0)
    run, wishes = out / "run", {"folds": "patients", "settings.direction": arguments.direction}
    scores = isocenter.train(
        data, run, method=METHOD, budget=arguments.budget, folds=None, overrides=wishes, device="auto"
    )
    plan, dataset = Plan.load(run / "plan.json"), isocenter.open(data)
    _answer_by_frames(dataset, plan, out / "logistic")
    plain = isocenter.evaluate(out / "logistic", data, out / "logistic_scores", task="sequences")
    figures = {"users": arguments.users, "recordings": len(dataset.cases)}
    figures["lstm"] = _figures(scores.summary["all"])
    figures["logistic regression on frames"] = _figures(plain.summary["all"])
    what = f"kinematic phantom, leave one of {arguments.users} users out, {arguments.direction}"
    said = {f"{what}, {arguments.budget} a fold": _said(scores.summary["all"])}
    said["logistic regression on the same frames"] = _said(plain.summary["all"])
    figures["systems"] = {METHOD: said}
    command = " ".join(["python", "benchmarks/sequences.py", *sys.argv[1:]])
    record(f"sequences_{arguments.budget}_{arguments.direction}", figures, command)


def _answer_by_frames(dataset: Dataset, plan: Plan, out: Path) -> None:
    """Every recording answered by a regression that has not seen its user."""
    task, frames = tasks.load("sequences"), {}
    for case in dataset.cases:
        image, truth = read_image(dataset, case), task.read_truth(dataset, case)
        spread = image.array.std(axis=1, keepdims=True)
        scaled = (image.array - image.array.mean(axis=1, keepdims=True)) / np.maximum(spread, 1e-6)
        frames[case.id] = (image, scaled.T, truth.words)
    for fold in plan.folds:
        learnt = [frames[name] for name in (*fold.train, *fold.validation)]
        signals = np.concatenate([scaled for _, scaled, _ in learnt])
        words = np.concatenate([words for _, _, words in learnt])
        model = LogisticRegression(max_iter=1000).fit(signals[::3], words[::3])
        for name in fold.test:
            image, scaled, _ = frames[name]
            task.save(Said(model.predict(scaled).astype(np.str_), image.geometry), out / f"{name}.csv", image)


def _figures(summary: dict[str, Any]) -> dict[str, Any]:
    return {name: summary[name].model_dump() for name in MEASURES}


def _said(summary: dict[str, Any]) -> str:
    parts = []
    for name in MEASURES[:2]:
        found = summary[name]
        parts.append(f"{name} {found.mean:.3f} ({found.low:.3f}–{found.high:.3f})")
    return ", ".join(parts)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("budget", help="Training time of each fold, for example 3m.")
    parser.add_argument("--users", type=int, default=8)
    parser.add_argument("--trials", type=int, default=4)
    parser.add_argument("--direction", choices=("both", "forward"), default="both")
    parser.add_argument("--out", default="runs")
    return parser.parse_args()


if __name__ == "__main__":
    main()
