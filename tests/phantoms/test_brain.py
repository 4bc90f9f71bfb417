"""Slices of heads: four versions of one anatomy, known lesions, the same for the same seed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from isocenter.errors import BadDataset
from isocenter.images.layouts import open_dataset
from isocenter.phantoms.brain import LESION, SIGNALS, Protocol, scan, write_dataset


def test_only_the_lesion_sets_two_versions_apart() -> None:
    made = scan(np.random.default_rng(0), Protocol(noise=0))
    for contrast in SIGNALS:
        with_, without = (made.images[contrast, version].astype(int) for version in ("with", "without"))
        far = np.abs(with_ - without)[~np.pad(made.lesion, 2)[2:-2, 2:-2]]
        inside = with_[made.lesion]
        assert np.median(np.abs(with_ - without)[made.lesion]) > 40
        assert np.median(far) == 0
        assert np.median(inside) == pytest.approx(SIGNALS[contrast][LESION], abs=30)


def test_lesions_are_bright_in_flair_and_dark_in_t1() -> None:
    made = scan(np.random.default_rng(1), Protocol(noise=0))
    apart = {
        contrast: made.images[contrast, "with"].astype(int) - made.images[contrast, "without"]
        for contrast in SIGNALS
    }
    assert apart["flair"][made.lesion].mean() > 30
    assert apart["t1"][made.lesion].mean() < -30


def test_a_dataset_has_two_domains_and_depends_on_its_seed_alone(tmp_path: Path) -> None:
    first, second = (write_dataset(tmp_path / name, cases=3, seed=5) for name in ("a", "b"))
    dataset = open_dataset(first, "generation")
    assert {label.name for label in dataset.labels} == {"flair", "t1"}
    assert len(dataset.cases) == 6
    assert len({case.patient for case in dataset.cases}) == 3
    name = "images/P002_t1_without.png"
    assert (first / name).read_bytes() == (second / name).read_bytes()


def test_a_dataset_without_cases_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadDataset, match="at least one"):
        write_dataset(tmp_path, cases=0)
