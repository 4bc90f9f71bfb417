"""Train a method of any task within a time budget and score the held-out cases.

`python benchmarks/tasks.py nuclei_instances 15m --method instances/border_unet`. The clock starts with the
command, before anything is measured or planned, and stops when the weights are written.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray
from scipy import ndimage

from isocenter import images
from record import record

DATA = Path(os.environ.get("ISOCENTER_DATA", Path(__file__).parents[2] / "shared" / "data"))


def main() -> None:
    """Run the benchmark."""
    arguments = _arguments()
    task, place = DATASETS[arguments.dataset]
    name = f"{arguments.dataset}_{arguments.budget}_{arguments.method.split('/')[-1]}{arguments.suffix}"
    run = Path(arguments.out) / name
    command = [sys.executable, "-m", "isocenter", "train", str(place(Path(arguments.out))), "--out", str(run)]
    command += ["--task", task, "--budget", arguments.budget, "--method", arguments.method]
    command += ["--folds", arguments.folds]
    command += [word for setting in arguments.settings for word in ("--set", setting)]
    began = time.time()
    subprocess.run(command, check=True)
    figures = _figures(run, began)
    what = f"{arguments.dataset}, {arguments.budget}, {figures['cases']} held-out cases{arguments.suffix}"
    figures["systems"] = {arguments.method: {what: headline(figures["summary"])}}
    record(name, figures, " ".join(["python", "benchmarks/tasks.py", *sys.argv[1:]]))


def _figures(run: Path, began: float) -> dict[str, Any]:
    scores = json.loads((run / "scores.json").read_text())
    stage = json.loads((run / "plan.json").read_text())["stages"][-1]
    weights = sorted(run.glob("fold_*/**/weights.safetensors"))
    log = weights[0].parent / "log.csv"
    return {
        "summary": scores["summary"],
        "cases": len(scores["cases"]),
        "seconds_to_weights": round(max(path.stat().st_mtime for path in weights) - began, 1),
        "steps": int(log.read_text().splitlines()[-1].split(",")[0]) if log.is_file() else 0,
        "patch": stage["geometry"]["patch"],
        "batch": stage["training"]["batch"],
        "features": (stage["network"] or {}).get("features"),
    }


def headline(summary: dict[str, dict[str, Any]]) -> str:
    """The first label's measures that a reader looks for, with their intervals."""
    wanted = (
        "ap50",
        "aji",
        "panoptic_quality",
        "cpm",
        "map",
        "mae",
        "iou",
        "wall_distance",
        "dice",
        "folding",
    )
    label = "mean" if "mean" in summary else next(iter(summary))
    said = []
    for measure in wanted:
        found = summary[label].get(measure)
        if found and found["mean"] is not None:
            low, high = found["low"], found["high"]
            said.append(
                f"{measure} {found['mean']:.3f}" + (f" ({low:.3f}–{high:.3f})" if low is not None else "")
            )
    return ", ".join(said)


# ---------------------------------------------------------------------------------------------- the datasets


