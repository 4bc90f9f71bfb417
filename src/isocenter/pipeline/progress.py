"""How far the work is: bars with the time left on a terminal, plain lines elsewhere, nothing when silent."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sized
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

Item = TypeVar("Item")

#: Seconds between two plain lines of one piece of work, so that a log file stays readable.
LINE_EVERY = 15.0


@dataclasses.dataclass
class _Display:
    """The one place where progress is shown; `plain` asks for lines where there is no terminal."""

    plain: bool = False
    silent: int = 0
    users: int = 0
    bars: Progress | None = None
    lock: threading.RLock = dataclasses.field(default_factory=threading.RLock)


_display = _Display()


class Bar:
    """A piece of work under way. Give it to what works; that calls `advance` and, if it likes, `note`."""

    def advance(self, amount: float = 1.0) -> None:
        """Say that `amount` more of the total is done."""

    def reach(self, done: float) -> None:
        """Say that `done` of the total is done, for work that is measured from its start."""

    def count(self, done: int, total: int) -> None:
        """Say that `done` of `total` things are done, for work that reports in this way."""
        self.reach(done)

    def note(self, text: str) -> None:
        """Show a few words beside the bar, for example the loss."""


class _LineBar(Bar):
    """Plain lines: at most one in `LINE_EVERY` seconds, and one at the end."""

    def __init__(self, what: str, total: float | None) -> None:
        self._what, self._total = what, total
        self._done, self._note = 0.0, ""
        self._start = self._last = time.monotonic()

    def advance(self, amount: float = 1.0) -> None:
        self.reach(self._done + amount)

    def reach(self, done: float) -> None:
        self._done = done
        if time.monotonic() - self._last >= LINE_EVERY:
            self._say(f"{self._share()}{self._left()}")

    def note(self, text: str) -> None:
        self._note = text

    def finish(self, *, whole: bool) -> None:
        """Write the last line; `whole` is false when the work was broken off."""
        spent = clock(time.monotonic() - self._start)
        self._say(f"done in {spent}" if whole else f"stopped after {spent}")

    def _share(self) -> str:
        if not self._total:
            return f"{self._done:g} done"
        return f"{100 * min(1.0, self._done / self._total):.0f} %"

    def _left(self) -> str:
        if not self._total or self._done <= 0:
            return ""
        spent = time.monotonic() - self._start
        return f", {clock(max(0.0, spent * (self._total / self._done - 1)))} left"

    def _say(self, text: str) -> None:
        self._last = time.monotonic()
        note = f" ({self._note})" if self._note else ""
        say(f"{self._what}: {text}{note}")


class _RichBar(Bar):
    """One line of the live display."""

    def __init__(self, bars: Progress, task: TaskID) -> None:
        self._bars, self._task = bars, task

    def advance(self, amount: float = 1.0) -> None:
        self._bars.advance(self._task, amount)

    def reach(self, done: float) -> None:
        self._bars.update(self._task, completed=done)

    def note(self, text: str) -> None:
        self._bars.update(self._task, note=text)


@contextlib.contextmanager
def bar(what: str, total: float | None = None) -> Iterator[Bar]:
    """Show a piece of work for as long as the block lasts; blocks may be nested.

    Args:
        what: The work in a few words, for example `Preparing 200 cases`.
        total: How much there is to do, in any unit; None when that is not known.
    """
    if _display.silent:
        yield Bar()
    elif sys.stderr.isatty():
        with _live() as bars:
            task = bars.add_task(what, total=total, note="")
            try:
                yield _RichBar(bars, task)
            finally:
                bars.remove_task(task)
    elif _display.plain:
        line = _LineBar(what, total)
        whole = False
        try:
            yield line
            whole = True
        finally:
            line.finish(whole=whole)
    else:
        yield Bar()


def track(items: Iterable[Item], what: str, total: int | None = None) -> Iterator[Item]:
    """Yield the items and show how many are done; the total is their length where they have one."""
    if total is None and isinstance(items, Sized):
        total = len(items)
    with bar(what, total) as shown:
        for item in items:
            yield item
            shown.advance()


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """Show nothing inside the block, for workers and for work within work."""
    _display.silent += 1
    try:
        yield
    finally:
        _display.silent -= 1


@contextlib.contextmanager
def plain_lines() -> Iterator[None]:
    """Inside the block write plain lines where there is no terminal; the command line asks for them."""
    before, _display.plain = _display.plain, True
    try:
        yield
    finally:
        _display.plain = before


def say(text: str) -> None:
    """Write one line to standard error, above the bars where there are any, unless all is silent."""
    if _display.bars is not None:
        _display.bars.console.print(text, markup=False, highlight=False)
    elif not _display.silent and (_display.plain or sys.stderr.isatty()):
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()


def clock(seconds: float) -> str:
    """Seconds as a person says them: `0.4 s`, `12 s`, `3 min 05 s`, `2 h 10 min`."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min"


@contextlib.contextmanager
def _live() -> Iterator[Progress]:
    """The live display: started by its first user, stopped by its last."""
    with _display.lock:
        if _display.bars is None:
            _display.bars = _new_display()
            _display.bars.start()
        _display.users += 1
        bars = _display.bars
    try:
        yield bars
    finally:
        with _display.lock:
            _display.users -= 1
            if not _display.users:
                bars.stop()
                _display.bars = None


def _new_display() -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(elapsed_when_finished=True),
        TextColumn("{task.fields[note]}", style="dim"),
        console=Console(stderr=True),
        transient=True,
    )
