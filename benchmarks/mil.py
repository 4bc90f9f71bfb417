"""Bags and slides: MUSK1 by repeated ten-fold cross-validation, planted tumours, a bag of 100,000 instances.

`python benchmarks/mil.py musk1 [--method mil/abmil]` repeats ten folds, stratified, patients being molecules;
`python benchmarks/mil.py breast` asks of bags of BreastMNIST's images whether any is malignant;
`python benchmarks/mil.py tiles` makes bags of the tiles of a scanned slide, and asks whether attention finds
those that are rich in nuclei, which alone the bags' labels follow;
`python benchmarks/mil.py slides` trains on slide phantoms and asks whether attention finds their tumours;
`python benchmarks/mil.py memory` trains on one large bag in a process of its own and records its peak;
`python benchmarks/mil.py prompt` compares what learns of a transformer, under which head, with and without
pretraining: parameters, memory, time, accuracy, and how well frozen features tell tumour tiles apart.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from isocenter.records import Dataset, Fold
from record import record

DATA = Path(os.environ.get("ISOCENTER_DATA", Path(__file__).parents[2] / "shared" / "data"))
FOLDS = 10
INSTANCES, FEATURES = 100_000, 1024
SLIDES = 60
TILE, MPP, BAG, PLANTED = 48, 0.5, 30, 3
"""Pixels of a tile's side, their µm, tiles of a bag, and how many of a positive one's are rich in nuclei."""
VARIANTS = (
    *(("abmil", trained, share) for share in (0.0, 0.5) for trained in ("nothing", "prompt", "last", "full")),
    *((head, trained, 0.5) for head in ("dsmil", "clam") for trained in ("prompt", "last")),
)
"""The head, what learns beside it, and the share of the budget in which the transformer is pretrained."""


def main() -> None:
    """Run the benchmark."""
    arguments = _arguments()
    figures = {
        "musk1": _musk1,
        "breast": _breast,
        "tiles": _scanned,
        "slides": _slides,
        "memory": _memory,
        "prompt": _prompt,
    }[arguments.what](arguments)
    if figures is not None:
        method = "" if arguments.what == "prompt" else f"_{arguments.method.split('/')[-1]}"
        name = f"mil_{arguments.what}{method}{arguments.suffix}"
        record(name, figures, " ".join(["python", "benchmarks/mil.py", *sys.argv[1:]]))


# ------------------------------------------------------------------------------------------------- MUSK1


def _musk1(arguments: argparse.Namespace) -> dict[str, Any]:
    import isocenter

    dataset = isocenter.open(DATA / "bags_musk1")
    accuracies, began = [], time.monotonic()
    for repeat in range(arguments.repeats):
        run = Path(arguments.out) / f"musk1_{arguments.method.split('/')[-1]}{arguments.suffix}_{repeat}"
        scores = isocenter.train(
            dataset.changed(folds=_ten_folds(dataset, repeat)),
            run,
            method=arguments.method,
            budget=f"{arguments.epochs} epochs",
            folds=None,
            seed=repeat,
            workers=1,
            overrides=_settings(arguments),
        )
        for fold in range(FOLDS):
            own = [case.values["all"]["accuracy"] for case in scores.cases if case.fold == fold]
            accuracies.append(float(np.mean([value for value in own if value is not None])))
    mean, spread = float(np.mean(accuracies)), float(np.std(accuracies) / np.sqrt(len(accuracies)))
    what = f"MUSK1, {arguments.repeats} × ten folds, {arguments.epochs} epochs{arguments.suffix}, accuracy"
    return {
        "accuracy": mean,
        "standard_error": spread,
        "spread_between_folds": float(np.std(accuracies)),
        "accuracies": accuracies,
        "seconds": round(time.monotonic() - began, 1),
        "systems": {arguments.method: {what: f"{mean:.3f} ± {spread:.3f} (standard error over the folds)"}},
    }


def _ten_folds(dataset: Dataset, seed: int) -> tuple[Fold, ...]:
    """Ten stratified folds; the tenth of the others on which choices are made is drawn by the plan."""
    rng = np.random.default_rng(seed)
    place = {}
    for label in dataset.labels:
        own = [case.id for case in dataset.cases if case.truth["class"] == [label.name]]
        place |= {name: number % FOLDS for number, name in enumerate(rng.permutation(own))}
    names = [case.id for case in dataset.cases]
    return tuple(
        Fold(
            train=tuple(name for name in names if place[name] != fold),
            validation=(),
            test=tuple(name for name in names if place[name] == fold),
        )
        for fold in range(FOLDS)
    )


# ---------------------------------------------------------------------------------------------- BreastMNIST


def _breast(arguments: argparse.Namespace) -> dict[str, Any]:
    """Bags of about ten ultrasound images, their pixels as features; scored on the official test images."""
    import isocenter

    folder = Path(arguments.out) / "breast_bags"
    folder.mkdir(parents=True, exist_ok=True)
    rows = ["id,bag,label,split"]
    with np.load(DATA / "medmnist" / "BreastMNIST.npz", allow_pickle=False) as held:
        for part, split, count in (("train", "train", 200), ("test", "validation", 100)):
            images, malignant = held[f"{part}_images"], held[f"{part}_labels"].reshape(-1) == 0
            rng = np.random.default_rng(len(part))
            for number in range(count):
                # Half of the bags hold a share of malignant images as they occur, half hold none.
                pool = np.arange(len(images)) if number % 2 else np.flatnonzero(~malignant)
                chosen = rng.choice(pool, max(1, rng.poisson(10)), replace=False)
                name = f"{part}_{number:03d}"
                np.save(folder / f"{name}.npy", images[chosen].reshape(len(chosen), -1).astype(np.float32))
                label = "malignant" if malignant[chosen].any() else "benign"
                rows.append(f"{name},{name}.npy,{label},{split}")
    (folder / "manifest.csv").write_text("\n".join(rows), encoding="utf-8")
    run = Path(arguments.out) / f"breast_{arguments.method.split('/')[-1]}{arguments.suffix}"
    began = time.monotonic()
    scores = isocenter.train(
        isocenter.open(folder),
        run,
        method=arguments.method,
        budget=arguments.budget,
        overrides=_settings(arguments),
    )
    area = scores.summary["malignant"]["roc_auc"]
    said = f"bag AUC {area.mean:.3f} ({area.low:.3f}–{area.high:.3f})"
    return {
        "bag_auc": area.model_dump(),
        "accuracy": scores.summary["all"]["accuracy"].mean,
        "seconds": round(time.monotonic() - began, 1),
        "systems": {arguments.method: {f"BreastMNIST bags, 100 held out{arguments.suffix}": said}},
    }


# ---------------------------------------------------------------------------------- a scanned slide's tiles


def _scanned(arguments: argparse.Namespace) -> dict[str, Any]:
    """A scanned slide's tissue, its tiles, their features from the cache, bags of them, a method: learnt from
    its left half, scored on its right."""
    import isocenter

    out = Path(arguments.out) / f"tiles_{arguments.bags}"
    began = time.monotonic()
    tiles = _bags_of_tiles(DATA / "slides" / "CMU-1-Small-Region.svs", out, arguments)
    made = time.monotonic() - began
    run = Path(arguments.out) / f"scanned_{arguments.method.split('/')[-1]}{arguments.suffix}"
    scores = isocenter.train(
        isocenter.open(out),
        run,
        method=arguments.method,
        budget=arguments.budget,
        overrides={key: value for key, value in _settings(arguments).items() if key not in _OF_TILES},
    )
    bag, found = scores.summary["nuclei"]["roc_auc"], scores.summary["all"]["attention_auc"]
    said = f"bag AUC {bag.mean:.3f} ({bag.low:.3f}–{bag.high:.3f}), attention AUC {found.mean:.3f} "
    said += f"({found.low:.3f}–{found.high:.3f})"
    what = (
        f"CMU-1, {arguments.bags} bags of {BAG} of {tiles} tiles, {PLANTED} rich in nuclei{arguments.suffix}"
    )
    return {
        "bag_auc": bag.model_dump(),
        "attention_auc": found.model_dump(),
        "tiles": tiles,
        "seconds_for_bags": round(made, 1),
        "seconds": round(time.monotonic() - began, 1),
        "systems": {arguments.method: {what: said}},
    }


_OF_TILES = ("settings.encoder", "settings.weights", "settings.tile", "settings.mpp")
"""What `--set` says of how features are made, here before any training."""


def _bags_of_tiles(source: Path, folder: Path, arguments: argparse.Namespace) -> int:
    """Write bags of a slide's tiles, every other one with some that are rich in nuclei; how many tiles there
    are. `rich.geojson` outlines those, so that attention can be judged."""
    from isocenter.images.formats import slide
    from isocenter.images.formats.outlines import Outline, write_geojson
    from isocenter.methods import slides
    from isocenter.methods.bags import BagSettings

    own = {key.removeprefix("settings."): value for key, value in _settings(arguments).items()}
    chosen = {key.removeprefix("settings.") for key in _OF_TILES}
    settings = BagSettings.parse(
        {"tile": TILE, "mpp": MPP, **{key: value for key, value in own.items() if key in chosen}}
    )
    image = slide.overview(source)
    features = slides.features(image, settings)
    rich = _rich_in_nuclei(slides.tiles(image, settings)["bag"])
    coords, edge = np.asarray(features["coords"]), float(features["tiles"][0])
    folder.mkdir(parents=True, exist_ok=True)
    square = np.array([[0, 0], [edge, 0], [edge, edge], [0, edge]])
    outlined = [Outline(parts=((corner + square,),)) for corner in coords[rich]]
    write_geojson(folder / "rich.geojson", outlined, ["nuclei"] * len(outlined))
    left = coords[:, 0] + edge / 2 < np.median(coords[:, 0] + edge / 2)
    rng, rows = np.random.default_rng(0), ["id,bag,label,regions,split"]
    for number in range(arguments.bags):
        side, split = (left, "train") if number % 3 else (~left, "validation")
        planted = PLANTED * (number // 3 % 2)
        tiles = np.concatenate(
            [
                rng.choice(np.flatnonzero(side & rich), planted, replace=False),
                rng.choice(np.flatnonzero(side & ~rich), BAG - planted, replace=False),
            ]
        )
        name = f"bag_{number:03d}"
        np.savez(folder / f"{name}.npz", features=features["bag"][tiles], coords=coords[tiles], edge=edge)
        regions = "rich.geojson" if planted else ""
        rows.append(f"{name},{name}.npz,{'nuclei' if planted else 'normal'},{regions},{split}")
    (folder / "manifest.csv").write_text("\n".join(rows), encoding="utf-8")
    return len(coords)


def _rich_in_nuclei(tiles: np.ndarray) -> np.ndarray:
    """The tenth of tiles (n, 3, y, x) with most haematoxylin (Ruifrok and Johnston 2001)."""
    from skimage.color import rgb2hed

    stained = np.array([rgb2hed(np.moveaxis(tile, 0, -1))[..., 0].mean() for tile in tiles])
    return stained >= np.quantile(stained, 0.9)


# ------------------------------------------------------------------------------------------------ slides


def _phantoms(out: Path) -> Path:
    from isocenter.phantoms.slides import write_dataset

    folder = out / f"slide_phantoms_{SLIDES}"
    return folder if (folder / "manifest.csv").exists() else write_dataset(folder, SLIDES, seed=0)


def _slides(arguments: argparse.Namespace) -> dict[str, Any]:
    import isocenter

    out = Path(arguments.out)
    data = _phantoms(out)
    run = out / f"slides_{arguments.method.split('/')[-1]}{arguments.suffix}"
    began = time.monotonic()
    scores = isocenter.train(
        isocenter.open(data),
        run,
        method=arguments.method,
        budget=arguments.budget,
        folds=None,
        overrides=_settings(arguments),
    )
    seconds = time.monotonic() - began
    isocenter.report(run)
    bag, found = scores.summary["tumour"]["roc_auc"], scores.summary["all"]["attention_auc"]
    said = f"bag AUC {bag.mean:.3f} ({bag.low:.3f}–{bag.high:.3f}), attention AUC {found.mean:.3f} "
    said += f"({found.low:.3f}–{found.high:.3f})"
    return {
        "bag_auc": bag.model_dump(),
        "attention_auc": found.model_dump(),
        "accuracy": scores.summary["all"]["accuracy"].mean,
        "slides": len(scores.cases),
        "seconds": round(seconds, 1),
        "systems": {arguments.method: {f"{SLIDES} slide phantoms, five folds{arguments.suffix}": said}},
    }


# ------------------------------------------------------------------------------------------------ memory


def _memory(arguments: argparse.Namespace) -> dict[str, Any] | None:
    """Training on one bag in a process of its own, whose peak is told by the system."""
    if os.environ.get("MIL_BAG") is None:
        words = [sys.executable, __file__, *sys.argv[1:]]
        done = subprocess.run(
            words, env={**os.environ, "MIL_BAG": "1"}, capture_output=True, text=True, check=True
        )
        found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
        what = f"a bag of {INSTANCES:,} × {FEATURES:,}, peak memory of training"
        return found | {"systems": {arguments.method: {what: f"{found['peak_gb']:.2f} GB"}}}
    import isocenter

    folder = Path(arguments.out) / "large_bags"
    folder.mkdir(parents=True, exist_ok=True)
    rows = ["bag,label,split"]
    for number, split in enumerate(("train", "train", "validation", "validation")):
        path = folder / f"bag_{number}.npy"
        if not path.exists():
            bag = np.random.default_rng(number).standard_normal((INSTANCES, FEATURES), dtype=np.float32)
            np.save(path, bag)
        rows.append(f"{path.name},{('normal', 'tumour')[number % 2]},{split}")
    (folder / "manifest.csv").write_text("\n".join(rows), encoding="utf-8")
    run = Path(arguments.out) / f"large_{arguments.method.split('/')[-1]}{time.time_ns()}"
    began = time.monotonic()
    isocenter.train(
        isocenter.open(folder),
        run,
        method=arguments.method,
        budget="3 epochs",
        workers=1,
        overrides=_settings(arguments),
    )
    print(json.dumps({"peak_gb": round(_peak_gb(), 3), "seconds": round(time.monotonic() - began, 1)}))
    return None


def _peak_gb() -> float:
    """The most memory that this process held; what `getrusage` says counts the one that started it, too."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024 / 1e9


