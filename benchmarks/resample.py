"""Resampling a CT-sized volume, its labels and its logits, against scipy and nnU-Net.

    python benchmarks/resample.py --peer-python PATH [--repeats 3]

Each figure is measured in a process of its own, ours and the peer's in the same run; values are compared
as well, and the command fails where they differ. Ours interpolates linearly along all axes; nnU-Net takes
the nearest plane along the thick axis, so the comparison of values repeats ours with that rule.
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

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "peers"))

FINE, NETWORK = (120, 512, 512), (200, 358, 358)
FINE_SPACING, NETWORK_SPACING = (2.5, 0.7, 0.7), (1.5, 1.0, 1.0)
SEPARATE = (0, 1, 1)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    options.add_argument("--peer-python", default="peers/bin/python")
    options.add_argument("--repeats", type=int, default=3)
    options.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    chosen = options.parse_args()
    if chosen.child:
        child(chosen.child[0], Path(chosen.child[1]), chosen.repeats)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_inputs(folder)
        figures = {
            "image": against_scipy(folder, chosen.repeats),
            **{what: against_nnunet(what, folder, chosen) for what in ("labels", "logits", "logits_noise")},
        }
    record("resample", figures, " ".join(["python benchmarks/resample.py", *sys.argv[1:]]))


def make_inputs(folder: Path) -> None:
    """A textured volume, three ellipsoids, and logits on the network's grid, clear and of noise alone."""
    from scipy import ndimage

    from isocenter.images.resample import resample

    rng = np.random.default_rng(0)
    np.save(folder / "image.npy", rng.normal(size=FINE).astype(np.float32))
    z, y, x = np.ogrid[: FINE[0], : FINE[1], : FINE[2]]
    labels = np.zeros(FINE, np.uint8)
    bodies = [((60, 250, 250), 150), ((60, 150, 250), 60), ((50, 300, 300), 50)]
    for value, (centre, radius) in enumerate(bodies, start=1):
        distance = (3.57 * (z - centre[0])) ** 2 + (y - centre[1]) ** 2 + (x - centre[2]) ** 2
        labels[distance < radius**2] = value
    np.save(folder / "labels.npy", labels)
    soft = np.stack([ndimage.gaussian_filter((labels == k).astype(np.float32), 2) for k in range(3)])
    noise = rng.normal(size=(3, *NETWORK)).astype(np.float32)
    np.save(folder / "logits.npy", 10 * resample(soft, NETWORK, 1) + 0.05 * noise)
    np.save(folder / "logits_noise.npy", noise)
    forth = {"shape": NETWORK, "from_spacing": FINE_SPACING, "to_spacing": NETWORK_SPACING}
    back = {"shape": FINE, "from_spacing": NETWORK_SPACING, "to_spacing": FINE_SPACING}
    (folder / "task.json").write_text(json.dumps({"labels": forth, "logits": back, "logits_noise": back}))


def child(what: str, folder: Path, repeats: int) -> None:
    """Measure ours (or scipy) in this process, and save the values."""
    from measured import measured

    from isocenter.images.resample import resample, resample_labels, resample_scores

    array = np.load(folder / f"{what.removesuffix('_scipy')}.npy")
    calls = {
        "image": lambda: resample(array[None], NETWORK, 3)[0],
        "image_scipy": lambda: zoom(array, NETWORK, 3),
        "labels": lambda: resample_labels(array, NETWORK),
        "logits": lambda: resample_scores(array, FINE),
        "logits_noise": lambda: resample_scores(array, FINE),
    }
    result, figures = measured(calls[what], repeats)
    np.save(folder / f"{what}_result.npy", result)
    if what == "labels":
        np.save(folder / "labels_separate.npy", resample_labels(array, NETWORK, order=SEPARATE))
    elif what.startswith("logits"):
        np.save(folder / f"{what}_separate.npy", resample_scores(array, FINE, order=SEPARATE))
    print(json.dumps(figures))


def zoom(array: Any, shape: tuple[int, ...], order: int) -> Any:
    from scipy import ndimage

    factors = [after / before for before, after in zip(array.shape, shape, strict=True)]
    return ndimage.zoom(array, factors, order=order, mode="nearest", grid_mode=True)


def against_scipy(folder: Path, repeats: int) -> dict[str, Any]:
    ours, peer = run_child("image", folder, repeats), run_child("image_scipy", folder, repeats)
    difference = np.abs(
        np.load(folder / "image_result.npy") - np.load(folder / "image_scipy_result.npy")
    ).max()
    if difference > 1e-5:
        raise SystemExit(f"cubic resampling differs from scipy by {difference}")
    return {**compared(ours, peer), "peer_name": "scipy.ndimage.zoom", "difference": float(difference)}


def against_nnunet(what: str, folder: Path, chosen: argparse.Namespace) -> dict[str, Any]:
    ours = run_child(what, folder, chosen.repeats)
    script = HERE / "peers" / "nnunet_resampling.py"
    peer = run([chosen.peer_python, str(script), what, str(folder), str(chosen.repeats)])
    separate, theirs = np.load(folder / f"{what}_separate.npy"), np.load(folder / f"{what}_nnunet.npy")
    agreement = float((separate == theirs.reshape(separate.shape)).mean())
    exact = undecided(what, folder)
    if exact or agreement < 0.999:
        raise SystemExit(f"{what}: {exact} voxels differ from the arg-max, {agreement} agree with nnU-Net")
    return {**compared(ours, peer), "peer_name": "nnU-Net", "agreement_at_its_order": agreement}


def undecided(what: str, folder: Path) -> int:
    """Voxels that differ from the arg-max of everything interpolated by scipy, beyond rounding."""
    array, result = np.load(folder / f"{what}.npy"), np.load(folder / f"{what}_result.npy")
    planes = [array == k for k in range(4)] if what == "labels" else array
    best = second = np.full(result.shape, -np.inf, np.float32)
    winner = np.zeros(result.shape, np.uint8)
    for index, plane in enumerate(planes):
        scores = zoom(np.asarray(plane, np.float32), result.shape, 1)
        second = np.maximum(second, np.minimum(best, scores))
        winner[scores > best] = index
        best = np.maximum(best, scores)
    return int(((winner != result) & (best - second > 1e-5)).sum())


def compared(ours: dict[str, float], peer: dict[str, float]) -> dict[str, Any]:
    return {
        "ours": ours,
        "peer": peer,
        "times_faster": peer["seconds"] / ours["seconds"],
        "share_of_added_memory": ours["added_gb"] / peer["added_gb"],
        "share_of_peak_memory": ours["peak_gb"] / peer["peak_gb"],
    }


def run_child(what: str, folder: Path, repeats: int) -> dict[str, float]:
    return run([sys.executable, __file__, "--child", what, str(folder), "--repeats", str(repeats)])


def run(command: list[str]) -> dict[str, float]:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


if __name__ == "__main__":
    main()
