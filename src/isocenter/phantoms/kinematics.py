"""Two instruments that sew, as a surgical robot records them: users with a style of their own.

The movement: each hand goes from place to place in strokes of least jerk,
x(t) = a + (b − a)(10τ³ − 15τ⁴ + 6τ⁵) with τ = t / T (Flash & Hogan, J Neurosci 5 (1985) 1688,
doi:10.1523/JNEUROSCI.05-07-01688.1985); a stroke's time grows with the logarithm of its length over the
wanted accuracy (Fitts, J Exp Psychol 47 (1954) 381, doi:10.1037/h0055392). Physiological tremor of 8 to 12 Hz
and the sensor's noise are added; velocities are those of what is recorded. Places, times and grammar are
typical of a bench task, not measured ones.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from isocenter.phantoms import storing

GESTURES = ("reach", "position", "push", "transfer", "pull", "orient", "drop")
HANDS = ("right", "left")
CHANNELS = tuple(f"{hand}_{what}" for hand in HANDS for what in ("x", "y", "z", "vx", "vy", "vz", "grip"))

OPEN, SHUT = 0.9, 0.1
"""Angle between the jaws, in rad."""

_HOME = {"right": (40.0, 0.0, 0.0), "left": (-40.0, 0.0, 0.0)}
_NEEDLE, _ENTRY, _BELOW, _EXIT = (
    (30.0, -22.0, -8.0),
    (6.0, 10.0, -18.0),
    (0.0, 11.0, -25.0),
    (-8.0, 10.0, -16.0),
)
_PULLED, _MIDDLE, _TRAY = (-52.0, 30.0, 26.0), (2.0, -6.0, 6.0), (4.0, -46.0, 0.0)
_FITTS = (0.18, 0.16)
"""Seconds of a stroke at no distance, and for each doubling of length over accuracy."""

Floats = NDArray[np.float64]
Place = tuple[float, float, float]


@dataclass(frozen=True)
class Style:
    """How one user moves.

    Attributes:
        speed: Faster than others by this factor.
        amplitude: Of movements about the middle of the field, relative to others'.
        accuracy_mm: How near a stroke ends to where it should; smaller is slower.
        tremor_mm: Sd of each axis.
        pause_s: Mean time of rest after a stroke.
        turned: Of the field about the vertical axis, in rad, as the camera stands.
        shifted: Of the field, in mm.
        hesitates: Probability that the needle is positioned once more.
        regrasps: Probability that it is oriented before the next throw.
    """

    speed: float
    amplitude: float
    accuracy_mm: float
    tremor_mm: float
    pause_s: float
    turned: float
    shifted: Place
    hesitates: float
    regrasps: float


@dataclass(frozen=True)
class Protocol:
    """How a dataset is made.

    Attributes:
        hertz: Frames a second.
        throws: Fewest and most throws of a recording.
        noise_mm: Sd of the sensor's positions.
        speed, amplitude, accuracy_mm, tremor_mm, pause_s: Ranges over users; see `Style`.
        turned: Largest angle, in rad.
        shifted_mm: Sd of each axis.
    """

    hertz: float = 30.0
    throws: tuple[int, int] = (2, 4)
    noise_mm: float = 0.05
    speed: tuple[float, float] = (0.6, 1.4)
    amplitude: tuple[float, float] = (0.75, 1.25)
    accuracy_mm: tuple[float, float] = (1.0, 5.0)
    tremor_mm: tuple[float, float] = (0.05, 0.4)
    pause_s: tuple[float, float] = (0.1, 0.5)
    turned: float = 0.35
    shifted_mm: float = 8.0


@dataclass(frozen=True)
class Trial:
    """One recording.

    Attributes:
        times: (frame,) in seconds.
        values: (channel, frame), in mm, mm/s and rad.
        labels: (frame,) of `GESTURES`.
    """

    times: Floats
    values: Floats
    labels: tuple[str, ...]


@dataclass
class _Hands:
    """Where both hands are, and the frames so far."""

    style: Style
    hertz: float
    rng: Generator
    at: dict[str, Floats] = field(default_factory=dict)
    grip: dict[str, float] = field(default_factory=lambda: dict.fromkeys(HANDS, OPEN))
    frames: list[Floats] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.at = {hand: np.array(place) for hand, place in _HOME.items()}

    def move(self, accuracy: float = 1.0, slowly: float = 1.0, **targets: Place) -> None:
        """One stroke of each named hand, both at once, and a rest."""
        ends = {
            hand: np.array(place) * self.style.amplitude
            + self.rng.normal(0, self.style.accuracy_mm * accuracy, 3)
            for hand, place in targets.items()
        }
        far = max(float(np.linalg.norm(end - self.at[hand])) for hand, end in ends.items())
        seconds = _FITTS[0] + _FITTS[1] * np.log2(far / (self.style.accuracy_mm * accuracy) + 1)
        seconds *= slowly * self.rng.lognormal(0, 0.15) / self.style.speed
        self._go(ends, self.grip, seconds)
        self.rest()

    def jaws(self, **angles: float) -> None:
        """Open or close jaws."""
        self._go({}, {**self.grip, **angles}, 0.25 / self.style.speed)

    def rest(self) -> None:
        """Stay for a while."""
        self._go({}, self.grip, self.rng.exponential(self.style.pause_s))

    def _go(self, ends: dict[str, Floats], grip: dict[str, float], seconds: float) -> None:
        count = max(1, round(seconds * self.hertz))
        rising = least_jerk(np.arange(1, count + 1) / count)
        parts = []
        for hand in HANDS:
            start, end = self.at[hand], ends.get(hand, self.at[hand])
            parts.append(start[:, None] + (end - start)[:, None] * rising)
            parts.append((self.grip[hand] + (grip[hand] - self.grip[hand]) * rising)[None])
            self.at[hand] = end
        self.grip = dict(grip)
        self.frames.append(np.concatenate(parts))


def least_jerk(tau: Floats) -> Floats:
    """The share of a stroke that is done after the share `tau` of its time (Flash & Hogan 1985)."""
    return np.asarray(tau**3 * (10 - 15 * tau + 6 * tau**2))


def style(rng: Generator, protocol: Protocol = Protocol()) -> Style:
    """A user."""
    return Style(
        speed=float(rng.uniform(*protocol.speed)),
        amplitude=float(rng.uniform(*protocol.amplitude)),
        accuracy_mm=float(rng.uniform(*protocol.accuracy_mm)),
        tremor_mm=float(rng.uniform(*protocol.tremor_mm)),
        pause_s=float(rng.uniform(*protocol.pause_s)),
        turned=float(rng.uniform(-protocol.turned, protocol.turned)),
        shifted=tuple(rng.normal(0, protocol.shifted_mm, 3).tolist()),
        hesitates=float(rng.uniform(0, 0.5)),
        regrasps=float(rng.uniform(0.3, 1.0)),
    )


def order(rng: Generator, user: Style, throws: int) -> list[str]:
    """Gestures in a user's order: some hesitate, some seldom turn the needle between throws."""
    found = ["reach"]
    for throw in range(throws):
        found.append("position")
        if rng.random() < user.hesitates:
            found += ["orient", "position"]
        found += ["push", "transfer", "pull"]
        if throw + 1 < throws:
            found.append("orient" if rng.random() < user.regrasps else "reach")
    return [*found, "drop"]


