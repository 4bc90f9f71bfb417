"""How fast steps are is measured, but not for long, and a busy computer is told."""

from __future__ import annotations

import time
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from isocenter.pipeline import progress, speed
from isocenter.pipeline.speed import seconds_per_step, stopwatch
from isocenter.records import Fingerprint, Machine, Record


@pytest.mark.parametrize(
    ("percent", "device", "told"), [(85, "cpu", True), (4, "cpu", False), (85, "cuda", False)]
)
def test_other_programs_that_slow_the_measurement_are_told(
    percent: float,
    device: str,
    told: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(psutil, "cpu_percent", lambda interval: float(percent))
    machine = Machine.parse({"device": device, "name": "a test", "cores": 2, "memory_gb": 8})
    with progress.plain_lines():
        stopwatch(Fingerprint.model_construct(), "segmentation/nnunet", machine, Record())
    assert ("85 % busy" in capsys.readouterr().err) == told


@dataclass
class Computer:
    """One whose steps last as long as it is told; its clock is the only one that goes."""

    lasting: list[float]
    now: float = 0.0

    def step(self, *_: object) -> None:
        self.now += self.lasting.pop(0)

    def __getattr__(self, name: str) -> Any:
        return lambda *_: None


@pytest.mark.parametrize(
    ("lasting", "found", "left"),
    [
        ([4.0, 0.3, 0.2, 0.4, 9.0], 0.2, 1),  # warmed up once, then the fastest of three
        ([17.0, 16.0, 15.0, 15.0, 9.0], 16.0, 3),  # steps are long: one is enough
        ([12.0, 1.0, 0.9, 0.8, 9.0], 1.0, 3),
    ],
)
def test_long_steps_are_timed_once(
    lasting: list[float], found: float, left: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    computer = Computer(lasting)
    monkeypatch.setattr(speed, "Compute", SimpleNamespace(start=lambda *_: computer))
    monkeypatch.setattr(speed, "replace", lambda each, **_: each)
    monkeypatch.setattr(speed, "random_batch", lambda _: {})
    monkeypatch.setattr(time, "perf_counter", lambda: computer.now)
    training = SimpleNamespace(changed=lambda **_: None)
    method = SimpleNamespace(turns={"network": None}, stage=SimpleNamespace(training=training), timed_at=0.0)
    machine = Machine.parse({"device": "cpu", "name": "a test", "cores": 2, "memory_gb": 8})
    assert seconds_per_step(method, machine) == pytest.approx(found)
    assert len(lasting) == left
