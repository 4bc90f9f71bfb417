"""The spin-echo equation."""

from __future__ import annotations

import pytest

from isocenter.phantoms.tissues import PROPERTIES, Properties, SpinEcho, Tissue


def test_the_signal_is_that_of_the_spin_echo_equation() -> None:
    tissue = Properties(density=0.8, t1_ms=1000.0, t2_ms=100.0, hounsfield=0.0)
    # 0.8 (1 - exp(-2)) exp(-1), worked by hand
    assert SpinEcho(2000, 100).signal(tissue) == pytest.approx(0.8 * 0.8646647 * 0.3678794, rel=1e-6)


def test_a_weaker_field_relaxes_faster() -> None:
    tissue = PROPERTIES[Tissue.MUSCLE]
    assert SpinEcho(1000, 20, tesla=1.5).signal(tissue) > SpinEcho(1000, 20, tesla=3.0).signal(tissue)


def test_tissues_look_as_they_do_in_t2_weighted_images() -> None:
    sequence = SpinEcho(4000, 96)
    order = [
        Tissue.URINE,
        Tissue.PERIPHERAL_ZONE,
        Tissue.CENTRAL_GLAND,
        Tissue.LESION,
        Tissue.MUSCLE,
        Tissue.GAS,
    ]
    signals = [sequence.signal(PROPERTIES[tissue]) for tissue in order]
    assert signals == sorted(signals, reverse=True)


def test_tissues_look_as_they_do_in_ct() -> None:
    order = [Tissue.CORTEX, Tissue.MARROW, Tissue.MUSCLE, Tissue.URINE, Tissue.FAT, Tissue.GAS]
    values = [PROPERTIES[tissue].hounsfield for tissue in order]
    assert values == sorted(values, reverse=True)
    assert PROPERTIES[Tissue.FAT].hounsfield == pytest.approx(-100)
