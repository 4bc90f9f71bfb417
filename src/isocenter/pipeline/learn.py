"""The one loop: every method of every task learns here."""

from __future__ import annotations

import contextlib
import csv
import io
import math
import signal
import threading
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Literal

from torch import Tensor

from isocenter import files
from isocenter.compute import LESS_WILD, Compute, learning_mode, seed_step
from isocenter.errors import BadModel, Interrupted, RunFailed
from isocenter.methods.method import Batch, Method, Turn
from isocenter.pipeline import checkpoint
from isocenter.pipeline.batches import Batches, collate, validation_samples
from isocenter.pipeline.prepare import Prepared, PreparedCases
from isocenter.pipeline.progress import Bar, say
from isocenter.pipeline.run import WEIGHTS
from isocenter.records import Fold, Training

COLUMNS = ("step", "epoch", "seconds", "share", "learning_rate", "loss", "validation_loss")
LOOKS = 20
ROWS = 100
SAVING_SECONDS = 0.5

TRAIN_AGAIN = "Delete it and train again."

#: Where the log can go besides log.csv.
Tracker = Literal["tensorboard"]


@dataclass
class Pace:
    """How far a stage has come in its budget; under a time budget the share follows the clock."""

    training: Training
    spent: float = 0.0
    began: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        """Wall time used so far, earlier sessions included."""
        return self.spent + time.monotonic() - self.began

    def share(self, step: int, seconds: float) -> float:
        """The used part of the budget, 0 … 1."""
        budget = self.training.budget
        if budget.epochs is not None:
            return min(1.0, step / (budget.epochs * self.training.steps_per_epoch))
        usable = (budget.seconds or 0.0) - SAVING_SECONDS - self.training.seconds_per_step
        return min(1.0, seconds / max(1e-9, usable))


def learning_rate(training: Training, share: float) -> float:
    """Linear rise over the warm-up share, then (1 − share)^power towards zero.

    Source: Chen et al., "DeepLab", arXiv:1606.00915 (the "poly" schedule), over the share of the budget.
    """
    if share < training.warmup:
        return training.learning_rate * max(share / training.warmup, 0.01)
    rest = (1 - share) / (1 - training.warmup)
    return float(training.learning_rate * max(rest, 0.0) ** training.power)


def turn_of(turns: Mapping[str, Turn], step: int) -> str | None:
    """Whose turn a step is: each takes `times` steps, in order; None when nothing learns by gradient."""
    cycle = [name for name, turn in turns.items() for _ in range(turn.times)]
    return cycle[step % len(cycle)] if cycle else None


