"""`isocenter evaluate` of the 200 hippocampus cases, the whole command, beside nnU-Net's evaluation.

    python benchmarks/evaluate.py --peer-python PATH [--repeats 3]

Answers are the truths moved by a voxel. Ours is timed as users run it, with start-up, all measures and
intervals; nnU-Net's function counts overlap only (Dice, IoU, counts) and is timed without start-up, in two
forked processes.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nibabel as nib
import numpy as np

from record import record

HERE = Path(__file__).parent
DATA = Path(os.environ.get("ISOCENTER_DATA", HERE.parents[1] / "shared" / "data"))
LABELS = (1, 2)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    options.add_argument("--peer-python", default="peers/bin/python")
    options.add_argument("--repeats", type=int, default=3)
    chosen = options.parse_args()
    truths = DATA / "hippocampus" / "labelsTr"
    peer = [chosen.peer_python, str(HERE / "peers" / "nnunet_evaluate.py"), str(truths)]
    with tempfile.TemporaryDirectory() as name:
        answers, out = Path(name) / "answers", Path(name) / "out"
        cases = write_answers(truths, answers)
        ours, theirs = [], []
        for _ in range(chosen.repeats):
            ours.append(ours_seconds(answers, truths, out))
            theirs.append(json.loads(run([*peer, str(answers), *map(str, LABELS)]).splitlines()[-1]))
        agreement = dice_difference(out, theirs[-1]["dice"])
    if agreement > 1e-6:
        raise SystemExit(f"mean Dice differs from nnU-Net's by {agreement}")
    figures = {
        "cases": cases,
        "seconds_with_start": statistics.median(ours),
        "nnunet_seconds_of_overlap_alone": statistics.median(one["seconds"] for one in theirs),
        "largest_difference_of_mean_dice": agreement,
    }
    record("evaluate", figures, " ".join(["python benchmarks/evaluate.py", *sys.argv[1:]]))


def write_answers(truths: Path, answers: Path) -> int:
    """Each truth moved by one voxel along its second axis; gives their number."""
    answers.mkdir()
    paths = sorted(truths.glob("*.nii.gz"))
    for path in paths:
        truth = nib.load(path)
        moved = np.roll(np.asarray(truth.dataobj, dtype=np.uint8), 1, axis=1)
        nib.save(nib.Nifti1Image(moved, truth.affine), answers / path.name)
    return len(paths)


def ours_seconds(answers: Path, truths: Path, out: Path) -> float:
    began = time.perf_counter()
    run([sys.executable, "-m", "isocenter", "evaluate", str(answers), str(truths), "--out", str(out)])
    return time.perf_counter() - began


def dice_difference(out: Path, theirs: dict[str, float]) -> float:
    """The largest difference between the mean Dice of a label in ours and in nnU-Net's summary."""
    summary = json.loads((out / "scores.json").read_text())["summary"]
    ours = [measures["dice"]["mean"] for label, measures in summary.items() if label != "mean"]
    return max(abs(mine - theirs[str(label)]) for mine, label in zip(ours, LABELS, strict=True))


def run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    return done.stdout


if __name__ == "__main__":
    main()
