"""Segmentation by atlases: training cases are registered to the image, and their labels vote.

Each atlas is a training case with its labels. All of them are brought to an image by a coarse affine map; the
most similar ones go on to a full affine and a deformable registration (`parts/fields/deformable_search`), and
their labels, moved along, become one: by joint label fusion, by votes weighed by local likeness, by majority
or by STAPLE (`parts/encodings/fusion`, `parts/metrics/consensus`).

Nothing is learnt. What the model holds instead are the atlases themselves, prepared images and labels, in its
`weights.safetensors`: it answers without the training files, and it holds patients' images. Give it away as
you would give away these.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, ClassVar, Literal

import numpy as np
from torch import nn

from isocenter.errors import BadDataset, BadModel
from isocenter.images.geometry import Geometry
from isocenter.images.image import Image
from isocenter.images.placement import Placement
from isocenter.images.resample import resample_labels
from isocenter.methods.method import UNCUT, Arrays, Method, Network, Request, Speed, Turn, Unread
from isocenter.methods.supervised import cut_to_components
from isocenter.parts.augment.augmenter import Kind
from isocenter.parts.encodings.fusion import equal_weights, fuse, similarity_weights, vote_share
from isocenter.records import Augmentation, Budget, Choice, Fingerprint, Machine, Plan, Record, Stage, regions

CARD = {
    "title": "Atlas segmentation",
    "reference": (
        "Wang H, Suh JW, Das SR, Pluta JB, Craige C, Yushkevich PA. Multi-atlas segmentation with joint "
        "label fusion. IEEE TPAMI 35, 611–623 (2013). Aljabar P et al. Multi-atlas based segmentation of "
        "brain images: atlas selection and its effect on accuracy. NeuroImage 46, 726–738 (2009)."
    ),
    "row": "R4",
    "summary": "The most similar training cases are registered; their labels vote. The model holds them.",
    "published": {"lecture": "described without figures"},
}

WHY_STILL = "Off: nothing is learnt, and atlases are kept as they are."
# More raters than STAPLE takes; folds together may have more.
MOST_RATERS = 24


class AtlasSettings(Record):
    """How many of the most similar atlases are registered, and how many training cases are kept to choose
    from (None: by the written rules); how their labels become one; the side of the voting patches less one,
    halved; what both registrations make alike, γ and the steps per level of the deformable one."""

    atlases: int | None = None
    library: int | None = None
    fusion: Literal["joint", "local", "majority", "staple"] = "joint"
    radius: int = 2
    criterion: Literal["correlation", "mutual_information"] = "correlation"
    smoothness: float = 0.1
    iterations: int = 40


@dataclass(frozen=True)
class Atlas:
    """A training case: its prepared image (channel, *space) and its labels (*space) on one grid."""

    image: Image
    labels: np.ndarray


class AtlasSegmentation(Method):
    """The search of `parts/fields` for each of several atlases, and a vote."""

    Settings: ClassVar[type[Record]] = AtlasSettings
    turns: ClassVar[Mapping[str, Turn]] = {}
    kinds: ClassVar[Mapping[str, Kind]] = {}
    tiled: ClassVar[bool] = False
    oriented: ClassVar[bool] = True
    settings: AtlasSettings
    atlases: Sequence[Atlas] = ()

    # ------------------------------------------------------------------------------------------- planning

    @classmethod
    def decide(cls, fingerprint: Fingerprint, settings: Record) -> tuple[Record, dict[str, str]]:
        """The numbers of atlases, by the images' size."""
        from isocenter.parts.rules.atlases import atlases, library

        assert isinstance(settings, AtlasSettings)
        why = {}
        if settings.atlases is None:
            count, why["atlases"] = atlases(fingerprint)
            settings = settings.changed(atlases=count)
        if settings.library is None:
            kept, why["library"] = library(fingerprint, settings.atlases or 1)
            settings = settings.changed(library=kept)
        return settings, why

    @classmethod
    def configure(
        cls, fingerprint: Fingerprint, budget: Budget, machine: Machine, speed: Speed | None, settings: Record
    ) -> tuple[Stage, ...]:
        """The grid of the common rules at full resolution, and no network."""
        from isocenter.parts.rules.segmentation import FULL, stages

        stage = stages(fingerprint, Budget(epochs=1), machine, None, (FULL[fingerprint.dims],))[0]
        off = {key: 0.0 for key in Augmentation.model_fields if key.endswith("_probability")}
        still = Augmentation.parse({**off, "why": dict.fromkeys((*off, "mirror"), WHY_STILL)})
        prediction = stage.prediction.changed(
            mirror=(), why={**stage.prediction.why, "mirror": "Off: an image is registered as it is."}
        )
        return (stage.changed(network=None, augmentation=still, prediction=prediction),)

    @classmethod
    def unread(cls, plan: Plan, stage: Stage) -> Unread:
        """Images are answered whole."""
        return super().unread(plan, stage) | UNCUT

    def build(self) -> dict[str, nn.Module]:
        return {}

    # --------------------------------------------------------------------------------------- the atlases

    def sample(self, arrays: Arrays, rng: np.random.Generator, request: Request) -> Arrays:
        """The image as it is: nothing is learnt from it."""
        return {"image": np.array(arrays["image"])}

    def gather(self, cases: Mapping[str, Arrays]) -> None:
        """Keep training cases as atlases, drawn by the plan's seed where there are more than are wanted.

        Raises:
            BadDataset: No training case has labels.
        """
        order = np.random.default_rng(self.plan.seed).permutation(sorted(cases))
        found: list[Atlas] = []
        for name in order:
            if len(found) < (self.settings.library or 1) and "label" in (arrays := cases[str(name)]):
                found.append(_atlas(arrays))
        if not found:
            raise BadDataset("no training case has labels: there is no atlas.", where=self.plan.method)
        self.atlases = found

    def state(self) -> Arrays:
        """Images with sixteen bits a voxel, labels and grids, by the atlas's number."""
        kept: Arrays = {}
        for number, atlas in enumerate(self.atlases):
            kept[f"{number}.image"] = atlas.image.array.astype(np.float16)
            kept[f"{number}.labels"] = atlas.labels
            kept[f"{number}.grid"] = atlas.image.geometry.affine
        return kept

    def load(self, arrays: Arrays) -> None:
        """Take the atlases back.

        Raises:
            BadModel: An array of one is missing or does not fit.
        """
        try:
            self.atlases = [
                _placed(arrays[f"{number}.image"], arrays[f"{number}.labels"], arrays[f"{number}.grid"])
                for number in range(len(arrays) // 3)
            ]
        except (KeyError, ValueError) as error:
            raise BadModel(f"an atlas is not whole ({error}).", cure="Train this fold again.") from error

    # ------------------------------------------------------------------------------------------ answering

    def respond(self, arrays: Arrays, network: Network) -> Arrays:
        """`votes` and `weights` (atlas, *space), the most similar atlas first.

        Raises:
            BadModel: The model holds no atlas.
        """
        from isocenter.parts.fields.deformable_search import register_deformable
        from isocenter.parts.fields.pull import pull_image, pull_labels

        array = np.asarray(arrays["image"])
        target = Image(array, Geometry(array.shape[1:], np.asarray(arrays["grid"])))
        votes, images = [], []
        for atlas, matrix in self._nearest(target):
            field = register_deformable(
                target,
                atlas.image,
                {self._term: 1.0},
                matrix=matrix,
                smoothness=self.settings.smoothness,
                iterations=self.settings.iterations,
                device=self.device,
            ).displacement_mm
            votes.append(pull_labels(atlas.labels, atlas.image.geometry, field, target.geometry))
            images.append(pull_image(atlas.image.array, atlas.image.geometry, field, target.geometry))
        return {"votes": np.stack(votes), "weights": self._weights(array, images, np.stack(votes))}

    @property
    def _term(self) -> Literal["local_correlation", "mutual_information"]:
        return "local_correlation" if self.settings.criterion == "correlation" else "mutual_information"

    def _nearest(self, target: Image) -> list[tuple[Atlas, np.ndarray]]:
        """The atlases most like an image after a coarse affine map, each with its full affine map."""
        from isocenter.parts.fields.affine_search import register_affine
        from isocenter.parts.fields.pyramid import level_sizes

        if not self.atlases:
            raise BadModel("this model holds no atlas.", cure="Train it again.")
        criterion, sizes = self.settings.criterion, level_sizes(target.geometry)
        coarse = [
            register_affine(target, a.image, criterion, levels=sizes[:1], device=self.device)
            for a in self.atlases
        ]
        best = np.argsort([found.after for found in coarse], kind="stable")[: self.settings.atlases]
        finer = sizes[1:] or sizes
        return [
            (
                self.atlases[place],
                register_affine(
                    target,
                    self.atlases[place].image,
                    criterion,
                    levels=finer,
                    start=coarse[place].matrix,
                    device=self.device,
                ).matrix,
            )
            for place in best
        ]

    def _weights(self, target: np.ndarray, images: Sequence[np.ndarray], votes: np.ndarray) -> np.ndarray:
        if self.settings.fusion in ("majority", "staple"):
            return equal_weights(votes)
        joint = self.settings.fusion == "joint"
        return similarity_weights(target, images, votes, radius=self.settings.radius, joint=joint)

    def merge(self, several: Sequence[Mapping[str, np.ndarray]]) -> Arrays:
        """The votes of all folds' atlases, each fold's most similar ones first."""
        weights = [np.asarray(each["weights"]) / len(several) for each in several]
        return {
            "votes": np.stack(_in_turn([each["votes"] for each in several])),
            "weights": np.stack(_in_turn(weights)),
        }

    def decode(self, outputs: Mapping[str, np.ndarray], placement: Placement) -> np.ndarray:
        """The votes as label values on the file's own grid."""
        fused = self._fused(np.asarray(outputs["votes"]), np.asarray(outputs["weights"]))
        return placement.whole(np.asarray(resample_labels(fused, placement.cropped)))

    def _fused(self, votes: np.ndarray, weights: np.ndarray) -> np.ndarray:
        if self.settings.fusion != "staple":
            return np.asarray(fuse(votes, weights, self._values))
        from isocenter.parts.metrics.consensus import staple

        raters = list(votes[:MOST_RATERS])
        best, winner = np.full(votes.shape[1:], 0.5), np.zeros(votes.shape[1:], votes.dtype)
        for value in self._values[1:]:
            probability = staple([rater == value for rater in raters]).probability
            more = probability > best
            winner[more], best[more] = value, probability[more]
        return winner

    @property
    def _values(self) -> tuple[int, ...]:
        """Background, and all values that labels are made of; voxels that are not judged vote for none."""
        return (0, *sorted({value for label in self.plan.labels for value in label.values}))

    def probabilities(self, outputs: Mapping[str, np.ndarray]) -> np.ndarray:
        """Shares of the votes."""
        votes, weights = np.asarray(outputs["votes"]), np.asarray(outputs["weights"])
        found = [vote_share(votes, weights, label.values).clip(0, 1) for label in self.plan.labels]
        if regions(self.plan.labels):
            return np.stack(found)
        background = (1 - np.sum(found, axis=0)).clip(0, 1)
        shares = np.stack([background, *found])
        return np.asarray(shares / shares.sum(axis=0), dtype=np.float32)

    def polish(self, answer: np.ndarray, choice: Choice | None) -> np.ndarray:
        """Keep only the largest component of each label for which that helped in cross-validation."""
        return cut_to_components(answer, self.plan.labels, choice)


def _atlas(arrays: Arrays) -> Atlas:
    labels = np.asarray(arrays["label"])
    small = np.uint8 if labels.min() >= 0 and labels.max() < 256 else np.int32
    return _placed(np.asarray(arrays["image"]), labels.astype(small), np.asarray(arrays["grid"]))


def _placed(image: np.ndarray, labels: np.ndarray, grid: np.ndarray) -> Atlas:
    if image.shape[1:] != labels.shape:
        raise ValueError(f"image {image.shape} and labels {labels.shape}")
    return Atlas(Image(image.astype(np.float32), Geometry(labels.shape, grid)), labels)


def _in_turn(several: Sequence[np.ndarray]) -> list[Any]:
    """First the first of each, then the second of each, ...; some may have fewer."""
    return [each for row in zip_longest(*several) for each in row if each is not None]


METHOD = AtlasSegmentation
