"""Devices, precision, steps in pieces, averages, resuming, and several processes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partialmethod
from typing import NoReturn

import pytest
import torch
from torch import Tensor, nn

from isocenter import compute as computing
from isocenter.compute import Compute
from isocenter.errors import IsocenterWarning, RunFailed
from isocenter.methods.method import Batch, Method, Turn
from isocenter.records import Budget, Training


class Small(nn.Sequential):
    """A network with a forward of its own, as those of `parts` have; torch compiles none of its own."""

    def forward(self, image: Tensor) -> Tensor:
        answer: Tensor = super().forward(image)
        return answer


class Line(Method):
    """A method without a plan: one small network, and the squared error of its answers."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.modules = nn.ModuleDict(
            {"network": Small(nn.Conv2d(1, 3, 3, padding=1), nn.BatchNorm2d(3), nn.Conv2d(3, 1, 1))}
        )
        self.modules["network"][1].eval()  # type: ignore[index]  # so that samples do not touch each other

    def loss(self, batch: Batch, turn: str) -> Tensor:
        return ((self.modules["network"](batch["image"]) - batch["truth"]) ** 2).mean()


def _training(**changes: object) -> Training:
    return Training(budget=Budget(epochs=1), batch=6, steps_per_epoch=1).changed(**changes)


def _batch(size: int = 6) -> Batch:
    torch.manual_seed(1)
    return {"image": torch.randn(size, 1, 5, 5), "truth": torch.randn(size, 1, 5, 5)}


def _ready(**changes: object) -> tuple[Compute, Line]:
    method, compute = Line(), Compute(torch.device("cpu"), _training(**changes))
    compute.place(method)
    compute.prepare_learning(method)
    return compute, method


def _raise(error: Exception) -> NoReturn:
    raise error


def _values(method: Method) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in method.modules.state_dict().items()}


# ----------------------------------------------------------------------------------------------- the machine


def test_the_cpu_is_described() -> None:
    machine = computing.machine("cpu")
    assert machine.device == "cpu"
    assert machine.cores >= 1
    assert machine.memory_gb > 0
    assert machine.accelerator_gb == 0


@pytest.mark.parametrize(("knows", "precision"), [(True, "bfloat16"), (False, "float32")])
def test_a_cpu_uses_half_the_bits_only_where_it_has_units_for_them(
    monkeypatch: pytest.MonkeyPatch, knows: bool, precision: str
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: knows)
    assert computing.machine("cpu").precision == precision


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there_is_replaced_with_a_warning() -> None:
    with pytest.warns(IsocenterWarning, match="no cuda device here; the CPU"):
        assert computing.machine("cuda").device == "cpu"


def test_an_unknown_device_is_answered_with_the_nearest() -> None:
    with pytest.raises(RunFailed, match="Did you mean 'cuda'"):
        computing.machine("cdua")


# ------------------------------------------------------------------------------------------------- steps


@pytest.mark.parametrize("pieces", [2, 4, 6])
def test_a_batch_in_pieces_gives_the_loss_and_the_step_of_the_whole(pieces: int) -> None:
    whole, method = _ready(optimiser="sgd", clip=0)
    parts, other = _ready(optimiser="sgd", clip=0)
    parts.pieces = pieces
    losses = (
        whole.step(method, _batch(), "network", 0.1),
        parts.step(other, _batch(), "network", 0.1),
    )
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    for name, value in _values(method).items():
        assert torch.allclose(value, _values(other)[name], atol=1e-6), name


@pytest.mark.parametrize("allocate", [lambda: torch.empty(2**55), lambda: _raise(torch.OutOfMemoryError())])
def test_memory_that_runs_out_halves_the_pieces_and_loses_nothing(
    monkeypatch: pytest.MonkeyPatch, allocate: Callable[[], object]
) -> None:
    compute, method = _ready(clip=0)
    expected, other = _ready(clip=0)
    real = method.loss

    def loss(batch: Batch, turn: str) -> Tensor:
        if len(batch["image"]) > 3:
            allocate()
        return real(batch, turn)

    monkeypatch.setattr(method, "loss", loss)
    with pytest.warns(IsocenterWarning, match="taken in 2 pieces"):
        compute.step(method, _batch(), "network", 0.1)
    expected.step(other, _batch(), "network", 0.1)
    assert compute.pieces == 2
    for name, value in _values(method).items():
        assert torch.allclose(value, _values(other)[name], atol=1e-6), name


