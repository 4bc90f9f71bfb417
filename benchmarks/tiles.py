"""Tiled prediction of 128 x 256 x 256 with tiles of 96^3, against MONAI's with the same network.

    python benchmarks/tiles.py --peer-python PATH [--repeats 3]

The 487 thousand parameters are trained for a minute on an image of ellipsoids, because the arg-max of
an untrained network is chance. It normalises by batch statistics, fixed after training: under instance
normalisation a voxel's answer depends on the whole tile around it, so any other place or weight of the tiles
gives other values, and no two stitchers agree. Both run 50 tiles, ours spread evenly. float32 and bfloat16
are measured for both, so that what the precision gives and what the stitching gives can be told apart. The
headline is our prediction as it is run (bfloat16 where the machine multiplies it) over MONAI as its users
call it (float32).
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
import torch
from safetensors.torch import load_file, save_file

from record import record

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "peers"))

SHAPE, TILE = (128, 256, 256), (96, 96, 96)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    options.add_argument("--peer-python", default="peers/bin/python")
    options.add_argument("--repeats", type=int, default=3)
    options.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    chosen = options.parse_args()
    if chosen.child:
        child(chosen.child, chosen.repeats)
        return
    with tempfile.TemporaryDirectory() as name:
        folder, repeats = Path(name), str(chosen.repeats)
        image, labels = ellipsoids()
        np.save(folder / "image.npy", image)
        save_file(trained(image, labels), folder / "weights.safetensors")
        peer = run([chosen.peer_python, str(HERE / "peers" / "monai_tiles.py"), name, repeats])
        ours = run([sys.executable, __file__, "--child", name, "--repeats", repeats])
        theirs = np.load(folder / "monai.npy")
        answers = {kind: np.load(folder / f"{kind}.npy") for kind in ("float32", "bfloat16")}
    agreement = {kind: float((answer == theirs).mean()) for kind, answer in answers.items()}
    if min(agreement.values()) < 0.999:
        raise SystemExit(f"arg-max agrees on {agreement} only")
    figures = {
        "ours": ours,
        "monai": peer,
        "times_faster": peer["float32"]["seconds"] / ours["bfloat16"]["seconds"],
        "times_faster_both_float32": peer["float32"]["seconds"] / ours["float32"]["seconds"],
        "times_faster_both_bfloat16": peer["bfloat16"]["seconds"] / ours["bfloat16"]["seconds"],
        "share_of_voxels_equal_to_monai_float32": agreement,
        "mean_dice": {kind: overlap(answer, labels) for kind, answer in {**answers, "monai": theirs}.items()},
    }
    record("tiles", figures, " ".join(["python benchmarks/tiles.py", *sys.argv[1:]]))


def ellipsoids() -> tuple[Any, Any]:
    """An image (1, z, y, x) of two kinds of ellipsoids in noise, and its labels."""
    rng = np.random.default_rng(0)
    grid = np.ogrid[: SHAPE[0], : SHAPE[1], : SHAPE[2]]
    labels = np.zeros(SHAPE, np.int64)
    for index in range(60):
        centre, radii = rng.uniform(0, SHAPE), rng.uniform(8, 28, 3)
        away = sum(((axis - c) / r) ** 2 for axis, c, r in zip(grid, centre, radii, strict=True))
        labels[away < 1] = 1 + index % 2
    image = labels + rng.normal(0, 0.1, SHAPE)
    return image[None].astype(np.float32), labels


def trained(image: Any, labels: Any, steps: int = 200) -> dict[str, torch.Tensor]:
    """The network's weights after a few steps on batches of four random crops."""
    from small_unet import SmallUNet

    torch.manual_seed(0)
    rng = np.random.default_rng(1)
    network = SmallUNet()
    optimiser = torch.optim.AdamW(network.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(steps):
        corners = rng.integers(0, np.subtract(SHAPE, 63), (4, 3))
        crops = [tuple(slice(start, start + 64) for start in corner) for corner in corners]
        inputs = torch.from_numpy(np.stack([image[(slice(None), *crop)] for crop in crops]))
        with torch.autocast("cpu", torch.bfloat16):
            answer = network(inputs)
        truth = torch.from_numpy(np.stack([labels[crop] for crop in crops]))
        loss = torch.nn.functional.cross_entropy(answer.float(), truth)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    print(f"loss after {steps} steps: {loss.item():.4f}", file=sys.stderr)
    return network.state_dict()


def child(folder: Path, repeats: int) -> None:
    from measured import measured
    from small_unet import SmallUNet

    from isocenter.parts.stitching import stitch

    network = SmallUNet().eval()
    network.load_state_dict(load_file(folder / "weights.safetensors"))
    network = network.to(memory_format=torch.channels_last_3d)
    image = torch.from_numpy(np.load(folder / "image.npy"))

    def call() -> torch.Tensor:
        return stitch(image, TILE, network, overlap=0.5)

    def call_half() -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return call()

    figures = {}
    with torch.no_grad():
        call_half()
        for kind, run_it in (("float32", call), ("bfloat16", call_half)):
            result, figures[kind] = measured(run_it, repeats)
            np.save(folder / f"{kind}.npy", result.argmax(dim=0).numpy().astype(np.uint8))
    print(json.dumps(figures))


def overlap(answer: Any, truth: Any) -> float:
    """Mean Dice of the two labels."""
    return float(
        np.mean(
            [
                2 * ((answer == k) & (truth == k)).sum() / ((answer == k).sum() + (truth == k).sum())
                for k in (1, 2)
            ]
        )
    )


def run(command: list[str]) -> dict[str, Any]:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures


if __name__ == "__main__":
    main()
