"""A dataset of the Medical Segmentation Decathlon, as nnU-Net v2 wants to have it."""

from __future__ import annotations

import json
import os
from pathlib import Path

NUMBER, NAME = 4, "Dataset004_Hippocampus"
FOLDERS = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")


def write_raw(source: Path, out: Path) -> list[str]:
    """Link the cases of `source` under nnU-Net's names below `out`, and give their ids."""
    described = json.loads((source / "dataset.json").read_text())
    folder = out / "nnUNet_raw" / NAME
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir(parents=True)
    cases = []
    for entry in described["training"]:
        case = Path(entry["image"]).name.removesuffix(".nii.gz")
        (folder / "imagesTr" / f"{case}_0000.nii.gz").symlink_to((source / entry["image"]).resolve())
        (folder / "labelsTr" / f"{case}.nii.gz").symlink_to((source / entry["label"]).resolve())
        cases.append(case)
    content = {
        "channel_names": described["modality"],
        "labels": {name: int(value) for value, name in described["labels"].items()},
        "numTraining": len(cases),
        "file_ending": ".nii.gz",
    }
    (folder / "dataset.json").write_text(json.dumps(content))
    return cases


def environment(out: Path) -> dict[str, str]:
    """The variables that nnU-Net reads its folders from, with two processes by default."""
    return {
        **os.environ,
        "nnUNet_def_n_proc": "2",
        **{name: str(out / name) for name in FOLDERS},
    }