def record(rng: Generator, user: Style, protocol: Protocol = Protocol()) -> Trial:
    """One recording of a user."""
    hands = _Hands(user, protocol.hertz, rng)
    labels: list[str] = []
    for gesture in order(rng, user, int(rng.integers(protocol.throws[0], protocol.throws[1] + 1))):
        _STROKES[gesture](hands)
        labels += [gesture] * (sum(part.shape[1] for part in hands.frames) - len(labels))
    clean = np.concatenate(hands.frames, axis=1)
    times = np.arange(clean.shape[1]) / protocol.hertz
    turn = np.array([[np.cos(user.turned), -np.sin(user.turned)], [np.sin(user.turned), np.cos(user.turned)]])
    rows = []
    for start in (0, 4):
        place = clean[start : start + 3].copy()
        place[:2] = turn @ place[:2]
        place += np.array(user.shifted)[:, None] + _tremor(rng, times, user.tremor_mm)
        place += rng.normal(0, protocol.noise_mm, place.shape)
        speed = np.gradient(place, 1 / protocol.hertz, axis=1)
        rows += [place, speed, clean[start + 3 : start + 4] + rng.normal(0, 0.01, (1, times.size))]
    return Trial(times, np.concatenate(rows), tuple(labels))


def write_dataset(
    folder: Path, users: int = 8, trials: int = 4, *, seed: int = 0, protocol: Protocol = Protocol()
) -> Path:
    """Write recordings `U1_T1.csv` … with the columns time, the channels, label and user.

    Args:
        folder: Where to; it may exist.
        users: Each with a style of their own.
        trials: Recordings of each.
        seed: Of everything.
        protocol: How they are made.

    Raises:
        BadDataset: There are no recordings to write.
    """

    def one(number: int) -> None:
        user, trial = divmod(number, trials)
        own = style(np.random.default_rng([seed, user]), protocol)
        made = record(np.random.default_rng([seed, user, trial]), own, protocol)
        frames = zip(made.times, made.values.T, made.labels, strict=True)
        storing.write_table(
            folder / f"U{user + 1}_T{trial + 1}.csv",
            ("time", *CHANNELS, "label", "user"),
            [
                (f"{time:.4f}", *(f"{value:.3f}" for value in values), label, f"U{user + 1}")
                for time, values, label in frames
            ],
        )

    storing.each_case(one, users * trials)
    return folder


