"""Time a call and the memory it adds, alike in our interpreter and in a peer's."""

from __future__ import annotations

import resource
import statistics
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def measured(call: Callable[[], Any], repeats: int) -> tuple[Any, dict[str, float]]:
    """The result, the median seconds, and the peak memory in GB: whole process, and anonymous beyond before.

    Anonymous memory leaves memory-mapped files out; it is sampled every 5 ms.
    """
    before = anonymous()
    peaks = [before]
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(0.005):
            peaks.append(anonymous())

    watcher = threading.Thread(target=watch)
    watcher.start()
    seconds = []
    result = None
    for _ in range(repeats):
        result = None
        begin = time.perf_counter()
        result = call()
        seconds.append(time.perf_counter() - begin)
    stop.set()
    watcher.join()
    return result, {
        "seconds": statistics.median(seconds),
        "peak_gb": _status("VmHWM") / 1e9,
        "added_gb": (max(peaks) - before) / 1e9,
    }


class Clock:
    """Wall and processor seconds from its making on, in named steps."""

    def __init__(self) -> None:
        self._steps: dict[str, float] = {}
        self._begin = self._last = time.perf_counter()
        self._processor = processor_seconds()

    def mark(self, step: str) -> None:
        """End a step."""
        now = time.perf_counter()
        self._steps[f"{step}_seconds"] = now - self._last
        self._last = now

    def figures(self) -> dict[str, float]:
        """Seconds in all until the last mark, and of each step."""
        processor = processor_seconds() - self._processor
        return {"seconds": self._last - self._begin, "processor_seconds": processor, **self._steps}

    def per(self, count: int) -> dict[str, float]:
        """Seconds of all steps together, divided by a number of cases."""
        figures = self.figures()
        return {name: figures[name] / count for name in ("seconds", "processor_seconds")}


def processor_seconds() -> float:
    """User and system time of this process and of its children that have ended."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def anonymous() -> int:
    """Bytes of memory of this process that no file backs (Linux)."""
    return _status("RssAnon")


def _status(key: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status does not tell {key}")
