"""Exporting a prediction of 64 classes from the network's grid to that of a CT, and the memory it takes.

    python benchmarks/export.py [--classes 64] [--dtype float16] [--folder DIR]

The logits lie in a memory map (4 GB in float16). Peak memory is that of a process of its own beyond the
pages of the map; three planes are compared with the arg-max of all classes interpolated by scipy.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from record import record

sys.path.insert(0, str(Path(__file__).parent / "peers"))

NETWORK, FILE = (270, 340, 340), (400, 512, 512)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    options.add_argument("--classes", type=int, default=64)
    options.add_argument("--dtype", choices=("float16", "float32"), default="float16")
    options.add_argument("--folder", type=Path, default=None)
    options.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    chosen = options.parse_args()
    if chosen.child:
        child(chosen.child)
        return
    with tempfile.TemporaryDirectory(dir=chosen.folder) as name:
        folder = Path(name)
        make_logits(folder, chosen.classes, chosen.dtype)
        done = subprocess.run(
            [sys.executable, __file__, "--child", name], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise SystemExit(done.stderr)
        wrong = differing(folder)
    figures = json.loads(done.stdout.splitlines()[-1])
    if wrong or figures["peak_beyond_map_gb"] > 3:
        raise SystemExit(f"{wrong} voxels differ; {figures}")
    figures |= {"classes": chosen.classes, "dtype": chosen.dtype, "voxels_differing_in_3_planes": wrong}
    record("export", figures, " ".join(["python benchmarks/export.py", *sys.argv[1:]]))


def make_logits(folder: Path, classes: int, dtype: str) -> None:
    """Each class falls off from a centre of its own; noise roughens the borders between them."""
    logits = np.lib.format.open_memmap(folder / "logits.npy", "w+", np.dtype(dtype), (classes, *NETWORK))
    rng = np.random.default_rng(0)
    grid = np.ogrid[: NETWORK[0], : NETWORK[1], : NETWORK[2]]
    noise = rng.normal(size=NETWORK).astype(np.float32)
    for index in range(classes):
        centre = rng.uniform(0, NETWORK)
        away = sum(
            ((axis - c).astype(np.float32) ** 2 for axis, c in zip(grid, centre, strict=True)), np.float32(0)
        )
        logits[index] = -np.sqrt(away) / 5 + 0.1 * np.roll(noise, 1000 * index)
    logits.flush()


def child(folder: Path) -> None:
    from measured import anonymous, measured

    from isocenter.images.resample import resample_scores

    logits = np.load(folder / "logits.npy", mmap_mode="r")
    before = anonymous()
    result, figures = measured(lambda: resample_scores(logits, FILE), 1)
    np.save(folder / "labels.npy", result)
    beyond = figures["added_gb"] + before / 1e9
    print(json.dumps({"seconds": figures["seconds"], "peak_beyond_map_gb": beyond}))


def differing(folder: Path) -> int:
    """Voxels of three planes that differ from the full computation beyond rounding."""
    logits, labels = (np.load(folder / name, mmap_mode="r") for name in ("logits.npy", "labels.npy"))
    return sum(int(np.count_nonzero(plane_differs(logits, labels, z))) for z in (0, 157, 399))


def plane_differs(logits: Any, labels: Any, z: int) -> Any:
    from scipy import ndimage

    position = np.clip((z + 0.5) * NETWORK[0] / FILE[0] - 0.5, 0, NETWORK[0] - 1)
    lower = int(position)
    upper, share = min(lower + 1, NETWORK[0] - 1), position - lower
    factors = [after / before for before, after in zip(NETWORK[1:], FILE[1:], strict=True)]
    scores = np.stack(
        [
            ndimage.zoom(
                (1 - share) * channel[lower].astype(float) + share * channel[upper],
                factors,
                order=1,
                mode="nearest",
                grid_mode=True,
            )
            for channel in logits
        ]
    )
    ranked = np.partition(scores, -2, axis=0)
    return (scores.argmax(axis=0) != labels[z]) & (ranked[-1] - ranked[-2] > 1e-5)


if __name__ == "__main__":
    main()