# ------------------------------------------------------------------------------------------------ prompts


def _prompt(arguments: argparse.Namespace) -> dict[str, Any] | None:
    """Each part of the transformer that may learn, in a process of its own."""
    if os.environ.get("MIL_VARIANT") is not None:
        return _prompt_once(arguments, *json.loads(os.environ["MIL_VARIANT"]))
    figures: dict[str, Any] = {}
    _phantoms(Path(arguments.out))
    for variant in VARIANTS:
        words = [sys.executable, __file__, *sys.argv[1:]]
        env = {**os.environ, "MIL_VARIANT": json.dumps(variant)}
        done = subprocess.run(words, env=env, stdout=subprocess.PIPE, text=True, check=True)
        figures[_named(*variant)] = json.loads(done.stdout.strip().splitlines()[-1])
    said = {
        f"{SLIDES} slide phantoms, fold 0, {arguments.budget}, {name}": _said(one)
        for name, one in figures.items()
    }
    return figures | {"systems": {"mil/prompt_mil": said}}


def _named(head: str, trained: str, share: float) -> str:
    return f"{'pretrained' if share else 'random'} transformer, {head}, learns: {trained}"


def _said(one: dict[str, Any]) -> str:
    said = f"AUC {one['bag_auc']:.3f}, {one['learnt']:,} parameters learnt, peak {one['peak_gb']:.2f} GB"
    if one["tile_auc"] is not None:
        said += f", tumour tiles by a linear probe of frozen features AUC {one['tile_auc']:.3f}"
    return said