@dataclass
class Learning:
    """One stage of one fold, learnt within its budget.

    Args:
        method: With its modules built.
        prepared: Arrays of the fold's cases.
        fold: Which cases are learnt from and watched.
        folder: Where weights, log and checkpoint go.
        compute: Where the modules live.
        seed: Of everything.
        workers: Threads that make samples.
        spent: Seconds of the budget that are gone before the first step.
        track: Where the log goes besides log.csv; `tensorboard` keeps its events beside it.
    """

    method: Method
    prepared: Prepared
    fold: Fold
    folder: Path
    compute: Compute
    seed: int
    workers: int = 1
    spent: float = 0.0
    track: Tracker | None = None
    step: int = 0
    rows: list[dict[str, float | None]] = field(default_factory=list)
    _writer: Any = None

    @property
    def checkpoint(self) -> Path:
        """Where the state to resume from lies."""
        return self.folder / "checkpoint.safetensors"

    def run(self, bar: Bar, *, resume: bool = False) -> Path:
        """Learn until the budget is used, and write the weights.

        Returns:
            The path of the weights.

        Raises:
            Interrupted: A signal asked to stop; the state is saved.
            RunFailed: The loss is not finite, or memory does not suffice.
        """
        training = self.method.stage.training
        self.compute.place(self.method)
        self.compute.prepare_learning(self.method)
        cases = PreparedCases(self.prepared, self.fold.train)
        if resume and self.checkpoint.is_file():
            self._restore()
        else:
            self.method.gather(cases)
        pace = Pace(training, self.spent)
        watched = self._watched()
        batches = Batches(
            self.method,
            self.prepared,
            self.fold.train,
            seed=self.seed,
            workers=self.workers,
            rank=self.compute.rank,
            world=self.compute.world,
        )
        learning_mode(self.method)
        if self.method.turns:
            with (
                stop_requested() as stop,
                self.compute.handing_out(),
                contextlib.closing(self._stream(batches, cases)) as stream,
                self._tracked(),
            ):
                self._loop(stream, pace, watched, bar, stop)
            if not self.step:
                say(f"The budget of {training.budget} was used up before the first step: nothing was learnt.")
        self.method.finish()
        self.method.modules.eval()
        return self._finish(pace)

    def _loop(
        self,
        stream: Generator[Batch, None, None],
        pace: Pace,
        watched: Sequence[dict[str, Tensor]],
        bar: Bar,
        stop: threading.Event,
    ) -> None:
        training = self.method.stage.training
        saved, losses = time.monotonic(), []
        share = pace.share(self.step, self.compute.agree_on(pace.seconds))
        noted, looked = int(share * ROWS), int(share * LOOKS)
        while share < 1.0:
            rate = learning_rate(training, share)
            self.method.progress = share
            batch = self.compute.move(next(stream))
            seed_step(self.seed, self.step)
            turn = turn_of(self.method.turns, self.step)
            if turn is not None:
                losses.append(self._step(batch, turn, rate))
            self.method.observe(batch)
            self.compute.follow(self.method, self.step)
            self.step += 1
            share = pace.share(self.step, self.compute.agree_on(pace.seconds))
            bar.reach(share)
            if int(share * ROWS) > noted or share >= 1.0:
                noted = int(share * ROWS)
                look = int(share * LOOKS) > looked or share >= 1.0
                looked = int(share * LOOKS)
                self._note(pace, share, rate, losses, self._look(watched) if look else None)
                bar.note(f"step {self.step}, loss {self.rows[-1]['loss']:.3f}")
                losses = []
            if self.compute.agree(stop.is_set()):
                self._save(pace)
                raise Interrupted(
                    f"stopped at step {self.step}; the state is saved.",
                    where=self.folder,
                    cure="Go on with --resume.",
                )
            if time.monotonic() - saved >= training.checkpoint_seconds and share < 1.0:
                self._save(pace)
                saved = time.monotonic()

    def _step(self, batch: Batch, turn: str, rate: float) -> float:
        try:
            return self.compute.step(self.method, batch, turn, rate)
        except RunFailed as error:
            raise RunFailed(error.what, where=self.folder, cure=self._kept(error.cure)) from error

    def _kept(self, cure: str) -> str:
        """The cure, and what is left of a run that failed."""
        left = "The last checkpoint is kept." if self.checkpoint.is_file() else ""
        return f"{left} {cure}".strip()

    def _stream(self, batches: Batches, cases: PreparedCases) -> Generator[Batch, None, None]:
        """The method's own batches where it makes them itself, else those that threads make ahead."""
        own = self.method.stream(cases, self.seed, self.step)
        yield from batches.stream(self.step) if own is None else own

    # ---------------------------------------------------------------------------------------- watching

    def _watched(self) -> list[dict[str, Tensor]]:
        cases = self.fold.validation
        return validation_samples(self.method, self.prepared, cases, seed=self.seed) if cases else []

    def _look(self, watched: Sequence[dict[str, Tensor]]) -> float | None:
        """Mean loss over the same unchanged patches of cases that are not learnt from.

        Raises:
            RunFailed: It is not finite.
        """
        turn = turn_of(self.method.turns, 0)
        if not watched or turn is None:
            return None
        size = max(1, self.method.stage.training.batch // self.compute.pieces)
        losses = []
        with self.compute.averaged(self.method):
            for start in range(0, len(watched), size):
                batch = self.compute.move(collate(watched[start : start + size]))
                losses.append(float(self.method.loss(batch, turn)) * len(watched[start : start + size]))
        loss = sum(losses) / len(watched)
        if not math.isfinite(loss):
            raise RunFailed(
                "the loss of the validation cases is no longer a finite number.",
                where=self.folder,
                cure=self._kept(LESS_WILD),
            )
        return loss

    def _note(
        self, pace: Pace, share: float, rate: float, losses: Sequence[float], validation: float | None
    ) -> None:
        self.rows.append(
            {
                "step": self.step,
                "epoch": self.step / self.method.stage.training.steps_per_epoch,
                "seconds": round(pace.seconds, 3),
                "share": round(share, 5),
                "learning_rate": rate,
                "loss": self.compute.mean(sum(losses) / len(losses)) if losses else None,
                "validation_loss": validation,
            }
        )
        if self.compute.rank == 0:
            files.write_text(self.folder / "log.csv", _table(self.rows))
            self._show(self.rows[-1])

    @contextlib.contextmanager
    def _tracked(self) -> Iterator[None]:
        """Keep the tracker's file open inside the block; what a broken-off session wrote too far is cut."""
        if self.track is None or self.compute.rank != 0:
            yield
            return
        writer = _writer()(str(self.folder / "tensorboard"), purge_step=self.step or None)
        self._writer = writer
        try:
            yield
        finally:
            writer.close()

    def _show(self, row: Mapping[str, float | None]) -> None:
        if self._writer is not None:
            for name in COLUMNS[1:]:
                if (value := row[name]) is not None:
                    self._writer.add_scalar(name, value, self.step)

    # ------------------------------------------------------------------------------------------ saving

    def _save(self, pace: Pace) -> None:
        if self.compute.rank != 0:
            return
        facts = {"step": self.step, "seconds": pace.seconds, "rows": self.rows, "plan": self._identity()}
        state = self.compute.state(self.method)
        self._refuse_not_finite({key: value for key, value in state.items() if key.startswith("weights/")})
        checkpoint.save(self.checkpoint, state, facts)

    def _refuse_not_finite(self, tensors: Mapping[str, Tensor]) -> None:
        if checkpoint.not_finite(tensors) is not None:
            raise RunFailed(
                "the weights are no longer finite numbers.", where=self.folder, cure=self._kept(LESS_WILD)
            )

    def _restore(self) -> None:
        tensors, facts = checkpoint.load(self.checkpoint, TRAIN_AGAIN)
        if facts.get("plan") != self._identity():
            raise BadModel(
                "this checkpoint belongs to another plan.",
                where=self.checkpoint,
                cure="Bring the old plan.json back, or train into a new folder.",
            )
        try:
            self.compute.restore(self.method, tensors)
            self.step, self.rows = int(facts["step"]), list(facts["rows"])
            self.spent = float(facts["seconds"])
        except (KeyError, RuntimeError, TypeError, ValueError) as error:
            raise BadModel(
                "this checkpoint does not hold all that training needs to go on.",
                where=self.checkpoint,
                cure=TRAIN_AGAIN,
            ) from error

    def _identity(self) -> str:
        return self.method.stage.model_dump_json() + str(self.seed)

    def _finish(self, pace: Pace) -> Path:
        path = self.folder / WEIGHTS
        if self.compute.rank == 0:
            facts = {
                "method": self.method.plan.method,
                "stage": self.method.stage.name,
                "steps": self.step,
                "seconds": round(pace.seconds, 1),
            }
            tensors = {**self.compute.weights(self.method), **checkpoint.kept(self.method)}
            self._refuse_not_finite(self.compute.weights(self.method))
            checkpoint.save(path, tensors, facts)
            self.checkpoint.unlink(missing_ok=True)
        return path


def refuse_tracker_that_is_absent(track: Tracker | None) -> None:
    """Say before any work that a tracker is not installed.

    Raises:
        RunFailed: It is not.
    """
    if track is not None:
        _writer()


def _writer() -> Any:
    """TensorBoard's writer of event files."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise RunFailed("TensorBoard is not installed.", cure="pip install 'isocenter[track]'") from error
    return SummaryWriter


@contextlib.contextmanager
def stop_requested() -> Iterator[threading.Event]:
    """An event that SIGTERM and SIGINT set: the loop saves and leaves at its next step."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return

    def ask(number: int, frame: FrameType | None) -> None:
        event.set()

    before = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield event
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def plateau(rows: Sequence[Mapping[str, float | None]]) -> float | None:
    """The share of the budget after which the validation loss hardly fell, if that was early; else None.

    Hardly is by less than 1 % of all it fell, early is before 60 % of the budget. A plateau is reported, and
    never used to stop.
    """
    seen = [
        (row["share"], row["validation_loss"])
        for row in rows
        if row["validation_loss"] is not None and row["share"] is not None
    ]
    if len(seen) < 5:
        return None
    shares = [share or 0.0 for share, _ in seen]
    losses = [loss or 0.0 for _, loss in seen]
    fallen = losses[0] - min(losses)
    if fallen <= 0:
        return shares[0]
    settled = next(
        share for share, loss in zip(shares, losses, strict=True) if loss - min(losses) <= 0.01 * fallen
    )
    return settled if settled < 0.6 else None


def read_log(path: Path) -> list[dict[str, float | None]]:
    """The rows of a log.csv; what was not measured is None."""
    rows = csv.DictReader(path.read_text(encoding="utf-8").splitlines())
    return [{key: float(value) if value else None for key, value in row.items()} for row in rows]


def _table(rows: Sequence[Mapping[str, float | None]]) -> str:
    stream = io.StringIO()
    writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: "" if value is None else value for key, value in row.items()} for row in rows)
    return stream.getvalue()
