"""Bring pairs of hippocampi together: no registration, ours, and SyN (antspyx), on the same pairs.

    python benchmarks/registration.py --run RUN [--run RUN ...] [--peer-python PATH] [--pairs 52]

Each RUN is a run of any registration method, trained on hippocampus; all must hold out the same cases in fold
0. Beside them stand the catalogue's classic methods that `--classic` names, which need no training, no
registration at all, and SyN as antspyx does it unless told otherwise (Mattes mutual information, affine
first). All fields are judged by `isocenter.tasks.registration`: labels of the moving image, which none of
them sees, where the field puts them. No landmarks are known of these images.

Seconds are those of a pair from its files to what each writes: ours the field and the warped image, SyN its
transforms. Start-up, loading of a model, a first pair and SyN's transforms made one field are left out. Both
sides have all cores, one after the other.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from record import record

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "peers"))

from measured import Clock  # noqa: E402 - found in the peers' folder

MEASURES = ("dice", "hd95", "folding", "sd_log_jacobian")
NONE, SYN = "no registration", "SyN (antspyx)"


def main() -> None:
    chosen = arguments()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        runs = [Path(run) for run in chosen.run]
        dataset, questions = held_out(runs, chosen.pairs)
        plain = [classic(key, runs[0], folder / "runs") for key in chosen.classic]
        found = {NONE: unmoved(dataset, questions, folder / "none")}
        for number, run in enumerate([*plain, *runs]):
            title = str(json.loads((run / "plan.json").read_text())["method"])
            title = f"{title}, {run.name}" if run in runs else title
            found[title] = ours(run, dataset, questions, folder / f"ours{number}")
            print(title, found[title]["seconds"], flush=True)
        if chosen.peer_python:
            found[SYN] = peer(chosen.peer_python, dataset, questions, folder / "syn")
    what = f"hippocampus, {len(questions)} held-out pairs"
    figures = {
        "pairs": len(questions),
        "methods": found,
        "systems": systems(found, what),
    }
    record(chosen.name, figures, " ".join(["python benchmarks/registration.py", *sys.argv[1:]]))


def held_out(runs: Sequence[Path], pairs: int | None) -> tuple[Any, tuple[Any, ...]]:
    """The dataset, and the questions of fold 0 that all runs hold out."""
    from isocenter import tasks
    from isocenter.pipeline.run import Run

    plans = [Run(run).plan for run in runs]
    if any(plan.folds[0].test != plans[0].folds[0].test for plan in plans):
        raise SystemExit("the runs do not hold out the same cases in fold 0")
    dataset = Run(runs[0]).dataset
    return dataset, tasks.load("registration").questions(dataset, plans[0].folds[0].test)[:pairs]


def classic(key: str, like: Path, folder: Path) -> Path:
    """A run of a method that learns nothing, on the dataset of another run."""
    from isocenter import plan
    from isocenter.pipeline import checkpoint
    from isocenter.pipeline.run import WEIGHTS, Run

    dataset, out = Run(like).dataset, folder / key.replace("/", "_")
    made = plan(dataset, method=key, budget="1 epochs", device="cpu")
    out.mkdir(parents=True)
    dataset.save(out / "dataset.json")
    made.save(out / "plan.json")
    (out / "fold_0").mkdir()
    checkpoint.save(out / "fold_0" / WEIGHTS, {}, {})
    return out


def unmoved(dataset: Any, questions: Sequence[Any], folder: Path) -> dict[str, Any]:
    """Both images of each pair where their files put them."""
    from isocenter import tasks
    from isocenter.images.layouts import read_inputs

    task = tasks.load("registration")
    folder.mkdir()
    for question in questions:
        still = task.no_answer(task.read_truth(dataset, question))
        task.save(still, folder / f"{question.id}.nii.gz", read_inputs(dataset, question)["fixed"])
    return judged(dataset, questions, folder)


def ours(run: Path, dataset: Any, questions: Sequence[Any], folder: Path) -> dict[str, Any]:
    """A run's answers, timed and judged."""
    from isocenter.pipeline.predict import load

    model = load(run, device="cpu")
    folder.mkdir()

    def answer(question: Any) -> None:
        sources = {role: [str(dataset.path(file)) for file in question.inputs[role]] for role in ROLES}
        model.predict(sources).save(folder / f"{question.id}.nii.gz")

    answer(questions[0])
    clock = Clock()
    for question in questions:
        answer(question)
    clock.mark("registration")
    return {**clock.per(len(questions)), **judged(dataset, questions, folder)}


def peer(python: str, dataset: Any, questions: Sequence[Any], folder: Path) -> dict[str, Any]:
    """SyN's answers, timed in an interpreter of its own, and judged as ours."""
    folder.mkdir()
    pairs = {
        question.id: [str(dataset.path(question.inputs[role][0])) for role in ROLES] for question in questions
    }
    (folder / "pairs.json").write_text(json.dumps(pairs))
    command = [python, str(HERE / "peers" / "ants_syn.py"), str(folder / "pairs.json"), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    return {**json.loads(done.stdout.splitlines()[-1]), **judged(dataset, questions, folder)}


ROLES = ("fixed", "moving")


def judged(dataset: Any, questions: Sequence[Any], folder: Path) -> dict[str, Any]:
    """Each measure's mean by label, with its interval; a field that is missing or cannot be read ends it."""
    from isocenter.pipeline.evaluate import score_cases, write_scores

    scores = write_scores(None, "registration", score_cases(dataset, questions, folder, 0))
    if failed := [case.case for case in scores.cases if case.failure]:
        raise SystemExit(f"no field that can be judged: {failed}")
    return {
        label: {
            name: {"mean": values[name].mean, "low": values[name].low, "high": values[name].high}
            for name in MEASURES
            if name in values
        }
        for label, values in scores.summary.items()
    }


def systems(found: dict[str, dict[str, Any]], what: str) -> dict[str, dict[str, str]]:
    """By method, and by which run of it, what the table of systems says."""
    listed: dict[str, dict[str, str]] = {}
    for title, values in found.items():
        method, *run = title.split(", ")
        if "/" in method:
            listed.setdefault(method, {})[", ".join([what, *run])] = said(values)
    return listed


def said(values: dict[str, Any]) -> str:
    """The mean over labels with its interval, folding and seconds, for the table of systems."""
    words = [
        f"{name} {found['mean']:.3f} ({found['low']:.3f}–{found['high']:.3f})"
        for name, found in values["mean"].items()
        if name in ("dice", "hd95")
    ]
    folding = values["mean"]["folding"]["mean"]
    return ", ".join([*words, f"folding {folding:.3f} %", f"{values['seconds']:.2f} s a pair"])


def arguments() -> argparse.Namespace:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    options.add_argument("--run", action="append", required=True)
    options.add_argument("--classic", action="append", help="affine and deformable if not given")
    options.add_argument("--peer-python", default="peers/ants/bin/python", help="empty for no peer")
    options.add_argument("--pairs", type=int, default=None, help="the first so many; all if not given")
    options.add_argument("--name", default="registration", help="of the file in benchmarks/results")
    chosen = options.parse_args()
    chosen.classic = chosen.classic or ["registration/affine", "registration/deformable"]
    return chosen


if __name__ == "__main__":
    main()
