"""Learn to make images of each class, and ask a classifier of real images what it sees in them.

`python benchmarks/generation.py breast 45m`. Both models learn from the same official training images; the
classifier's accuracy on real held-out images stands beside its accuracy on made ones. The clock of the
generative model starts with its command and stops when the weights are written.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from record import record

DATA = Path(os.environ.get("ISOCENTER_DATA", Path(__file__).parents[2] / "shared" / "data"))
DATASETS = {"breast": "medmnist/BreastMNIST.npz", "pneumonia": "medmnist/pneumoniamnist.npz"}
MEASURES = ("kernel_distance", "frechet", "frechet_real", "precision", "recall", "authenticity", "copies")


def main() -> None:
    """Run the benchmark."""
    arguments = _arguments()
    data = str(DATA / DATASETS[arguments.dataset])
    system = arguments.method.split("/")[-1] + arguments.suffix
    name = f"generation_{arguments.dataset}_{arguments.budget}_{system}"
    run, seer = Path(arguments.out) / name, Path(arguments.out) / f"{arguments.dataset}_seer"
    if not (seer / "scores.json").is_file():
        _isocenter("train", data, "--task", "classification", "--budget", arguments.classifier, "--out", seer)
    settings = [word for setting in arguments.settings for word in ("--set", setting)]
    began = time.time()
    plan = ("--method", arguments.method, "--budget", arguments.budget, "--out", run)
    _isocenter("train", data, "--task", "generation", *plan, *settings)
    figures = _figures(run, began) | {"real": _real(seer), "made": _made(run, seer, arguments.count)}
    what = f"{arguments.dataset}, {arguments.budget}{arguments.suffix}"
    figures["systems"] = {arguments.method: {what: _headline(figures)}}
    record(name, figures, " ".join(["python", "benchmarks/generation.py", *sys.argv[1:]]))


def _isocenter(*words: object) -> None:
    subprocess.run([sys.executable, "-m", "isocenter", *map(str, words)], check=True)


def _figures(run: Path, began: float) -> dict[str, Any]:
    summary = json.loads((run / "scores.json").read_text())["summary"]["all"]
    stage = json.loads((run / "plan.json").read_text())["stages"][-1]
    weights = run / "fold_0" / "weights.safetensors"
    log = weights.with_name("log.csv").read_text().splitlines()
    return {
        "summary": {measure: summary[measure] for measure in MEASURES if measure in summary},
        "seconds_to_weights": round(weights.stat().st_mtime - began, 1),
        "steps": int(log[-1].split(",")[0]),
        "seconds_per_step": stage["training"]["seconds_per_step"],
        "features": stage["network"]["features"],
        "patch": stage["geometry"]["patch"],
    }


def _real(seer: Path) -> dict[str, Any]:
    """What the classifier makes of real held-out images."""
    summary = json.loads((seer / "scores.json").read_text())["summary"]
    measures = ("accuracy", "balanced_accuracy", "roc_auc")
    return {measure: summary["all"][measure] for measure in measures if measure in summary.get("all", {})}


def _made(run: Path, seer: Path, count: int) -> dict[str, Any]:
    """The share of made images in which the classifier sees the class asked for, with its interval."""
    import isocenter
    from isocenter.parts.metrics.statistics import mean_interval

    model, right = isocenter.load(seer), list[float]()
    classes = json.loads((run / "plan.json").read_text())["labels"]
    each = {}
    for place, name in enumerate(label["name"] for label in classes):
        folder = run / "made" / str(place)
        paths = isocenter.generate(run, folder, count=count, label=name, seed=place + 1)
        seen = [model.predict(path).answer for path in paths]
        hits = [float(answer.names[answer.scores.argmax()] == name) for answer in seen]
        each[name] = mean_interval(hits, list(range(len(hits)))).model_dump()
        right += hits
    return {"accuracy": mean_interval(right, list(range(len(right)))).model_dump(), "by_class": each}


def _headline(figures: dict[str, Any]) -> str:
    made, kernel = figures["made"]["accuracy"], figures["summary"]["kernel_distance"]
    real = figures["real"].get("accuracy", {}).get("mean")
    return (
        f"classified as asked {made['mean']:.3f} ({made['low']:.3f}–{made['high']:.3f}); real images "
        f"{real:.3f}; kernel distance {kernel['mean']:.4f}, copies {figures['summary']['copies']['mean']:.3f}"
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", choices=tuple(DATASETS))
    parser.add_argument("budget")
    parser.add_argument("--method", default="generation/ddpm")
    parser.add_argument("--classifier", default="15m", help="The classifier's own budget.")
    parser.add_argument("--count", type=int, default=200, help="Made images of each class.")
    parser.add_argument("--out", default="runs")
    parser.add_argument("--suffix", default="", help="Added to the result's name, for a changed plan.")
    parser.add_argument("--set", dest="settings", action="append", default=[])
    return parser.parse_args()


if __name__ == "__main__":
    main()
