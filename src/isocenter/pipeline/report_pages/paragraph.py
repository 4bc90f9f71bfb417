"""The methods paragraph of a paper, written from the plan and the method's card."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from isocenter import methods, tasks
from isocenter.errors import IsocenterError
from isocenter.pipeline.report_pages.measures import PIXELS, Measures
from isocenter.records import Augmentation, Budget, Card, Channel, Choice, Dataset, Label, Plan, Scores, Stage

if TYPE_CHECKING:
    from isocenter.methods.method import Method

_BOOTSTRAP = "Efron B. Better bootstrap confidence intervals. J Am Stat Assoc 82, 171–185 (1987)."
_DICE = "Dice LR. Measures of the amount of ecologic association between species. Ecology 26, 297–302 (1945)."
_SURFACE = (
    "Nikolov S, et al. Clinically applicable segmentation of head and neck anatomy for radiotherapy. "
    "J Med Internet Res 23, e26151 (2021)."
)
_HAUSDORFF = (
    "Huttenlocher DP, Klanderman GA, Rucklidge WJ. Comparing images using the Hausdorff distance. "
    "IEEE Trans Pattern Anal Mach Intell 15, 850–863 (1993)."
)
_PANOPTIC = "Kirillov A, He K, Girshick R, Rother C, Dollár P. Panoptic segmentation. CVPR, 9404–9413 (2019)."
_AJI = (
    "Kumar N, et al. A dataset and a technique for generalized nuclear segmentation for computational "
    "pathology. IEEE Trans Med Imaging 36, 1550–1560 (2017)."
)
_COCO = "Lin TY, et al. Microsoft COCO: common objects in context. ECCV, 740–755 (2014)."
_LUNA = (
    "Setio AAA, et al. Validation, comparison, and combination of algorithms for automatic detection of "
    "pulmonary nodules in computed tomography images: the LUNA16 challenge. Med Image Anal 42, 1–13 (2017)."
)
_SOURCES = {
    "dice": ("Dice coefficient", _DICE),
    "surface_dice": ("surface Dice at a tolerance of 1 {length}", _SURFACE),
    "hd95": ("95th percentile of the Hausdorff distance", _HAUSDORFF),
    "assd": ("average symmetric surface distance", ""),
    "panoptic_quality": ("panoptic quality", _PANOPTIC),
    "aji": ("aggregated Jaccard index", _AJI),
    "map": ("mean average precision", _COCO),
    "cpm": ("the competition performance metric", _LUNA),
    "mae": ("mean absolute error", ""),
    "roc_auc": ("area under the ROC curve", ""),
}
"""Measures as a paper names them, and where they come from; others by their titles."""
_WHOLE = {"mil": "bags whole, {} at a time"}
"""What a network sees where samples are no patches of images."""
_OPTIMISERS = {"sgd": "stochastic gradient descent with Nesterov momentum", "adamw": "AdamW"}


@dataclass(frozen=True)
class Text:
    """Words about how a run was made.

    Attributes:
        title: The method's name.
        summary: What it is, in one sentence.
        sentences: The methods paragraph; `[1]` points to the first reference.
        references: What is cited, in order.
        published: What the method's authors printed, beside which own figures may be read.
    """

    title: str
    summary: str
    sentences: tuple[str, ...]
    references: tuple[str, ...]
    published: dict[str, str]


@dataclass(frozen=True)
class Block:
    """A part of a plan's explanation: sentences, or decisions as name, value and reason."""

    title: str
    sentences: tuple[str, ...]
    items: tuple[tuple[str, str, str], ...]


_ITEM = re.compile(r"([^:]+): (.+?)(?:(?<=[^.])\.(?: (.*))?)?$")


def blocks(explanation: str, listed: Collection[str]) -> list[Block]:
    """Take the wrapped text of `pipeline.wording.explain` apart, so that a page can set it in columns.

    A block is parted by empty lines; its title is flush left and what follows is indented by two, with
    continuation lines further in.

    Args:
        explanation: The text.
        listed: Titles of the blocks whose lines are decisions, `name: value. reason`.
    """
    return [_block(part, listed) for part in explanation.strip().split("\n\n")]


