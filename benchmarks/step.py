"""What a training step costs in each precision and layout, and how far it is from the limit.

`python benchmarks/step.py`: the hippocampus network (16-32-64-128, patch 40×56×40, batch 2), random images.
With `--device cuda` it is as wide as nnU-Net's own (32-64-128-256, batch 9), and cuDNN's search for the
fastest convolution is measured too.
The limit is the time its multiply-accumulates would take at the speed of a large bfloat16 matrix product.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from dataclasses import dataclass

import torch

from isocenter.compute import MEMORY_FORMATS
from isocenter.parts.losses.deep import deeply
from isocenter.parts.losses.overlap import dice_and_cross_entropy
from isocenter.parts.networks.unet import InstanceNorm, UNet
from isocenter.parts.rules.topology import multiply_accumulates
from isocenter.records import Network
from record import record

PATCH = (40, 56, 40)


@dataclass(frozen=True)
class Bench:
    """A device, with the width and the batch that suit it, and the edge of a matrix that fills it."""

    device: str
    width: int
    batch: int
    edge: int

    @property
    def network(self) -> Network:
        """Four levels."""
        return Network(
            features=tuple(self.width * 2**level for level in range(4)),
            kernels=((3, 3, 3),) * 4,
            strides=((1, 1, 1), (2, 2, 2), (2, 2, 2), (2, 2, 2)),
            convolutions=(2,) * 4,
            decoder_convolutions=(2,) * 3,
        )

    def now(self) -> float:
        """The clock, once the device has done all it was asked to."""
        if self.device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()


BENCHES = {"cpu": Bench("cpu", 16, 2, 2048), "cuda": Bench("cuda", 32, 9, 8192)}


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=tuple(BENCHES), default="cpu")
    parser.add_argument("--compile", action="store_true")
    chosen = parser.parse_args()
    bench = BENCHES[chosen.device]
    figures: dict[str, object] = {}
    for search in (False, True) if chosen.device == "cuda" else (False,):
        torch.backends.cudnn.benchmark = search
        for precision, last in itertools.product(("float32", "bfloat16"), (False, True)):
            name = ", ".join(
                [precision, *["channels last"] * last, *["fastest convolutions searched"] * search]
            )
            figures[name] = _seconds(bench, precision, last)
    best = min(seconds for seconds in figures.values() if isinstance(seconds, float))
    figures["bfloat16, channels last, library's instance norm"] = _seconds(
        bench, "bfloat16", True, library_norm=True
    )
    if chosen.compile:
        began = time.perf_counter()
        figures["bfloat16, channels last, compiled"] = _seconds(bench, "bfloat16", True, compiled=True)
        figures["seconds to compile and measure"] = time.perf_counter() - began
    work = 3 * bench.batch * multiply_accumulates(bench.network, PATCH, 1, 3)
    limit = work / _matrix_speed(bench)
    figures["multiply-accumulates of a step"] = work
    figures["limit at matrix-product speed"] = limit
    figures["share of the limit reached"] = limit / best
    name = "step" if chosen.device == "cpu" else f"step_{chosen.device}"
    record(name, figures, " ".join(["python", "benchmarks/step.py", *sys.argv[1:]]))


def _seconds(
    bench: Bench, precision: str, last: bool, *, library_norm: bool = False, compiled: bool = False
) -> float:
    torch.manual_seed(0)
    network: torch.nn.Module = UNet(bench.network, 1, 3)
    if library_norm:
        _replace_norms(network)
    layout = MEMORY_FORMATS[5] if last else torch.contiguous_format
    network = network.to(bench.device, memory_format=layout)
    image = torch.randn(bench.batch, 1, *PATCH).to(bench.device, memory_format=layout)
    if compiled:
        network.compile()
    truth = {"truth": torch.randint(0, 3, (bench.batch, *PATCH), device=bench.device)}
    optimiser = torch.optim.AdamW(network.parameters(), fused=True)
    seconds = []
    for _ in range(8):
        began = bench.now()
        with torch.autocast(bench.device, torch.bfloat16, enabled=precision == "bfloat16"):
            loss = deeply(dice_and_cross_entropy, network(image), truth)
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        seconds.append(bench.now() - began)
    return min(seconds[2:])


def _replace_norms(module: torch.nn.Module) -> None:
    for name, child in module.named_children():
        if isinstance(child, InstanceNorm):
            setattr(module, name, torch.nn.InstanceNorm3d(len(child.weight), affine=True))
        else:
            _replace_norms(child)


def _matrix_speed(bench: Bench) -> float:
    """Multiply-accumulates per second of a large bfloat16 product."""
    matrix = torch.randn(bench.edge, bench.edge, dtype=torch.bfloat16, device=bench.device)
    seconds = []
    for _ in range(8):
        began = bench.now()
        matrix @ matrix
        seconds.append(bench.now() - began)
    return float(bench.edge**3 / min(seconds))


if __name__ == "__main__":
    main()
