"""The peer of `benchmarks/augment.py`: batchgeneratorsv2's SpatialTransform on the same source; prints JSON.

python batchgenerators_spatial.py FOLDER REPEATS
"""

from __future__ import annotations

import importlib.metadata
import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform

PATCH = (128, 128, 128)


def main() -> None:
    folder, repeats = Path(sys.argv[1]), int(sys.argv[2])
    arrays = {
        name: centre(np.load(folder / f"{name}.npy", allow_pickle=False)) for name in ("image", "label")
    }
    figures: dict[str, object] = {"version": importlib.metadata.version("batchgeneratorsv2")}
    for threads in (1, 2):
        torch.set_num_threads(threads)
        for elastic in (True, False):
            for rule in ("bilinear", "nearest"):
                seconds = measure(arrays, repeats, elastic, rule)
                figures[f"{'elastic' if elastic else 'affine'}_{rule}_{threads}"] = seconds
    print(json.dumps(figures))


def centre(array: np.ndarray) -> np.ndarray:
    """The patch alone: the less there is to read, the faster the peer is."""
    starts = [(have - want) // 2 for have, want in zip(array.shape[1:], PATCH, strict=True)]
    return array[(slice(None), *(slice(a, a + n) for a, n in zip(starts, PATCH, strict=True)))].copy()


def measure(arrays: dict[str, np.ndarray], repeats: int, elastic: bool, rule: str) -> float:
    transform = SpatialTransform(
        PATCH,
        patch_center_dist_from_border=0,
        random_crop=False,
        p_elastic_deform=float(elastic),
        elastic_deform_scale=(0.1, 0.1),
        elastic_deform_magnitude=(6, 6),
        p_rotation=1,
        rotation=(-0.5, 0.5),
        p_scaling=1,
        scaling=(0.7, 1.4),
        p_synchronize_scaling_across_axes=1,
        mode_seg=rule,
    )
    taken = []
    for _ in range(repeats + 1):  # the first warms up
        sample = {
            "image": torch.from_numpy(arrays["image"]),
            "segmentation": torch.from_numpy(arrays["label"]),
        }
        start = time.perf_counter()
        transform(**sample)
        taken.append(time.perf_counter() - start)
    return min(taken[1:])


if __name__ == "__main__":
    main()