def test_a_sample_that_does_not_fit_alone_ends_with_a_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    compute, method = _ready()

    def loss(batch: Batch, turn: str) -> Tensor:
        return torch.empty(2**55)

    monkeypatch.setattr(method, "loss", loss)
    with pytest.warns(IsocenterWarning), pytest.raises(RunFailed, match="smaller patch") as fault:
        compute.step(method, _batch(2), "network", 0.1)
    assert "--device" not in fault.value.cure  # it is the CPU's memory already


def test_a_fault_that_is_no_lack_of_memory_is_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    compute, method = _ready()
    monkeypatch.setattr(method, "loss", lambda batch, turn: _raise(RuntimeError("shapes do not fit")))
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        compute.step(method, _batch(), "network", 0.1)
    assert compute.pieces == 1


def test_running_statistics_of_a_part_that_does_not_learn_stay_as_they_are() -> None:
    compute, method = _ready()
    network = method.modules["network"]
    method.modules["head"] = nn.BatchNorm2d(1)
    network.requires_grad_(False)
    with compute.averaged(method):
        assert not method.modules["head"].training
    for mode in (computing.learning_mode, lambda _: compute.averaged(method).__enter__):
        mode(method)
        assert [layer.training for layer in network] == [True, False, True]  # type: ignore[union-attr]
        assert method.modules["head"].training


@pytest.mark.parametrize("allocate", [lambda: torch.empty(2**55), lambda: bytearray(2**62)])
def test_memory_that_runs_out_on_the_cpu_is_told_from_other_faults(allocate: Callable[[], object]) -> None:
    with pytest.raises((RuntimeError, MemoryError)) as fault:
        allocate()
    assert computing.out_of_memory(fault.value)
    assert computing.out_of_memory(torch.OutOfMemoryError())
    with pytest.raises(RuntimeError) as other:
        torch.zeros(2) @ torch.zeros(3)
    assert not computing.out_of_memory(other.value)


def test_a_method_retreats_to_the_cpu_once_even_within_an_inference() -> None:
    compute, method = _ready()
    assert not computing.retreat(compute, [method])
    method.modules.to_empty(device="meta")
    compute.device = torch.device("meta")
    compute.place = lambda method: method.modules.to_empty(device=compute.device)  # type: ignore[method-assign]
    with torch.inference_mode():
        assert computing.retreat(compute, [method])
    assert compute.device.type == "cpu"
    assert all(weights.device.type == "cpu" for weights in method.modules.parameters())
    assert not any(weights.is_inference() for weights in method.modules.parameters())


def test_a_loss_that_is_not_finite_leaves_the_weights_alone() -> None:
    compute, method = _ready()
    before = _values(method)
    batch = _batch()
    batch["truth"][0] = float("nan")
    with pytest.raises(RunFailed, match="finite"):
        compute.step(method, batch, "network", 0.1)
    assert all(torch.equal(value, before[name]) for name, value in _values(method).items())


def test_a_gradient_is_cut_to_its_longest_length() -> None:
    compute, method = _ready(optimiser="sgd", clip=0.01, momentum=0.5, weight_decay=0)
    before = _values(method)
    compute.step(method, _batch(), "network", 1.0)
    moved = torch.cat([(value - before[name]).flatten() for name, value in _values(method).items()])
    assert moved.norm() == pytest.approx(0.01 * 1.5, rel=1e-3)  # Nesterov: g + momentum · g at first


def test_a_turn_moves_only_what_it_owns() -> None:
    compute, method = _ready()
    method.modules["critic"] = nn.Linear(2, 2)
    method.turns = {"network": Turn(("network",)), "critic": Turn(("critic",))}  # type: ignore[misc]
    compute.prepare_learning(method)
    before = _values(method)
    compute.step(method, _batch(), "network", 0.1)
    after = _values(method)
    changed = {name.split(".")[0] for name in after if not torch.equal(after[name], before[name])}
    assert changed == {"network"}


# ---------------------------------------------------------------------------------------------- averaging


