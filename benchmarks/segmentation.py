"""Train on a dataset within a time budget and score the held-out fold.

`python benchmarks/segmentation.py hippocampus 15m`; or nuclei (2D), or phantom (thick slices).
The clock starts with the command, before anything is measured or planned, and stops when the weights are
written. With `--against RUN` the same cases are compared one by one with an earlier run (Wilcoxon's
signed-rank test).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from record import record

DATA = Path(os.environ.get("ISOCENTER_DATA", Path(__file__).parents[2] / "shared" / "data"))


def main() -> None:
    """Run the benchmark."""
    arguments = _arguments()
    method = arguments.method.split("/")[-1]
    run = Path(arguments.out) / f"{arguments.dataset}_{arguments.budget}_{method}{arguments.suffix}"
    data = _dataset(arguments.dataset, Path(arguments.out))
    command = [sys.executable, "-m", "isocenter", "train", str(data), "--out", str(run)]
    command += ["--budget", arguments.budget, "--method", arguments.method, "--folds", arguments.folds]
    command += ["--on", arguments.on]
    command += [word for setting in arguments.settings for word in ("--set", setting)]
    began = time.time()
    subprocess.run(command, check=True)
    figures = _figures(run, began)
    if arguments.against:
        figures["against"] = _paired(run, Path(arguments.against))
    labels = [label for label in figures["dice"] if label != "mean"]
    text = " / ".join(f"{100 * figures['dice'][label]['mean']:.2f}" for label in labels)
    machine = json.loads((run / "plan.json").read_text())["machine"]
    where = "" if machine["device"] == "cpu" else f" on one {machine['name']}"
    terms = f"folds {arguments.folds}, {arguments.budget} a fold{where}{arguments.suffix}"
    what = f"{arguments.dataset} Dice ({', '.join(labels)}), {terms}"
    figures["systems"] = {arguments.method: {what: text}}
    record(run.name, figures, " ".join(["python", "benchmarks/segmentation.py", *sys.argv[1:]]))


def _dataset(name: str, out: Path) -> Path:
    """Where a dataset lies; the phantom is generated."""
    if name != "phantom":
        return DATA / {"hippocampus": "hippocampus", "nuclei": "nuclei_dsb2018"}[name]
    from isocenter.phantoms.organs import write_dataset

    folder = out / "phantom"
    return folder if folder.exists() else write_dataset(folder, cases=60, seed=0, kind="anisotropic")


def _figures(run: Path, began: float) -> dict[str, Any]:
    scores = json.loads((run / "scores.json").read_text())
    plan = json.loads((run / "plan.json").read_text())
    stage = plan["stages"][0]
    weights = sorted(run.glob("fold_*/**/weights.safetensors"))
    logs = [path.with_name("log.csv").read_text().splitlines() for path in weights]
    return {
        "dice": {label: measures["dice"] for label, measures in scores["summary"].items()},
        "hd95_mm": {label: measures["hd95"]["mean"] for label, measures in scores["summary"].items()},
        "cases": len(scores["cases"]),
        "seconds_to_weights": round(max(path.stat().st_mtime for path in weights) - began, 1),
        "steps": [int(rows[-1].split(",")[0]) for rows in logs],
        "seconds_per_step_planned": stage["training"]["seconds_per_step"],
        "features": stage["network"]["features"],
        "patch": stage["geometry"]["patch"],
        "batch": stage["training"]["batch"],
    }


def _paired(run: Path, other: Path) -> dict[str, Any]:
    """Mean difference over the cases and the probability that it is chance."""
    from scipy.stats import wilcoxon

    mine, theirs = (_by_case(folder) for folder in (run, other))
    shared = sorted(set(mine) & set(theirs))
    differences = [mine[case] - theirs[case] for case in shared]
    return {
        "run": other.name,
        "cases": len(shared),
        "mean_difference": statistics.mean(differences),
        "p_wilcoxon": float(wilcoxon(differences).pvalue),
    }


def _by_case(run: Path) -> dict[str, float]:
    rows = json.loads((run / "scores.json").read_text())["cases"]
    return {row["case"]: statistics.mean(m["dice"] or 0.0 for m in row["values"].values()) for row in rows}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", choices=("hippocampus", "nuclei", "phantom"))
    parser.add_argument("budget")
    parser.add_argument("--method", default="segmentation/nnunet")
    parser.add_argument("--folds", default="0")
    parser.add_argument("--on", default="local", help="`processes` learns several folds at once.")
    parser.add_argument("--out", default="runs")
    parser.add_argument("--against")
    parser.add_argument("--suffix", default="", help="Added to the result's name, for a changed plan.")
    parser.add_argument("--set", dest="settings", action="append", default=[])
    return parser.parse_args()


if __name__ == "__main__":
    main()
