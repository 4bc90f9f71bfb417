"""Generated kinematics: strokes of least jerk, users with a style of their own, labels in order."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from isocenter.images.formats import signals
from isocenter.phantoms.kinematics import (
    CHANNELS,
    GESTURES,
    Protocol,
    least_jerk,
    order,
    record,
    style,
    write_dataset,
)


def test_least_jerk_starts_and_ends_at_rest_and_is_fastest_in_the_middle() -> None:
    tau = np.linspace(0, 1, 1001)
    speed = np.gradient(least_jerk(tau), tau)
    np.testing.assert_allclose(least_jerk(np.array([0.0, 0.5, 1.0])), [0, 0.5, 1])
    assert abs(speed[0]) < 1e-3
    assert abs(speed[-1]) < 1e-3
    np.testing.assert_allclose(speed.max(), 1.875, rtol=1e-4)  # 15/8 of the mean speed (Flash & Hogan 1985)


def test_every_throw_pushes_transfers_and_pulls() -> None:
    user = style(np.random.default_rng(0))
    found = order(np.random.default_rng(1), user, 3)
    assert found[0] == "reach"
    assert found[-1] == "drop"
    assert [word for word in found if word in ("push", "transfer", "pull")] == [
        "push",
        "transfer",
        "pull",
    ] * 3


def test_velocities_are_those_of_the_recorded_positions() -> None:
    made = record(np.random.default_rng(2), style(np.random.default_rng(0)))
    x, vx = (made.values[CHANNELS.index(name)] for name in ("right_x", "right_vx"))
    np.testing.assert_allclose(vx[1:-1], (x[2:] - x[:-2]) / (made.times[2:] - made.times[:-2]), atol=1e-6)


def test_faster_users_take_less_time_and_tremor_shakes() -> None:
    user = replace(style(np.random.default_rng(0)), hesitates=0.0, regrasps=1.0, speed=0.7, tremor_mm=0.0)
    quick, shaking = replace(user, speed=1.4), replace(user, tremor_mm=0.4)
    slow = record(np.random.default_rng(1), user)
    assert record(np.random.default_rng(1), quick).times[-1] < slow.times[-1]
    rough, smooth = (
        np.abs(np.diff(record(np.random.default_rng(1), one).values[0], 2)).mean() for one in (shaking, user)
    )
    assert rough > 2 * smooth


def test_the_same_seed_writes_the_same_recordings(tmp_path: Path) -> None:
    short = Protocol(throws=(1, 1))
    first, again = (write_dataset(tmp_path / name, 2, 2, seed=3, protocol=short) for name in "ab")
    names = sorted(path.name for path in first.iterdir())
    assert names == ["U1_T1.csv", "U1_T2.csv", "U2_T1.csv", "U2_T2.csv"]
    assert all((first / name).read_bytes() == (again / name).read_bytes() for name in names)
    found = signals.recording(first / "U2_T1.csv")
    assert found.channels == CHANNELS
    assert found.about == {"user": "U2"}
    assert set(found.labels or ()) <= set(GESTURES)
