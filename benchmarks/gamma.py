"""The gamma index of a dose pair beside pymedphys's, in the same run.

    python benchmarks/gamma.py --peer-python /path/to/python-with-pymedphys [--size 128]

The pair is smooth noise scaled to 60 Gy, and the same shifted by a voxel, 1 % higher and noisy. The peer's
interpolation is compiled by a first call on a small pair, which is not counted.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from isocenter.parts.metrics.gamma import Criterion, gamma_index, pass_rate
from record import record

SPACING = 2.0

PEER = """
import json, sys, time, warnings
warnings.simplefilter("ignore")
import numpy as np, pymedphys
reference, evaluated = np.load(sys.argv[1])
def run(r, e):
    axes = tuple(np.arange(n) * float(sys.argv[3]) for n in r.shape)
    return pymedphys.gamma(axes, r, axes, e, 3, 3, lower_percent_dose_cutoff=20, max_gamma=2, quiet=True)
run(reference[:9, :9, :9], evaluated[:9, :9, :9])
start = time.perf_counter()
gamma = run(reference, evaluated)
seconds = time.perf_counter() - start
np.save(sys.argv[2], gamma)
try:
    import numba
    compiled = numba.__version__
except ImportError:
    compiled = "absent"
print(json.dumps({"seconds": seconds, "pymedphys": pymedphys.__version__, "numba": compiled}))
"""


def pair(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Reference and evaluated dose in Gy."""
    rng = np.random.default_rng(0)
    dose = ndimage.gaussian_filter(rng.random((size,) * 3), size / 14)
    dose = 60 * (dose - dose.min()) / np.ptp(dose)
    noise = 2 * ndimage.gaussian_filter(rng.normal(size=dose.shape), 1)
    return dose, np.roll(dose, 1, axis=0) * 1.01 + noise


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--peer-python", help="a Python with pymedphys and numba")
    parser.add_argument("--size", type=int, default=128)
    options = parser.parse_args()
    reference, evaluated = pair(options.size)
    times = []
    for _ in range(3):
        start = time.perf_counter()
        gamma = gamma_index(evaluated, reference, (SPACING,) * 3, Criterion(max_gamma=2.0))
        times.append(time.perf_counter() - start)
    figures: dict[str, Any] = {
        "shape": list(reference.shape),
        "criterion": "3 % / 3 mm global, above 20 %, up to gamma 2",
        "isocenter_s": round(sorted(times)[1], 3),
        "isocenter_pass_rate": pass_rate(gamma),
    }
    if options.peer_python:
        figures |= _peer(options.peer_python, reference, evaluated, gamma, sorted(times)[1])
    record("gamma", figures, "python benchmarks/" + " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]))


def _peer(
    python: str, reference: np.ndarray, evaluated: np.ndarray, gamma: np.ndarray, seconds: float
) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        given, found = Path(folder) / "doses.npy", Path(folder) / "gamma.npy"
        np.save(given, np.stack([reference, evaluated]))
        command = [python, "-c", PEER, str(given), str(found), str(SPACING)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        theirs = np.load(found)
    said = json.loads(done.stdout.strip().splitlines()[-1])
    apart = np.abs(gamma - theirs)
    return {
        "pymedphys_s": round(said["seconds"], 2),
        "times_faster": round(said["seconds"] / seconds, 1),
        "pymedphys_pass_rate": pass_rate(theirs),
        "mean_difference": round(float(np.nanmean(gamma - theirs)), 5),
        "share_apart_by_more_than_a_twentieth": round(float(np.nanmean(apart > 0.05)), 6),
        "peer": {"pymedphys": said["pymedphys"], "numba": said["numba"]},
    }


if __name__ == "__main__":
    main()
