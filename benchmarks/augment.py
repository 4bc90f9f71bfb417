"""Elastic deformation, rotation and scaling of 128^3, image with 3 labels, against batchgeneratorsv2.

    python benchmarks/augment.py [--peer-python PATH] [--repeats 5] [--rounds 3]

Both draw their parameters. Ours reads from a source large enough for any draw; the peer, whose time grows
with its source, gets no more than the patch, and fills up with zeros. Ours is measured with its usual rule
for labels (nearest) and with the peer's (linear one-hot, arg-max), on one thread, as in a worker, and on two.
The two take turns, and the fastest run of each counts: what else the machine does only adds.
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
import torch
from scipy import ndimage

from isocenter.parts.augment import Augmenter
from isocenter.records import Augmentation
from record import record

HERE = Path(__file__).parent
PATCH, SOURCE = (128, 128, 128), (330, 330, 330)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    options.add_argument("--peer-python", default="peers/bin/python")
    options.add_argument("--repeats", type=int, default=5)
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    chosen = options.parse_args()
    if chosen.child:
        child(chosen.child, chosen.repeats)
        return
    with tempfile.TemporaryDirectory() as name:
        for key, array in source().items():
            np.save(Path(name) / f"{key}.npy", array)
        repeats = str(chosen.repeats)
        script = str(HERE / "peers" / "batchgenerators_spatial.py")
        turns = [
            (
                run([sys.executable, __file__, "--child", name, "--repeats", repeats]),
                run([chosen.peer_python, script, name, repeats]),
            )
            for _ in range(chosen.rounds)
        ]
    ours, peer = ({key: min(turn[side][key] for turn in turns) for key in turns[0][side]} for side in (0, 1))
    ratios = {}
    for threads in (1, 2):
        for kind in ("elastic", "affine"):
            # The peer's usual rule is bilinear, ours nearest.
            usual = peer[f"{kind}_bilinear_{threads}"]
            ratios[f"{kind}_{threads}_threads"] = usual / ours[f"{kind}_nearest_{threads}"]
            ratios[f"{kind}_{threads}_threads_both_linear"] = usual / ours[f"{kind}_linear_{threads}"]
            nearest = peer[f"{kind}_nearest_{threads}"]
            ratios[f"{kind}_{threads}_threads_both_nearest"] = nearest / ours[f"{kind}_nearest_{threads}"]
    figures = {"ours_seconds": ours, "batchgeneratorsv2_seconds": peer, "times_faster": ratios}
    record("augment", figures, " ".join(["python", *sys.argv]))


def run(command: list[str]) -> dict[str, Any]:
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def source() -> dict[str, np.ndarray]:
    """Smooth noise, and labels 0 to 2 in compact blobs."""
    rng = np.random.default_rng(0)
    coarse = ndimage.zoom(rng.normal(size=(30, 30, 30)).astype(np.float32), 11, order=1)
    label = (coarse > 0.5).astype(np.int16) + (coarse > 1)
    return {"image": (coarse + rng.normal(0, 0.1, SOURCE).astype(np.float32))[None], "label": label[None]}


def child(folder: Path, repeats: int) -> None:
    arrays = {name: torch.from_numpy(np.load(folder / f"{name}.npy")) for name in ("image", "label")}
    figures = {}
    for threads in (1, 2):
        torch.set_num_threads(threads)
        for elastic in (True, False):
            for rule in ("nearest", "linear"):
                seconds = measure(arrays, repeats, elastic, rule)
                figures[f"{'elastic' if elastic else 'affine'}_{rule}_{threads}"] = seconds
    print(json.dumps(figures))


def measure(arrays: dict[str, torch.Tensor], repeats: int, elastic: bool, rule: Any) -> float:
    section = Augmentation(
        rotation=(28.6, 28.6, 28.6),
        rotation_probability=1,
        scale_probability=1,
        elastic=6,
        elastic_probability=float(elastic),
        noise_probability=0,
        blur_probability=0,
        brightness_probability=0,
        contrast_probability=0,
        low_resolution_probability=0,
        gamma_probability=0,
        gamma_inverted_probability=0,
    )
    augmenter = Augmenter(section, PATCH, label_rule=rule)
    taken = []
    for repeat in range(repeats + 1):  # the first warms up
        start = time.perf_counter()
        parameters = augmenter.draw(np.random.default_rng(repeat))
        augmenter.apply(arrays, {"image": "intensity", "label": "label"}, parameters)
        taken.append(time.perf_counter() - start)
    return min(taken[1:])


if __name__ == "__main__":
    main()
