"""Run a study and record its points: `OMP_NUM_THREADS=1 python benchmarks/studies.py sample_size 15m`.

Every point has the budget from before anything is measured to its weights; a study that was interrupted goes
on where it stopped.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from isocenter import studies
from isocenter.records import Interval
from isocenter.studies.findings import Findings, Spread
from record import record

DATA = Path(os.environ.get("ISOCENTER_DATA", Path(__file__).parents[2] / "shared" / "data"))


def main() -> None:
    """Run the study, which is given all further options, and record its points."""
    arguments = _arguments()
    name = f"{arguments.study}_{arguments.budget}{arguments.suffix}"
    out = Path(arguments.out) / name
    command = [sys.executable, "-m", "isocenter", "study", arguments.study]
    command += [str(DATA / arguments.data)] if arguments.data else []
    command += ["--out", str(out), "--resume", "--budget", arguments.budget, *arguments.options]
    subprocess.run(command, check=True)
    found = Findings.load(out / "study.json")
    record(name, _figures(found), " ".join(["python", "benchmarks/studies.py", *sys.argv[1:]]))


def _figures(found: Findings) -> dict[str, Any]:
    return {
        "points": {_title(point): _numbers(point) for point in found.points},
        "differences": {
            " ".join(filter(None, (each.one, "minus", each.other, each.place))): each.model_dump(
                mode="json", include={"difference", "p", "corrected"}
            )
            for each in found.differences
        },
        "said": " ".join(found.said),
        "held_out": found.held_out,
        "threads": os.environ.get("OMP_NUM_THREADS", "all"),
        "systems": _systems(found),
    }


def _systems(found: Findings) -> dict[str, dict[str, str]]:
    """The points as the page of systems shows them, under their methods."""
    systems: dict[str, dict[str, str]] = {}
    for point in found.points:
        what = f"study {found.study}, {_title(point)}, {found.terms.budget}, {found.held_out} held-out cases"
        systems.setdefault(point.method, {})[what] = _said(point, found.measure)
    return systems


def _title(point: Spread) -> str:
    where = f"at {point.place}" if point.place.isdigit() else point.place
    if point.place == str(point.learnt_from):
        where = f"learnt from {point.place}"
    return f"{point.series}, {where}" if where else point.series


def _numbers(point: Spread) -> dict[str, Any]:
    wanted = {"learnt_from", "mean", "median", "worst", "far", "seconds", "steps"}
    return point.model_dump(mode="json", include=wanted)


def _said(point: Spread, measure: str) -> str:
    said = [f"{measure} {_interval(point.mean)}"]
    if point.median is not None and point.worst is not None:
        said.append(f"median {_interval(point.median)}, worst {point.worst:.3g}")
    if point.far is not None:
        said.append(f"above 10 mm {_interval(point.far)}")
    return ", ".join(said)


def _interval(found: Interval) -> str:
    if found.mean is None:
        return "undefined"
    limits = "" if found.low is None or found.high is None else f" ({found.low:.3g}–{found.high:.3g})"
    return f"{found.mean:.3g}{limits}"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("study", choices=tuple(studies.catalogue()))
    parser.add_argument("budget")
    parser.add_argument("--data", help="A benchmark set; by default what the study generates.")
    parser.add_argument("--out", default="runs")
    parser.add_argument("--suffix", default="", help="Added to the result's name, for other options.")
    arguments, arguments.options = parser.parse_known_args()
    return arguments


if __name__ == "__main__":
    main()