def test_the_average_follows_quickly_at_first_and_slowly_later() -> None:
    compute, method = _ready(average=0.99)
    start = {name: value.clone() for name, value in compute.average.items()}
    compute.step(method, _batch(), "network", 0.1)
    compute.follow(method, 0)
    name = "network.0.weight"
    now = method.modules.state_dict()[name]
    assert torch.allclose(compute.average[name], 0.1 * start[name] + 0.9 * now)
    early = compute.average[name].clone()
    compute.follow(method, 10**6)
    assert torch.allclose(compute.average[name], 0.99 * early + 0.01 * now)


def test_the_average_is_what_is_watched_and_kept_and_the_weights_come_back() -> None:
    compute, method = _ready(average=0.9)
    compute.step(method, _batch(), "network", 0.1)
    compute.follow(method, 5)
    own = _values(method)
    with compute.averaged(method):
        assert not method.modules["network"].training
        assert torch.equal(_values(method)["network.0.weight"], compute.average["network.0.weight"])
    assert method.modules["network"].training
    assert all(torch.equal(value, own[name]) for name, value in _values(method).items())
    assert torch.equal(compute.weights(method)["network.0.weight"], compute.average["network.0.weight"])


# ---------------------------------------------------------------------------------------------- compiling


def test_a_compiled_network_learns_the_same_and_is_kept_under_the_same_names(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(nn.Module, "compile", partialmethod(nn.Module.compile, backend="aot_eager"))
    compute, method = _ready()
    fast, compiled = _ready(compile=True)
    for _ in range(2):
        loss = compute.step(method, _batch(), "network", 0.1)
        assert fast.step(compiled, _batch(), "network", 0.1) == pytest.approx(loss, rel=1e-5)
    with fast.averaged(compiled):
        assert torch.isfinite(compiled.loss(_batch(2), "network"))
    kept = fast.weights(compiled)
    for name, value in compute.weights(method).items():
        assert torch.allclose(kept[name], value, atol=1e-6)


def test_a_machine_that_cannot_compile_says_so_and_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def without_compiler(graph: object, inputs: object) -> None:
        raise FileNotFoundError("c++")

    monkeypatch.setattr(nn.Module, "compile", partialmethod(nn.Module.compile, backend=without_compiler))
    torch.compiler.reset()
    compute, method = _ready(compile=True)
    with pytest.raises(RunFailed, match="cannot be compiled here") as refused:
        compute.step(method, _batch(), "network", 0.1)
    assert "training.compile=false" in str(refused.value)


# ----------------------------------------------------------------------------------------------- resuming


def test_a_batch_that_was_taken_in_pieces_still_is_after_resuming() -> None:
    compute, method = _ready()
    compute.pieces, compute.scaler = 4, torch.amp.GradScaler("cpu", init_scale=1024.0)
    compute.scaler.scale(torch.ones(1))
    state = compute.state(method)
    other, resumed = _ready()
    other.scaler = torch.amp.GradScaler("cpu")
    other.restore(resumed, state)
    assert other.pieces == 4
    assert other.scaler.state_dict() == compute.scaler.state_dict()


@pytest.mark.parametrize("optimiser", ["sgd", "adamw"])
def test_what_is_restored_goes_on_bit_for_bit(optimiser: str) -> None:
    compute, method = _ready(optimiser=optimiser, average=0.9)
    for step in range(3):
        compute.step(method, _batch(), "network", 0.05)
        compute.follow(method, step)
    state = compute.state(method)
    other, resumed = _ready(optimiser=optimiser, average=0.9)
    other.restore(resumed, state)
    for step in range(3, 6):
        for each, what in ((compute, method), (other, resumed)):
            each.step(what, _batch(), "network", 0.05)
            each.follow(what, step)
    assert all(torch.equal(value, _values(resumed)[name]) for name, value in _values(method).items())
    assert all(torch.equal(value, other.average[name]) for name, value in compute.average.items())


# --------------------------------------------------------------------------------------- several processes


def test_more_processes_than_samples_are_refused() -> None:
    compute = Compute(torch.device("cpu"), _training(batch=2), world=3)
    with pytest.raises(RunFailed, match="cannot be divided among 3 processes"):
        compute.prepare_learning(Line())
