"""Seconds to answer a case, from its file to the answer's file, against nnU-Net's prediction with export.

    python benchmarks/predict.py --run RUN --peer-python PATH [--repeats 3]

RUN is a run trained on hippocampus; both answer the held-out cases of its fold 0, on the CPU. nnU-Net's is
the 3d_fullres network that it plans for these data, with random weights: its Dice is not measured here.
Start-up, imports, loading of the model and a first case are left out on both sides. Each predicts with and
without mirroring; the headline compares what each does unless told otherwise. Dice is that of the answers
that were timed.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from record import record

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "peers"))

from measured import Clock  # noqa: E402 - found in the peers' folder
from nnunet_layout import FOLDERS, NUMBER, environment, write_raw  # noqa: E402

DATA = Path(os.environ.get("ISOCENTER_DATA", HERE.parents[1] / "shared" / "data"))
MIRRORED = {"as_planned": None, "without_mirroring": False, "with_mirroring": True}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    options.add_argument("--run", type=Path, required=True)
    options.add_argument("--peer-python", default="peers/bin/python")
    options.add_argument("--repeats", type=int, default=3)
    options.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    chosen = options.parse_args()
    if chosen.child:
        print(json.dumps(child(chosen.run, chosen.child)))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cases = held_out(chosen.run)
        write_raw(DATA / "hippocampus", folder)
        for part in FOLDERS[1:]:
            (folder / part).mkdir()
        theirs, ours = [], []
        for repeat in range(chosen.repeats):
            script = [str(HERE / "peers" / "nnunet_predict.py"), str(NUMBER), str(folder / f"theirs{repeat}")]
            theirs.append(run([chosen.peer_python, *script, *cases], environment(folder)))
            out = folder / f"ours{repeat}"
            own = [sys.executable, __file__, "--run", str(chosen.run), "--child", str(out)]
            ours.append(run(own, dict(os.environ)))
    mine, peer = middle(ours), middle(theirs)
    figures = {
        "cases": len(cases),
        "run": chosen.run.name,
        "ours": mine,
        "nnunet": peer,
        "times_faster": peer["with_mirroring"]["seconds"] / mine["as_planned"]["seconds"],
        "times_faster_both_without_mirroring": ratio(peer, mine, "without_mirroring"),
        "times_faster_both_with_mirroring": ratio(peer, mine, "with_mirroring"),
    }
    record("predict", figures, " ".join(["python benchmarks/predict.py", *sys.argv[1:]]))


def held_out(folder: Path) -> list[str]:
    cases: list[str] = json.loads((folder / "plan.json").read_text())["folds"][0]["test"]
    return cases


def child(folder: Path, out: Path) -> dict[str, Any]:
    """Ours, in a process of its own."""
    from isocenter.pipeline.evaluate import score_cases, write_scores
    from isocenter.pipeline.predict import load

    model = load(folder, device="cpu")
    dataset = model.run.dataset
    cases = [dataset.case(case) for case in held_out(folder)]
    files = [[str(dataset.path(file)) for file in case.inputs["image"] if file] for case in cases]
    figures: dict[str, Any] = {"patch": model.members[0].stage.geometry.patch}
    for name, mirror in MIRRORED.items():
        paths = [out / name / f"{case.id}.nii.gz" for case in cases]
        answer(model, files[:1], paths, mirror)
        clock = Clock()
        answer(model, files, paths, mirror)
        clock.mark("prediction")
        scores = write_scores(None, dataset.task, score_cases(dataset, cases, out / name, 0))
        dice = {label: measures["dice"].mean for label, measures in scores.summary.items()}
        figures[name] = {**clock.per(len(cases)), "dice": dice}
    return figures


def answer(model: Any, files: list[list[str]], paths: list[Path], mirror: bool | None) -> None:
    """Read, predict and write, case by case."""
    for sources, path in zip(files, paths, strict=False):
        found = model.predict(sources, mirror=mirror)
        model.task.save(found.answer, path, found.image)


def ratio(peer: dict[str, Any], ours: dict[str, Any], what: str) -> float:
    return float(peer[what]["seconds"] / ours[what]["seconds"])


def middle(found: list[dict[str, Any]]) -> dict[str, Any]:
    """The repeat with the median seconds, for each way of predicting."""
    return {key: _middle([one[key] for one in found]) for key in found[0]}


def _middle(values: list[Any]) -> Any:
    if not isinstance(values[0], dict):
        return values[0]
    seconds = statistics.median_low(value["seconds"] for value in values)
    return next(value for value in values if value["seconds"] == seconds)


def run(command: list[str], environ: dict[str, str]) -> dict[str, Any]:
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environ)
    if done.returncode:
        raise SystemExit(done.stderr)
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures


if __name__ == "__main__":
    main()
