"""Restore X-rays, low-dose CT and Monte-Carlo doses within a time budget, and score the held-out cases.

`python benchmarks/restoration.py xray25 15m --method restoration/dncnn`. Data sets are damaged once, with
seed 0: `xray15` and `xray25` are chest X-rays with white noise of that sd on the scale from 0 to 255,
`ldct` slices of torso phantoms at a quarter of the dose, `dose` real plans with Monte-Carlo noise at
growing numbers of particles. The clock starts with the command and stops when the weights are written.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from isocenter import images
from isocenter.images.geometry import Geometry
from isocenter.parts.damage.ct import LowDoseCT
from isocenter.parts.damage.noise import Gaussian, MonteCarlo
from isocenter.parts.damage.writing import Clean, Damage, write_dataset
from isocenter.studies.variants import PATIENTS, PIXEL_MM, torso_slices
from record import record

DATA = Path(os.environ.get("ISOCENTER_DATA", Path(__file__).parents[2] / "shared" / "data"))

DOSE_EDGE = 64
"""Voxels of a plan, halved from 128."""


def main() -> None:
    """Run the benchmark."""
    arguments = _arguments()
    out = Path(arguments.out)
    data = _written(out / arguments.dataset, *DATASETS[arguments.dataset](arguments.cases))
    name = f"{arguments.dataset}_{arguments.budget}_{arguments.method.split('/')[-1]}{arguments.suffix}"
    run = out / name
    command = [sys.executable, "-m", "isocenter", "train", str(data), "--out", str(run), "--folds", "0"]
    command += ["--budget", arguments.budget, "--method", arguments.method]
    command += [word for setting in arguments.settings for word in ("--set", setting)]
    began = time.time()
    subprocess.run(command, check=True)
    figures = _figures(run, began)
    what = f"{arguments.dataset}, {arguments.budget}, {figures['cases']} held-out cases{arguments.suffix}"
    figures["systems"] = {arguments.method: {what: _headline(figures["summary"])}}
    record(f"restoration_{name}", figures, " ".join(["python", "benchmarks/restoration.py", *sys.argv[1:]]))


def _figures(run: Path, began: float) -> dict[str, Any]:
    scores = json.loads((run / "scores.json").read_text())
    stage = json.loads((run / "plan.json").read_text())["stages"][-1]
    weights = next(run.glob("fold_*/**/weights.safetensors"))
    log = weights.parent / "log.csv"
    return {
        "summary": scores["summary"]["image"],
        "cases": len(scores["cases"]),
        "seconds_to_weights": round(weights.stat().st_mtime - began, 1),
        "steps": int(log.read_text().splitlines()[-1].split(",")[0]) if log.is_file() else 0,
        "patch": stage["geometry"]["patch"],
        "batch": stage["training"]["batch"],
        "features": (stage["network"] or {}).get("features"),
    }


def _headline(summary: dict[str, Any]) -> str:
    """The measures that a reader looks for, with their intervals; PSNR with its range."""
    said = []
    for measure, digits in (
        ("psnr", 2),
        ("psnr_gain", 2),
        ("data_range", 0),
        ("ssim", 3),
        ("gamma_pass_rate", 3),
        ("mae", 3),
        ("texture_sd", 1),
        ("target_texture_sd", 1),
    ):
        found = summary.get(measure)
        if found and found["mean"] is not None:
            mean, low, high = (found[part] for part in ("mean", "low", "high"))
            span = "" if low is None else f" ({low:.{digits}f}–{high:.{digits}f})"
            said.append(f"{measure} {mean:.{digits}f}{span}")
    return ", ".join(said)


# ---------------------------------------------------------------------------------------------- the datasets


def _written(folder: Path, damage: Damage, cases: Iterator[Clean]) -> Path:
    return folder if (folder / "damage.json").exists() else write_dataset(folder, cases, damage, seed=0)


def _xray(limit: int | None, *, sd: float) -> tuple[Damage, Iterator[Clean]]:
    return Gaussian(sd), _films(limit)


def _films(limit: int | None) -> Iterator[Clean]:
    """Chest X-rays of 64×64 in grey."""
    folder = DATA / "xray_nih64"
    with (folder / "labels.csv").open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))[:limit]
    for row in rows:
        name = next(row[key] for key in ("image", "file", "filename", "id") if key in row)
        grey = images.read(next(folder.rglob(f"{Path(name).stem}.*"))).array[0]
        yield Clean(Path(name).stem, row["patient"], grey, Geometry.plain(grey.shape))


def _ldct(limit: int | None) -> tuple[Damage, Iterator[Clean]]:
    return LowDoseCT(PIXEL_MM), torso_slices(limit or PATIENTS, seed=0)


def _dose(limit: int | None) -> tuple[Damage, Iterator[Clean]]:
    return MonteCarlo(), _plans(limit)


def _plans(limit: int | None) -> Iterator[Clean]:
    """Doses of head-and-neck plans in Gy, each voxel the mean of eight."""
    for path in sorted((DATA / "dose_openkbp").glob("*.npz"))[:limit]:
        with np.load(path, allow_pickle=False) as held:
            dose, spacing = held["dose"].astype(np.float32), held["voxel_dimensions"].astype(float).ravel()
        edge = DOSE_EDGE
        # The files hold (y, x, z) from head to feet, and the edges of voxels as x, y, z.
        dose = np.moveaxis(dose.reshape(2 * edge, 2 * edge, 2 * edge), 2, 0)[::-1]
        halved = dose.reshape(edge, 2, edge, 2, edge, 2).mean(axis=(1, 3, 5))
        grid = Geometry.plain(halved.shape, tuple(float(2 * step) for step in spacing[::-1]))
        yield Clean(path.stem, path.stem, halved.astype(np.float32), grid)


DATASETS: dict[str, Callable[[int | None], tuple[Damage, Iterator[Clean]]]] = {
    "xray15": partial(_xray, sd=15.0),
    "xray25": partial(_xray, sd=25.0),
    "ldct": _ldct,
    "dose": _dose,
}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", choices=tuple(DATASETS))
    parser.add_argument("budget")
    parser.add_argument("--method", required=True)
    parser.add_argument("--cases", type=int, help="Only so many films, phantoms or plans.")
    parser.add_argument("--out", default="runs")
    parser.add_argument("--suffix", default="", help="Added to the result's name, for a changed plan.")
    parser.add_argument("--set", dest="settings", action="append", default=[])
    return parser.parse_args()


if __name__ == "__main__":
    main()
