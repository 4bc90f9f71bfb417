"""Prompt-MIL: a frozen vision transformer is given trainable tokens, so that its features suit the question.

Tiles pass through the transformer with the prompt among their tokens; a head of multiple-instance learning
(that of `abmil`, `dsmil` or `clam`) answers from its features. What learns beside the head is

| `trained` | parameters of the transformer that learn |
|---|---|
| `nothing` | none: conventional multiple-instance learning |
| `prompt` | the prompt alone, 192 for each token |
| `last` | the last block |
| `full` | all of it |

Tiles go through the transformer some at a time; their inner states are computed again on the way back, so
that memory does not follow the number of tiles.

A frozen transformer must know something. Where no weights are given, it learns from the tiles of the training
slides themselves, without labels, for the share `pretrain` of the budget: a student is taught by the moving
average of itself to say the same of parts of a tile as of most of it (DINO, `parts/networks/distillation`).
That average is the transformer which is frozen then, and the rest of the budget is the prompt's and the
head's. The paper's self-supervised transformer, a ViT-small, had been pretrained so on all of TCGA.
"""

from __future__ import annotations

from typing import ClassVar, Literal, cast

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from isocenter.errors import BadPlan
from isocenter.images.image import Image
from isocenter.methods import slides
from isocenter.methods.bags import BAG, BagSettings, HeadMethod
from isocenter.methods.method import Arrays, Batch, Request, Speed, Turn, Unread, without
from isocenter.parts.networks.bag_heads import AttentionHead, BagHead, ClamHead, DualStream
from isocenter.parts.networks.bags import Standardise
from isocenter.parts.networks.distillation import SelfDistillation
from isocenter.parts.networks.vit import VisionTransformer
from isocenter.parts.rules import bags as rules
from isocenter.records import Budget, Fingerprint, Machine, Plan, Record, Stage

CARD = {
    "title": "Prompt-MIL",
    "reference": (
        "Zhang J, Kapse S, Ma K, et al. Prompt-MIL: boosting multi-instance learning schemes via "
        "task-specific prompt tuning. MICCAI 2023. arXiv:2303.12214. Pretraining: Caron M, Touvron H, "
        "Misra I, et al. Emerging properties in self-supervised vision transformers. ICCV 2021."
    ),
    "row": "C7",
    "summary": "A self-supervised, frozen vision transformer with a trainable prompt, and a head of MIL.",
    "published": {
        "TCGA-BRCA, accuracy / AUROC, prompt (70k + 192 parameters)": ".9347 / .9689",
        "TCGA-BRCA, accuracy / AUROC, full fine-tuning (5.6M)": ".8814 / .9378",
        "TCGA-BRCA, accuracy / AUROC, conventional (70k)": ".9210 / .9665",
        "TCGA-CRC, DSMIL: prompt, last block, conventional": ".7547 / .7545, .6981 / .7072, .7302 / .6924",
        "TCGA-CRC, ABMIL: prompt, last block, conventional": ".7587 / .7010, .7037 / .7078, .7410 / .6856",
        "TCGA-CRC, CLAM: prompt, last block, conventional": ".7619 / .8084, .7407 / .7140, .7587 / .7750",
        "BRIGHT, DSMIL: prompt, last block, conventional": ".6458 / .8131, .6125 / .8010, .6208 / .8096",
        "BRIGHT, ABMIL: prompt, last block, conventional": ".6250 / .7930, .6250 / .7892, .6125 / .8035",
        "BRIGHT, CLAM: prompt, last block, conventional": ".6417 / .8431, .6333 / .8132, .6208 / .8297",
        "TCGA-BRCA, ViT-small by DINO on TCGA: prompt, conventional": ".9278 / .9753, .9175 / .9703",
        "BRIGHT, ViT-small by DINO on TCGA: prompt, conventional": ".5750 / .7829, .5417 / .7676",
    },
}

CHUNK = 32
"""Tiles that pass through the transformer at a time."""
PACE = 2.0
"""Of pretraining, in parts of the plan's learning rate."""


