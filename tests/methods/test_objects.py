"""Objects survive encoding and decoding, and mirrored outputs are turned back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch

from isocenter.images.geometry import Geometry
from isocenter.images.image import Image
from isocenter.images.placement import Placement
from isocenter.methods import objects
from isocenter.methods.method import Method, Trial
from isocenter.methods.objects import SupervisedObjects, nearest, window
from isocenter.parts.encodings import interiors, stars
from isocenter.parts.metrics.instances import overlaps, panoptic_quality
from isocenter.parts.networks.grids import between

Built = Callable[[str, int], Method]


def discs() -> np.ndarray:
    """Two discs that touch and one apart, (64, 64)."""
    y, x = np.indices((64, 64))
    numbers = np.zeros((64, 64), dtype=np.int32)
    for number, (row, column, radius) in enumerate(((20, 20, 9), (20, 37, 9), (46, 30, 11)), start=1):
        numbers[(y - row) ** 2 + (x - column) ** 2 < radius**2] = number
    return numbers


def whole(shape: tuple[int, ...]) -> Placement:
    return Placement(Geometry.plain(shape), (0,) * len(shape), shape, shape)


def sure(method: SupervisedObjects, key: str, numbers: np.ndarray) -> dict[str, np.ndarray]:
    """The outputs of a network that is sure of the truth."""
    sample = {"image": torch.zeros(1, *numbers.shape), "objects": torch.from_numpy(numbers)[None]}
    encoded = method.encode(sample)
    if key == "instances/stardist":
        grid, scale = method.grid, method.settings.scale  # type: ignore[attr-defined]  # of StarDist
        probability = encoded["probability"].clamp(1e-6, 1 - 1e-6).logit()[None, None]
        distances = encoded["distances"][None] / scale
        return {
            "object": between(probability, grid, numbers.shape)[0].numpy(),
            "distances": between(distances, grid, numbers.shape)[0].numpy(),
        }
    classes = torch.nn.functional.one_hot(encoded["classes"], 3).movedim(-1, 0)
    return {"scores": classes.numpy().astype(np.float32) * 20}


@pytest.mark.parametrize("key", ["instances/border_unet", "instances/stardist"])
def test_decoding_what_is_encoded_gives_the_objects_back(key: str, built: Built) -> None:
    method = built(key, 2)
    assert isinstance(method, SupervisedObjects)
    numbers = discs()
    answer = method.decode(sure(method, key, numbers), whole(numbers.shape))
    quality = panoptic_quality(overlaps(answer, numbers))
    assert quality.recognition == 1
    assert quality.segmentation is not None
    assert quality.segmentation > 0.9


def test_mirrored_rays_change_places(built: Built) -> None:
    method = built("instances/stardist", 2)
    numbers = discs()
    rays = stars.circle(32)
    straight = stars.star_distances(numbers, rays)
    mirrored = stars.star_distances(numbers[:, ::-1].copy(), rays)[:, :, ::-1].copy()
    outputs = torch.from_numpy(np.concatenate([np.zeros((1, 64, 64), np.float32), mirrored]))[None]
    turned = method.unmirrored(outputs, [1])[0, 1:].numpy()
    assert np.allclose(turned, straight, atol=1e-4)


def test_a_border_keeps_touching_objects_apart() -> None:
    classes = interiors.encode(discs(), 1, "touching")
    assert (classes == interiors.BORDER).sum() > 0


def test_numbers_are_never_mixed_on_another_grid() -> None:
    numbers = discs()
    larger = nearest(numbers, (100, 90))
    assert larger.shape == (100, 90)
    assert set(np.unique(larger)) == {0, 1, 2, 3}
    assert np.array_equal(nearest(nearest(numbers, (128, 128)), (64, 64)), numbers)


def trial(method: SupervisedObjects, key: str, numbers: np.ndarray) -> Trial:
    """A network that is sure of the truth, and this truth."""
    placement = whole(numbers.shape)
    return Trial(sure(method, key, numbers), placement, Image(numbers[None], Geometry.plain(numbers.shape)))


def test_stars_compared_once_for_each_overlap_are_those_of_every_threshold(built: Built) -> None:
    method = built("instances/stardist", 2)
    assert isinstance(method, SupervisedObjects)
    rng = np.random.default_rng(0)
    outputs = sure(method, "instances/stardist", discs())
    outputs["object"] = outputs["object"] + rng.normal(0, 1, outputs["object"].shape).astype(np.float32)
    outputs["object"][:, 36:] = np.minimum(outputs["object"][:, 36:], 0.2)  # the third is no surer than .55
    outputs["distances"] = outputs["distances"] * rng.uniform(0.6, 1.3, (1, 64, 64)).astype(np.float32)
    options = method.options()
    together = list(method.numberings(outputs, options))
    assert len(together) == len(options)
    assert len({int(each.max()) for each in together}) > 1
    for option, found in zip(options, together, strict=True):
        assert np.array_equal(found, method.number(outputs, option))


def test_tuning_looks_at_a_window_of_a_large_case_where_its_objects_lie(built: Built) -> None:
    method = built("instances/stardist", 2)
    assert isinstance(method, SupervisedObjects)
    numbers = np.zeros((90, 200), dtype=np.int32)
    numbers[10:74, 130:194] = discs()
    large = trial(method, "instances/stardist", numbers)
    assert window(large, numbers.size) == (slice(0, 90), slice(0, 200))
    rows, columns = window(large, 64 * 64)
    assert (rows.stop - rows.start) * (columns.stop - columns.start) == 64 * 64
    assert (numbers[rows, columns] > 0).sum() > 0.8 * (numbers > 0).sum()
    nothing = Trial(large.outputs, large.placement, Image(0 * numbers[None], large.placement.geometry))
    assert window(nothing, 64 * 64) == (slice(13, 77), slice(68, 132))


def test_tuning_ends_when_it_has_seen_enough_voxels(built: Built, monkeypatch: pytest.MonkeyPatch) -> None:
    method = built("instances/stardist", 2)
    assert isinstance(method, SupervisedObjects)
    monkeypatch.setattr(objects, "WINDOW", 48 * 48)
    monkeypatch.setattr(objects, "VOXELS", 2 * 48 * 48)
    asked: list[int] = []
    shapes: list[tuple[int, ...]] = []
    numberings = method.numberings

    def looked(
        outputs: Mapping[str, np.ndarray], options: Sequence[Mapping[str, Any]]
    ) -> Iterator[np.ndarray]:
        shapes.append(outputs["object"].shape)
        yield from numberings(outputs, options)

    monkeypatch.setattr(method, "numberings", looked)
    one = trial(method, "instances/stardist", discs())

    def trials() -> Iterator[Trial]:
        for place in range(9):
            asked.append(place)
            yield one

    assert method.tune(trials) == method.options()[0]
    assert asked == [0, 1]
    assert shapes == [(1, 48, 48)] * 2
