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
"""

from __future__ import annotations

from typing import ClassVar, Literal, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from isocenter.errors import BadPlan
from isocenter.images.image import Image
from isocenter.methods import slides
from isocenter.methods.bag_heads import AttentionHead, BagHead, ClamHead, DualStream, HeadMethod
from isocenter.methods.bags import BAG, BagSettings
from isocenter.methods.method import Arrays, Request
from isocenter.parts.networks.bags import Standardise
from isocenter.parts.networks.vit import VisionTransformer
from isocenter.parts.rules import bags as rules
from isocenter.records import Fingerprint, Record

CARD = {
    "title": "Prompt-MIL",
    "reference": (
        "Zhang J, Kapse S, Ma K, et al. Prompt-MIL: boosting multi-instance learning schemes via "
        "task-specific prompt tuning. MICCAI 2023. arXiv:2303.12214."
    ),
    "row": "C7",
    "summary": "A frozen vision transformer with a trainable prompt, and a head of MIL over its features.",
    "published": {
        "TCGA-BRCA, accuracy / AUROC, prompt (70k + 192 parameters)": ".9347 / .9689",
        "TCGA-BRCA, accuracy / AUROC, full fine-tuning (5.6M)": ".8814 / .9378",
        "TCGA-BRCA, accuracy / AUROC, conventional (70k)": ".9210 / .9665",
    },
}

CHUNK = 32
"""Tiles that pass through the transformer at a time."""


class PromptSettings(BagSettings):
    """`head` names the method whose head answers, `trained` says what learns beside it, `prompts` how many
    tokens are added, `most_tiles` how many tiles of a slide a step draws (all are seen when it answers)."""

    encoder: Literal["vit"] = "vit"
    hidden: tuple[int, ...] | None = (192,)
    head: Literal["abmil", "dsmil", "clam"] = "abmil"
    trained: Literal["nothing", "prompt", "last", "full"] = "prompt"
    prompts: int = 1
    most_tiles: int = 128


class PromptMil(HeadMethod):
    """Transformer with a prompt, and a head over its features."""

    Settings: ClassVar[type[Record]] = PromptSettings
    instances_per_step: ClassVar[int] = 128
    settings: PromptSettings

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
        return {"network": network}

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
