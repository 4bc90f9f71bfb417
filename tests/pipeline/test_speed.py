"""A plan that is made on a busy computer says so."""

from __future__ import annotations

import psutil
import pytest

from isocenter.pipeline import progress
from isocenter.pipeline.speed import stopwatch
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
