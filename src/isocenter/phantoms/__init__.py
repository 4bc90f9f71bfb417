"""Images generated from stated physics, with known truth: for the demo, for tests and for benchmarks."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from isocenter.phantoms.organs import write_dataset

__all__ = ["write_dataset"]


def __getattr__(name: str) -> object:
    if name in __all__:
        from isocenter.phantoms import organs

        return getattr(organs, name)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
