"""Write a benchmark's figures with the machine, the date and the commit they were seen on.

With the machine stand the threads that a process had (`OMP_NUM_THREADS`) and the load average over the five
minutes before the benchmark ended: on a busy machine a budget of time holds fewer steps.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
import re
import subprocess
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parent / "results"
_PLACE = re.compile(r" --out(?: |=)\S+")
"""Where a run was put says nothing about its figures."""


def record(name: str, figures: dict[str, Any], command: str) -> Path:
    """Write `results/<name>.json` and return its path; figures are plain numbers and strings."""
    content = {
        "benchmark": name,
        "command": _PLACE.sub("", command),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "machine": _machine(),
        "versions": {package: _version(package) for package in ("torch", "numpy", "scipy")},
        "figures": figures,
    }
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(figures, indent=2))
    return path


def _machine() -> dict[str, Any]:
    cores = os.cpu_count() or 1
    return {
        "processor": _processor(),
        "cores": cores,
        "threads": int(os.environ.get("OMP_NUM_THREADS", cores)),
        "load_average_at_end": round(os.getloadavg()[1], 1),
        "system": platform.platform(),
        **({"accelerator": torch.cuda.get_device_name()} if torch.cuda.is_available() else {}),
    }


def _commit() -> str:
    """The commit; `-dirty` where files other than results differ from it."""
    name = _git("describe", "--always", "--abbrev=7")
    changed = _git("status", "--porcelain", "--untracked-files=no", "--", ":/", f":(exclude){RESULTS}")
    return f"{name}{'-dirty' if changed else ''}" if name else "a copy outside the repository"


def _git(*words: str) -> str:
    done = subprocess.run(["git", *words], capture_output=True, text=True, check=False)
    return done.stdout.strip()


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "absent"


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor()
