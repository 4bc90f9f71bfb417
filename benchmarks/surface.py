"""Overlap and surface measures beside MONAI's, on the same masks in the same run.

    python benchmarks/surface.py --peer-python /path/to/python-with-monai

The peer runs in its own process and is given one-hot tensors made beforehand; the time of making them is not
counted. Both sides' values are compared.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from isocenter.parts.metrics.segmentation import segmentation
from isocenter.records import Label
from record import record

SIZE = 256
REPEATS = 5

PEER = """
import json, sys, time, warnings
warnings.simplefilter("ignore")
import numpy as np, torch
from monai.metrics import compute_hausdorff_distance, compute_average_surface_distance, compute_dice
from monai.metrics.surface_dice import compute_surface_dice
torch.set_num_threads(2)
answer, truth = (np.load(path) for path in sys.argv[1:3])
labels, repeats = int(sys.argv[3]), int(sys.argv[4])
hot = [torch.from_numpy(np.stack([image == k for k in range(labels + 1)]))[None] for image in (answer, truth)]
calls = {
    "hd95": lambda: compute_hausdorff_distance(*hot, percentile=95, spacing=1.0),
    "assd": lambda: compute_average_surface_distance(*hot, symmetric=True, spacing=1.0),
    "surface_dice": lambda: compute_surface_dice(*hot, class_thresholds=[1.0] * labels, spacing=1.0),
    "dice": lambda: compute_dice(*hot, include_background=False),
}
found = {"seconds": {}, "values": {}}
for name, call in calls.items():
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        value = call()
        times.append(time.perf_counter() - start)
    found["seconds"][name] = sorted(times)[len(times) // 2]
    found["values"][name] = value[0].tolist()
print(json.dumps(found))
"""


def ball(centre: tuple[int, int, int], radius: float) -> np.ndarray:
    """A ball in the cube, as a mask."""
    grid = np.ogrid[:SIZE, :SIZE, :SIZE]
    return sum((axis - c) ** 2 for axis, c in zip(grid, centre, strict=True)) < radius**2


def compact() -> tuple[np.ndarray, np.ndarray]:
    """Two organs of moderate size, the answer shifted by a few voxels."""
    truth, answer = np.zeros((2, SIZE, SIZE, SIZE), dtype=np.uint8)
    truth[ball((100, 100, 100), 30)], truth[ball((150, 160, 140), 25)] = 1, 2
    answer[ball((101, 102, 100), 30)], answer[ball((149, 160, 143), 26)] = 1, 2
    return answer, truth


def spanning() -> tuple[np.ndarray, np.ndarray]:
    """One label whose surface runs through the whole volume."""
    rng = np.random.default_rng(0)
    fields = [ndimage.zoom(rng.normal(size=(16,) * 3), SIZE / 16, order=1) for _ in range(2)]
    return (fields[0] + 0.15 * fields[1] > 0).astype(np.uint8), (fields[0] > 0).astype(np.uint8)


def ten_organs() -> tuple[np.ndarray, np.ndarray]:
    """Ten ellipsoids all over the volume."""
    rng = np.random.default_rng(1)
    truth, answer = np.zeros((2, SIZE, SIZE, SIZE), dtype=np.uint8)
    for label in range(1, 11):
        centre = tuple(int(c) for c in rng.integers(40, SIZE - 40, 3))
        moved = tuple(c + int(s) for c, s in zip(centre, rng.integers(-3, 4, 3), strict=True))
        radius = float(rng.uniform(18, 38))
        truth[ball(centre, radius)] = label
        answer[ball(moved, radius * 1.02)] = label
    return answer, truth


def ten_slabs() -> tuple[np.ndarray, np.ndarray]:
    """Ten labels that fill the volume, every surface three voxels off: the worst case of ten labels."""
    truth = np.broadcast_to((np.arange(SIZE) // 26 + 1)[:, None, None], (SIZE,) * 3).astype(np.uint8)
    return np.roll(truth, 3, axis=0), truth.copy()


def median_seconds(call: Callable[[], Any]) -> tuple[float, Any]:
    """Median time of some calls after a first one, and the last result."""
    call()
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        result = call()
        times.append(time.perf_counter() - start)
    return sorted(times)[len(times) // 2], result


def ours(answer: np.ndarray, truth: np.ndarray, labels: int) -> tuple[float, dict[str, Any]]:
    """Seconds of all measures together, and the measures."""
    named = [Label(name=str(k), values=(k,)) for k in range(1, labels + 1)]
    return median_seconds(lambda: segmentation(answer, truth, named, (1.0, 1.0, 1.0)))


def peer(python: str, answer: np.ndarray, truth: np.ndarray, labels: int) -> dict[str, Any]:
    """Seconds and values of MONAI's four calls."""
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{name}.npy" for name in ("answer", "truth")]
        for path, image in zip(paths, (answer, truth), strict=True):
            np.save(path, image)
        command = [python, "-c", PEER, *map(str, paths), str(labels), str(REPEATS)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.strip().splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--peer-python", help="a Python with MONAI")
    options = parser.parse_args()
    figures: dict[str, Any] = {"shape": [SIZE] * 3, "repeats": REPEATS}
    scenes = {"two compact labels": (compact, 2), "surfaces that span the volume": (spanning, 1)}
    for name, (make, labels) in scenes.items():
        answer, truth = make()
        seconds, measures = ours(answer, truth, labels)
        figures[name] = {"isocenter_all_measures_s": round(seconds, 4)}
        if options.peer_python:
            found = peer(options.peer_python, answer, truth, labels)
            total = sum(found["seconds"].values())
            apart = max(
                abs(measures[str(k)][measure] - found["values"][measure][k - 1])
                for k in range(1, labels + 1)
                for measure in found["values"]
            )
            figures[name] |= {
                "monai_s": {measure: round(value, 4) for measure, value in found["seconds"].items()},
                "monai_together_s": round(total, 4),
                "times_faster": round(total / seconds, 1),
                "times_faster_than_hd95_alone": round(found["seconds"]["hd95"] / seconds, 2),
                "largest_difference": float(f"{apart:.2g}"),
            }
    for name, make in {"ten organs": ten_organs, "ten slabs": ten_slabs}.items():
        figures[name] = {"isocenter_all_measures_s": round(ours(*make(), 10)[0], 4)}
    record("surface", figures, "python benchmarks/" + " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]))


if __name__ == "__main__":
    main()
