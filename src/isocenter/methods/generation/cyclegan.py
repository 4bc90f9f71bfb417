"""CycleGAN: images of one domain turned into the other's, learnt without pairs.

G: A → B and F: B → A make smaller

    L_GAN(G) + L_GAN(F) + λ (‖F(G(a)) − a‖₁ + ‖G(F(b)) − b‖₁) + λ ι (‖G(b) − b‖₁ + ‖F(a) − a‖₁)

under least squares; each domain's critic tells its real images from made ones, half of which come from a pool
of earlier ones. Norms are means over voxels; λ = 10, ι = 0.5 as published.

The two domains are two classes of the dataset, or two of the groups that its cases come from (a manifest's
column `group`, `site`, `scanner` or `centre`). A critic wants the made images to be distributed as the
real ones, whatever that takes: where lesions are more frequent in one domain's training images than in the
other's, they are taken away or invented (`isocenter study cyclegan_bias`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from isocenter.errors import BadDataset, BadPlan, suggestion
from isocenter.images.layouts.classes import CLASS, CLASSES, labelled
from isocenter.methods.makers import CONDITION, Maker, Recipe, shape_of
from isocenter.methods.method import Arrays, Batch, Network, Outputs, Speed, Turn, Unread, as_built
from isocenter.parts.losses.adversarial import least_squares_critic, least_squares_generator
from isocenter.parts.networks.translation import MapCritic, ResidualGenerator
from isocenter.records import Budget, Case, Dataset, Fingerprint, Machine, Plan, Record, Stage
from isocenter.records import Network as NetworkPlan
from isocenter.tasks.generation import classes_of

CARD = {
    "title": "CycleGAN",
    "reference": (
        "Zhu JY, Park T, Isola P, Efros AA. Unpaired image-to-image translation using cycle-consistent "
        "adversarial networks. ICCV 2017. Its bias: Cohen JP, Luck M, Honari S. Distribution matching losses "
        "can hallucinate features in medical image translation. MICCAI 2018."
    ),
    "row": "G6",
    "summary": "Two domains, two generators, two critics; there and back again must be where one was.",
    "published": {
        "lecture C, FLAIR to T1": "0 … 100 % of training images with tumour: tumours vanish or are invented"
    },
}

A, B = "first", "second"
DOMAINS = (A, B)
GENERATORS, CRITICS = "generators", "critics"
BLOCKS = 3


class CycleSettings(Record):
    """What the domains are, and which two where there are more, the first and the second; λ of the cycle, ι
    of the identity as its share, images that the pool holds of each domain; into which domain an image is
    turned whose own is not known."""

    domains: Literal["classes", "groups"] = "classes"
    pair: tuple[str, str] | None = None
    cycle: float = 10.0
    identity: float = 0.5
    pool: int = 50
    towards: Literal["first", "second"] = "second"


class CycleGan(Maker):
    """Two `ResidualGenerator` and two `MapCritic` of `parts/networks/translation`."""

    Settings: ClassVar[type[Record]] = CycleSettings
    settings: CycleSettings
    makes: ClassVar[bool] = False
    turns: ClassVar[Mapping[str, Turn]] = {
        GENERATORS: Turn((f"to_{A}", f"to_{B}")),
        CRITICS: Turn((f"critic_{A}", f"critic_{B}")),
    }
    recipe: ClassVar[Recipe] = Recipe(
        widths=(48, 32, 24, 16),
        steps=4000,
        training={"learning_rate": 5e-4, "momentum": 0.5, "warmup": 0.0, "batch": 4},
        why={
            "learning_rate": "Above the published 2e-4, since it falls to zero within the budget.",
            "momentum": "β1 = 0.5, as published.",
            "warmup": "None, as published.",
            "batch": "Four of each domain: more than the published one, which a processor takes as fast.",
        },
    )

    def __init__(self, plan: Plan, stage: Stage) -> None:
        super().__init__(plan, stage)
        self.pools: dict[str, list[Tensor]] = {A: [], B: []}

    @classmethod
    def select(cls, dataset: Dataset, settings: Record) -> Dataset:
        """The cases of one of the two domains, each of which is a class.

        Raises:
            BadPlan: There are not two domains, and none are named.
            BadDataset: A domain has no image that is of it alone.
        """
        assert isinstance(settings, CycleSettings)
        told = {case.id: _domains_of(dataset, case, settings.domains) for case in dataset.cases}
        known = {name for said in told.values() for name in said}
        declared = [label.name for label in dataset.labels if label.name in known]
        names = settings.pair or (declared if settings.domains == "classes" else sorted(known))
        if len(set(names)) != 2:
            raise _not_two(dataset, names, settings.domains)
        found = [(case, [name for name in names if name in told[case.id]]) for case in dataset.cases]
        kept = [(case, own[0]) for case, own in found if len(own) == 1]
        for name in names:
            if not any(own == name for _, own in kept):
                word = _WORDS[settings.domains][0]
                what = f"domain '{name}' has no image: no case is of that {word} and not of the other, too."
                raise BadDataset(what, where=dataset.root, cure=suggestion(name, known))
        return _of_domains(dataset, names, kept)

    @classmethod
    def configure(
        cls, fingerprint: Fingerprint, budget: Budget, machine: Machine, speed: Speed | None, settings: Record
    ) -> tuple[Stage, ...]:
        """As all that make images.

        Raises:
            BadPlan: What was measured has not two classes.
        """
        if len(fingerprint.labels) != 2:
            raise BadPlan(
                f"two domains are needed, and there are {len(fingerprint.labels)} classes.", cure=_CURE
            )
        return super().configure(fingerprint, budget, machine, speed, settings)

    @classmethod
    def planned(cls, strides: tuple[tuple[int, ...], ...], width: int) -> NetworkPlan:
        return shape_of(
            tuple(width * 2**level for level in range(len(strides))),
            strides,
            convolutions=(*(1 for _ in strides[1:]), BLOCKS),
            decoder_convolutions=(1,) * (len(strides) - 1),
            norm="instance",
            activation="relu",
            why={
                "strides": "Halved twice, as published.",
                "kernels": "Three voxels: images are small.",
                "convolutions": "Three residual blocks at the coarsest level; published are six.",
                "decoder_convolutions": "One a level, as published.",
                "norm": "Instance normalisation, as published.",
                "activation": "As published.",
                "pooling": "Strided convolutions, as published.",
                "deep_supervision": "Off: there is one answer.",
            },
        )

    @classmethod
    def unread(cls, plan: Plan, stage: Stage) -> Unread:
        """The way back has one convolution a level."""
        return super().unread(plan, stage) | as_built("decoder_convolutions")

    def build(self) -> dict[str, nn.Module]:
        plan, channels = self.stage.unet, len(self.plan.channels)
        dims = len(self.stage.geometry.patch)
        generators = {f"to_{domain}": ResidualGenerator(plan, channels) for domain in DOMAINS}
        critics = {f"critic_{domain}": MapCritic(channels, plan.features[0], dims) for domain in DOMAINS}
        return {**generators, **critics}

    # ------------------------------------------------------------------------------------------- samples

    def example(self, rng: np.random.Generator) -> dict[str, Tensor]:
        """Noise in both domains."""
        shape = (len(self.plan.channels), *self.stage.geometry.patch)
        noise = rng.uniform(-0.8, 0.8, (2, *shape)).astype(np.float32)
        return dict(zip(DOMAINS, torch.from_numpy(noise), strict=True))

    def stream(self, cases: Mapping[str, Arrays], seed: int, first: int) -> Iterator[Batch] | None:
        """As many images of either domain, drawn by chance.

        Raises:
            BadDataset: A domain has no training image.
        """
        domains: dict[str, list[np.ndarray]] = {A: [], B: []}
        for name in cases:
            arrays = cases[name]
            place = self._domain(arrays.get(CONDITION))
            if place is not None:
                domains[place].append(self.patch_of(arrays))
        for label, shown in zip(self.plan.labels, domains.values(), strict=True):
            if not shown:
                raise BadDataset(
                    f"domain '{label.name}' has no image among the {len(cases)} training images.",
                    cure="Add images of it, or train on another fold.",
                )
        return self._batches(domains, seed, first)

    def _batches(self, domains: Mapping[str, list[np.ndarray]], seed: int, first: int) -> Iterator[Batch]:
        step, batch = first, self.stage.training.batch
        while True:
            rng = np.random.default_rng([seed, step])
            yield {
                name: torch.from_numpy(np.stack([shown[at] for at in rng.integers(0, len(shown), batch)]))
                for name, shown in domains.items()
            }
            step += 1

    def _domain(self, classes: np.ndarray | None) -> str | None:
        """The domain of an image by its classes; None where it is not told."""
        if classes is None or len(classes) < 2 or not np.nanmax(classes[:2]):
            return None
        return DOMAINS[int(np.nanargmax(classes[:2]))]

    # ------------------------------------------------------------------------------------------ learning

    def loss(self, batch: Batch, turn: str) -> Tensor:
        if A not in batch:  # held-out images, each of one domain: how far there and back again is from them
            return self._watched(batch)
        if turn == CRITICS:
            return torch.stack([self._criticised(batch, domain) for domain in DOMAINS]).sum()
        total = []
        for own, other in ((A, B), (B, A)):
            real = batch[own]
            made = self._to(other, real)
            fooled = least_squares_generator(self.modules[f"critic_{other}"](made))
            back = (self._to(own, made) - real).abs().mean()
            same = (self._to(own, real) - real).abs().mean()
            total.append(fooled + self.settings.cycle * (back + self.settings.identity * same))
        return torch.stack(total).sum()

    def _criticised(self, batch: Batch, domain: str) -> Tensor:
        """What the critic of a domain makes smaller, on made images of now and of earlier."""
        other = A if domain == B else B
        with torch.no_grad():
            made = self._to(domain, batch[other])
        shown = self._pooled(made, domain) if self.modules.training else made
        critic = self.modules[f"critic_{domain}"]
        return least_squares_critic(critic(batch[domain]), critic(shown))

    def _pooled(self, made: Tensor, domain: str) -> Tensor:
        """Each image, or with a chance of one half one of the pool, whose place it takes."""
        pool, chosen = self.pools[domain], []
        for image in made:
            if len(pool) < self.settings.pool:
                pool.append(image)
                chosen.append(image)
            elif pool and float(torch.rand(())) < 0.5:
                place = int(torch.randint(len(pool), ()))
                chosen.append(pool[place])
                pool[place] = image
            else:
                chosen.append(image)
        return torch.stack(chosen)

    def _watched(self, batch: Batch) -> Tensor:
        back = [
            (self._to(own, self._to(other, batch["image"])) - batch["image"]).abs()
            for own, other in ((A, B), (B, A))
        ]
        shares = batch[CONDITION][:, :2].reshape(-1, 2, *[1] * (batch["image"].ndim - 1))
        weighed: Tensor = (torch.stack(back, dim=1) * shares).sum(dim=1).mean()
        return weighed

    def _to(self, domain: str, image: Tensor) -> Tensor:
        made: Tensor = self.modules[f"to_{domain}"](image)
        return made

    def forward(self, inputs: Batch) -> Outputs:
        """`made` of images (batch, channel, *space) in the domain `towards`."""
        return {"made": self._to(str(inputs["towards"]), inputs["image"])}

    # ------------------------------------------------------------------------------------------- answers

    def respond(self, arrays: Arrays, network: Network) -> Arrays:
        """The image in the other domain than its own."""
        shown = self.patch_of(arrays)
        classes = arrays.get(CONDITION)
        own = self._domain(None if classes is None else np.asarray(classes))
        towards = self.settings.towards if own is None else A if own == B else B
        made = network({"image": torch.from_numpy(shown)[None], "towards": towards})["made"][0].numpy()
        asked = np.zeros(self.conditions, dtype=np.float32)
        asked[[DOMAINS.index(towards), -1]] = 1
        return {"made": made, CONDITION: asked} | self._compared(made, shown)


_WORDS = {"classes": ("class", "classes"), "groups": ("group", "groups")}
_CURE = (
    "Give a folder for each domain or a column 'class' with two names; or take a manifest's groups (--set "
    'settings.domains=groups); or name two (--set \'settings.pair=["flair","t1"]\').'
)


def _domains_of(dataset: Dataset, case: Case, domains: str) -> tuple[str, ...]:
    if domains == "groups":
        return () if case.group is None else (case.group,)
    return classes_of(dataset, case)


def _not_two(dataset: Dataset, names: Sequence[str], domains: str) -> BadPlan:
    listed = f" ({', '.join(names[:8])}{' …' if len(names) > 8 else ''})" if names else ""
    number = f"{len(set(names)) or 'no'} {_WORDS[domains][len(set(names)) != 1]}"
    return BadPlan(
        f"two domains are needed, and there {'is' if len(set(names)) == 1 else 'are'} {number}{listed}.",
        where=dataset.root,
        cure=_CURE,
    )


def _of_domains(dataset: Dataset, names: Sequence[str], kept: Sequence[tuple[Case, str]]) -> Dataset:
    """The dataset of the cases that are kept, each of the class that is its domain."""
    known = {case.id for case, _ in kept}
    return dataset.changed(
        labels=labelled(names),
        cases=tuple(
            case.changed(truth={**{k: v for k, v in case.truth.items() if k != CLASSES}, CLASS: [name]})
            for case, name in kept
        ),
        folds=tuple(
            fold.changed(
                **{
                    part: tuple(name for name in getattr(fold, part) if name in known)
                    for part in ("train", "validation", "test")
                }
            )
            for fold in dataset.folds
        ),
    )


METHOD = CycleGan
