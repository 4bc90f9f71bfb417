"""Weights and states of training on disk: safetensors, whole or absent, and never trusted blindly."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialised
from torch import Tensor

import isocenter
from isocenter.errors import BadModel
from isocenter.files import write_bytes
from isocenter.methods.method import Method

FORMAT = 1
STATE = "method/"
"""Before the names of what lasts besides weights."""
COPY_AGAIN = "Copy the model again from where it came from."


def save(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Write named tensors with a few facts about them, whole or not at all."""
    content = {"format": FORMAT, "isocenter": isocenter.__version__, **facts}
    write_bytes(path, serialised(dict(tensors), metadata={"isocenter": json.dumps(content)}))


def load(path: Path, cure: str = COPY_AGAIN) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read named tensors and the facts about them; `cure` is what helps when the file is broken.

    Raises:
        BadModel: The file is absent, cut, no safetensors file, or of a newer format. A pickle is never
        opened.
    """
    try:
        with safe_open(path, framework="pt") as file:
            facts = _facts((file.metadata() or {}).get("isocenter", "{}"))
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a mapping)
    except FileNotFoundError as error:
        raise BadModel(
            "there are no weights here.", where=path, cure="Train first, or resume training."
        ) from error
    except (SafetensorError, OSError, ValueError) as error:
        raise BadModel(
            "this is not a whole safetensors file, and no other kind is opened.",
            where=path,
            cure=cure,
        ) from error
    if facts["format"] > FORMAT:
        raise BadModel(
            f"written by a newer isocenter ({facts.get('isocenter')}).", where=path, cure="Update isocenter."
        )
    return tensors, facts


def _facts(text: str) -> dict[str, Any]:
    """What the header says of the tensors; a header of another program says nothing.

    Raises:
        ValueError: It is no such text.
    """
    facts = json.loads(text)
    if not isinstance(facts, dict) or not isinstance(facts.setdefault("format", 0), int):
        raise ValueError("the header is not as isocenter writes it")
    return facts


def kept(method: Method) -> dict[str, Tensor]:
    """What lasts of a method besides its weights, as tensors whose names begin with `method/`."""
    return {f"{STATE}{name}": torch.from_numpy(np.array(array)) for name, array in method.state().items()}


def load_weights(method: Method, path: Path) -> None:
    """Put a model's weights into a method's modules, and give it back what else it kept.

    Raises:
        BadModel: Names, shapes or kinds of number differ from the plan's network, or a weight is not finite.
    """
    everything, _ = load(path)
    tensors = {key: value for key, value in everything.items() if not key.startswith(STATE)}
    wanted = method.modules.state_dict()
    absent, surplus = sorted(set(wanted) - set(tensors)), sorted(set(tensors) - set(wanted))
    wrong = [key for key in wanted if key in tensors and not _alike(tensors[key], wanted[key])]
    if absent or surplus or wrong:
        example = (wrong or absent or surplus)[0]
        raise BadModel(
            f"the weights belong to another network than the plan describes (for example '{example}').",
            where=path,
            cure="Use the plan.json that was written with them.",
        )
    _refuse_not_finite(tensors, path)
    method.modules.load_state_dict(tensors)
    if len(everything) > len(tensors):
        method.load({k.removeprefix(STATE): v.numpy() for k, v in everything.items() if k.startswith(STATE)})


def take_over(method: Method, path: Path) -> tuple[int, list[str]]:
    """Start from another model's weights wherever name and shape agree.

    Returns:
        How many tensors were taken, and the names of those that were not.

    Raises:
        BadModel: Nothing fits, or a weight is not finite.
    """
    taken = fitting(method, load(path)[0])
    _refuse_not_finite(taken, path)
    if not taken:
        raise BadModel("nothing in these weights fits the planned network.", where=path)
    own = method.modules.state_dict()
    method.modules.load_state_dict({**own, **taken})
    return len(taken), sorted(set(own) - set(taken))


def fitting(method: Method, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Those tensors that a method's modules have by the same name, of the same shape and kind of number."""
    own = method.modules.state_dict()
    return {key: value for key, value in tensors.items() if key in own and _alike(own[key], value)}


def _alike(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and one.is_floating_point() == other.is_floating_point()


def not_finite(tensors: Mapping[str, Tensor]) -> str | None:
    """The name of the first tensor that holds a number which is not finite."""
    for name, value in tensors.items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            return name
    return None


def _refuse_not_finite(tensors: Mapping[str, Tensor], path: Path) -> None:
    name = not_finite(tensors)
    if name is not None:
        raise BadModel(
            f"the weights hold numbers that are not finite ('{name}').", where=path, cure=COPY_AGAIN
        )