def _block(part: str, listed: Collection[str]) -> Block:
    lines = [line for line in part.splitlines() if line.strip("- ")]
    title = " ".join(line for line in lines if not line.startswith(" "))
    indented = [line for line in lines if line.startswith(" ")]
    if not indented:
        return Block("", (title,), ())
    if title not in listed:
        return Block(title, (" ".join(line.strip() for line in indented),), ())
    decisions = _unwrapped(indented)
    parted = [_ITEM.match(words) for words in decisions]
    items = [(found[1], found[2], found[3] or "") for found in parted if found]
    rest = [words for words, found in zip(decisions, parted, strict=True) if not found]
    return Block(title, tuple(rest), tuple(items))


def _unwrapped(lines: Sequence[str]) -> list[str]:
    joined: list[str] = []
    for line in lines:
        if joined and line.startswith("    "):
            joined[-1] += " " + line.strip()
        else:
            joined.append(line.strip())
    return joined


class _References:
    """Numbers references in the order in which they are first cited."""

    def __init__(self) -> None:
        self.listed: list[str] = []

    def cite(self, reference: str) -> str:
        """` [n]`, or nothing where there is nothing to cite."""
        if not reference:
            return ""
        if reference not in self.listed:
            self.listed.append(reference)
        return f" [{self.listed.index(reference) + 1}]"


def methods_text(
    plan: Plan | None,
    dataset: Dataset | None,
    scores: Scores | None,
    measures: Measures,
    choice: Choice | None = None,
) -> Text:
    """Write the paragraph from what is known; without a plan only the judging is described."""
    cited = _References()
    card = _card(plan)
    sentences: list[str] = []
    if plan is not None:
        sentences += _trained(plan, dataset, card, cited, measures.length)
        sentences += _chosen(plan, choice, measures)
    if scores is not None:
        sentences += _judged(scores, cited, measures)
    return Text(
        card.title if plan else "", card.summary, tuple(sentences), tuple(cited.listed), dict(card.published)
    )


def _card(plan: Plan | None) -> Card:
    """The method's card; a user's own file that has moved leaves its name."""
    name = Path(plan.method).stem if plan else ""
    try:
        return methods.card(plan.method) if plan else Card(title="", reference="", row="", summary="")
    except IsocenterError:
        return Card(title=name, reference="", row="", summary="")


@dataclass(frozen=True)
class _Ways:
    """Whether a method learns by gradient, and whether it answers tile by tile; what it minimises, and what
    some of its patches are centred on, where that is known."""

    learns: bool = True
    tiled: bool = True
    loss: str = ""
    centred: str = ""


def _ways(plan: Plan) -> _Ways:
    """As the method says; a user's own file that has moved is taken for one that learns."""
    try:
        kind = methods.load(plan.method)
    except IsocenterError:
        return _Ways()
    return _Ways(bool(kind.turns), kind.tiled, kind.loss_in_words(plan), _centred(kind))


def _centred(kind: type[Method]) -> str:
    """What some patches of the common way to draw them are centred on; nothing where they are drawn else."""
    from isocenter.methods.supervised import SupervisedMaps, SupervisedMasks

    if not issubclass(kind, SupervisedMaps) or kind.sample is not SupervisedMaps.sample:
        return ""
    if kind.places is SupervisedMaps.places:
        return ""
    common = kind.places is SupervisedMasks.places
    return "a labelled voxel, each structure as often" if common else "what is to be found"


def _trained(plan: Plan, dataset: Dataset | None, card: Card, cited: _References, length: str) -> list[str]:
    ways = _ways(plan)
    cases = len({case for fold in plan.folds for case in (*fold.train, *fold.validation, *fold.test)})
    first = f"{card.title}{cited.cite(card.reference)} was {'trained' if ways.learns else 'tuned'} with "
    first += f"isocenter {plan.isocenter} on {_counted(cases, 'case')}"
    if dataset is not None:
        first += f" of the dataset {dataset.name}{cited.cite(dataset.reference)}"
    first += _aim(plan)
    first += f" from {_counted(len(plan.channels), 'channel')} ({_few(plan.channels)})."
    sentences = [first, *_folds(plan)]
    for stage in plan.stages:
        if stage.repeats is None:
            sentences += _stage(stage, plan, ways, length)
    seed = f"in {plan.machine.precision} precision (seed {plan.seed})"
    if ways.learns:
        sentences.append(f"Training was given {spoken(plan.budget)} per fold on {machine(plan)} {seed}.")
    return sentences


