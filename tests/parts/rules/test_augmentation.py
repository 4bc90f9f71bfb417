"""How strongly samples are varied, and what is said of it."""

from __future__ import annotations

import pytest

from isocenter.parts.rules.augmentation import augmentation


@pytest.mark.parametrize(
    ("passes", "words"), [(0.2, "about once:"), (1.2, "about once:"), (2.1, "about 2 times:")]
)
def test_what_is_seen_once_is_not_seen_1_times(passes: float, words: str) -> None:
    why = augmentation((40, 40, 40), passes, (), None).why
    assert words in why["rotation_probability"]
    assert words in why["noise_probability"]
