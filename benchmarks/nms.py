"""Non-maximum suppression of 3,000 clustered 3D boxes beside MONAI's, which must keep the same ones.

    python benchmarks/nms.py --peer-python PATH [--boxes 3000] [--repeats 5]

Each runs in a process of its own, on one thread; the best of the repeats counts, for both.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from isocenter.parts.encodings.suppression import nms
from record import record

HERE = Path(__file__).parent
PER_OBJECT = 20


def clustered(number: int) -> tuple[np.ndarray, np.ndarray]:
    """Boxes strewn around objects, twenty to each on average, with scores that all differ."""
    rng = np.random.default_rng(0)
    objects = rng.uniform(0, 300, (max(number // PER_OBJECT, 1), 3))
    low = objects[rng.integers(len(objects), size=number)] + rng.normal(0, 2, (number, 3))
    boxes = np.hstack([low, low + rng.uniform(10, 20, (number, 3))])
    return boxes.astype(np.float32), (rng.permutation(number) / number).astype(np.float32)


def timed(boxes: torch.Tensor, scores: torch.Tensor, threshold: float, repeats: int) -> list[float]:
    seconds = []
    for _ in range(repeats):
        begin = time.perf_counter()
        nms(boxes, scores, threshold)
        seconds.append(time.perf_counter() - begin)
    return seconds


def peer(
    python: str, boxes: np.ndarray, scores: np.ndarray, options: list[str]
) -> tuple[list[float], list[int]]:
    """MONAI's seconds, and what it keeps."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        np.save(folder / "boxes.npy", boxes)
        np.save(folder / "scores.npy", scores)
        command = [python, str(HERE / "peers" / "monai_nms.py"), name, *options]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(done.stderr)
        return json.loads(done.stdout.splitlines()[-1]), np.load(folder / "monai.npy").tolist()


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    options.add_argument("--peer-python", default="peers/monai/bin/python")
    options.add_argument("--boxes", type=int, default=3000)
    options.add_argument("--threshold", type=float, default=0.3)
    options.add_argument("--repeats", type=int, default=5)
    chosen = options.parse_args()
    torch.set_num_threads(1)
    boxes, scores = clustered(chosen.boxes)
    both = torch.from_numpy(boxes), torch.from_numpy(scores)
    kept = nms(*both, chosen.threshold).tolist()
    theirs, expected = peer(chosen.peer_python, boxes, scores, [str(chosen.threshold), str(chosen.repeats)])
    if kept != expected:
        raise SystemExit(f"ours keeps {len(kept)} boxes, MONAI {len(expected)}, and not the same ones")
    ours = timed(*both, chosen.threshold, chosen.repeats)
    figures = {
        "boxes": chosen.boxes,
        "kept": len(kept),
        "threshold": chosen.threshold,
        "repeats": chosen.repeats,
        "isocenter_s": round(min(ours), 5),
        "monai_s": round(min(theirs), 5),
        "times_faster": round(min(theirs) / min(ours), 1),
        "same_boxes_kept_in_the_same_order": True,
    }
    record("nms", figures, " ".join(["python benchmarks/nms.py", *sys.argv[1:]]))


if __name__ == "__main__":
    main()
