"""Fingerprint, plan and prepare the hippocampus cases, against nnU-Net doing the same.

    python benchmarks/prepare.py --peer-python PATH [--repeats 3]

Ours: open the dataset, check and measure every case, plan `2d` and `3d_fullres` for a number of epochs (so
that no training step is timed), and prepare all cases for both with an empty cache. nnU-Net's: its functions
`extract_fingerprints`, `plan_experiments` and `preprocess` for the same two configurations. Two workers
each. Start-up and imports are left out on both sides; nnU-Net's workers are therefore forked, and its own
way, which starts and imports afresh for each pool, is given beside it.
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

from record import record

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "peers"))

from measured import Clock  # noqa: E402 - found in the peers' folder
from nnunet_layout import FOLDERS, NUMBER, environment, write_raw  # noqa: E402

DATA = Path(os.environ.get("ISOCENTER_DATA", HERE.parents[1] / "shared" / "data"))
CONFIGURATIONS = ["2d", "3d_fullres"]
WORKERS = 2


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    options.add_argument("--peer-python", default="peers/bin/python")
    options.add_argument("--repeats", type=int, default=3)
    options.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    chosen = options.parse_args()
    if chosen.child:
        print(json.dumps(child(chosen.child)))
        return
    source = DATA / "hippocampus"
    runs: dict[str, list[dict[str, float]]] = {"ours": [], "fork": [], "spawn": []}
    for _ in range(chosen.repeats):
        runs["ours"].append(ours(source))
        for start in ("fork", "spawn"):
            runs[start].append(peer(source, chosen.peer_python, start))
    found = {name: middle(figures) for name, figures in runs.items()}
    figures = {
        "cases": len(json.loads((source / "dataset.json").read_text())["training"]),
        "ours": found["ours"],
        "nnunet": found["fork"],
        "nnunet_with_its_workers_starting": found["spawn"],
        "times_faster": found["fork"]["seconds"] / found["ours"]["seconds"],
        "times_less_processor_time": found["fork"]["processor_seconds"] / found["ours"]["processor_seconds"],
        "times_faster_with_its_workers_starting": found["spawn"]["seconds"] / found["ours"]["seconds"],
    }
    record("prepare", figures, " ".join(["python benchmarks/prepare.py", *sys.argv[1:]]))


def ours(source: Path) -> dict[str, float]:
    """In a process of its own, with a cache that is empty."""
    with tempfile.TemporaryDirectory() as cache:
        command = [sys.executable, __file__, "--child", str(source)]
        return run(command, {**os.environ, "ISOCENTER_CACHE": cache})


def child(source: Path) -> dict[str, float]:
    import isocenter
    from isocenter import methods
    from isocenter.pipeline import fingerprint as measuring
    from isocenter.pipeline import plan as planning
    from isocenter.pipeline.prepare import prepare
    from isocenter.records import Budget

    key = isocenter.DEFAULT_METHOD
    kind = methods.load(key)
    clock = Clock()
    dataset = isocenter.open(source)
    fingerprint = measuring.measure(dataset, workers=WORKERS)
    clock.mark("fingerprint")
    wishes = {"settings.configurations": CONFIGURATIONS}
    plan = planning.make(dataset, fingerprint, key, Budget(epochs=1), overrides=wishes)
    clock.mark("plan")
    cases = [case.id for case in dataset.cases]
    for stage in plan.stages:
        prepare(dataset, fingerprint, plan, kind(plan, stage), cases, WORKERS)
    clock.mark("prepare")
    return clock.figures()


def peer(source: Path, python: str, start: str) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for part in FOLDERS[1:]:
            (folder / part).mkdir()
        write_raw(source, folder)
        script = HERE / "peers" / "nnunet_prepare.py"
        command = [python, str(script), str(NUMBER), str(WORKERS), start]
        return run(command, environment(folder))


def middle(figures: list[dict[str, float]]) -> dict[str, float]:
    """The median of each figure."""
    return {key: statistics.median(one[key] for one in figures) for key in figures[0]}


def run(command: list[str], environ: dict[str, str]) -> dict[str, float]:
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environ)
    if done.returncode:
        raise SystemExit(done.stderr)
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


if __name__ == "__main__":
    main()