def _aim(plan: Plan) -> str:
    task = tasks.load(plan.task)
    if not plan.labels and "{}" in task.aim:
        return ""
    return " " + task.aim.format(f"{_counted(len(plan.labels), task.noun)} ({_few(plan.labels)})")


def _few(named: Sequence[Label | Channel]) -> str:
    names = [one.name for one in named]
    return ", ".join(names) if len(names) <= 12 else f"{', '.join(names[:10])} and {len(names) - 10} more"


def machine(plan: Plan) -> str:
    """What a model was trained on, by the name that readers know."""
    if plan.machine.device == "cpu":
        return _counted(plan.machine.cores, "CPU core")
    return plan.machine.name


def spoken(budget: Budget) -> str:
    """A budget in words, `15 min` or `250 epochs`."""
    return str(budget) if budget.seconds is None else duration(budget.seconds)


def duration(seconds: float) -> str:
    """A time in words: to the second below two minutes, to the minute above."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def _counted(number: int, noun: str) -> str:
    plural = "es" if noun.endswith(("s", "ch")) else "s"
    return f"{number:,} {noun}{'' if number == 1 else plural}"


def _folds(plan: Plan) -> list[str]:
    if not plan.folds:
        return []
    held = len(plan.folds[0].validation)
    choices = f", and {held} of its training cases served for choices only" if held else ""
    return [
        f"Cases were divided into {_counted(len(plan.folds), 'fold')} without splitting a patient; each "
        f"fold's held-out cases were answered by the model that had not seen them{choices}."
    ]


def _stage(stage: Stage, plan: Plan, ways: _Ways, length: str) -> list[str]:
    geometry, training = stage.geometry, stage.training
    alike = len(plan.together(stage.name))
    name = f"In stage {stage.name}, images" if len(plan.stages) > alike else "Images"
    unit = {1: "frames", 2: "pixels"}.get(geometry.dims, "voxels")
    if geometry.dims == 1:
        said = [
            f"Signals were brought to one frame every {geometry.spacing_mm[0]:.3g} s, each with mean 0 and "
            "standard deviation 1."
        ]
    elif length == PIXELS and all(spacing == 1 for spacing in geometry.spacing_mm):
        said = [f"{name} were seen at their own pixels; {_intensities(stage)}."]
    else:
        each = "pixels of the file" if length == PIXELS else length
        said = [f"{name} were resampled to {_times(geometry.spacing_mm)} {each}; {_intensities(stage)}."]
    whole = _WHOLE.get(plan.task)
    if whole is not None:
        said = []
    if not ways.learns:
        return [
            *said,
            "Nothing was learnt by gradient: what may vary was tuned on cases that were not scored.",
        ]
    kind = "windows" if geometry.dims == 1 else "patches"
    patches = f"{kind} of {_times(geometry.patch)} {unit} in batches of {training.batch}"
    said += [
        f"{_network(stage)} saw {patches if whole is None else whole.format(training.batch)}.",
        f"It was trained by {_OPTIMISERS.get(training.optimiser, training.optimiser)} with an initial "
        f"learning rate of {training.learning_rate:g} and a weight decay of {training.weight_decay:g}; "
        f"{_augmentation(stage.augmentation)}.",
        *_learnt(stage, ways),
    ]
    if alike > 1:
        said.append(
            f"{alike} such networks started from seeds of their own, and their answers were averaged."
        )
    if not ways.tiled:
        return said
    return [
        *said,
        f"Predictions of tiles with {stage.prediction.overlap:.0%} overlap were averaged with Gaussian "
        "weights" + (", as were those of mirrored images." if stage.prediction.mirror else "."),
    ]


def _learnt(stage: Stage, ways: _Ways) -> list[str]:
    """What was minimised on which patches, and which weights were kept."""
    training, said = stage.training, []
    if ways.loss:
        deep = stage.network is not None and stage.network.deep_supervision
        rare = ", voxels of rare structures counting more" if training.label_weights else ""
        where = ", on several resolutions of the decoder" if deep else ""
        said.append(f"The loss was {ways.loss}{rare}{where}.")
    centred = training.batch - round(training.batch * (1 - training.foreground_share))
    if ways.centred and centred:
        said.append(
            f"Of each batch, {_counted(centred, 'patch')} {'was' if centred == 1 else 'were'} "
            f"centred on {ways.centred}."
        )
    if training.average:
        said.append(
            "The weights used are an exponential moving average over the steps, with factor "
            f"{training.average:g}."
        )
    return said


def _chosen(plan: Plan, choice: Choice | None, measures: Measures) -> list[str]:
    """What was decided on the held-out cases of the folds, if anything was."""
    from isocenter.pipeline.choose import LARGEST, UNCHOSEN, candidates

    if choice is None or choice.why.get("members", UNCHOSEN) == UNCHOSEN:
        return []
    headline = measures[measures.task.headline].title
    said = []
    if len(candidates(plan)) > 1:
        average = "" if len(choice.members) == 1 else "the average of "
        said.append(
            f"By {headline} on the held-out cases, {average}{_listed(choice.members)} was chosen among "
            f"{_counted(len(candidates(plan)), 'candidate')}."
        )
    cut = choice.tuned.get(LARGEST)
    if isinstance(cut, list) and cut:
        said.append(
            f"Of {_listed([str(name) for name in cut])} only the largest connected component was kept, since "
            f"that raised the mean {headline} of held-out cases."
        )
    if said:
        said.append("The scores of each fold rest on choices made without its cases.")
    return said


def _listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _network(stage: Stage) -> str:
    if stage.network is None:
        return "The network"
    features = stage.network.features
    return (
        f"An encoder–decoder network of {len(features)} levels with {features[0]} to {max(features)} features"
    )


def _times(sizes: Sequence[float]) -> str:
    return " × ".join(f"{size:.3g}" for size in sizes)


def _intensities(stage: Stage) -> str:
    schemes = {channel.scheme for channel in stage.normalisation.channels}
    words = {
        "ct": "Hounsfield units were clipped to the 0.5 and 99.5 percentiles of the foreground and scaled by "
        "its mean and standard deviation",
        "zscore": "each image's intensities were scaled to zero mean and unit standard deviation",
        "unit": "intensities were scaled to the range 0 to 1",
        "none": "intensities were left as they are",
        "window": "a fixed range of intensities was scaled to 0 to 1, then by ImageNet's mean and standard "
        "deviation",
        "own_window": "each image's own range of intensities was scaled to 0 to 1, then by ImageNet's mean "
        "and standard deviation",
    }
    return " and ".join(words[scheme] for scheme in sorted(schemes))


def _augmentation(settings: Augmentation) -> str:
    said = [
        (bool(settings.rotation) and settings.rotation_probability > 0, "rotation"),
        (settings.scale_probability > 0, "scaling"),
        (settings.elastic_probability > 0 and settings.elastic > 0, "elastic deformation"),
        (bool(settings.mirror), "mirroring"),
        (settings.noise_probability > 0, "noise"),
        (settings.blur_probability > 0, "blurring"),
        (settings.brightness_probability > 0, "brightness"),
        (settings.contrast_probability > 0, "contrast"),
        (settings.low_resolution_probability > 0, "simulated low resolution"),
        (settings.gamma_probability > 0, "gamma"),
    ]
    words = [word for used, word in said if used]
    if not words:
        return "no augmentation was used"
    return f"augmentation was by {_listed(words)}"


def _judged(scores: Scores, cited: _References, measures: Measures) -> list[str]:
    patients = len({case.patient for case in scores.cases})
    known = measures.main(
        key for values in scores.summary.values() for key, found in values.items() if found.mean is not None
    )
    words = []
    for key in (key for key in known if key in measures.task.measures):
        name, source = _SOURCES.get(key, (measures[key].title, ""))
        words.append(name.format(length=measures.length.removesuffix("s")) + cited.cite(source))
    judged = f"{_counted(len(scores.cases), 'case')} of {_counted(patients, 'patient')} were judged"
    by = f" by {', '.join(words)}" if words else ""
    failed = sum(case.failure is not None for case in scores.cases)
    missing = (
        f" {_counted(failed, 'case')} without a usable answer counted as nothing found." if failed else ""
    )
    return [
        f"{judged}{by}.",
        f"Means are given with 95 % bias-corrected and accelerated bootstrap intervals over patients"
        f"{cited.cite(_BOOTSTRAP)}.{missing}",
    ]
