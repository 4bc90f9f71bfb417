"""What tissues look like: spin-echo signal from density and relaxation times, or attenuation in HU."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum


class Tissue(IntEnum):
    """What a voxel of the anatomy consists of."""

    FAT = 0
    MUSCLE = 1
    MARROW = 2
    CORTEX = 3
    WALL = 4
    URINE = 5
    GAS = 6
    STOOL = 7
    VESICLE = 8
    CENTRAL_GLAND = 9
    PERIPHERAL_ZONE = 10
    CAPSULE = 11
    LESION = 12


@dataclass(frozen=True)
class Properties:
    """Of one tissue: proton density (water = 1), relaxation times in ms at 3 T, attenuation in HU.

    `texture` is the relative sd of T2 within the tissue, `variation` that between patients.
    """

    density: float
    t1_ms: float
    t2_ms: float
    hounsfield: float
    texture: float = 0.05
    variation: float = 0.04


# Fat, muscle, marrow: de Bazelaire et al., Radiology 2004, doi:10.1148/radiol.2303021331, at 3 T; fat's T2
# is that seen by a train of echoes, which is longer (Pai et al. 2008, doi:10.1016/j.mri.2008.02.017). The
# prostate's zones scatter about the organ's T1 of 1597 ms; their T2, and all other values, are typical ones.
PROPERTIES: Mapping[Tissue, Properties] = {
    Tissue.FAT: Properties(0.85, 382, 95, -100, 0.16),
    Tissue.MUSCLE: Properties(0.80, 898, 29, 55, 0.30),
    Tissue.MARROW: Properties(0.70, 586, 70, 220, 0.25),
    Tissue.CORTEX: Properties(0.10, 300, 10, 900),
    Tissue.WALL: Properties(0.80, 1100, 42, 40, 0.20),
    Tissue.URINE: Properties(1.00, 3800, 900, 8, 0.02),
    Tissue.GAS: Properties(0.00, 1000, 10, -950),
    Tissue.STOOL: Properties(0.75, 900, 45, 25, 0.50, 0.20),
    Tissue.VESICLE: Properties(0.90, 1900, 190, 25, 0.45),
    Tissue.CENTRAL_GLAND: Properties(0.85, 1500, 86, 45, 0.38, 0.08),
    Tissue.PERIPHERAL_ZONE: Properties(0.90, 1700, 150, 38, 0.26, 0.10),
    Tissue.CAPSULE: Properties(0.70, 1000, 35, 45),
    Tissue.LESION: Properties(0.85, 1450, 72, 75, 0.12, 0.06),
}

T1_AT_1_5_TESLA = 0.82
"""T1 is this share of that at 3 T (de Bazelaire et al. 2004: 21 % longer at 3 T); T2 hardly changes."""


@dataclass(frozen=True)
class SpinEcho:
    """A sequence: repetition and echo time in ms, field strength in tesla."""

    repetition_ms: float
    echo_ms: float
    tesla: float = 3.0

    def relaxed(self, tissue: Properties) -> float:
        """Signal before T2 has acted, in shares of fully relaxed water: density (1 - exp(-TR / T1))."""
        t1 = tissue.t1_ms * (1.0 if self.tesla > 2 else T1_AT_1_5_TESLA)
        return tissue.density * (1 - math.exp(-self.repetition_ms / t1))

    def signal(self, tissue: Properties) -> float:
        """S = density (1 - exp(-TR / T1)) exp(-TE / T2), in shares of fully relaxed water."""
        return self.relaxed(tissue) * math.exp(-self.echo_ms / tissue.t2_ms)
