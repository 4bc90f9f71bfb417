"""Duelling: does a search find a slice better when it weighs states and actions apart?

The searcher of `localisation/rl_slice` is trained with a plain and with a duelling network (Wang et al.
2016), as Laousy et al. compare them; the regression of heat-maps stands beside both.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from isocenter.records import Dataset
from isocenter.studies.sample_size import torsos
from isocenter.studies.study import Study
from isocenter.studies.variants import Variants

CARD = {
    "title": "Plain and duelling search",
    "question": "Does a search find a slice better when its network weighs states and actions apart?",
    "reference": (
        "Wang Z, Schaul T, Hessel M, et al. Dueling network architectures for deep reinforcement learning. "
        "ICML 2016. Laousy O, Chassagnon G, Oyallon E, Paragios N, Revel MP, Vakalopoulou M. MLMI 2021: with "
        "900 scans the plain network errs by 3.77 mm, the duelling one by 4.30 mm, the regression by 4.24 mm."
    ),
    "data": "scans with the place of a slice; by default generated torsos, in which L3 is looked for",
}

SEARCH = "localisation/rl_slice"
PLAIN, DUELLING, CONTROL = "plain", "duelling", "heatmap_slice"


@dataclass(frozen=True)
class Duel(Variants):
    """Two searchers, and what is learnt without a search."""

    asked: str = "localisation"

    def generate(self, folder: Path, seed: int) -> Dataset:
        """Torsos, each of another patient; the last ones are held out."""
        return torsos(folder, seed)


STUDY: Study = Duel(
    {
        PLAIN: (SEARCH, {"settings.duelling": False}),
        DUELLING: (SEARCH, {"settings.duelling": True}),
        CONTROL: ("localisation/heatmap_slice", {}),
    },
    pairs=((DUELLING, PLAIN, "Duelling"), (PLAIN, CONTROL, "The plain search in place of the heat-map")),
)
