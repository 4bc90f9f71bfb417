"""The time rule: widths, batches and configurations from budgets and speeds."""

from __future__ import annotations

import pytest

from isocenter.parts.rules import budget as rules
from isocenter.records import Budget, Machine

WIDE, NARROW = rules.WIDTHS[0], rules.WIDTHS[-1]


def at(seconds_per_patch: float) -> rules.Fit:
    """Five minutes with work that grows as width squared times batch; given at the narrowest width."""
    return rules.fit(
        Budget(seconds=300), 9, 2, lambda width, batch: seconds_per_patch * (width / NARROW) ** 2 * batch
    )


def test_longer_budgets_ask_for_more_steps() -> None:
    assert rules.steps_needed(300) == 800
    assert rules.steps_needed(900) > 800
    assert rules.steps_needed(3600) / rules.steps_needed(900) < 4


def test_a_fast_machine_gets_the_widest_network_and_the_full_batch() -> None:
    fit = at(1e-5)
    assert (fit.width, fit.batch, fit.enough, fit.ample) == (WIDE, 9, True, True)


def test_a_slow_machine_gets_the_narrowest_network_and_is_told() -> None:
    fit = at(10.0)
    assert (fit.width, fit.batch, fit.enough, fit.ample) == (NARROW, 2, False, False)


def test_a_wider_network_or_a_larger_batch_never_costs_the_steps_that_are_needed() -> None:
    for exponent in range(-50, 10):
        fit = at(10 ** (exponent / 10))
        if (fit.width, fit.batch) != (NARROW, 2):
            assert 300 * rules.USABLE_SHARE / fit.seconds_per_step >= 800


def test_a_slower_machine_never_gets_a_wider_network() -> None:
    widths = [at(10 ** (exponent / 10)).width for exponent in range(-50, 10)]
    assert widths == sorted(widths, reverse=True)


def test_epochs_set_no_time_limit_and_measure_nothing() -> None:
    def never(width: int, batch: int) -> float:
        raise AssertionError("a budget in epochs must not depend on speed")

    fit = rules.fit(Budget(epochs=1000), 9, 2, never)
    assert (fit.width, fit.batch, fit.seconds_per_step) == (32, 9, 0.0)


@pytest.mark.parametrize(
    ("dims", "anisotropic", "cover", "budget", "names"),
    [
        (2, False, 1.0, "15m", ("2d",)),
        (3, False, 1.0, "15m", ("3d_fullres",)),
        (3, False, 1.0, "4h", ("2d", "3d_fullres")),
        (3, True, 1.0, "15m", ("3d_fullres",)),
        (3, True, 1.0, "2h", ("2d", "3d_fullres")),
        (3, False, 0.2, "2h", ("3d_fullres",)),
        (3, False, 0.05, "2h", ("3d_lowres",)),
        (3, False, 0.05, "1000 epochs", ("2d", "3d_fullres", "3d_lowres", "3d_cascade")),
        (3, False, 0.25, "1d", ("2d", "3d_fullres")),
        (3, True, 0.05, "2 epochs", ("3d_fullres",)),
    ],
)
def test_data_and_budget_decide_which_networks_are_trained(
    dims: int, anisotropic: bool, cover: float, budget: str, names: tuple[str, ...]
) -> None:
    found, why = rules.configurations(dims, anisotropic, cover, Budget.read(budget))
    assert found == names
    assert why


def test_memory_is_the_reference_at_most_on_a_processor_and_capped_on_an_accelerator() -> None:
    cpu = Machine(device="cpu", name="", cores=2, memory_gb=24)
    small = Machine(device="cpu", name="", cores=2, memory_gb=8)
    large = Machine(device="cuda", name="", cores=16, memory_gb=128, accelerator_gb=139)
    assert rules.memory_gb(cpu)[0] == 8
    assert rules.memory_gb(small)[0] == 4
    assert rules.memory_gb(large)[0] == 24
