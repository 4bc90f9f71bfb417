"""What a training step costs in each precision and layout, and how far it is from the limit.

`python benchmarks/step.py`: the hippocampus network (16-32-64-128, patch 40×56×40, batch 2), random images.
The limit is the time its multiply-accumulates would take at the speed of a large bfloat16 matrix product.
"""

from __future__ import annotations

import itertools
import sys
import time

import torch

from isocenter.compute import MEMORY_FORMATS
from isocenter.parts.losses.deep import deeply
from isocenter.parts.losses.overlap import dice_and_cross_entropy
from isocenter.parts.networks.unet import InstanceNorm, UNet
from isocenter.parts.rules.topology import multiply_accumulates
from isocenter.records import Network
from record import record

PATCH, BATCH = (40, 56, 40), 2
NETWORK = Network(
    features=(16, 32, 64, 128),
    kernels=((3, 3, 3),) * 4,
    strides=((1, 1, 1), (2, 2, 2), (2, 2, 2), (2, 2, 2)),
    convolutions=(2,) * 4,
    decoder_convolutions=(2,) * 3,
)


def main() -> None:
    """Run the benchmark."""
    figures: dict[str, object] = {}
    for precision, last in itertools.product(("float32", "bfloat16"), (False, True)):
        name = f"{precision}{', channels last' if last else ''}"
        figures[name] = _seconds(precision, last)
    figures["bfloat16, channels last, library's instance norm"] = _seconds(
        "bfloat16", True, library_norm=True
    )
    if "--compile" in sys.argv:
        began = time.perf_counter()
        figures["bfloat16, channels last, compiled"] = _seconds("bfloat16", True, compiled=True)
        figures["seconds to compile and measure"] = time.perf_counter() - began
    work = 3 * BATCH * multiply_accumulates(NETWORK, PATCH, 1, 3)
    limit = work / _matrix_speed()
    figures["multiply-accumulates of a step"] = work
    figures["limit at matrix-product speed"] = limit
    best = figures["bfloat16, channels last"]
    figures["share of the limit reached"] = limit / best if isinstance(best, float) else None
    record("step", figures, " ".join(["python", "benchmarks/step.py", *sys.argv[1:]]))


def _seconds(precision: str, last: bool, *, library_norm: bool = False, compiled: bool = False) -> float:
    torch.manual_seed(0)
    network: torch.nn.Module = UNet(NETWORK, 1, 3)
    if library_norm:
        _replace_norms(network)
    image = torch.randn(BATCH, 1, *PATCH)
    if last:
        network, image = (
            network.to(memory_format=MEMORY_FORMATS[5]),
            image.to(memory_format=MEMORY_FORMATS[5]),
        )
    if compiled:
        network.compile()
    truth = {"truth": torch.randint(0, 3, (BATCH, *PATCH))}
    optimiser = torch.optim.AdamW(network.parameters(), fused=True)
    seconds = []
    for _ in range(8):
        began = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
            loss = deeply(dice_and_cross_entropy, network(image), truth)
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        seconds.append(time.perf_counter() - began)
    return min(seconds[2:])


def _replace_norms(module: torch.nn.Module) -> None:
    for name, child in module.named_children():
        if isinstance(child, InstanceNorm):
            setattr(module, name, torch.nn.InstanceNorm3d(len(child.weight), affine=True))
        else:
            _replace_norms(child)


def _matrix_speed() -> float:
    """Multiply-accumulates per second of a 2048³ bfloat16 product."""
    matrix = torch.randn(2048, 2048, dtype=torch.bfloat16)
    seconds = []
    for _ in range(8):
        began = time.perf_counter()
        matrix @ matrix
        seconds.append(time.perf_counter() - began)
    return 2048**3 / min(seconds)


if __name__ == "__main__":
    main()
