"""MONAI's non-maximum suppression: `monai_nms.py FOLDER THRESHOLD REPEATS`."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
from monai.data.box_utils import non_max_suppression


def main(folder: Path, threshold: float, repeats: int) -> None:
    torch.set_num_threads(1)
    boxes, scores = (torch.from_numpy(np.load(folder / f"{name}.npy")) for name in ("boxes", "scores"))
    seconds = []
    for _ in range(repeats):
        begin = time.perf_counter()
        kept = non_max_suppression(boxes, scores, threshold)
        seconds.append(time.perf_counter() - begin)
    np.save(folder / "monai.npy", np.asarray(kept))
    print(json.dumps(seconds))


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]))
