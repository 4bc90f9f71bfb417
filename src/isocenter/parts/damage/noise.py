"""White Gaussian noise, and the noise of Monte-Carlo doses at growing numbers of particles."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from isocenter.errors import BadPlan

Pixels = NDArray[np.float32]


@dataclass(frozen=True)
class Gaussian:
    """Independent noise of one sd, in the image's own unit; values are not clipped.

    Attributes:
        sd: σ; 15, 25 and 50 on the scale from 0 to 255 are usual.
    """

    sd: float

    def __post_init__(self) -> None:
        if not self.sd > 0:
            raise BadPlan(f"noise of sd {self.sd} is none.", cure="Give a positive sd.")

    @property
    def channels(self) -> tuple[str, ...]:
        """The names of the damaged image's channels, none of their own."""
        return ("image",)

    def damaged(self, image: NDArray[np.generic], rng: Generator) -> tuple[Pixels, NDArray[np.generic]]:
        """The noisy image (1, *space) and what it should have been."""
        noise = rng.standard_normal(image.shape, dtype=np.float32) * np.float32(self.sd)
        return (np.asarray(image, dtype=np.float32) + noise)[None], image


@dataclass(frozen=True)
class MonteCarlo:
    """Doses as a Monte-Carlo simulation gives them on the way, after more and more particles.

    A voxel of dose D gets Poisson(n D / D_max) deposits of equal energy, so that its relative uncertainty is
    √(D_max / (n D)), as for any count. The particles of one channel are among those of the next, as when one
    simulation is looked at while it runs. Deposits in neighbouring voxels are independent: true ones are
    correlated over the range of secondary electrons, one to three millimetres.

    Attributes:
        uncertainties: Relative statistical uncertainty at the dose maximum by channel, falling; the number of
            particles grows as its inverse square.
    """

    uncertainties: tuple[float, ...] = (0.7, 0.5, 0.35, 0.25)

    def __post_init__(self) -> None:
        falling = all(a > b for a, b in zip(self.uncertainties, self.uncertainties[1:], strict=False))
        if not self.uncertainties or not falling or self.uncertainties[-1] <= 0:
            raise BadPlan(
                f"uncertainties of {self.uncertainties} are no simulation that runs on.",
                cure="Give falling numbers above zero.",
            )

    @property
    def channels(self) -> tuple[str, ...]:
        """`dose_1`, `dose_2` … with growing numbers of particles."""
        return tuple(f"dose_{place + 1}" for place in range(len(self.uncertainties)))

    def damaged(self, image: NDArray[np.generic], rng: Generator) -> tuple[Pixels, NDArray[np.generic]]:
        """The doses after each number of particles (channel, *space), and the dose itself (*space).

        Raises:
            BadPlan: The dose is negative somewhere.
        """
        dose = np.asarray(image, dtype=np.float64)
        largest = float(dose.max())
        if float(dose.min()) < 0 or largest <= 0:
            raise BadPlan("a dose is nowhere negative, and positive somewhere.")
        deposits, before, found = np.zeros(dose.shape), 0.0, []
        for uncertainty in self.uncertainties:
            count = 1 / uncertainty**2
            deposits += rng.poisson((count - before) * dose / largest)
            before = count
            found.append(deposits * (largest / count))
        return np.stack(found).astype(np.float32), image
