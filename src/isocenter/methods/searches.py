"""What methods that search step by step have in common: many searchers at once, replay, deep Q-learning, and
the walk that answers.

In every step of learning, `searchers` act once, ε-greedy, in images of the training cases; what they live
through goes into a replay memory, of which a batch is drawn; its targets are n-step returns and what a slowly
following network thinks of what comes after (double Q-learning). One network searches for all labels: which
one is looked for is one of the numbers that it knows besides what it sees.

To answer, searchers start at several places and act greedily. Who oscillates goes on with the next finer
step, and at the finest has arrived: at the mean of the places in its circle. The median of all starts is the
answer.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from isocenter.errors import BadDataset
from isocenter.methods.method import Arrays, Batch, Method, Network, Outputs, Request, Unread
from isocenter.parts.augment.augmenter import Kind
from isocenter.parts.networks.value import ValueNetwork
from isocenter.parts.reinforcement.learning import Exploration, choose, follow, q_loss, target
from isocenter.parts.reinforcement.oscillation import Oscillation
from isocenter.parts.reinforcement.outcome import Outcome
from isocenter.parts.reinforcement.replay import Replay
from isocenter.parts.reinforcement.state import SearchState
from isocenter.records import Plan, Record, Stage

WATCHED = 64
"""States of a validation case on which it is watched which way the network would go."""
ACTING = 11
"""Keeps the chance of a step of acting apart from that of samples."""


class SearchSettings(Record):
    """How searchers learn and answer.

    `episode` and `walk` bound the steps of learning and of an answer, `gamma` discounts, `steps_ahead`
    rewards are summed, `follow` is the target network's rate; ε falls from 1 to `exploration` at `explored`
    of the budget. The median of `starts` walks is the answer.
    """

    duelling: bool = False
    double: bool = True
    searchers: int = 32
    memory: int = 20_000
    gamma: float = 0.5
    steps_ahead: int = 2
    follow: float = 0.02
    exploration: float = 0.1
    explored: float = 0.5
    episode: int = 20
    walk: int = 60
    starts: int = 4
    features: tuple[int, ...] = (16, 32, 64)
    hidden: int = 128


class World(Protocol):
    """What boxes' and slices' worlds have in common; searches are numbered case by case, label by label."""

    @property
    def steps(self) -> tuple[float, ...]:
        """Sizes of an action, from the coarsest level to the finest."""

    @property
    def actions(self) -> int:
        """How many there are."""

    @property
    def channels(self) -> int:
        """Of what a searcher sees."""

    @property
    def memory(self) -> int:
        """Numbers that it knows besides."""

    def observe(self, state: SearchState) -> tuple[Tensor, Tensor]:
        """What searchers see, and what they know besides."""

    def go(self, state: SearchState, action: Tensor) -> SearchState:
        """The searchers after one action each."""

    def step(self, state: SearchState, action: Tensor) -> Outcome:
        """Act, and be rewarded."""


@dataclass(frozen=True)
class Searches:
    """A world with what is looked for in it.

    Attributes:
        world: Where searchers act.
        labels: The number of the label of each search (search,), int64.
        known: The searches whose truth is known, or all where nothing is (n,), int64.
    """

    world: World
    labels: Tensor
    known: Tensor


class Search(Method):
    """A method that answers by searching; a method's file overrides `searches`, `begin` and `decode`."""

    Settings: ClassVar[type[Record]] = SearchSettings
    kinds: ClassVar[Mapping[str, Kind]] = {}
    tiled: ClassVar[bool] = False
    settings: Any

    def __init__(self, plan: Plan, stage: Stage) -> None:
        super().__init__(plan, stage)
        self.replay = self._memory()

    @classmethod
    def unread(cls, plan: Plan, stage: Stage) -> Unread:
        """What is learnt from are steps of searches."""
        share = {"training.foreground_share": "samples are drawn from the replay memory."}
        return super().unread(plan, stage) | share

    # --------------------------------------------------------------------------------- what a file says

    def searches(self, cases: list[Arrays], device: torch.device) -> Searches:
        """One search for each label in each case; places are known where the arrays hold truths."""
        raise NotImplementedError

    def begin(self, searches: Searches, index: Tensor, generator: torch.Generator) -> SearchState:
        """Searchers set down to learn."""
        raise NotImplementedError

    def answering(self, searches: Searches, index: Tensor, generator: torch.Generator) -> SearchState:
        """Searchers set down to answer."""
        raise NotImplementedError

    def remembered(self, searches: Searches) -> Tensor:
        """What the training cases say of where to start (label, number), kept beside the weights."""
        return torch.zeros(len(self.plan.labels), 0)

    @property
    def starts_width(self) -> int:
        """Numbers that `remembered` gives for each label."""
        return 0

    # ------------------------------------------------------------------------------------------- network

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, actions and numbers besides of the world, the label's not counted."""
        raise NotImplementedError

    def build(self) -> dict[str, nn.Module]:
        channels, actions, besides = self.shape
        labels = len(self.plan.labels)
        network = Searcher(
            ValueNetwork(
                self.stage.geometry.patch,
                channels,
                actions,
                besides=besides + self._told(labels),
                features=self.settings.features,
                hidden=self.settings.hidden,
                duelling=self.settings.duelling,
            ),
            torch.zeros(labels, self.starts_width),
        )
        slow = copy.deepcopy(network).requires_grad_(False)
        return {"network": network, "target": slow}

    @staticmethod
    def _told(labels: int) -> int:
        """Numbers that tell the label; none where there is one."""
        return labels if labels > 1 else 0

    def seen(self, searches: Searches, state: SearchState) -> Batch:
        """What searchers see and know, as the network takes it."""
        window, besides = searches.world.observe(state)
        labels = len(self.plan.labels)
        if self._told(labels):
            told = functional.one_hot(searches.labels[state.index], labels)
            besides = torch.cat([besides, told.to(besides)], dim=1)
        return {"window": window, "besides": besides}

    # ------------------------------------------------------------------------------------------- samples

    def example(self, rng: np.random.Generator) -> dict[str, Tensor]:
        """A transition of noise."""
        channels, actions, besides = self.shape
        window = rng.standard_normal((channels, *self.stage.geometry.patch), dtype=np.float32)
        return {
            "window": torch.from_numpy(window),
            "besides": torch.zeros(besides + self._told(len(self.plan.labels))),
            "action": torch.tensor(int(rng.integers(actions))),
            "wanted": torch.tensor(1.0),
        }

    def sample(self, arrays: Arrays, rng: np.random.Generator, request: Request) -> Arrays:
        """Some states of a case with what every action earns there, by which learning is watched."""
        searches = self.searches([arrays], torch.device("cpu"))
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        known = len(searches.known) > 0
        if not known:
            searches = replace(searches, known=torch.arange(len(self.plan.labels)))
        state = self.begin(searches, _drawn(searches, WATCHED, generator), generator)
        rewards = torch.ones(WATCHED, searches.world.actions)  # where nothing is to be found no way is wrong
        if known:
            actions = [torch.full_like(state.index, action) for action in range(searches.world.actions)]
            rewards = torch.stack([searches.world.step(state, each).reward for each in actions], dim=1)
        found = {**self.seen(searches, state), "rewards": rewards}
        return {name: value.numpy() for name, value in found.items()}

    def gather(self, cases: Mapping[str, Arrays]) -> None:
        """Keep where to start from, which answers also where no step is taken."""
        network = cast(Searcher, self.modules["network"])
        network.starts.copy_(self.remembered(self._of_training(cases)))
        follow(self.modules["target"], network, 1.0)

    def _of_training(self, cases: Mapping[str, Arrays]) -> Searches:
        searches = self.searches([cases[name] for name in cases], self.device)
        if not len(searches.known):
            raise BadDataset("no case that is learnt from says where a label lies.", cure="Check the truths.")
        return searches

    def stream(self, cases: Mapping[str, Arrays], seed: int, first: int) -> Iterator[Batch]:
        """Act, remember, and draw what has been lived through, step after step."""
        searches = self._of_training(cases)
        step, state, ages = first, None, None
        while True:
            rng = np.random.default_rng([seed, ACTING, step])
            generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
            if state is None or ages is None:
                state = self._set_down(searches, generator)
                ages = torch.randint(self.settings.episode, (len(state),), generator=generator)
            state, ages = self._act(searches, state, ages, generator)
            step += 1
            if len(self.replay) >= self.stage.training.batch:
                yield self._batch(searches, rng)

    def _set_down(self, searches: Searches, generator: torch.Generator) -> SearchState:
        """All searchers anew, each with any of the step sizes."""
        index = _drawn(searches, self.settings.searchers, generator)
        state = self.begin(searches, index, generator)
        levels = torch.randint(len(searches.world.steps), (len(state),), generator=generator)
        return SearchState(state.index, state.place, levels.to(state.level), state.actions)

    @torch.no_grad()
    def _act(
        self, searches: Searches, state: SearchState, ages: Tensor, generator: torch.Generator
    ) -> tuple[SearchState, Tensor]:
        """One step of all searchers into the memory; those whose episode ends are set down anew."""
        settings = self.settings
        epsilon = Exploration(1.0, settings.exploration, settings.explored).at(self.progress)
        values = self.forward(self.seen(searches, state))["values"]
        action = choose(values, epsilon, generator)
        outcome = searches.world.step(state, action)
        ages = ages + 1
        cut = ages >= settings.episode
        self.replay.add(
            state.arrays(),
            action.cpu().numpy(),
            outcome.reward.cpu().numpy(),
            outcome.state.arrays(),
            outcome.terminal.cpu().numpy(),
            cut.numpy(),
        )
        ended = cut | outcome.terminal.cpu()
        anew = self._set_down(searches, generator)
        return outcome.state.where(ended.to(state.index.device), anew), torch.where(ended, 0, ages)

    @torch.no_grad()
    def _batch(self, searches: Searches, rng: np.random.Generator) -> Batch:
        """Transitions with what their actions should be worth."""
        drawn = self.replay.sample(self.stage.training.batch, rng)
        device = searches.labels.device
        before, after = (SearchState.of_arrays(part).to(device) for part in (drawn.state, drawn.after))
        later = self.seen(searches, after)
        slow = self.modules["target"](later["window"], later["besides"])
        online = self.forward(later)["values"] if self.settings.double else None
        reward, discount = (torch.from_numpy(part).to(device) for part in (drawn.reward, drawn.discount))
        return {
            **self.seen(searches, before),
            "action": torch.from_numpy(drawn.action),
            "wanted": target(reward, discount, slow, online),
        }

    # ------------------------------------------------------------------------------------------ learning

    def loss(self, batch: Batch, turn: str) -> Tensor:
        """Huber loss of what actions are worth; of watched states, the share where the network goes wrong."""
        if "rewards" not in batch:
            values = self.forward(batch)["values"]
            return q_loss(values, batch["action"], batch["wanted"])[0]
        flat = {name: torch.flatten(value, 0, 1) for name, value in batch.items()}
        best = self.forward(flat)["values"].argmax(dim=1, keepdim=True)
        wrong: Tensor = (1 - flat["rewards"].gather(1, best)).mean() / 2
        return wrong

    def forward(self, inputs: Batch) -> Outputs:
        return {"values": self.modules["network"](inputs["window"], inputs["besides"])}

    def observe(self, batch: Batch) -> None:
        """The target network follows."""
        follow(self.modules["target"], self.modules["network"], self.settings.follow)

    def finish(self) -> None:
        """Forget the steps that were learnt from: they lasted for checkpoints, a model needs none of them."""
        self.replay = self._memory()

    def _memory(self) -> Replay:
        settings = self.settings
        return Replay(settings.memory, gamma=settings.gamma, steps=settings.steps_ahead)

    def state(self) -> Arrays:
        return self.replay.state()

    def load(self, arrays: Arrays) -> None:
        self.replay.load(arrays)

    # ------------------------------------------------------------------------------------------- answers

    def respond(self, arrays: Arrays, network: Network) -> Arrays:
        """`places` (label, number): where the walks end."""
        searches = self.searches([{**arrays}], torch.device("cpu"))
        generator = torch.Generator().manual_seed(0)
        index = searches.known.repeat_interleave(self.settings.starts)
        state = self.answering(searches, index, generator)
        ends = walk(self, searches, state, network, self.settings.walk)
        found = ends.view(len(searches.known), self.settings.starts, -1).quantile(0.5, dim=1)
        return {"places": found.numpy()}


