"""Published weights of classifiers, from a file on disk into a network of the same kind.

Only `.safetensors` is opened: other formats may run code when they are read. Names are understood as
torchvision, timm, MedicalNet and CheXNet's reproductions write them. A first convolution of another number of
channels is averaged over colours, and a kernel of fewer axes is spread along the further ones ("inflation",
Carreira and Zisserman, CVPR 2017), so that a network of flat pictures can start one of volumes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from isocenter.errors import BadModel

_WRAPPERS = re.compile(r"^(module|model|network|backbone|encoder|densenet\d*|resnet\d*|net)\.")
"""What programs put before names when they wrap a network."""

_STEMS = ("conv1.weight", "features.conv0.weight", "features.0.weight")
"""First convolutions of ResNets, DenseNets and VGGs."""
_HEADS = ("classifier", "fc", "head")
_RULES = (
    (re.compile(r"\.(norm|conv)\.([12])\."), r".\1\2."),  # the first published DenseNets: `norm.1`
    (re.compile(r"^stem\.conv\."), "conv1."),
    (re.compile(r"\.shortcut\."), ".downsample."),
)
_SUFFIXES = (".pth", ".pt", ".ckpt", ".tar", ".bin", ".pkl", ".h5")
CURE = (
    "Convert it once, where you trust it: state = torch.load('x.pth', weights_only=True); "
    "safetensors.torch.save_file(state, 'x.safetensors')."
)


def load_published(network: nn.Module, path: Path, *, whole: bool = False) -> None:
    """Put published weights into a network wherever name and shape agree, or can be made to.

    The head begins anew where it scores other classes.

    Args:
        network: Changed in place.
        path: A `.safetensors` file.
        whole: All but the head must be there; else more than half of it suffices.

    Raises:
        BadModel: The file is absent, a pickle or damaged, or too little of the network is in it.
    """
    given = {name: tensor for key, tensor in read(path).items() if (name := named(key)) is not None}
    own = network.state_dict()
    fitting = {}
    for name, wanted in own.items():
        tensor = fitted(given[name], wanted) if name in given else None
        if tensor is not None:
            fitting[name] = tensor
    body = [name for name in own if not is_head(name) and not name.endswith("num_batches_tracked")]
    absent = [name for name in body if name not in fitting]
    if 2 * len(absent) > len(body) or (whole and absent):
        raise BadModel(
            f"{len(absent)} of the network's {len(body)} tensors are not in it (first: '{absent[0]}').",
            where=path,
            cure="Choose the network that these weights belong to: settings.architecture of classifiers, "
            "settings.encoder of slides.",
        )
    for name, tensor in fitting.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise BadModel(f"the weights hold numbers that are not finite ('{name}').", where=path)
    network.load_state_dict({**own, **fitting})


def read(path: Path) -> Mapping[str, Tensor]:
    """The tensors of a `.safetensors` file.

    Raises:
        BadModel: It is absent, of another kind, or damaged.
    """
    path = Path(path).expanduser()
    if path.suffix.lower() in _SUFFIXES:
        raise BadModel(
            f"a {path.suffix} may run code when it is opened, so it is not.", where=path, cure=CURE
        )
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a mapping)
    except FileNotFoundError as error:
        raise BadModel("there are no weights here.", where=path, cure="Check the path.") from error
    except (SafetensorError, OSError, ValueError, json.JSONDecodeError) as error:
        raise BadModel("this is not a whole safetensors file.", where=path, cure=CURE) from error


def of_colours(path: Path) -> bool:
    """Whether weights have learnt from flat pictures of three colours, as ImageNet's are.

    Raises:
        BadModel: The file is absent, a pickle or damaged, or has been learnt by this program.
    """
    given = {named(key): tensor for key, tensor in read(path).items()}
    with safe_open(Path(path).expanduser(), framework="pt") as file:
        if "isocenter" in (file.metadata() or {}):
            raise BadModel(
                "these weights belong to a run, whose plan says how their images were brought to order.",
                where=path,
                cure="Start from the run's folder with --from instead.",
            )
    shapes = [given[name].shape for name in _STEMS if name in given]
    return any(len(shape) == 4 and shape[1] == 3 for shape in shapes)


def named(key: str) -> str | None:
    """A published name as our networks have it; None for what is no weight of theirs."""
    while matched := _WRAPPERS.match(key):
        key = key[matched.end() :]
    for pattern, replacement in _RULES:
        key = pattern.sub(replacement, key)
    return key or None


def is_head(name: str) -> bool:
    """Whether a tensor belongs to the layer that scores classes."""
    return name.split(".", maxsplit=1)[0] in _HEADS


def fitted(tensor: Tensor, wanted: Tensor) -> Tensor | None:
    """A tensor brought to the wanted shape; None where that makes no sense.

    Args:
        tensor: As published; a kernel is (output, input, *space).
        wanted: Whose shape and type it is to have.
    """
    if tensor.shape == wanted.shape:
        return tensor.to(wanted.dtype)
    if tensor.ndim < 3 or wanted.ndim < tensor.ndim or tensor.shape[0] != wanted.shape[0]:
        return None
    while tensor.ndim < wanted.ndim:  # a flat kernel, spread along a further axis, answers a constant alike
        depth = wanted.shape[1 + wanted.ndim - tensor.ndim]
        tensor = tensor.unsqueeze(2).repeat_interleave(depth, dim=2) / depth
    if tensor.shape[1] != wanted.shape[1]:
        share = tensor.shape[1] / wanted.shape[1]
        tensor = tensor.mean(dim=1, keepdim=True).repeat_interleave(wanted.shape[1], dim=1) * share
    return tensor.to(wanted.dtype) if tensor.shape == wanted.shape else None
