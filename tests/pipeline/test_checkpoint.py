"""Weights on disk: whole, or absent, and refused where they cannot be trusted."""

from __future__ import annotations

import json
import resource
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from isocenter.errors import BadModel, IsocenterError
from isocenter.methods.method import Batch, Method
from isocenter.pipeline import checkpoint


class Line(Method):
    """A method without a plan and with one layer."""

    def __init__(self) -> None:
        self.modules = nn.ModuleDict({"network": nn.Linear(2, 1)})

    def loss(self, batch: Batch, turn: str) -> Tensor:
        return self.modules["network"](batch["image"]).sum()


def _weights(**changes: Tensor) -> dict[str, Tensor]:
    return {"network.weight": torch.ones(1, 2), "network.bias": torch.ones(1), **changes}


def _header(path: Path, text: str) -> Path:
    save_file(_weights(), path, metadata={"isocenter": text})
    return path


def test_what_is_saved_is_loaded_with_its_facts(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    checkpoint.save(path, _weights(), {"steps": 3})
    tensors, facts = checkpoint.load(path)
    assert torch.equal(tensors["network.weight"], torch.ones(1, 2))
    assert facts["steps"] == 3


def test_a_file_that_cannot_be_written_whole_is_not_there(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(IsocenterError, match="File too large"):
            checkpoint.save(tmp_path / "weights.safetensors", {"x": torch.zeros(10_000)}, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []


def test_weights_of_another_program_are_read(tmp_path: Path) -> None:
    save_file(_weights(), tmp_path / "weights.safetensors")
    tensors, _ = checkpoint.load(tmp_path / "weights.safetensors")
    assert set(tensors) == set(_weights())


@pytest.mark.parametrize("text", ["[]", '{"format": "2"}', "{"])
def test_a_header_that_is_not_ours_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(BadModel, match="Copy the model again"):
        checkpoint.load(_header(tmp_path / "weights.safetensors", text))


def test_a_newer_format_is_named(tmp_path: Path) -> None:
    text = json.dumps({"format": checkpoint.FORMAT + 1, "isocenter": "99.0"})
    with pytest.raises(BadModel, match=r"newer isocenter \(99.0\)"):
        checkpoint.load(_header(tmp_path / "weights.safetensors", text))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"network.bias": torch.ones(1, dtype=torch.int64)}, "another network"),
        ({"network.bias": torch.ones(2)}, "another network"),
        ({"network.bias": torch.tensor([float("nan")])}, "not finite"),
    ],
)
def test_weights_that_are_not_those_of_the_network_are_refused(
    tmp_path: Path, changes: dict[str, Tensor], said: str
) -> None:
    path = tmp_path / "weights.safetensors"
    checkpoint.save(path, _weights(**changes), {})
    with pytest.raises(BadModel, match=said):
        checkpoint.load_weights(Line(), path)


def test_fine_tuning_does_not_start_from_weights_that_are_not_finite(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    checkpoint.save(path, _weights(**{"network.bias": torch.tensor([float("inf")])}), {})
    with pytest.raises(BadModel, match="not finite"):
        checkpoint.take_over(Line(), path)


def test_fine_tuning_takes_what_fits(tmp_path: Path) -> None:
    path, method = tmp_path / "weights.safetensors", Line()
    checkpoint.save(path, _weights(**{"network.bias": torch.ones(3)}), {})
    assert checkpoint.take_over(method, path) == (1, ["network.bias"])
    assert torch.equal(method.modules["network"].weight, torch.ones(1, 2))
