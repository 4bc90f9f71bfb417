"""Train a classifier within a time budget, from several seeds, and score the held-out cases.

`python benchmarks/classification.py breastmnist 10m` learns BreastMNIST's official training images, chooses
on its validation images and is scored on its 156 test images, three times. `nih 10m` tells normal chest films
from all others in 64 × 64 pixels; no patient is both learnt from and scored. The clock starts with training.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import mean
from typing import Any

from record import record

DATA = Path(os.environ.get("ISOCENTER_DATA", Path(__file__).parents[2] / "shared" / "data"))
MEASURES = ("roc_auc", "accuracy", "f1", "mcc", "balanced_accuracy", "brier", "ece")


def main() -> None:
    """Run the benchmark."""
    arguments = _arguments()
    out = Path(arguments.out)
    data, label = _breastmnist() if arguments.dataset == "breastmnist" else _nih(out)
    name = (
        f"classify_{arguments.dataset}_{arguments.budget.replace(' ', '')}_{arguments.method.split('/')[-1]}"
    )
    runs = [_trained(data, out / f"{name}_seed{seed}", seed, arguments) for seed in range(arguments.seeds)]
    each = [_measured(run, label) for run in runs]
    figures: dict[str, Any] = {"class": label, "seeds": each}
    figures["mean"] = {measure: round(mean(one[measure]["mean"] for one in each), 4) for measure in MEASURES}
    cases = f"{each[0]['cases']} held-out images, mean of {len(each)} seeds"
    what = f"{arguments.dataset}, {arguments.budget}, {cases}"
    figures["systems"] = {arguments.method: {what: _said(figures["mean"], each[0])}}
    record(name, figures, " ".join(["python", "benchmarks/classification.py", *sys.argv[1:]]))


def _trained(data: Path, run: Path, seed: int, arguments: argparse.Namespace) -> Path:
    command = [sys.executable, "-m", "isocenter", "train", str(data), "--out", str(run), "--seed", str(seed)]
    command += ["--task", "classification", "--budget", arguments.budget, "--method", arguments.method]
    command += ["--folds", arguments.folds]
    command += [word for setting in arguments.settings for word in ("--set", setting)]
    subprocess.run(command, check=True)
    return run


def _measured(run: Path, label: str) -> dict[str, Any]:
    """The measures of one class, accuracy over all, and what the plan made of the budget."""
    scores = json.loads((run / "scores.json").read_text())
    stage = json.loads((run / "plan.json").read_text())["stages"][-1]
    logs = sorted(run.glob("fold_*/**/log.csv"))
    found = {measure: scores["summary"][label].get(measure) for measure in MEASURES}
    return {
        **{measure: value for measure, value in found.items() if value},
        "accuracy": scores["summary"]["all"]["accuracy"],
        "cases": len(scores["cases"]),
        "patients": len({case["patient"] for case in scores["cases"]}),
        "steps": [int(log.read_text().splitlines()[-1].split(",")[0]) for log in logs],
        "features": stage["network"]["features"],
        "convolutions": stage["network"]["convolutions"],
    }


def _said(means: dict[str, float], first: dict[str, Any]) -> str:
    parts = []
    for measure in ("roc_auc", "accuracy", "mcc"):
        low, high = first[measure]["low"], first[measure]["high"]
        parts.append(f"{measure} {means[measure]:.3f} (first seed {low:.3f}–{high:.3f})")
    return ", ".join(parts)


# ---------------------------------------------------------------------------------------------- the datasets


def _breastmnist() -> tuple[Path, str]:
    return DATA / "medmnist" / "BreastMNIST.npz", "malignant"


def _nih(out: Path) -> tuple[Path, str]:
    """Normal films, and all others, as a manifest with patients."""
    folder = out / "nih_normal"
    folder.mkdir(parents=True, exist_ok=True)
    source = DATA / "xray_nih64"
    with (source / "labels.csv").open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    with (folder / "manifest.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["image", "label", "patient"])
        for row in rows:
            label = "normal" if row["findings"] == "No Finding" else "abnormal"
            writer.writerow([(source / row["image"]).resolve(), label, row["patient"]])
    return folder / "manifest.csv", "abnormal"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", choices=("breastmnist", "nih"))
    parser.add_argument("budget")
    parser.add_argument("--method", default="classification/chexnet")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--folds", default="0", help="Of the chest films; BreastMNIST has one.")
    parser.add_argument("--out", default="runs")
    parser.add_argument("--set", dest="settings", action="append", default=[])
    return parser.parse_args()


if __name__ == "__main__":
    main()
