"""Maps of what a classifier's answer rests on, on the file's own grid, each with the test that it has passed.

Before any map is written, the randomisation test of Adebayo et al. runs on the very model, on the first of
the images that are to be explained. A kind of map that stays the same when the weights are made random has
`FAILED` in the name of every file, and the reason beside it. Several networks that answer together are
explained together: a map is the mean of theirs, which for occlusion and integrated gradients is the map of
their mean score.

What is spent where: the verdict needs wholly random networks alone, and takes them on `TESTED` images; the
steps on the way there are told of the first image. Tested maps are coarser than written ones: occluding
windows lie side by side, the path of integrated gradients has `TEST_STEPS` parts. Written ones have
windows that overlap by half, unless all that is asked for would take longer than `LONGEST`.
"""

from __future__ import annotations

import copy
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from pydantic import JsonValue
from torch import Tensor, nn

from isocenter import compute as computing
from isocenter import files, images
from isocenter.errors import BadPlan, IsocenterWarning, RunFailed, suggestion
from isocenter.images.image import Image
from isocenter.images.placement import Placement
from isocenter.images.resample import resample
from isocenter.methods.classes import Classifier
from isocenter.methods.method import Arrays, Batch
from isocenter.parts.explain import maps, randomisation
from isocenter.parts.explain.randomisation import (
    HIGHEST,
    Likeness,
    Outcome,
    likeness_of,
    mean_likeness,
    randomised,
)
from isocenter.pipeline.answers import EXPLANATIONS, KINDS, Kind
from isocenter.pipeline.predict import Model
from isocenter.pipeline.prepare import prepare_inputs
from isocenter.pipeline.progress import Bar
from isocenter.tasks.bag_files import FAILED

Result = TypeVar("Result")

TESTED = 2
"""Images on which a kind of map is tested."""
TEST_STEPS = 20
"""Parts of the path of integrated gradients in tests; 20 to 300 suffice (Sundararajan et al. 2017)."""
LONGEST = 300.0
"""Seconds beyond which occluding windows do not overlap."""
BACKWARD = 2
"""What a pass back through a network costs, in passes forward."""
COMPLETE = 0.05
"""By how much integrated gradients may miss what they must add up to."""


@dataclass(frozen=True)
class Explanation:
    """One map of one image.

    Attributes:
        kind: How it was made.
        label: The class whose score it explains.
        map: (*space) on the file's own grid.
        score: The class's probability.
        gap: Of integrated gradients, by how much their sum misses the score's difference.
    """

    kind: Kind
    label: str
    map: np.ndarray
    score: float
    gap: float | None = None


class Tested:
    """Kinds of maps that networks give together, and what their tests found.

    Attributes:
        kinds: By name.
        networks: How many answer together.
        outcomes: By kind, the test's outcome for each image it was run on.
        shown: Advanced by every pass forward through a network.
    """

    kinds: tuple[Kind, ...]
    networks: int
    outcomes: dict[Kind, tuple[Outcome, ...]]
    shown: Bar

    def passed(self, kind: Kind) -> bool:
        """Whether a kind of map says something of every image it was tested on, and changes with the network
        on the mean of them."""
        outcomes = self.outcomes.get(kind, ())
        if not outcomes or any(outcome.constant for outcome in outcomes):
            return False
        ranks = _ranks(outcomes)
        return bool(ranks) and float(np.mean(ranks)) <= HIGHEST

    def about(self) -> dict[str, JsonValue]:
        """What the tests found, for the file beside the maps."""
        return {kind: self._about(kind) for kind in self.kinds}

    def _about(self, kind: Kind) -> dict[str, JsonValue]:
        outcomes = self.outcomes.get(kind, ())
        first = outcomes[:1]
        return {
            "passed": self.passed(kind),
            "highest": HIGHEST,
            "images": len(outcomes),
            "networks": self.networks,
            "constant": sum(outcome.constant for outcome in outcomes),
            "cascading": [
                *_rows([outcome.cascading[:-1] for outcome in first]),
                *_rows([outcome.cascading[-1:] for outcome in outcomes]),
            ],
            "independent": _rows([outcome.independent for outcome in first]),
        }


