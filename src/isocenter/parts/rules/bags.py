"""Rules for bags: what is asked of them, how wide layers are, how many bags make a step."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from isocenter.parts.rules.normalisation import normalisation
from isocenter.parts.rules.training import training
from isocenter.records import (
    Augmentation,
    Budget,
    Fingerprint,
    Geometry,
    Machine,
    Normalisation,
    Prediction,
    Stage,
    Training,
)

FEATURES = "features"
MOST_BAGS = 4
PRETRAINED = 0.5
WARMUP = 0.05
ENCODER = "texture"
"""What makes features of tiles where nothing is said."""

_NEGATIVE = re.compile(
    r"(0|no|none|not?[ _-].*|non[ _-]?.*|neg|negative|normal|benign|healthy|control|absent|wild[ _-]?type|wt|"
    r"false|background)",
    re.IGNORECASE,
)
_WHY_UNVARIED = "Without effect: instances are taken as they are."


@dataclass(frozen=True)
class Wanted:
    """What a method about bags asks of its only stage.

    Attributes:
        sample: Instances of the median bag, and numbers of each.
        instances_per_step: How many make a step worth taking.
        mpp: µm of a tile's pixel, for slides.
    """

    sample: tuple[int, int]
    instances_per_step: int
    mpp: float


def is_features(fingerprint: Fingerprint) -> bool:
    """Whether inputs are bags of features, rather than slides."""
    return all(channel.modality == FEATURES for channel in fingerprint.channels)


def exclusive(fingerprint: Fingerprint) -> tuple[bool, str]:
    """Whether every case has exactly one class."""
    counts = [sum(number > 0 for number in case.components.values()) for case in fingerprint.cases]
    if len(fingerprint.labels) < 2:
        return False, "There is one class, which a bag has or has not."
    single = bool(counts) and all(count == 1 for count in counts)
    return single, "Every bag has one class." if single else "Some bags have several classes, or none."


def positive(fingerprint: Fingerprint) -> tuple[str | None, str]:
    """Of two classes, the one that is looked for: not the one whose name denies something, else the last."""
    names = [label.name for label in fingerprint.labels]
    if len(names) != 2 or not exclusive(fingerprint)[0]:
        return None, ""
    asserting = [name for name in names if not _NEGATIVE.fullmatch(name)]
    if len(asserting) == 1:
        return asserting[
            0
        ], f"The other class, '{(set(names) - set(asserting)).pop()}', is its absence by name."
    return names[-1], "The last of two classes; set the other where it is the one whose instances show it."


def hidden(fingerprint: Fingerprint) -> tuple[tuple[int, ...], str]:
    """Widths of the layers that embed an instance."""
    if is_features(fingerprint) and fingerprint.median_shape[-1] < 512:
        return (256, 128, 64), (
            "Three layers, as on the classic sets (Ilse et al. 2018): measured numbers need to be combined."
        )
    return (512,), "One layer, as CLAM: features of an encoder need only be weighed (Lu et al. 2021)."


def is_published(encoder: str) -> bool:
    """Whether an encoder is of use under published weights alone."""
    return encoder.startswith("resnet")


def encoder(name: str, weights: str | None) -> str:
    """Why features of tiles are made by this encoder, and what it knows."""
    if is_published(name):
        return (
            f"{name}, as asked for, up to its third level as CLAM: the fourth is about ImageNet's classes. "
            "Tiles are seen under ImageNet's mean and spread, which the published weights have learnt."
        )
    if weights is not None:
        return "Filters that tell textures and colours apart, whose weights are given (settings.weights)."
    return "Filters that need no learning tell textures and colours apart; no encoder is named."


def pretrain(weights: str | None) -> tuple[float, str]:
    """The share of the budget in which a transformer of tiles learns without labels."""
    if weights is not None:
        return 0.0, "Off: the transformer has weights already (settings.weights)."
    return PRETRAINED, (
        "The transformer is a random one: for half of the budget it learns what tissue looks like, from the "
        "training slides' tiles without labels (DINO, Caron et al. 2021); the other half is the question's."
    )


def warmed(training: Training) -> Training:
    """Training whose rate rises at first, as a transformer that learns from nothing needs it."""
    if training.warmup >= WARMUP:
        return training
    reason = (
        f"Over the first {100 * WARMUP:.0f} % of the budget the rate rises from zero, as Caron et al. (2021) "
        "let it: while student and teacher are random, they must not outrun the centre of their answers."
    )
    return training.changed(warmup=WARMUP, why={**training.why, "warmup": reason})


def tiles(fingerprint: Fingerprint, um: float) -> int:
    """Tiles of so many µm on half of the median slide."""
    area = np.prod(np.multiply(fingerprint.median_shape, fingerprint.median_spacing_mm))
    return max(1, round(float(area) / 2 / (um / 1000) ** 2))


def stage(
    fingerprint: Fingerprint,
    budget: Budget,
    machine: Machine,
    wanted: Wanted,
    seconds: float,
) -> Stage:
    """The only stage of a method that sees whole bags.

    Args:
        fingerprint: The measured dataset.
        budget: Time, or epochs.
        machine: Where training will run.
        wanted: What the method decides itself.
        seconds: Of a step, as measured; 0 where nobody did.
    """
    cases = max(1, len(fingerprint.cases))
    batch = int(np.clip(wanted.instances_per_step // wanted.sample[0], 1, min(MOST_BAGS, cases)))
    learnt = training(budget, machine, batch, cases, seconds_per_step=seconds, batch_dice=False)
    why = {
        **learnt.why,
        "batch": f"Bags a step: as many as hold about {wanted.instances_per_step:,} instances, at most "
        f"{MOST_BAGS}.",
        "optimiser": "AdamW, whatever the budget: labels are few, and gradients of attention uneven.",
        "learning_rate": "Of Ilse et al. (2018).",
        "weight_decay": "Strong, for bags are few and networks would learn them by heart.",
        "momentum": "AdamW's default.",
        "warmup": learnt.why["warmup"] if learnt.warmup else "Not needed: instances are standardised.",
        "clip": "Longer gradients are shortened: AdamW's memory depends on their length.",
    }
    return Stage(
        name="bags",
        geometry=_geometry(fingerprint, wanted.sample, wanted.mpp),
        normalisation=_normalisation(fingerprint),
        training=learnt.changed(
            optimiser="adamw", learning_rate=5e-4, weight_decay=1e-2, momentum=0.9, clip=1.0, why=why
        ),
        augmentation=_unvaried(),
        prediction=Prediction.parse({"why": {"mirror": "Without effect: a bag is seen whole, and once."}}),
    )


def _geometry(fingerprint: Fingerprint, sample: tuple[int, int], mpp: float) -> Geometry:
    numbers = is_features(fingerprint)
    spacing = (1.0, 1.0) if numbers else (mpp / 1000, mpp / 1000)
    return Geometry(
        dims=2,
        spacing_mm=spacing,
        median_shape=sample,
        patch=sample,
        image_order=1,
        through_order=1,
        why={
            "dims": _in_words(fingerprint, sample),
            "spacing_mm": "Without effect: features have no grid."
            if numbers
            else "The resolution of tiles, see settings.mpp.",
            "patch": "Instances of the median bag, whatever the size of a sample, and numbers of each.",
        },
    )


def _in_words(fingerprint: Fingerprint, sample: tuple[int, int]) -> str:
    """What bags are like, and how classes are divided among them."""
    count = len(fingerprint.cases)
    has = [
        f"{sum(case.components.get(label.name, 0) > 0 for case in fingerprint.cases)} are {label.name}"
        for label in fingerprint.labels
    ]
    if is_features(fingerprint):
        sizes = [case.shape[0] for case in fingerprint.cases]
        bags = f"{min(sizes)} to {max(sizes)} instances, {sample[0]} in the median, of {sample[1]} features"
    else:
        bags = f"about {sample[0]} tiles of tissue, each as {sample[1]} numbers"
    return f"One network on bags of {bags}. Of {count} bags {', '.join(has)}."


def _normalisation(fingerprint: Fingerprint) -> Normalisation:
    if not is_features(fingerprint):
        return normalisation(fingerprint)
    plain = normalisation(fingerprint)
    why = {
        f"channels.{channel.name}": "Left as they are here: the network standardises each feature by the "
        "instances that it learns from."
        for channel in fingerprint.channels
    }
    return plain.changed(
        channels=tuple(scheme.changed(scheme="none") for scheme in plain.channels),
        nonzero=False,
        why={**why, "nonzero": "Nothing is scaled."},
    )


def _unvaried() -> Augmentation:
    off = {key: 0.0 for key in Augmentation.model_fields if key.endswith("_probability")}
    return Augmentation.parse({**off, "why": dict.fromkeys((*off, "mirror"), _WHY_UNVARIED)})
