"""A run's folder: where each thing lies, who may write to it, and what is in it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from isocenter.errors import BadModel, RunFailed
from isocenter.files import as_fault
from isocenter.records import Choice, Dataset, Fingerprint, Plan

WEIGHTS = "weights.safetensors"


@dataclass(frozen=True)
class Run:
    """`dataset.json fingerprint.json plan.json fold_0/ … scores.json choice.json report.html`."""

    folder: Path

    @property
    def dataset(self) -> Dataset:
        """What was learnt from."""
        return Dataset.load(self.folder / "dataset.json")

    @property
    def fingerprint(self) -> Fingerprint:
        """What was measured."""
        return Fingerprint.load(self.folder / "fingerprint.json")

    @property
    def plan(self) -> Plan:
        """What was decided.

        Raises:
            BadModel: There is no plan here.
        """
        path = self.folder / "plan.json"
        if not path.is_file():
            raise BadModel("this is no run or model: it holds no plan.json.", where=self.folder)
        return Plan.load(path)

    @property
    def choice(self) -> Choice | None:
        """What cross-validation chose, once it has."""
        path = self.folder / "choice.json"
        return Choice.load(path) if path.is_file() else None

    def fold(self, number: int) -> Path:
        """The folder of one fold."""
        return self.folder / f"fold_{number}"

    def stage(self, number: int, name: str, stages: int) -> Path:
        """The folder of one fold's stage; the fold's own when there is only one stage."""
        return self.fold(number) if stages == 1 else self.fold(number) / name

    def together(self, number: int, members: Sequence[str], stages: int) -> Path:
        """Where the answers of a stage, or of stages that answer together, lie, with all about them."""
        if len(members) == 1:
            return self.stage(number, members[0], stages)
        return self.fold(number) / "+".join(members)

    def trained_folds(self, plan: Plan) -> list[int]:
        """Folds in which every stage has its weights."""
        numbers = sorted(
            int(path.name.removeprefix("fold_"))
            for path in self.folder.glob("fold_*")
            if path.name.removeprefix("fold_").isdecimal()
        )
        count = len(plan.stages)
        return [
            number
            for number in numbers
            if all((self.stage(number, stage.name, count) / WEIGHTS).is_file() for stage in plan.stages)
        ]

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Keep a second process from writing into the same run.

        Raises:
            RunFailed: Another living process holds it, or the folder cannot be written to.
        """
        with as_fault(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        lock = self.folder / ".lock"
        while True:
            try:
                with as_fault_except_existing(lock):
                    handle = os.open(lock, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
                break
            except FileExistsError:
                self._break_stale(lock)
        try:
            os.write(handle, str(os.getpid()).encode())
            os.close(handle)
            yield
        finally:
            lock.unlink(missing_ok=True)

    def _break_stale(self, lock: Path) -> None:
        try:
            owner = int(lock.read_text(encoding="utf-8") or 0)
        except (OSError, ValueError):
            owner = 0
        if owner and owner != os.getpid() and psutil.pid_exists(owner):
            raise RunFailed(
                f"process {owner} is already at work in this folder.",
                where=self.folder,
                cure="Wait for it, or choose another --out.",
            )
        lock.unlink(missing_ok=True)


@contextlib.contextmanager
def as_fault_except_existing(path: Path) -> Iterator[None]:
    """Like `as_fault`, but lets FileExistsError through."""
    exists: FileExistsError | None = None
    with as_fault(path):
        try:
            yield
        except FileExistsError as error:
            exists = error
    if exists is not None:
        raise exists
