"""What a plan says is without effect for a method is read by none of its code, and all else is."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import pytest
import torch

from isocenter import methods
from isocenter.images.geometry import Geometry
from isocenter.images.image import Image
from isocenter.methods import slides
from isocenter.methods.method import Arrays, Method
from isocenter.pipeline.batches import Batches
from isocenter.pipeline.effects import with_effects_told
from isocenter.pipeline.overrides import SECTIONS
from isocenter.pipeline.prepare import Prepared, prepare_inputs
from isocenter.pipeline.speed import random_batch
from isocenter.records import Section, Stage

DIMS = {"mil": 2, "sequences": 1}
STAGES = [
    (key, place)
    for key in sorted(methods.catalogue())
    for place in range(2 if key == "detection/nodule_two_stage" else 1)
]
SHAPES = {1: (220,), 2: (72, 80), 3: (20, 40, 36)}

FURTHER = [
    ("restoration/dose_convlstm", (("variant", "unet_convlstm"),)),
    ("restoration/dose_convlstm", (("variant", "convlstm_2d"),)),
    ("restoration/ldct", (("variant", "cnn_mse"),)),
    ("generation/gan", (("loss", "wasserstein"),)),
    ("classification/finetune", (("architecture", "densenet121"),)),
    ("classification/finetune", (("depth", "features"),)),
]
"""Settings on which networks, or what is learnt, depend."""

Built = Callable[..., Method]


def keys_of(name: str) -> set[str]:
    """Every key of a section."""
    return {f"{name}.{field}" for field in SECTIONS[name].model_fields if field != "why"}


def of_stage(key: str, place: int, built: Built) -> Method:
    """The method of a stage, by its number, as it would be learnt."""
    first = built(key, DIMS.get(key.split("/", maxsplit=1)[0], 3))
    stage = first.plan.stages[place]
    return methods.load(key).at(stage)(first.plan, stage)


def unread(method: Method) -> set[str]:
    return set(type(method).unread(method.plan, method.stage))


@contextmanager
def watched(monkeypatch: pytest.MonkeyPatch) -> Iterator[set[str]]:
    """The keys of sections that are read inside the block."""
    names, read = {kind: name for name, kind in SECTIONS.items()}, set[str]()

    def get(section: Section, field: str) -> Any:
        if field in type(section).model_fields and field != "why":
            read.add(f"{names[type(section)]}.{field}")
        return object.__getattribute__(section, field)

    with monkeypatch.context() as patch:
        patch.setattr(Section, "__getattribute__", get)
        yield read


PLANNING = ("configure", "unread", "example", "noise")
"""What a method does before it learns and answers."""


def sources(kind: type[Method]) -> str:
    """The code of all that a method's class finds in the catalogue, as far up as it asks for."""
    found = []
    for name in {name for each in kind.__mro__ for name in vars(each)} - set(PLANNING):
        for each in (each for each in kind.__mro__ if name in vars(each)):
            member = vars(each)[name]
            member = getattr(member, "fget", None) or getattr(member, "func", None) or member
            member = getattr(member, "__func__", member)
            if not inspect.isfunction(member):
                break
            found.append(inspect.getsource(member))
            if "super()" not in found[-1]:
                break
    return "\n".join(found)