class PromptSettings(BagSettings):
    """`head` names the method whose head answers, `trained` says what learns beside it, `prompts` how many
    tokens are added, `most_tiles` how many tiles of a slide a step draws (all are seen when it answers).

    `pretrain` is the share of the budget in which the transformer learns without labels, and
    `pretrain_tiles` how many tiles a step of that takes.
    """

    encoder: Literal["vit"] = "vit"
    hidden: tuple[int, ...] | None = (192,)
    head: Literal["abmil", "dsmil", "clam"] = "abmil"
    trained: Literal["nothing", "prompt", "last", "full"] = "prompt"
    prompts: int = 1
    most_tiles: int = 128
    pretrain: float | None = Field(default=None, ge=0, lt=1)
    pretrain_tiles: int = Field(default=32, ge=2)


class PromptMil(HeadMethod):
    """Transformer with a prompt, and a head over its features."""

    Settings: ClassVar[type[Record]] = PromptSettings
    instances_per_step: ClassVar[int] = 128
    settings: PromptSettings

    def __init__(self, plan: Plan, stage: Stage) -> None:
        super().__init__(plan, stage)
        # Of this instance: without pretraining there is nobody else to be learnt.
        self.turns = {"network": Turn(modules=tuple(self.modules))}  # type: ignore[misc]

    @classmethod
    def decide(cls, fingerprint: Fingerprint, settings: Record) -> tuple[Record, dict[str, str]]:
        """As for all bags, and how long the transformer is pretrained."""
        chosen, why = super().decide(fingerprint, settings)
        if getattr(chosen, "pretrain", None) is None:
            share, why["pretrain"] = rules.pretrain(getattr(chosen, "weights", None))
            chosen = chosen.changed(pretrain=share)
        return chosen, why

    @classmethod
    def configure(
        cls, fingerprint: Fingerprint, budget: Budget, machine: Machine, speed: Speed | None, settings: Record
    ) -> tuple[Stage, ...]:
        """One stage, as for all bags; a transformer that is pretrained needs a rate that rises at first."""
        stages = super().configure(fingerprint, budget, machine, speed, settings)
        if not getattr(settings, "pretrain", None):
            return stages
        return tuple(stage.changed(training=rules.warmed(stage.training)) for stage in stages)

    @classmethod
    def unread(cls, plan: Plan, stage: Stage) -> Unread:
        """As of all bags; a transformer begins with a convolution."""
        return without(super().unread(plan, stage), "training.channels_last")

    @classmethod
    def sample_shape(cls, fingerprint: Fingerprint, settings: BagSettings) -> tuple[int, int]:
        """Tiles of the median slide, and numbers of each.

        Raises:
            BadPlan: Inputs are features: a prompt changes how tiles become features.
        """
        if rules.is_features(fingerprint):
            raise BadPlan(
                "prompts change how tiles become features, and these bags are features already.",
                cure="Give slides, or choose mil/abmil.",
            )
        return super().sample_shape(fingerprint, settings)

    @property
    def single(self) -> bool:
        """Whether one question is asked; CLAM's head scores every class, also of two."""
        return self.settings.head != "clam" and super().single

    def build(self) -> dict[str, nn.Module]:
        backbone = cast(VisionTransformer, slides.encoder("vit", self.settings.tile, self.settings.weights))
        prompt = torch.zeros(self.settings.prompts, self.features)
        nn.init.trunc_normal_(prompt, std=0.02)
        network = PromptNetwork(backbone, prompt, self._head())
        network.learn(self.settings.trained)
        if not self.settings.pretrain:
            return {"network": network}
        return {"network": network, "pretraining": SelfDistillation(backbone)}

    def _head(self) -> BagHead:
        layers, width = self.embedded()
        embed = nn.Sequential(Standardise(self.features), layers)
        if self.settings.head == "dsmil":
            return DualStream(embed, width, len(self.asked))
        if self.settings.head == "clam":
            classes, exclusive = len(self.asked), bool(self.settings.exclusive)
            return ClamHead(
                embed, width, classes, exclusive=exclusive, branches=classes, dropout=self.settings.dropout
            )
        return AttentionHead(embed, width, len(self.asked))

    @property
    def network(self) -> PromptNetwork:
        """Transformer, prompt and head."""
        return cast(PromptNetwork, self.modules["network"])

    @property
    def head(self) -> BagHead:
        """What answers from the tiles' features."""
        return self.network.head

    # ------------------------------------------------------------------------------------------ samples

    def lay_slide(self, image: Image) -> Arrays:
        """The slide's tiles as bytes; their features change as the prompt learns."""
        return slides.tiles(image, self.settings)

    def example(self, rng: np.random.Generator) -> dict[str, Tensor]:
        """Tiles of noise, of the last class."""
        count = min(self.stage.geometry.patch[0], self.settings.most_tiles)
        shape = (count, 3, self.settings.tile, self.settings.tile)
        tiles = rng.integers(0, 256, shape, dtype=np.uint8)
        return {BAG: torch.from_numpy(tiles), "classes": self.last_class()}

    def sample(self, arrays: Arrays, rng: np.random.Generator, request: Request) -> Arrays:
        """The slide's tiles, or as many of them at random as a step draws."""
        bag = arrays[BAG]
        count = min(len(bag), self.settings.most_tiles)
        chosen = np.sort(rng.choice(len(bag), count, replace=False))
        return {BAG: np.array(bag[chosen]), "classes": np.array(arrays["classes"])}

    # ----------------------------------------------------------------------------------------- learning

    def pace(self, parameter: str) -> float:
        """Pretraining is quicker than what learns from few labels."""
        return PACE if parameter.startswith("pretraining.") else 1.0

    @property
    def pretraining(self) -> bool:
        """Whether the transformer still learns without labels."""
        return self.modules.training and self.progress < (self.settings.pretrain or 0.0)

    def loss(self, batch: Batch, turn: str) -> Tensor:
        """First that of tiles without labels, then the bags'; only the latter is watched throughout."""
        if not self.pretraining:
            return super().loss(batch, turn)
        tiles = torch.cat(list(batch[BAG]))
        chosen = torch.randperm(len(tiles))[: self.settings.pretrain_tiles]
        return self._distillation.loss(self.network.backbone, slides.normalised(tiles[chosen]))

    def observe(self, batch: Batch) -> None:
        """The transformer follows its student."""
        if self.pretraining:
            self._distillation.follow(self.network.backbone, self.progress / (self.settings.pretrain or 1.0))

    @property
    def _distillation(self) -> SelfDistillation:
        return cast(SelfDistillation, self.modules["pretraining"])

    def instances(self, bag: Tensor) -> Tensor:
        """Features (tile, 192) of tiles (tile, 3, y, x) as bytes."""
        found: Tensor = self.network(bag)
        return found