def _prompt_once(arguments: argparse.Namespace, head: str, trained: str, share: float) -> None:
    import isocenter
    from isocenter import methods
    from isocenter.pipeline import checkpoint
    from isocenter.pipeline.run import WEIGHTS, Run

    run = Path(arguments.out) / f"prompt_{head}_{trained}_{share:g}{arguments.suffix}"
    own = {"settings.head": head, "settings.trained": trained, "settings.pretrain": share}
    dataset = isocenter.open(_phantoms(Path(arguments.out)))
    began = time.monotonic()
    scores = isocenter.train(
        dataset,
        run,
        method="mil/prompt_mil",
        budget=arguments.budget,
        overrides={**_settings(arguments), **own},
    )
    seconds = time.monotonic() - began
    plan = Run(run).plan
    method = methods.load(plan.method)(plan, plan.stages[0])
    checkpoint.load_weights(method, Run(run).stage(0, plan.stages[0].name, 1) / WEIGHTS)
    # What pretrains the transformer is left out: it is not part of the answer.
    parameters = list(method.modules["network"].parameters())
    area, found = scores.summary["tumour"]["roc_auc"].mean, scores.summary["all"].get("attention_auc")
    content = {
        "learnt": sum(p.numel() for p in parameters if p.requires_grad),
        "parameters": sum(p.numel() for p in parameters),
        "bag_auc": area,
        "attention_auc": None if found is None else found.mean,
        "tile_auc": _tile_auc(dataset, method) if trained == "nothing" else None,
        "accuracy": scores.summary["all"]["accuracy"].mean,
        "peak_gb": round(_peak_gb(), 3),
        "seconds": round(seconds, 1),
    }
    print(json.dumps(content))