@pytest.mark.parametrize(("key", "place"), STAGES)
def test_what_its_network_and_its_loss_read_is_all_that_has_an_effect(
    key: str, place: int, built: Built, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse_other_reading(of_stage(key, place, built), monkeypatch)


@pytest.mark.parametrize(("key", "further"), FURTHER)
def test_so_it_is_with_further_settings(
    key: str, further: tuple[tuple[str, object], ...], built: Built, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = built(key, 3, further)
    refuse_other_reading(method, monkeypatch)
    learning = {"training.learning_rate", *keys_of("augmentation")}
    assert (learning <= unread(method)) == (not method.turns)


def refuse_other_reading(planned: Method, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a method and its losses read is all of the network, and of overlaps, that has an effect."""
    with watched(monkeypatch) as read:
        method = type(planned)(planned.plan, planned.stage)
        if method.turns:
            batch = random_batch(method)
            for turn in method.turns:
                method.loss(batch, turn)
    said = unread(method)
    overlaps = {"training.batch_dice", "training.label_weights"}
    assert read & overlaps == overlaps - said
    if method.stage.network is not None:
        assert read & keys_of("network") == keys_of("network") - said
    convolved = any(parameter.ndim in (4, 5) for parameter in method.modules.parameters())
    assert ("training.channels_last" in said) == (not convolved)


@pytest.mark.parametrize(("key", "place"), STAGES)
def test_it_answers_as_its_plan_says_where_that_has_an_effect(key: str, place: int, built: Built) -> None:
    method = of_stage(key, place, built)
    said, fields = unread(method) & keys_of("prediction"), keys_of("prediction")
    read = {f"prediction.{name}" for name in re.findall(r"\.prediction\.(\w+)", sources(type(method)))}
    assert said == (set() if method.tiled else fields - read)


@pytest.mark.parametrize("key", [key for key, place in STAGES if not methods.load(key).turns])
def test_without_gradients_nothing_is_read_of_how_to_learn(key: str, built: Built) -> None:
    method = of_stage(key, 0, built)
    assert keys_of("training") | keys_of("augmentation") <= unread(method)
    assert ".training." not in sources(type(method))
    assert ("geometry.patch" not in unread(method)) == (".geometry.patch" in sources(type(method)))


@pytest.mark.parametrize(("key", "place"), STAGES)
def test_it_lays_images_as_its_plan_says_where_that_has_an_effect(
    key: str, place: int, built: Built, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("features", "tiles"):
        monkeypatch.setattr(slides, name, lambda image, settings: {"bag": np.zeros((2, 3))})
    method = of_stage(key, place, built)
    dims = method.plan.dims
    noise = np.random.default_rng(0).random((1, *SHAPES[dims]), dtype=np.float32)
    image = Image(noise, Geometry.plain(SHAPES[dims], (1.0,) * dims))
    with watched(monkeypatch) as read:
        prepare_inputs([image] * (1 + method.companions), method)
    orders = {"geometry.image_order", "geometry.through_order"}
    chosen = {"geometry.own_grid", "normalisation.channels", "normalisation.nonzero"}
    assert read & chosen == chosen - unread(method)
    if not method.stage.geometry.own_grid:
        assert not read & orders & unread(method)


class MadeUp(Prepared):
    """Cases that all have the same arrays."""

    def __init__(self, arrays: Arrays) -> None:
        object.__setattr__(self, "made", arrays)

    def arrays(self, case_id: str) -> Arrays:
        return {name: array.copy() for name, array in cast(Any, self).made.items()}


def arrays_of(key: str, method: Method) -> Arrays:
    """A case's arrays as its task places them, prepared by the method, with an object in one corner."""
    task, dims = key.split("/", maxsplit=1)[0], method.plan.dims
    shape = method.stage.geometry.patch if task == "classification" else SHAPES[dims]
    rng = np.random.default_rng(0)
    image = rng.standard_normal((1, *shape), dtype=np.float32)
    mask = np.zeros(shape, dtype=np.uint8)
    mask[(slice(2, 6),) * dims] = 1
    box = np.array([[2.0] * dims + [6.0] * dims], dtype=np.float32)
    classes = np.eye(max(1, len(method.plan.labels)), dtype=np.float32)[0]
    grid = np.eye(4)
    of_task: dict[str, Arrays] = {
        "segmentation": {"label": mask},
        "instances": {"objects": mask.astype(np.int32)},
        "counting": {"points": np.full((1, dims), 4, np.float32), "classes": np.zeros(1, np.int64)},
        "detection": {"boxes": box, "classes": np.zeros(1, np.int64), "excluded": np.zeros(1, bool)},
        "localisation": {"boxes": box, "positions": np.array([[0, 4]], np.float32), "grid": grid},
        "restoration": {"target": image + rng.standard_normal(image.shape, dtype=np.float32)},
        "generation": {"classes": classes},
        "classification": {"classes": classes, "present": np.ones(2, np.float32)},
        "sequences": {"label": np.ones(shape, np.int16)},
        "registration": {"grid": grid},
    }
    if task == "mil":
        tiles = (6, 3, 32, 32) if key == "mil/prompt_mil" else (6, method.stage.geometry.patch[1])
        return method.prepare({"bag": rng.integers(0, 255, tiles).astype(np.float32), "classes": classes})
    arrays = {"image": image, **of_task.get(task, {})}
    if method.stage.after and task == "detection":
        far = box + np.float32(12)
        arrays |= {"candidates": np.concatenate([box, far]), "candidate_scores": np.ones(2, np.float32)}
    if method.companions:
        return method.prepare(method.join([arrays, {**arrays, "image": image[:, ::-1]}]))
    return method.prepare(arrays)


def drawn(method: Method, stage: Stage, arrays: Arrays, step: int) -> dict[str, np.ndarray]:
    """A sample of the first case under a changed stage."""
    other = type(method)(method.plan, stage)
    sample = Batches(other, MadeUp(arrays), ["a", "b"], seed=0).sample(step, 0)
    return {name: np.asarray(value) for name, value in sample.items()}


@pytest.mark.parametrize(("key", "place"), [(key, place) for key, place in STAGES if methods.load(key).turns])
def test_its_samples_depend_on_foreground_and_variation_where_these_have_an_effect(
    key: str, place: int, built: Built
) -> None:
    method = of_stage(key, place, built)
    said = unread(method)
    if type(method).stream is not Method.stream:
        assert {"training.foreground_share", *keys_of("augmentation")} <= said
        return
    torch.manual_seed(0)
    arrays, stage = arrays_of(key, method), method.stage
    off = {name: 0.0 for name in type(stage.augmentation).model_fields if name.endswith("_probability")}
    plain = stage.changed(augmentation=stage.augmentation.changed(**off, mirror=()))

    def differs(section: str, less: dict[str, object], more: dict[str, object]) -> bool:
        pair = [plain.changed(**{section: getattr(plain, section).changed(**v)}) for v in (less, more)]
        return any(
            not all(np.array_equal(a[name], b[name], equal_nan=a[name].dtype.kind == "f") for name in a)
            for step in range(6)
            for a, b in [[drawn(method, each, arrays, step) for each in pair]]
        )

    shares: list[dict[str, object]] = [{"foreground_share": 0.0}, {"foreground_share": 1.0}]
    noisy: list[dict[str, object]] = [{"noise": sd, "noise_probability": 1.0} for sd in (0.0, 1.0)]
    assert differs("training", *shares) == ("training.foreground_share" not in said)
    assert differs("augmentation", *noisy) == ("augmentation.noise" not in said)


@pytest.mark.parametrize(("key", "place"), STAGES)
def test_its_plan_says_what_is_unread(key: str, place: int, built: Built) -> None:
    method = of_stage(key, place, built)
    stage = with_effects_told(method.plan).stages[place]
    for name in unread(method):
        section, _, field = name.partition(".")
        held = getattr(stage, section)
        if held is not None and name != "normalisation.channels":
            assert held.why[field].startswith("Without effect: ")
            assert held.why[field].endswith(".")
