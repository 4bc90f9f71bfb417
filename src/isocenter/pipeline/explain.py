"""Maps of what a classifier's answer rests on, on the file's own grid, each with the test that it has passed.

Before any map is written, the randomisation test of Adebayo et al. runs on the very model, on the first of
the images that are to be explained. A kind of map that stays the same when the weights are made random has
`FAILED` in the name of every file, and the reason beside it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from pydantic import JsonValue
from torch import Tensor, nn

from isocenter import files, images
from isocenter.errors import BadPlan, suggestion
from isocenter.images.image import Image
from isocenter.images.placement import Placement
from isocenter.images.resample import resample
from isocenter.methods.classes import Classifier
from isocenter.methods.method import Arrays, Batch
from isocenter.parts.explain import maps
from isocenter.parts.explain.randomisation import (
    HIGHEST,
    Likeness,
    Outcome,
    likeness_of,
    mean_likeness,
    randomised,
)
from isocenter.pipeline.answers import EXPLANATIONS, FAILED, KINDS, Kind
from isocenter.pipeline.predict import Model
from isocenter.pipeline.prepare import prepare_inputs

TESTED = 2
"""Images on which a kind of map is tested."""
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


class Explainer:
    """Explains the answers of a model's first network, and tests its maps.

    Args:
        model: A trained classifier.
        kinds: Which maps.

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
        self.outcomes: dict[Kind, tuple[Outcome, ...]] = {}

    def test(self, inputs: Sequence[Image], seed: int = 0) -> None:
        """Run the randomisation test of every kind of map on some images."""
        for kind in self.kinds:
            found = []
            for image in inputs[:TESTED]:
                arrays, _ = prepare_inputs([image], self.method)
                target = int(self._probabilities(arrays).argmax())
                explain = self._explained(kind, arrays, target)
                network = self.method.modules["network"]
                found.append(randomised(network, explain, seed=seed, independent=True))
            self.outcomes[kind] = tuple(found)

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
                pair = [each.of(kind, arrays, target)[0] for each in (self, stranger)]
                ranks.append(likeness_of(*pair)[0])
            found[kind] = mean_likeness(ranks)
        return found

    def passed(self, kind: Kind) -> bool:
        """Whether a kind of map says something of every image it was tested on, and changes with the network
        on the mean of them."""
        outcomes = self.outcomes.get(kind, ())
        if not outcomes or any(outcome.constant for outcome in outcomes):
            return False
        ranks = _ranks(outcomes)
        return bool(ranks) and float(np.mean(ranks)) <= HIGHEST

    def explain(self, image: Image, label: str | None = None) -> list[Explanation]:
        """Every kind of map for one image.

        Args:
            image: With the channels that the model knows.
            label: The class to be explained; the likeliest by default.

        Raises:
            BadPlan: The model knows no such class.
        """
        arrays, placement = prepare_inputs([image], self.method)
        names = [each.name for each in self.model.plan.labels]
        if label is not None and label not in names:
            raise BadPlan(f"the model knows no class '{label}'.", cure=suggestion(label, names))
        sure = self._probabilities(arrays)
        target = int(sure.argmax()) if label is None else names.index(label)
        made = []
        for kind in self.kinds:
            found, gap = self.of(kind, arrays, target)
            whole = _in_file(found, placement)
            made.append(Explanation(kind, names[target], whole, float(sure[target]), gap))
        return made

    def of(self, kind: Kind, arrays: Arrays, target: int) -> tuple[np.ndarray, float | None]:
        """One map of a prepared image on the network's grid, and its gap where it has one."""
        return self._map(kind, self.method, arrays, target)

    def about(self) -> dict[str, JsonValue]:
        """What the tests found, for the file beside the maps."""
        return {kind: self._about(kind) for kind in self.kinds}

    def _about(self, kind: Kind) -> JsonValue:
        outcomes = self.outcomes.get(kind, ())
        return {
            "passed": self.passed(kind),
            "highest": HIGHEST,
            "images": len(outcomes),
            "constant": sum(outcome.constant for outcome in outcomes),
            "cascading": _rows([outcome.cascading for outcome in outcomes]),
            "independent": _rows([outcome.independent for outcome in outcomes]),
        }

    # ---------------------------------------------------------------------------------------- the network

    def _probabilities(self, arrays: Arrays) -> np.ndarray:
        with torch.inference_mode():
            given = self.method.scores(self._batch(self.method, arrays)).float().cpu().numpy()[0]
        return np.asarray(self.method.calibrated(given.astype(np.float64)))

    @staticmethod
    def _batch(method: Classifier, arrays: Arrays) -> Batch:
        whole = method.questions(arrays)
        return {name: value[:1].to(method.device) for name, value in whole.items()}

    def _map(
        self, kind: Kind, method: Classifier, arrays: Arrays, target: int
    ) -> tuple[np.ndarray, float | None]:
        rest = self._batch(method, arrays)
        image = rest.pop("image")

        def batch(pictures: Tensor) -> Batch:
            others = {name: value.expand(len(pictures), *value.shape[1:]) for name, value in rest.items()}
            return {"image": pictures, **others}

        def scores(pictures: Tensor) -> Tensor:
            return method.scores(batch(pictures))

        if kind == "gradient":
            return maps.gradient(scores, image, target), None
        if kind == "integrated":
            found = maps.integrated_gradients(scores, image, target)
            return found.map, found.gap
        if kind == "occlusion":
            return maps.occlusion(scores, image, target), None
        features: Callable[[Tensor], Tensor] = lambda pictures: method.features(batch(pictures))  # noqa: E731
        return maps.grad_cam(features, lambda found: method.head(found, batch(image)), image, target), None

    def _explained(self, kind: Kind, arrays: Arrays, target: int) -> Callable[[nn.Module], maps.Map]:
        def explain(network: nn.Module) -> maps.Map:
            other = copy.copy(self.method)
            other.modules = nn.ModuleDict({**self.method.modules, "network": network})
            return np.asarray(self._map(kind, other, arrays, target)[0])

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


def told(explainer: Explainer) -> Iterator[str]:
    """A sentence for each kind of map that failed its test."""
    for kind in explainer.kinds:
        outcomes = explainer.outcomes.get(kind, ())
        if outcomes and not explainer.passed(kind):
            yield (
                f"{kind} fails the randomisation test on this model: {_why(outcomes)} "
                "Its files are marked FAILED."
            )


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
