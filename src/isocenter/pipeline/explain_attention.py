"""Whether the attention that a method about bags gives its instances depends on what was learnt.

Attention is part of every answer; what is asked for by `--explain attention` is the randomisation test of
Adebayo et al. on the very model, on the first of the bags. Attention that stays the same when the weights are
made random shows the instances rather than what was learnt of them: its files are then called FAILED.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from isocenter import files
from isocenter.errors import BadPlan
from isocenter.images.image import Image
from isocenter.methods.bags import BAG, BagMethod
from isocenter.methods.method import Arrays
from isocenter.parts.explain import maps, randomisation
from isocenter.parts.explain.randomisation import randomised
from isocenter.pipeline.answers import ATTENTION, EXPLANATIONS
from isocenter.pipeline.explain import TESTED, Tested
from isocenter.pipeline.predict import Model
from isocenter.pipeline.prepare import prepare_inputs
from isocenter.pipeline.progress import Bar
from isocenter.tasks.bag_files import FAILED


class AttentionTest(Tested):
    """Tests a model's attention, the mean over its networks.

    Args:
        model: Trained on bags.
        kinds: `attention` alone.

    Raises:
        BadPlan: The model gives its instances no attention, or other maps are asked for.
    """

    def __init__(self, model: Model, kinds: Sequence[str]) -> None:
        if strange := [kind for kind in kinds if kind != ATTENTION]:
            raise BadPlan(f"there is no map '{strange[0]}' of a bag.", cure=f"Ask for --explain {ATTENTION}.")
        self.methods = [each for each in model.members[0].methods if isinstance(each, BagMethod)]
        if not self.methods:
            raise BadPlan(
                f"{model.plan.method} gives no attention to instances.", cure="Leave --explain out."
            )
        self.kinds = (ATTENTION,)
        self.networks = len(self.methods)
        self.outcomes = {}
        self.shown = Bar()

    def begin(self, bag: Image, count: int) -> float:
        """The seconds that all tests will take, from one pass over a bag.

        Args:
            bag: One of those to be answered.
            count: How many there are.
        """
        arrays, _ = prepare_inputs([bag], self.methods[0])
        start = time.perf_counter()
        self.attention(self.methods, arrays, 0)
        return (time.perf_counter() - start) / self.networks * self.work(count)

    def work(self, count: int) -> float:
        """Passes over a bag that the tests take; answers have their attention already."""
        return self.work_of_tests(count)

    def work_of_tests(self, count: int) -> float:
        """The same."""
        network = self.methods[0].modules["network"]
        tested = range(min(count, TESTED))
        return self.networks * sum(randomisation.count(network, every=not number) for number in tested)

    def test(self, bags: Sequence[Image], seed: int = 0) -> None:
        """Run the randomisation test on the first bags, for the class that each is said to have."""
        found = []
        for number, bag in enumerate(bags[:TESTED]):
            arrays, _ = prepare_inputs([bag], self.methods[0])
            row = self._row(arrays)

            def explain(networks: Sequence[nn.Module], arrays: Arrays = arrays, row: int = row) -> maps.Map:
                others = []
                for method, network in zip(self.methods, networks, strict=True):
                    other = copy.copy(method)
                    other.modules = nn.ModuleDict({**method.modules, "network": network})
                    others.append(other)
                return self.attention(others, arrays, row)

            networks = [method.modules["network"] for method in self.methods]
            found.append(randomised(networks, explain, seed=seed, every=not number))
        self.outcomes[ATTENTION] = tuple(found)

    def attention(self, methods: Sequence[BagMethod], arrays: Arrays, row: int) -> maps.Map:
        """The mean attention (instance,) of several networks for a question."""
        each = [self._outputs(method, arrays)["attention"][0, row] for method in methods]
        return np.asarray(torch.stack(each).mean(dim=0).float().cpu().numpy())

    def _row(self, arrays: Arrays) -> int:
        """The row of attention that is for the likeliest class, or the only one."""
        method = self.methods[0]
        scores = torch.stack([self._outputs(each, arrays)["scores"][0] for each in self.methods])
        likeliest = method.names[int(scores.mean(dim=0).argmax())]
        return method.attended.index(likeliest) if likeliest in method.attended else 0

    def _outputs(self, method: BagMethod, arrays: Arrays) -> dict[str, Tensor]:
        bag = torch.from_numpy(np.array(arrays[BAG]))[None].to(method.device)
        with torch.inference_mode():
            given = dict(method.forward({BAG: bag}))
        self.shown.advance(1)
        return given


def paths(test: AttentionTest, path: Path) -> list[Path]:
    """Where an answer's attention lies, and what the test found."""
    mark = "" if test.passed(ATTENTION) else FAILED
    return [
        path.with_name(f"{path.stem}_{name}") for name in (f"{ATTENTION}{mark}.csv", f"{EXPLANATIONS}.json")
    ]


def write(test: AttentionTest, image: Image, path: Path, label: str | None = None) -> list[Path]:
    """Write what the test found beside an answer that is there, as `<name>_explanations.json`; attention that
    failed is called `_attention_FAILED`, and what QuPath would show of it `_FAILED`.

    Args:
        test: That has run.
        image: What was answered.
        path: Of the answer.
        label: Of no effect: an answer's attention is for every class.

    Returns:
        The file of the attention.
    """
    table, tested = paths(test, path)
    if not test.passed(ATTENTION):
        for name, failed in (
            (f"{path.stem}_{ATTENTION}.csv", table.name),
            (f"{path.stem}_{ATTENTION}.png", f"{table.stem}.png"),
            (f"{path.stem}.geojson", f"{path.stem}{FAILED}.geojson"),
        ):
            if path.with_name(name).is_file():
                path.with_name(name).replace(path.with_name(failed))
    files.write_json(tested, {"maps": test.about()})
    return [table]
