"""What all tests share: the benchmark data, where it lies."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def data() -> Callable[[str], Path]:
    """Give the folder of a named benchmark set, or skip the test and say why."""
    root = Path(os.environ.get("ISOCENTER_DATA", Path(__file__).parents[2] / "shared" / "data"))

    def folder(name: str) -> Path:
        path = root / name
        if not path.exists():
            pytest.skip(f"benchmark data '{name}' is not at {root} (set ISOCENTER_DATA)")
        return path

    return folder
