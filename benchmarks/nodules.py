"""Train the two-stage nodule detector on the chest phantom within a time in all, and score it and its first
stage alone on the same held-out cases.

`python benchmarks/nodules.py 30m`. The clock starts with the command. One fold is scored, but its second
stage learns from the first stage's answers to cases that this had not seen, so that the first is trained on
every fold: the budget of a fold is chosen so that all of that, and the answers, fit into the time given.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from isocenter.parts.rules.candidates import FIRST_SHARE
from isocenter.parts.rules.folds import NUMBER
from isocenter.records import Budget
from record import record
from tasks import DATASETS, headline

METHOD = "detection/nodule_two_stage"
LEARNING = 0.9
"""Share of the time for learning; the rest answers every case once with the first stage."""
MEASURES = ("cpm", "cpm_centre", "ap10", "map", "froc_0.125", "froc_1", "froc_8")


def main() -> None:
    """Run the benchmark."""
    arguments = _arguments()
    total = Budget.read(arguments.time).seconds
    if total is None:
        raise SystemExit("give a time, such as 30m")
    own = LEARNING * total / (NUMBER * FIRST_SHARE + 1 - FIRST_SHARE)
    out = Path(arguments.out)
    run = out / f"nodules_{arguments.time}_two_stage{arguments.suffix}"
    task, place = DATASETS["nodules"]
    data = place(out)
    command = [sys.executable, "-m", "isocenter", "train", str(data), "--out", str(run), "--task", task]
    command += ["--method", METHOD, "--budget", f"{own:.0f}s", "--folds", "0"]
    command += [word for setting in arguments.settings for word in ("--set", setting)]
    began = time.time()
    subprocess.run(command, check=True)
    figures = _figures(run, began) | {"budget_of_a_fold_seconds": round(own)}
    both = figures["stages"]["reduction"]
    what = f"chest phantom, {arguments.time} in all, {figures['cases']} held-out cases{arguments.suffix}"
    alone = figures["stages"]["candidates"]["cpm"]["mean"]
    said = f"{headline({'nodule': both})}; its first stage alone: cpm {alone:.3f}"
    figures["systems"] = {METHOD: {what: said}}
    record(run.name, figures, " ".join(["python", "benchmarks/nodules.py", *sys.argv[1:]]))


def _figures(run: Path, began: float) -> dict[str, Any]:
    """Both stages' measures, the time in all, and what was planned and tuned."""
    plan = json.loads((run / "plan.json").read_text())
    names = [stage["name"] for stage in plan["stages"]]
    scores = {name: json.loads((run / "fold_0" / name / "scores.json").read_text()) for name in names}
    return {
        "stages": {
            name: {measure: scores[name]["summary"]["nodule"][measure] for measure in MEASURES}
            for name in names
        },
        "cases": len(scores[names[-1]]["cases"]),
        "seconds_in_all": round(time.time() - began, 1),
        "tuned": {name: json.loads((run / "fold_0" / name / "tuned.json").read_text()) for name in names},
        "steps": {name: _steps(run / "fold_0" / name / "log.csv") for name in names},
        "features": {stage["name"]: stage["network"]["features"] for stage in plan["stages"]},
        "batch": {stage["name"]: stage["training"]["batch"] for stage in plan["stages"]},
    }


def _steps(log: Path) -> int:
    if not log.is_file():  # not one step fitted into the budget
        return 0
    return int(log.read_text().splitlines()[-1].split(",")[0])


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("time")
    parser.add_argument("--out", default="runs")
    parser.add_argument("--suffix", default="", help="Added to the result's name, for a changed plan.")
    parser.add_argument("--set", dest="settings", action="append", default=[])
    return parser.parse_args()


if __name__ == "__main__":
    main()
