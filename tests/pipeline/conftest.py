"""A dataset small enough to be learnt in seconds, and a run trained on it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

import isocenter
from isocenter.records import Plan

SHAPE = (20, 24, 16)


def write_blobs(folder: Path, cases: int = 10) -> Path:
    """Bright ellipsoids with a brighter core in noise, two scans per patient, as a manifest."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(7)
    grid = np.stack(np.meshgrid(*[np.arange(n) for n in SHAPE], indexing="ij"), axis=-1)
    rows = ["id,image,label,patient,group"]
    for number in range(cases):
        centre = np.array(SHAPE) / 2 + rng.uniform(-2, 2, 3)
        distance = np.linalg.norm((grid - centre) / rng.uniform(4.5, 6.5, 3), axis=-1)
        label = (distance < 1).astype(np.uint8) + (distance < 0.65)
        image = 100 + 60 * label + rng.normal(0, 6, SHAPE)
        for name, array in (("image", image.astype(np.float32)), ("label", label)):
            nib.save(
                nib.Nifti1Image(array, np.diag([1.0, 1.0, 1.5, 1.0])), folder / f"{name}_{number}.nii.gz"
            )
        site = "north" if number % 2 else "south"
        rows.append(f"case_{number},image_{number}.nii.gz,label_{number}.nii.gz,patient_{number // 2},{site}")
    (folder / "cases.csv").write_text("\n".join(rows) + "\n")
    return folder


def small_plan(
    data: Path,
    run: Path,
    budget: str = "2 epochs",
    method: str = "segmentation/nnunet",
    settings: Mapping[str, object] | None = None,
    **overrides: object,
) -> Plan:
    """A plan whose network is tiny, written where training will find it."""
    wishes = {f"settings.{name}": value for name, value in (settings or {}).items()}
    made = isocenter.plan(data, budget=budget, method=method, overrides=wishes, device="cpu")
    stages = []
    for stage in made.stages:
        levels = len(stage.network.features)
        network = stage.network.changed(features=tuple(8 * 2 ** min(level, 1) for level in range(levels)))
        training = stage.training.changed(**{"batch": 2, "steps_per_epoch": 3, "average": 0.9, **overrides})
        stages.append(stage.changed(network=network, training=training))
    made = made.changed(stages=tuple(stages))
    made.save(run / "plan.json")
    return made


@pytest.fixture(scope="session")
def store() -> Callable[[Path, str, Path], Path]:
    """Write a volume with its axes x, y, z in another order and direction, such as `LPS`."""

    def write(source: Path, way: str, path: Path) -> Path:
        volume = nib.load(source)
        now = nib.orientations.io_orientation(volume.affine)
        turn = nib.orientations.ornt_transform(now, nib.orientations.axcodes2ornt(way))
        other = volume.as_reoriented(turn)
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(np.array(other.dataobj), other.affine), path)
        return path

    return write


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of prepared arrays of the tests' own."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    monkeypatch.setenv("ISOCENTER_CACHE", str(cache))


@pytest.fixture(scope="session")
def blobs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small dataset."""
    return write_blobs(tmp_path_factory.mktemp("blobs"))


@pytest.fixture(scope="session")
def make_run(blobs: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Plan a tiny network on the small dataset, into a new folder."""

    def planned(data: Path = blobs, **changes: object) -> Path:
        run = tmp_path_factory.mktemp("run") / "run"
        small_plan(data, run, **changes)  # type: ignore[arg-type]
        return run

    return planned


@pytest.fixture(scope="session")
def trained(blobs: Path, cache: Path, make_run: Callable[..., Path]) -> Path:
    """Two folds, trained for long enough to find the blobs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ISOCENTER_CACHE", str(cache))
        run = make_run(
            budget="12 epochs", optimiser="adamw", learning_rate=1e-2, clip=1.0, steps_per_epoch=12
        )
        isocenter.train(blobs, run, folds=(0, 1), device="cpu", workers=1)
    return run


def write_discs(folder: Path, task: str, cases: int = 10) -> Path:
    """Bright discs on dark ground, numbered in label images: three to six in each."""
    for part in ("images", "labels"):
        (folder / part).mkdir(parents=True)
    rng = np.random.default_rng(3)
    rows, columns = np.mgrid[:64, :72]
    for number in range(cases):
        label = np.zeros((64, 72), np.uint8)
        for place in range(3 + number % 4):
            centre = (12 + 19 * (place % 3) + rng.integers(-1, 2), 18 + 34 * (place // 3))
            label[(rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 < 64] = place + 1
        image = np.clip(40 + 150 * (label > 0) + rng.normal(0, 6, label.shape), 0, 255).astype(np.uint8)
        Image.fromarray(image).save(folder / "images" / f"field_{number}.png")
        Image.fromarray(label).save(folder / "labels" / f"field_{number}.png")
    said = {"task": task, "objects": "nucleus"}
    (folder / "isocenter.json").write_text(json.dumps(said), encoding="utf-8")
    return folder


def _of_discs(task: str, cache: Path, place: Path) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ISOCENTER_CACHE", str(cache))
        run = place / "run"
        data = write_discs(place / "data", task)
        isocenter.train(data, run, method=f"{task}/watershed", device="cpu", workers=1, task=task)
    return run


@pytest.fixture(scope="session")
def told_apart(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one fold that numbers discs; its dataset lies beside it as `data`."""
    return _of_discs("instances", cache, tmp_path_factory.mktemp("instances"))


@pytest.fixture(scope="session")
def counted(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one fold that counts discs; its dataset lies beside it as `data`."""
    return _of_discs("counting", cache, tmp_path_factory.mktemp("counting"))
