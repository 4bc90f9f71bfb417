"""Locate L3 by a search and by heat-maps, learnt from ever fewer generated torsos.

`OMP_NUM_THREADS=1 python benchmarks/sample_size.py 15m`. Every point has the budget from before anything is
measured to its weights; an interrupted study goes on where it stopped.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from isocenter.records import Interval
from isocenter.studies.findings import Findings, Spread
from record import record


def main() -> None:
    """Run the study and record its points."""
    arguments = _arguments()
    out = Path(arguments.out) / f"sample_size_{arguments.budget}"
    command = [sys.executable, "-m", "isocenter", "study", "sample_size", "--out", str(out), "--resume"]
    command += ["--budget", arguments.budget, "--seed", str(arguments.seed)]
    subprocess.run(command, check=True)
    found = Findings.load(out / "study.json")
    record(f"sample_size_{arguments.budget}", _figures(found), " ".join(["python", *sys.argv]))


def _figures(found: Findings) -> dict[str, Any]:
    systems: dict[str, dict[str, str]] = {}
    for point in found.points:
        what = f"L3 in torsos, {point.place} cases, {found.terms.budget}, {found.held_out} held out"
        systems.setdefault(f"localisation/{point.series}", {})[what] = _said(point)
    return {
        "points": {f"{point.series}, {point.place} cases": _numbers(point) for point in found.points},
        "differences": {
            f"{each.one} - {each.other}, {each.place} cases": each.model_dump(
                include={"difference", "corrected"}
            )
            for each in found.differences
        },
        "said": " ".join(found.said),
        "threads": os.environ.get("OMP_NUM_THREADS", "all"),
        "load_average_at_end": os.getloadavg()[1],
        "systems": systems,
    }


def _numbers(point: Spread) -> dict[str, Any]:
    wanted = {"learnt_from", "mean", "median", "worst", "far", "seconds", "steps"}
    return point.model_dump(mode="json", include=wanted)


def _said(point: Spread) -> str:
    return (
        f"error {_interval(point.mean)} mm, median {_interval(point.median)}, "
        f"largest {point.worst or 0.0:.1f}, above 10 mm {_interval(point.far)}"
    )


def _interval(found: Interval | None) -> str:
    if found is None or found.mean is None:
        return "undefined"
    limits = "" if found.low is None or found.high is None else f" ({found.low:.2f}–{found.high:.2f})"
    return f"{found.mean:.2f}{limits}"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("budget")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default="runs")
    return parser.parse_args()


if __name__ == "__main__":
    main()
