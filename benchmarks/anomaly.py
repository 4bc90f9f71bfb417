"""Find the abnormal after learning from the healthy, beside intensities alone, over several seeds.

`python benchmarks/anomaly.py heads 3m --methods ae,vae,anogan`. Each method is trained on fold 0 for the
budget with each seed. `anomaly/intensity` learns nothing by gradient and is judged on the same cases; so is
the plain mean of each image's values, taken in whichever direction ranks better, which flatters it. Where a
set has regions of the anatomy, each of them is judged, with its spread over seeds.

| set | healthy against |
|---|---|
| `heads` | generated slices, against slices with lesions in the white matter |
| `pneumonia` | chest films, against pneumonia (PneumoniaMNIST, splits as given) |
| `breast` | normal and benign ultrasound, against malignant (BreastMNIST, official splits) |
| `xray` | chest films without, against with any finding (ChestX-ray14), split by patient |
| `ms` | tiles of FLAIR slices without, against with lesions, of two patients, split by patient |
"""

from __future__ import annotations

import argparse
import csv
import itertools
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import isocenter
from isocenter import images
from isocenter.images.geometry import Geometry
from isocenter.images.layouts import read_image
from isocenter.parts.metrics.curves import roc_auc
from isocenter.phantoms.heads import write_dataset
from isocenter.records import Scores
from record import record

DATA = Path(os.environ.get("ISOCENTER_DATA", Path(__file__).parents[2] / "shared" / "data"))
MEASURES = (
    "roc_auc",
    "pr_auc",
    "sensitivity",
    "specificity",
    "voxel_roc_auc",
    "voxel_pr_auc",
    "abnormal_share",
)
REGION_MEASURES = ("region_roc_auc", "region_voxel_roc_auc")
BASELINE = "anomaly/intensity"
TILE = 48
"""Pixels of 1 mm along each side of a tile of the MS images."""


def main() -> None:
    """Run the benchmark."""
    arguments = _arguments()
    out = Path(arguments.out) / f"anomaly_{arguments.dataset}_{arguments.budget}{arguments.suffix}"
    data = SETS[arguments.dataset](out)
    keys = [BASELINE, *(f"anomaly/{name}" for name in arguments.methods.split(","))]
    found: dict[str, list[Scores]] = {key: [] for key in keys}
    for seed in range(arguments.seeds):
        for key in keys:
            run = out / f"{key.split('/')[1]}_{seed}"
            wishes = {} if key == BASELINE else dict(word.split("=", 1) for word in arguments.settings)
            done = (run / "scores.json").is_file()
            scores = (
                Scores.load(run / "scores.json")
                if done
                else _trained(data, run, key, seed, wishes, arguments)
            )
            found[key].append(scores)
    figures: dict[str, Any] = {key: _over_seeds(several) for key, several in found.items()}
    figures["mean of values"] = _by_mean(data, found[BASELINE][0])
    figures["cases"] = len(found[BASELINE][0].cases)
    what = f"{arguments.dataset}, {arguments.budget}, {arguments.seeds} seeds{arguments.suffix}"
    figures["systems"] = {key: {what: _said(figures[key])} for key in keys}
    command = " ".join(["python", "benchmarks/anomaly.py", *sys.argv[1:]])
    record(f"anomaly_{arguments.dataset}_{arguments.budget}{arguments.suffix}", figures, command)


def _trained(
    data: Path, run: Path, key: str, seed: int, wishes: dict[str, Any], arguments: argparse.Namespace
) -> Scores:
    return isocenter.train(
        data, run, method=key, budget=arguments.budget, seed=seed, overrides=wishes, task="anomaly"
    )


def _over_seeds(several: list[Scores]) -> dict[str, Any]:
    """Of the whole and of each region, see `_of_label`."""
    regions = [label for label, found in several[0].summary.items() if "region_roc_auc" in found]
    whole = _of_label(several, "abnormal", MEASURES)
    return {**whole, **{name: _of_label(several, name, REGION_MEASURES) for name in regions}}