class Explainer(Tested):
    """Explains the answers of a model, the mean over its networks, and tests its maps.

    Args:
        model: A trained classifier.
        kinds: Which maps.

    Attributes:
        overlapping: Whether occluding windows of written maps overlap by half.
        pieces: In how many parts the images that go through a network together are taken.
        shown: Advanced by every pass forward through a network; see `work`.

    Raises:
        BadPlan: The model is no classifier, or there is no such map.
    """

    def __init__(self, model: Model, kinds: Sequence[str]) -> None:
        self.kinds = tuple(kind for kind in KINDS if kind in kinds)
        if strange := [kind for kind in kinds if kind not in KINDS]:
            raise BadPlan(f"there is no map '{strange[0]}'.", cure=suggestion(strange[0], KINDS))
        method = model.members[0].methods[0]
        if not isinstance(method, Classifier):
            raise BadPlan(
                f"{model.plan.method} does not answer by scores of classes that could be explained."
            )
        self.model, self.method = model, method
        self.methods = _alike(model)
        self.networks = len(self.methods)
        self.outcomes = {}
        self.overlapping = True
        self.pieces = 1
        self.shown = Bar()

    def begin(self, image: Image, count: int) -> float:
        """Measure what a pass through the network takes, and decide whether occluding windows overlap.

        Args:
            image: One of those to be explained.
            count: How many there are.

        Returns:
            The seconds that all tests and maps will take.
        """
        arrays, _ = prepare_inputs([image], self.method)
        pace = self._patiently(lambda: self._pace(arrays), image)
        self.overlapping = True
        self.overlapping = self.work(count) * pace <= LONGEST
        return self.work(count) * pace

    def work(self, count: int) -> float:
        """Passes forward through a network that the maps of so many images take, and their tests."""
        return self.work_of_tests(count) + count * self._work(thorough=True)

    def work_of_tests(self, count: int) -> float:
        """The same of the tests alone."""
        network = self.method.modules["network"]
        maps_ = sum(randomisation.count(network, every=not number) for number in range(min(count, TESTED)))
        return maps_ * self._work(thorough=False)

    def test(self, inputs: Sequence[Image], seed: int = 0) -> None:
        """Run the randomisation test of every kind of map on some images."""
        for kind in self.kinds:
            found = []
            for number, image in enumerate(inputs[:TESTED]):
                found.append(
                    self._patiently(partial(self._tested, kind, image, seed, every=not number), image)
                )
            self.outcomes[kind] = tuple(found)

    def _tested(self, kind: Kind, image: Image, seed: int, *, every: bool) -> Outcome:
        arrays, _ = prepare_inputs([image], self.method)
        target = int(self._probabilities(arrays).argmax())
        networks = [method.modules["network"] for method in self.methods]
        return randomised(networks, self._explained(kind, arrays, target), seed=seed, every=every)

    def against(self, other: Model, inputs: Sequence[Image]) -> dict[Kind, float]:
        """The data randomisation test: how like the maps are to those of a model that learnt random labels.

        Args:
            other: The same method, trained with `settings.shuffled`.
            inputs: Images to be explained.

        Returns:
            The mean rank correlation of absolute values, by kind; a map that passes has a low one.
        """
        stranger = Explainer(other, self.kinds)
        found: dict[Kind, float] = {}
        for kind in self.kinds:
            ranks = []
            for image in inputs[:TESTED]:
                arrays, _ = prepare_inputs([image], self.method)
                target = int(self._probabilities(arrays).argmax())
                pair = [each.of(kind, arrays, target, thorough=False)[0] for each in (self, stranger)]
                ranks.append(likeness_of(*pair)[0])
            found[kind] = mean_likeness(ranks)
        return found

    def explain(self, image: Image, label: str | None = None) -> list[Explanation]:
        """Every kind of map for one image.

        Args:
            image: With the channels that the model knows.
            label: The class to be explained; the likeliest by default.

        Raises:
            BadPlan: The model knows no such class.
        """
        arrays, placement = prepare_inputs([image], self.method)
        asked = None if label is None else self.model.plan.place(label)
        sure = self._patiently(lambda: self._probabilities(arrays), image)
        target = int(sure.argmax()) if asked is None else asked
        name = self.model.plan.labels[target].name
        made = []
        for kind in self.kinds:
            found, gap = self._patiently(partial(self.of, kind, arrays, target), image)
            whole = _in_file(found, placement)
            made.append(Explanation(kind, name, whole, float(sure[target]), gap))
        return made

    def of(
        self, kind: Kind, arrays: Arrays, target: int, *, thorough: bool = True
    ) -> tuple[np.ndarray, float | None]:
        """One map of a prepared image on the network's grid, and its gap where it has one.

        Args:
            kind: How it is made.
            arrays: The prepared image.
            target: The class.
            thorough: As maps are written, not as they are tested.
        """
        return self._mean(kind, self.methods, arrays, target, thorough=thorough)

    def _about(self, kind: Kind) -> dict[str, JsonValue]:
        own: dict[str, JsonValue] = {"overlapping": self.overlapping} if kind == "occlusion" else {}
        return {**super()._about(kind), **own}

    # ---------------------------------------------------------------------------------------- the network

    def _patiently(self, work: Callable[[], Result], image: Image) -> Result:
        """Do some work of the networks; where memory runs out, anew with less, and say so once.

        Raises:
            RunFailed: Memory does not suffice for one image on the CPU.
        """
        told = ""
        while True:
            try:
                done = work()
            except (RuntimeError, MemoryError) as error:
                if not computing.out_of_memory(error):
                    raise
                if not (told := self._spared()):
                    raise RunFailed(
                        "memory ran out while this image's answer was explained.",
                        where=image.source or "an image",
                        cure="Free memory, explain on a machine with more, or leave --explain out.",
                    ) from error
            else:
                if told:
                    warnings.warn(told, IsocenterWarning, stacklevel=3)
                return done

    def _spared(self) -> str:
        """Take half as many images at once from now on, in the end on the CPU; says so, or nothing if all of
        that is done already."""
        if self.pieces < maps.BATCH:
            self.pieces *= 2
            return f"Memory ran out: maps are now made in batches {self.pieces} times smaller."
        moved = [computing.retreat(member.compute, member.methods) for member in self.model.members]
        if any(moved):
            return "Memory ran out: maps are made on the CPU from now on."
        return ""

    def _at_once(self, image: Tensor) -> int:
        """How many images of this size go through a network together."""
        return max(1, maps.at_once(image) // self.pieces)

    def _probabilities(self, arrays: Arrays) -> np.ndarray:
        with torch.inference_mode():
            each = [
                method.scores(self._batch(method, arrays)).float().cpu().numpy()[0] for method in self.methods
            ]
        return np.asarray(self.method.calibrated(np.mean(each, axis=0, dtype=np.float64)))

    @staticmethod
    def _batch(method: Classifier, arrays: Arrays) -> Batch:
        whole = method.questions(arrays)
        return {name: value[:1].to(method.device) for name, value in whole.items()}

    def _pace(self, arrays: Arrays) -> float:
        """Seconds for one image's pass forward through a network, from a batch that also goes back."""
        image = self._batch(self.method, arrays)["image"]
        images_ = image.expand(self._at_once(image), *image.shape[1:])
        maps.gradient(self._scores(self.method, arrays), image, 0)  # what only the first pass takes
        start = time.perf_counter()
        maps.gradient(self._scores(self.method, arrays), images_, 0)
        return (time.perf_counter() - start) / (len(images_) * (1 + BACKWARD))

    def _work(self, *, thorough: bool) -> float:
        """Passes forward that one map of each kind takes."""
        shape = self.method.stage.geometry.patch
        overlapping = thorough and self.overlapping
        steps = maps.STEPS if thorough else TEST_STEPS
        passes: dict[Kind, float] = {
            "gradient": 1 + BACKWARD,
            "integrated": steps * (1 + BACKWARD) + 2,
            "gradcam": 1,
            "occlusion": 1 + sum(1 for _ in maps.covered(shape, overlapping=overlapping)),
        }
        return len(self.methods) * sum(passes[kind] for kind in self.kinds)

    def _counted(self, network: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        """A network whose passes advance what is shown."""

        def counted(pictures: Tensor) -> Tensor:
            self.shown.advance(len(pictures) * (1 + BACKWARD * pictures.requires_grad))
            return network(pictures)

        return counted

    def _scores(self, method: Classifier, arrays: Arrays) -> Callable[[Tensor], Tensor]:
        rest = self._batch(method, arrays)
        return lambda pictures: method.scores(_together(rest, pictures))

    def _mean(
        self, kind: Kind, methods: Sequence[Classifier], arrays: Arrays, target: int, *, thorough: bool
    ) -> tuple[np.ndarray, float | None]:
        """The mean map of several networks, and its gap."""
        each = [self._map(kind, method, arrays, target, thorough=thorough) for method in methods]
        found = np.mean([map_ for map_, _ in each], axis=0)
        if kind != "integrated":
            return found, None
        rise = float(np.mean([risen for _, risen in each]))
        return found, maps.gap_of(found, rise)

    def _map(
        self, kind: Kind, method: Classifier, arrays: Arrays, target: int, *, thorough: bool
    ) -> tuple[np.ndarray, float]:
        """One network's map; and of integrated gradients what it must add up to."""
        image = self._batch(method, arrays)["image"]
        scores = self._counted(self._scores(method, arrays))
        if kind == "gradient":
            return maps.gradient(scores, image, target), 0.0
        if kind == "integrated":
            steps = maps.STEPS if thorough else TEST_STEPS
            together = self._at_once(image)
            found = maps.integrated_gradients(scores, image, target, steps=steps, together=together)
            return found.map, found.difference
        if kind == "occlusion":
            overlapping, together = thorough and self.overlapping, self._at_once(image)
            return maps.occlusion(scores, image, target, overlapping=overlapping, together=together), 0.0
        rest = self._batch(method, arrays)
        features = self._counted(lambda pictures: method.features(_together(rest, pictures)))
        return maps.grad_cam(features, lambda found: method.head(found, rest), image, target), 0.0

    def _explained(self, kind: Kind, arrays: Arrays, target: int) -> randomisation.Explain:
        def explain(networks: Sequence[nn.Module]) -> maps.Map:
            others = []
            for method, network in zip(self.methods, networks, strict=True):
                other = copy.copy(method)
                other.modules = nn.ModuleDict({**method.modules, "network": network})
                others.append(other)
            return np.asarray(self._mean(kind, others, arrays, target, thorough=False)[0])

        return explain


def write(explainer: Explainer, image: Image, path: Path, label: str | None = None) -> list[Path]:
    """Write every map of an image beside its answer, and what the tests found as `<name>_explanations.json`.

    Args:
        explainer: Whose tests have run.
        image: To be explained.
        path: Of the answer.
        label: The class to be explained; the likeliest by default.

    Returns:
        The files of the maps; those of a kind that failed its test end in `_FAILED`.
    """
    about = explainer.about()
    *targets, tested = paths(explainer, path)
    made = explainer.explain(image, label)
    for each, target in zip(made, targets, strict=True):
        images.write(each.map[None], target, image)
    for each, (kind, found) in zip(made, about.items(), strict=True):
        if isinstance(found, dict) and each.gap is not None:
            about[kind] = {**found, "completeness_gap": each.gap, "complete": abs(each.gap) <= COMPLETE}
    content = {"class": made[0].label, "probability": made[0].score, "maps": about} if made else {}
    files.write_json(tested, content)
    return targets


def paths(explainer: Explainer, path: Path) -> list[Path]:
    """Where the maps of an answer lie, kind by kind, and last what their tests found."""
    marks = [f"{kind}{'' if explainer.passed(kind) else FAILED}" for kind in explainer.kinds]
    names = [*(f"{mark}.nii.gz" for mark in marks), f"{EXPLANATIONS}.json"]
    return [path.with_name(f"{path.stem}_{name}") for name in names]


def told(explainer: Tested) -> Iterator[str]:
    """A sentence for each kind of map that failed its test."""
    for kind in explainer.kinds:
        outcomes = explainer.outcomes.get(kind, ())
        if outcomes and not explainer.passed(kind):
            yield (
                f"{kind} fails the randomisation test on this model: {_why(outcomes)} "
                "Its files are marked FAILED."
            )


def _alike(model: Model) -> list[Classifier]:
    """All networks that answer and see an image as the first stage's do."""
    first = model.members[0].stage
    seen = (first.geometry.patch, first.normalisation)
    return [
        method
        for member in model.members
        if (member.stage.geometry.patch, member.stage.normalisation) == seen
        for method in member.methods
        if isinstance(method, Classifier)
    ]


def _together(rest: Batch, pictures: Tensor) -> Batch:
    """Several pictures in the place of one, with all else that the network is given."""
    others = {
        name: value.expand(len(pictures), *value.shape[1:]) for name, value in rest.items() if name != "image"
    }
    return {"image": pictures, **others}


def _why(outcomes: Sequence[Outcome]) -> str:
    """Why a kind of map failed."""
    constant = sum(outcome.constant for outcome in outcomes)
    if constant:
        return (
            f"its map is the same everywhere for {constant} of {len(outcomes)} images, and so says nothing."
        )
    ranks = _ranks(outcomes)
    if not ranks:
        return "with random weights its map is the same everywhere, so that there is nothing to compare with."
    return (
        f"with random weights its map correlates {np.mean(ranks):.2f} with the learnt one, above "
        f"{HIGHEST:g}. It shows the image rather than what was learnt."
    )


def _ranks(outcomes: Sequence[Outcome]) -> list[float]:
    """How like a wholly random network's map is, for each image where there was one to compare."""
    last = [outcome.cascading[-1] for outcome in outcomes]
    return [one.ranks for one in last if one.compared]


def _rows(tests: Sequence[Sequence[Likeness]]) -> list[JsonValue]:
    """The steps of a test, each the mean over several images."""
    return [
        {
            "layers": step[0].layers,
            "rank_correlation": float(np.mean([one.ranks for one in step])),
            "signed": float(np.mean([one.signed for one in step])),
        }
        for step in zip(*tests, strict=True)
    ]


def _in_file(found: np.ndarray, placement: Placement) -> np.ndarray:
    inside = resample(np.asarray(found, dtype=np.float32)[None], placement.cropped, 1)[0]
    return placement.whole(np.asarray(inside, dtype=np.float32))
