"""The whole workflow on generated phantoms, in about three minutes on two cores."""

from __future__ import annotations

from pathlib import Path

from isocenter.errors import RunFailed
from isocenter.images.layouts import open_dataset
from isocenter.phantoms.organs import write_dataset
from isocenter.pipeline import progress
from isocenter.pipeline.predict import predict
from isocenter.pipeline.report import report
from isocenter.pipeline.train import train

CASES = 24


def demo(out: Path, budget: str = "90s", *, device: str = "auto", workers: int | None = None) -> Path:
    """Generate phantoms, check, plan, train one fold, answer new images, and write the report.

    Args:
        out: Folder for `phantoms/`, `new/`, `answers/` and `run/`; must not hold an earlier demo.
        budget: Training time.
        device: `auto`, `cpu`, `cuda` or `mps`.
        workers: Threads beside the main one.

    Returns:
        The path of the report.

    Raises:
        RunFailed: An earlier demo lies in `out`.
    """
    out = Path(out)
    if (out / "run").exists():
        raise RunFailed("a demo lies here already.", where=out, cure="Delete it, or choose another --out.")
    progress.say(f"Generating {CASES} phantoms: organs and lesions, thick slices, bias field, noise.")
    learnt = write_dataset(out / "phantoms", cases=CASES, seed=0)
    fresh = write_dataset(out / "new", cases=2, seed=1)
    run = out / "run"
    train(open_dataset(learnt), run, budget=budget, folds=(0,), device=device, workers=workers)
    predict(run, [fresh / "images"], out / "answers", device=device, workers=workers)
    return report(run)