def _of_label(several: list[Scores], label: str, measures: Sequence[str]) -> dict[str, Any]:
    """Each measure's mean and spread over seeds, and the first seed's interval over patients."""
    table: dict[str, Any] = {}
    for name in measures:
        intervals = [scores.summary[label].get(name) for scores in several]
        values = [one.mean for one in intervals if one is not None and one.mean is not None]
        if values:
            first = intervals[0]
            table[name] = {
                "mean": float(np.mean(values)),
                "sd_over_seeds": float(np.std(values, ddof=1)) if len(values) > 1 else None,
                "seeds": values,
                "interval_of_the_first": None if first is None else [first.low, first.high],
            }
    return table


def _said(table: dict[str, Any]) -> str:
    parts = []
    for name in ("roc_auc", "voxel_pr_auc"):
        if name in table:
            spread = table[name]["sd_over_seeds"]
            low, high = table[name]["interval_of_the_first"]
            over = "" if spread is None else f" ± {spread:.3f}"
            limits = "" if low is None else f", first seed {low:.3f}–{high:.3f}"
            parts.append(f"{name} {table[name]['mean']:.3f}{over}{limits}")
    return "; ".join(parts)


def _by_mean(data: Path, scores: Scores) -> dict[str, Any]:
    """The ROC AUC of each image's mean value, in the better direction."""
    dataset = isocenter.open(data, task="anomaly")
    known = [case for case in scores.cases if case.evidence["truth"] is not None]
    means = [float(read_image(dataset, dataset.case(case.case)).array.mean()) for case in known]
    area = roc_auc(means, [case.evidence["truth"] for case in known]) or 0.5
    return {"roc_auc": max(area, 1 - area)}


# -------------------------------------------------------------------------------------------------- the sets


def _heads(out: Path) -> Path:
    folder = out / "data"
    return folder if folder.exists() else write_dataset(folder, 1500, seed=0)


def _ms(out: Path) -> Path:
    """Tiles of every fourth axial FLAIR slice that lie in the head, as pictures with their masks."""
    folder = out / "data"
    if (folder / "manifest.csv").exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for patient in sorted(path for path in (DATA / "ms_lesions").iterdir() if path.is_dir()):
        flair, mask = (_only(patient, word) for word in ("FLAIR", "consensus"))
        volume, lesions = images.read(flair).array[0], images.read_labels(mask).array[0]
        for z, y, x in itertools.product(*(range(0, size - TILE + 1, step) for size, step in _steps(volume))):
            tile = (z, slice(y, y + TILE), slice(x, x + TILE))
            if (volume[tile] > 0).mean() < 0.8:
                continue
            name = f"{patient.name}_{z:03d}_{y:03d}_{x:03d}"
            for kind, plane in (("image", volume[tile]), ("mask", (lesions[tile] > 0).astype(np.uint8))):
                images.write(plane[None], folder / f"{name}_{kind}.tif", Geometry.plain(plane.shape))
            rows.append([name, f"{name}_image.tif", f"{name}_mask.tif", patient.name])
    with (folder / "manifest.csv").open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([["id", "image", "label", "patient"], *rows])
    return folder


def _steps(volume: np.ndarray) -> tuple[tuple[int, int], ...]:
    """How far each axis goes, and in which steps; slices need no room for a tile."""
    return (volume.shape[0] + TILE - 1, 4), (volume.shape[1], TILE // 2), (volume.shape[2], TILE // 2)


def _only(folder: Path, word: str) -> str:
    return next(str(path) for path in sorted(folder.iterdir()) if word.lower() in path.name.lower())


SETS: dict[str, Callable[[Path], Path]] = {
    "heads": _heads,
    "pneumonia": lambda out: DATA / "medmnist" / "pneumoniamnist.npz",
    "breast": lambda out: DATA / "medmnist" / "BreastMNIST.npz",
    "xray": lambda out: DATA / "xray_nih64",
    "ms": _ms,
}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", choices=tuple(SETS))
    parser.add_argument("budget")
    parser.add_argument("--methods", default="ae,vae,anogan")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--set", dest="settings", action="append", default=[])
    parser.add_argument("--suffix", default="", help="Added to the result's name, for changed settings.")
    parser.add_argument("--out", default="runs")
    return parser.parse_args()


if __name__ == "__main__":
    main()