class PromptNetwork(nn.Module):
    """Tiles (n, 3, y, x) as bytes to features (n, 192); the head stands beside, to answer from them.

    Args:
        backbone: The transformer.
        prompt: Tokens (token, 192) that are put among a tile's.
        head: What answers.
    """

    def __init__(self, backbone: VisionTransformer, prompt: Tensor, head: BagHead) -> None:
        super().__init__()
        self.backbone = backbone
        self.prompt = nn.Parameter(prompt)
        self.head = head

    def learn(self, part: str) -> None:
        """Let a part of the transformer learn: `nothing`, `prompt`, its `last` block, or in `full`."""
        self.backbone.requires_grad_(part == "full")
        self.prompt.requires_grad_(part == "prompt")
        if part == "last":
            self.backbone.blocks[-1].requires_grad_(True)
        self.prompted = part == "prompt"
        self.through = part != "nothing"

    def forward(self, tiles: Tensor) -> Tensor:
        """Features in single precision, some tiles at a time."""
        return torch.cat([self._some(part) for part in torch.split(tiles, CHUNK)]).float()

    def _some(self, tiles: Tensor) -> Tensor:
        prompt = self.prompt if self.prompted else None
        seen = slides.normalised(tiles)
        if torch.is_grad_enabled() and self.through:
            found: Tensor = checkpoint(self.backbone, seen, prompt, use_reentrant=False)
            return found
        with torch.no_grad():
            return cast(Tensor, self.backbone(seen, prompt))


METHOD = PromptMil
