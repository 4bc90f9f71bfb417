"""Features of a slide's tiles, made once by an encoder and kept in the cache by content."""

from __future__ import annotations

import hashlib
import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from isocenter import files
from isocenter.errors import BadDataset, BadModel
from isocenter.images.formats import slide as slide_files
from isocenter.images.image import Image
from isocenter.images.tissue import tiling
from isocenter.methods.method import Arrays
from isocenter.parts.networks.published import load_published, of_colours
from isocenter.parts.networks.tiles import ResNet18Encoder, ResNet50Encoder, ResNetEncoder, TextureEncoder
from isocenter.parts.networks.vit import VisionTransformer

if TYPE_CHECKING:
    from isocenter.methods.bags import BagSettings

VERSION = 1
SEED = 0
BATCH = 32

ENCODERS: dict[str, type[TextureEncoder] | type[VisionTransformer] | type[ResNetEncoder]] = {
    "texture": TextureEncoder,
    "vit": VisionTransformer,
    "resnet18": ResNet18Encoder,
    "resnet50": ResNet50Encoder,
}


def width_of(encoder: str) -> int:
    """How many numbers an encoder makes of a tile."""
    return ENCODERS[encoder].WIDTH


def features(image: Image, settings: BagSettings) -> Arrays:
    """`bag` (tile, feature), `coords` (tile, 2) as x and y, `tiles` (side in pixels of level 0, their mm).

    Args:
        image: The overview of a slide, which names its file.
        settings: Tiles, and the encoder with its weights.

    Raises:
        BadDataset: The image was not read from a slide, or there is no tissue.
        BadModel: The weights do not fit the encoder.
    """
    path = _file(image)
    folder = files.cache_root() / f"features-{_key(path, settings)}"
    if not (folder / "bag.npy").is_file():
        _store(_made(path, settings), folder)
    return {name.stem: np.load(name, mmap_mode="r", allow_pickle=False) for name in folder.glob("*.npy")}


def tiles(image: Image, settings: BagSettings) -> Arrays:
    """`bag` (tile, 3, edge, edge) as bytes, with `coords` and `tiles` as for `features`."""
    with slide_files.opened(_file(image)) as slide:
        found = tiling(slide, settings.tile, settings.mpp)
        read = [_tile(slide, corner, settings) for corner in found.corners]
        return {"bag": np.stack(read), **_places(found.corners, found.side, slide.mpp)}


def _file(image: Image) -> Path:
    if image.source is None or not slide_files.is_slide(image.source):
        raise BadDataset("this is no slide.", where=image.source, cure="Give the slide's own file.")
    return Path(image.source)


def _tile(slide: slide_files.Slide, corner: np.ndarray, settings: BagSettings) -> np.ndarray:
    seen = slide.tile((float(corner[0]), float(corner[1])), settings.tile, settings.mpp)
    return np.ascontiguousarray(np.moveaxis(seen, -1, 0))


def _places(corners: np.ndarray, side: float, mpp: float) -> Arrays:
    return {"coords": np.ascontiguousarray(corners[:, ::-1]), "tiles": np.array([side, mpp / 1000])}


def _made(path: Path, settings: BagSettings) -> Arrays:
    network = encoder(settings.made_by, settings.tile, settings.weights)
    with slide_files.opened(path) as slide, torch.inference_mode():
        found = tiling(slide, settings.tile, settings.mpp)
        made = []
        for start in range(0, len(found.corners), BATCH):
            part = [_tile(slide, corner, settings) for corner in found.corners[start : start + BATCH]]
            made.append(network(normalised(torch.from_numpy(np.stack(part)))).float().numpy())
        return {"bag": np.concatenate(made), **_places(found.corners, found.side, slide.mpp)}


def normalised(tiles: Tensor) -> Tensor:
    """Colours 0 … 255 as -1 … 1, white being 1."""
    return tiles.float() / 127.5 - 1


def encoder(kind: str, tile: int, weights: str | None) -> nn.Module:
    """The network that makes features of tiles, in evaluation mode.

    Args:
        kind: `texture`, `vit`, `resnet18` or `resnet50`.
        tile: Pixels of a tile's side.
        weights: A safetensors file, or a run of ours; None for seeded random ones. Of a ResNet a file of
            published ones, which have learnt from ImageNet's colours.

    Raises:
        BadModel: The file holds no such network, or a ResNet is given none.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        network: nn.Module = ENCODERS[kind](tile)
    if isinstance(network, ResNetEncoder):
        _publish(network, weights)
    elif weights is not None:
        network.load_state_dict(_weights(weights, network))
    return network.eval()


def _publish(network: ResNetEncoder, weights: str | None) -> None:
    """Give a ResNet its published weights, all of them."""
    cure = "Give torchvision's or timm's as a file: --set settings.weights=resnet50.safetensors."
    if weights is None:
        raise BadModel("a ResNet that has learnt nothing makes no features.", cure=cure)
    path = Path(weights).expanduser()
    if not of_colours(path):
        raise BadModel("these weights have not learnt from pictures of three colours.", where=path, cure=cure)
    load_published(network.body, path, whole=True)


def _weights(source: str, network: nn.Module) -> dict[str, Tensor]:
    """The network's own tensors in a file, whatever stands before their names there."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = _weights_file(source)
    try:
        held = load_file(path)
    except (OSError, SafetensorError) as error:
        raise BadModel("no weights can be read.", where=path, cure="Give a safetensors file.") from error
    wanted = network.state_dict()
    first = next(iter(wanted))
    for prefix in sorted((name.removesuffix(first) for name in held if name.endswith(first)), key=len):
        taken = {name: held.get(prefix + name) for name in wanted}
        if all(tensor is not None and tensor.shape == wanted[name].shape for name, tensor in taken.items()):
            return {name: tensor.to(wanted[name]) for name, tensor in taken.items() if tensor is not None}
    raise BadModel(
        f"it does not hold the weights of this encoder (such as '{first}').",
        where=path,
        cure="Choose the encoder that they were trained with (settings.encoder), or other weights.",
    )


def _weights_file(source: str) -> Path:
    path = Path(source).expanduser()
    found = sorted(path.glob("fold_*/weights.safetensors")) if path.is_dir() else [path]
    if not found or not found[0].is_file():
        raise BadModel(
            "there are no weights.", where=source, cure="Give a safetensors file or a trained run."
        )
    return found[0]


def _key(path: Path, settings: BagSettings) -> str:
    weights = None if settings.weights is None else files.digest(_weights_file(settings.weights))
    content: dict[str, Any] = {
        "version": VERSION,
        "slide": files.digest(path),
        "tile": settings.tile,
        "mpp": settings.mpp,
        "encoder": settings.made_by,
        "weights": weights,
        "seed": SEED,
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:24]


def _store(arrays: Arrays, folder: Path) -> None:
    """Write beside and rename: the features are there whole or not at all."""
    with files.as_fault(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".features-", dir=folder.parent) as name:
            beside = Path(name) / "whole"
            beside.mkdir()
            for each, array in arrays.items():
                np.save(beside / f"{each}.npy", np.ascontiguousarray(array), allow_pickle=False)
            _renamed(beside, folder)


def _renamed(beside: Path, folder: Path) -> None:
    try:
        beside.rename(folder)
    except OSError:
        if not (folder / "bag.npy").is_file():  # else another thread was faster, with the same content
            raise
