"""A run's folder: where each thing lies, who may write to it, and what is in it."""

from __future__ import annotations

import contextlib
import os
import platform
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
from pydantic import PositiveInt

from isocenter.errors import BadModel, BadPlan, RunFailed
from isocenter.files import as_fault
from isocenter.pipeline.survey import files_of
from isocenter.records import Choice, Dataset, Fingerprint, Plan, Record

WEIGHTS = "weights.safetensors"

SAME_START_SECONDS = 10.0
"""What a process is said to have started at differs by less than this, since clocks are set."""


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
            lacking = "it holds no plan.json" if self.folder.is_dir() else "there is no such folder"
            raise BadModel(
                f"this is no run or model: {lacking}.",
                where=self.folder,
                cure="Give the folder that `isocenter train` was given as --out.",
            )
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

    def refuse_foreign(self, dataset: Dataset) -> None:
        """Say before any work that a run here would write over the dataset's own files, or among them.

        Raises:
            BadPlan: `dataset.json` is no run's, or the folder is one of the dataset's and holds no plan.
        """
        path = self.folder / "dataset.json"
        try:
            if path.is_file():
                Dataset.load(path)
        except BadPlan as error:
            raise BadPlan(
                "this file is no record of a run, and would be replaced by one.",
                where=path,
                cure="Choose another --out; if it is what a broken run has left, delete it.",
            ) from error
        if _holds(dataset, self.folder) and not (self.folder / "plan.json").is_file():
            raise BadPlan(
                "the dataset itself lies in this folder.", where=self.folder, cure="Choose another --out."
            )

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
            with as_fault(lock), os.fdopen(handle, "w", encoding="utf-8") as stream:
                stream.write(Holder.here().model_dump_json())
            yield
        finally:
            lock.unlink(missing_ok=True)

    def _break_stale(self, lock: Path) -> None:
        try:
            holder = Holder.load(lock)
        except BadPlan:  # who wrote it was stopped before it could say who it is
            holder = None
        if holder is not None and holder.lives():
            raise RunFailed(
                f"process {holder} is already at work in this folder.",
                where=self.folder,
                cure=f"Wait for it, or choose another --out. If it is long gone, delete {lock}.",
            )
        with as_fault(lock):
            lock.unlink(missing_ok=True)


class Holder(Record):
    """The process that a lock names. Numbers of processes recur, in containers above all, so that its start
    and its computer tell it from others."""

    process: PositiveInt
    started: float
    computer: str

    @classmethod
    def here(cls) -> Holder:
        """This process."""
        return cls(process=os.getpid(), started=psutil.Process().create_time(), computer=platform.node())

    def lives(self) -> bool:
        """Whether it is still at work, which cannot be known of another computer's."""
        if self.computer != platform.node():
            return True
        try:
            process = psutil.Process(self.process)
            same = abs(process.create_time() - self.started) < SAME_START_SECONDS
            return bool(same and process.status() != psutil.STATUS_ZOMBIE)
        except psutil.NoSuchProcess:
            return False
        except psutil.AccessDenied:
            return True

    def __str__(self) -> str:
        return f"{self.process} of {self.computer}" if self.computer != platform.node() else str(self.process)


def _holds(dataset: Dataset, folder: Path) -> bool:
    """Whether a folder is the dataset's, or one below it in which its files lie."""
    root, own = Path(dataset.root).resolve(), folder.resolve()
    if own == root or not own.is_relative_to(root):
        return own == root
    start = f"{own.relative_to(root).as_posix()}/"
    # A folder of DICOM is given as a file is, with a series behind two colons.
    files = (f"{file.partition('::')[0]}/" for case in dataset.cases for file in files_of(case))
    return any(file.startswith(start) for file in files)


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