# ----------------------------------------------------------------------------------------------- the gestures


def _reach(hands: _Hands) -> None:
    hands.jaws(right=OPEN)
    hands.move(right=_NEEDLE)
    hands.jaws(right=SHUT)


def _position(hands: _Hands) -> None:
    hands.move(right=_ENTRY)
    for _ in range(int(hands.rng.integers(1, 4))):
        hands.move(accuracy=0.5, right=_near(hands.rng, _ENTRY, 4.0))


def _push(hands: _Hands) -> None:
    hands.move(slowly=2.0, right=_BELOW)
    hands.move(slowly=2.0, right=_EXIT)


def _transfer(hands: _Hands) -> None:
    hands.jaws(left=OPEN)
    hands.move(left=_EXIT)
    hands.jaws(left=SHUT)
    hands.jaws(right=OPEN)
    hands.move(right=_near(hands.rng, (12.0, 4.0, -8.0), 3.0))


def _pull(hands: _Hands) -> None:
    hands.move(slowly=1.5, left=_PULLED)
    if hands.rng.random() < 0.5:
        hands.move(left=_near(hands.rng, (-68.0, 40.0, 34.0), 4.0))
    hands.move(right=_HOME["right"])


def _orient(hands: _Hands) -> None:
    hands.move(left=_near(hands.rng, (-6.0, -6.0, 6.0), 3.0), right=_MIDDLE)
    for _ in range(int(hands.rng.integers(1, 3))):
        hands.move(accuracy=0.5, left=_near(hands.rng, (-6.0, -6.0, 6.0), 5.0))
    hands.jaws(right=SHUT)
    hands.jaws(left=OPEN)
    hands.move(left=_HOME["left"])


def _drop(hands: _Hands) -> None:
    hands.move(left=_TRAY)
    hands.jaws(left=OPEN, right=OPEN)
    hands.move(left=_HOME["left"], right=_HOME["right"])


_STROKES = dict(zip(GESTURES, (_reach, _position, _push, _transfer, _pull, _orient, _drop), strict=True))


def _near(rng: Generator, place: Place, sd_mm: float) -> Place:
    moved = np.array(place) + rng.normal(0, sd_mm, 3)
    return float(moved[0]), float(moved[1]), float(moved[2])


def _tremor(rng: Generator, times: Floats, sd_mm: float) -> Floats:
    """Three sines for each axis, at 8 to 12 Hz, whose power adds up to sd²."""
    hertz, phase = rng.uniform(8, 12, (3, 3, 1)), rng.uniform(0, 2 * np.pi, (3, 3, 1))
    waves = np.sin(2 * np.pi * hertz * times + phase)
    return np.asarray(sd_mm * np.sqrt(2 / 3) * waves.sum(axis=1))