class Searcher(nn.Module):
    """Values of actions, and beside the weights where searches start.

    Args:
        values: The network.
        starts: (label, number).
    """

    starts: Tensor

    def __init__(self, values: nn.Module, starts: Tensor) -> None:
        super().__init__()
        self.values = values
        self.register_buffer("starts", starts)

    def forward(self, window: Tensor, besides: Tensor) -> Tensor:
        """Windows (searcher, channel, *grid) and numbers (searcher, besides) to values (searcher, action)."""
        values: Tensor = self.values(window, besides)
        return values


def walk(method: Search, searches: Searches, state: SearchState, network: Network, most: int) -> Tensor:
    """Where searchers end (searcher, number) that act greedily, in at most so many steps."""
    oscillation, last = Oscillation(), len(searches.world.steps) - 1
    answer, arrived = state.place.clone(), torch.zeros(len(state), dtype=torch.bool)
    for _ in range(most):
        values = network(method.seen(searches, state))["values"]
        circles = oscillation.see(state.place)
        new = circles & (state.level == last) & ~arrived
        if new.any():
            answer = torch.where(new[:, None], oscillation.mean_place(), answer)
            arrived = arrived | new
        if arrived.all():
            break
        finer = circles & (state.level < last)
        oscillation.forget(finer)
        state = state.refined(finer)
        state = searches.world.go(state, values.argmax(dim=1))
    return torch.where(arrived[:, None], answer, state.place)


def _drawn(searches: Searches, count: int, generator: torch.Generator) -> Tensor:
    """So many of the known searches, at random."""
    chosen = torch.randint(len(searches.known), (count,), generator=generator)
    return searches.known[chosen.to(searches.known.device)]
