"""nnU-Net's resampling of one array: `nnunet_resampling.py image|labels|logits FOLDER REPEATS`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from measured import measured
from nnunetv2.preprocessing.resampling.default_resampling import resample_data_or_seg_to_shape

OPTIONS = {
    "image": {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None},
    "labels": {"is_seg": True, "order": 1, "order_z": 0, "force_separate_z": None},
    "logits": {"is_seg": False, "order": 1, "order_z": 0, "force_separate_z": None},
    "logits_noise": {"is_seg": False, "order": 1, "order_z": 0, "force_separate_z": None},
}


def main(what: str, folder: Path, repeats: int) -> None:
    task = json.loads((folder / "task.json").read_text())[what]
    array = np.load(folder / f"{what}.npy")
    array = array if array.ndim == 4 else array[None]

    def call() -> np.ndarray:
        return resample_data_or_seg_to_shape(
            array, task["shape"], task["from_spacing"], task["to_spacing"], **OPTIONS[what]
        )

    result, figures = measured(call, repeats)
    if what.startswith("logits"):
        result = result.argmax(axis=0).astype(np.uint8)
    np.save(folder / f"{what}_nnunet.npy", result)
    print(json.dumps(figures))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