def _tile_auc(dataset: Dataset, method: Any) -> float:
    """How well a logistic regression on features tells which tiles lie in a tumour: learnt from the training
    slides of fold 0, judged on its held-out ones."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    fold = method.plan.folds[0]
    features, inside = _tiles(dataset, method, (*fold.train, *fold.validation))
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=2000)).fit(features, inside)
    features, inside = _tiles(dataset, method, fold.test)
    return float(roc_auc_score(inside, probe.decision_function(features)))


def _tiles(dataset: Dataset, method: Any, cases: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Features (tile, 192) of all tiles of some slides, and whether each tile's centre lies in a tumour."""
    import torch

    from isocenter import tasks
    from isocenter.images.layouts import read_image
    from isocenter.tasks.bag_files import Attended

    task, features, inside = tasks.load("mil"), [], []
    method.modules.eval()
    for name in cases:
        case = dataset.case(name)
        arrays = method.lay_slide(read_image(dataset, case, read=task.read))
        places = Attended(method.names, np.zeros(0), coords=arrays["coords"], edge=float(arrays["tiles"][0]))
        held = task.read_truth(dataset, case).holds(places)
        inside.append(np.zeros(len(arrays["bag"]), dtype=bool) if held is None else held)
        with torch.inference_mode():
            features.append(method.instances(torch.from_numpy(arrays["bag"])).numpy())
    return np.concatenate(features), np.concatenate(inside)


def _settings(arguments: argparse.Namespace) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for setting in arguments.settings:
        name, _, value = setting.partition("=")
        try:
            found[name] = json.loads(value)
        except ValueError:
            found[name] = value
    return found


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("musk1", "breast", "tiles", "slides", "memory", "prompt"))
    parser.add_argument("--method", default="mil/abmil")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--budget", default="60 epochs")
    parser.add_argument("--bags", type=int, default=240, help="Of the scanned slide's tiles.")
    parser.add_argument("--out", default="runs")
    parser.add_argument("--suffix", default="", help="Added to the result's name, for a changed plan.")
    parser.add_argument("--set", dest="settings", action="append", default=[])
    return parser.parse_args()


if __name__ == "__main__":
    main()