def _cells(out: Path) -> Path:
    """The VGG cells with 50 training images, and all others held out."""
    folder = out / "cells_50"
    folder.mkdir(parents=True, exist_ok=True)
    images = sorted((DATA / "cells_vgg").glob("*cell.png"))
    with (folder / "manifest.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["id", "image", "label", "split"])
        for place, image in enumerate(images):
            dots = image.with_name(image.name.replace("cell", "dots"))
            split = "train" if place < 50 else "validation"
            writer.writerow([image.stem, image.resolve(), dots.resolve(), split])
    return folder / "manifest.csv"


def _chest(out: Path) -> Path:
    from isocenter.phantoms.chest import write_dataset

    folder = out / "chest"
    return folder if folder.exists() else write_dataset(folder, cases=60, seed=0)


def _torso(out: Path, *, slices: bool = False) -> Path:
    from isocenter.phantoms.torso import write_dataset

    folder = out / ("torso_slices" if slices else "torso")
    return folder if folder.exists() else write_dataset(folder, cases=63, seed=0, slices=slices)


ORGANS = ("spleen", "kidney_right", "kidney_left", "gallbladder", "liver", "stomach", "pancreas")
"""The first values of TotalSegmentator's label images, in CT and in MR."""


def _organs(out: Path) -> Path:
    """Abdominal organs of a CT and of a crop of it, and the MR of another patient, which is held out.

    Each label is its largest piece, so that an organ is one box. Nobody learns organs from one patient, nor
    MR from CT: this shows that a method runs, not how good it is.
    """
    from isocenter.phantoms.storing import write_nifti, write_table

    folder, rows = out / "organs_ct", list[tuple[object, ...]]()
    (folder / "labels").mkdir(parents=True, exist_ok=True)
    for name, image, label, split in (
        ("ct_whole", "example_ct", "example_seg_fast_force_split", "train"),
        ("ct_crop", "example_ct_sm", "example_seg", "train"),
        ("mr", "example_mr_sm", "example_seg_mr", "validation"),
    ):
        paths = [DATA / "organs_ct" / f"{file}.nii.gz" for file in (image, label)]
        values = images.read(str(paths[1]))
        mask = _largest_pieces(values.array[0])
        write_nifti(folder / "labels" / f"{name}.nii.gz", mask, values.geometry.affine)
        rows.append((name, paths[0].resolve(), f"labels/{name}.nii.gz", name.split("_")[0], split))
    write_table(folder / "cases.csv", ("id", "image", "label", "patient", "split"), rows)
    labels = {"background": 0, **{organ: value for value, organ in enumerate(ORGANS, start=1)}}
    said = {"name": "organs_ct", "channels": ["CT"], "labels": labels}
    (folder / "isocenter.json").write_text(json.dumps(said), encoding="utf-8")
    return folder


def _largest_pieces(values: NDArray[Any]) -> NDArray[np.uint8]:
    kept = np.zeros(values.shape, np.uint8)
    for value in range(1, len(ORGANS) + 1):
        pieces, count = ndimage.label(values == value)
        if count:
            kept[pieces == 1 + np.bincount(pieces.ravel())[1:].argmax()] = value
    return kept


def _nuclei(out: Path, *, dims: int) -> Path:
    """StarDist's test image in tiles, of which the last column is held out: all nuclei are of one image."""
    from isocenter.phantoms.storing import write_nifti, write_table

    folder, rows = out / f"nuclei_stardist_{dims}d", list[tuple[object, ...]]()
    whole = {
        kind: tifffile.imread(DATA / "nuclei_stardist" / f"{file}{dims}d.tif")
        for kind, file in (("image", "img"), ("label", "mask"))
    }
    across = TILES[dims]
    for row, column in itertools.product(*map(range, across)):
        name, files = f"tile_{row}_{column}", list[str]()
        for kind, array in whole.items():
            part = np.array_split(np.array_split(array, across[0], -2)[row], across[1], -1)[column]
            files.append(f"{kind}s/{name}.nii.gz")
            (folder / f"{kind}s").mkdir(parents=True, exist_ok=True)
            write_nifti(folder / files[-1], part, np.eye(4))
        rows.append((name, *files, "validation" if column == across[1] - 1 else "train"))
    write_table(folder / "cases.csv", ("id", "image", "label", "split"), rows)
    return folder / "cases.csv"


TILES = {2: (4, 4), 3: (2, 3)}
"""Of nuclei, rows and columns by the number of axes."""


def _shared(name: str) -> Callable[[Path], Path]:
    return lambda out: DATA / name


DATASETS: dict[str, tuple[str, Callable[[Path], Path]]] = {
    "nuclei_instances": ("instances", _shared("nuclei_dsb2018")),
    "nuclei_stardist_2d": ("instances", partial(_nuclei, dims=2)),
    "nuclei_stardist_3d": ("instances", partial(_nuclei, dims=3)),
    "nuclei_boxes": ("detection", _shared("nuclei_dsb2018")),
    "cells_50": ("counting", _cells),
    "nodules": ("detection", _chest),
    "organ_boxes": ("detection", _organs),
    "organ_places": ("localisation", _organs),
    "organs": ("localisation", _torso),
    "l3_slice": ("localisation", partial(_torso, slices=True)),
    "hippocampus": ("segmentation", _shared("hippocampus")),
    "hippocampus_pairs": ("registration", _shared("hippocampus")),
}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", choices=tuple(DATASETS))
    parser.add_argument("budget")
    parser.add_argument("--method", required=True)
    parser.add_argument("--folds", default="0")
    parser.add_argument("--out", default="runs")
    parser.add_argument("--suffix", default="", help="Added to the result's name, for a changed plan.")
    parser.add_argument("--set", dest="settings", action="append", default=[])
    return parser.parse_args()


if __name__ == "__main__":
    main()
