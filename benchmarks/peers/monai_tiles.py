"""MONAI's tiled prediction: `monai_tiles.py FOLDER REPEATS`, in float32 and under bfloat16 autocast."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import torch
from measured import measured
from monai.inferers import sliding_window_inference
from safetensors.torch import load_file
from small_unet import SmallUNet


def main(folder: Path, repeats: int) -> None:
    network = SmallUNet().eval()
    network.load_state_dict(load_file(folder / "weights.safetensors"))
    image = torch.from_numpy(np.load(folder / "image.npy"))[None]

    def call() -> torch.Tensor:
        return sliding_window_inference(image, (96, 96, 96), 1, network, overlap=0.5, mode="gaussian")

    def call_half() -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return call()

    with torch.no_grad():
        call_half()
        result, figures = measured(call, repeats)
        _, half = measured(call_half, repeats)
    np.save(folder / "monai.npy", result[0].argmax(dim=0).numpy().astype(np.uint8))
    print(json.dumps({"float32": figures, "bfloat16": half}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
