"""isocenter: deep learning for medical images that configures itself.

The verbs are those of the command line. Each imports what it needs when it is called, so that
`import isocenter` costs nothing:

    isocenter.train("hippocampus", "run", budget="15m")
    isocenter.report("run")
    isocenter.load("run").predict("scan.nii.gz")
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from isocenter.version import __version__ as __version__

if TYPE_CHECKING:
    from isocenter.pipeline.predict import Model
    from isocenter.records import Comparison, Dataset, Plan, Scores

__all__ = ["compare", "evaluate", "generate", "load", "open", "plan", "predict", "report", "train"]

#: What is used where neither the user nor a plan says.
DEFAULT_BUDGET = "1h"


def open(data: str | Path, *, task: str | None = None) -> Dataset:  # noqa: A001 - the verb's name
    """Open a dataset in place, in whatever layout people have it.

    Args:
        data: A folder (MSD, nnU-Net, BIDS, `images/` and `labels/`), its `dataset.json`, or a CSV manifest.
        task: The question to be asked of the images, where the dataset does not say it.

    Raises:
        BadDataset: No layout fits, the files speak of several tasks, or the dataset contradicts itself.
        BadPlan: There is no such task.
    """
    from isocenter.errors import BadPlan, suggestion
    from isocenter.images.layouts import open_dataset
    from isocenter.tasks import names

    if task is not None and task not in names():
        raise BadPlan(f"there is no task '{task}'.", cure=suggestion(task, names()))
    return open_dataset(Path(data), task)


def plan(
    data: str | Path | Dataset,
    *,
    method: str | None = None,
    budget: str = DEFAULT_BUDGET,
    out: str | Path | None = None,
    seed: int = 0,
    device: str = "auto",
    workers: int | None = None,
    overrides: Mapping[str, Any] | None = None,
    task: str | None = None,
) -> Plan:
    """Measure a dataset and decide everything that training needs, each value with its reason.

    Args:
        data: An opened dataset, or what `open` takes.
        method: A key of the catalogue, or a method file of the user's own; by default the usual one for the
            task.
        budget: Training time per fold: `15m`, `2h` or `250 epochs`.
        out: A folder for `dataset.json`, `fingerprint.json` and `plan.json`; nothing is written without it.
        seed: What chance starts from: folds, weights, augmentation.
        device: `auto`, `cpu`, `cuda` or `mps`.
        workers: Threads that read the cases; by default one for each core that the process may use.
        overrides: Values of the plan by dotted key, for example `{"training.batch": 4}`.
        task: The question, where neither the method nor the dataset says it.

    Raises:
        BadDataset: The dataset cannot be measured.
        BadPlan: The method, the budget or an override cannot be followed.
        RunFailed: Nothing can be written to `out`.
    """
    from isocenter import files
    from isocenter.methods import default
    from isocenter.pipeline import plan as planning
    from isocenter.pipeline.fingerprint import measured
    from isocenter.pipeline.run import Run
    from isocenter.records import Budget

    length = Budget.read(budget)
    dataset = _dataset(data, task, method)
    if out is not None:
        files.refuse_what_is_no_folder(Path(out))
        Run(Path(out)).refuse_foreign(dataset)
    chosen = method or default(dataset.task)
    dataset = planning.selected(dataset, chosen, overrides)
    fingerprint = measured(dataset, workers)
    made = planning.make(dataset, fingerprint, chosen, length, seed=seed, overrides=overrides, device=device)
    if out is not None:
        for record, name in ((dataset, "dataset"), (fingerprint, "fingerprint"), (made, "plan")):
            record.save(Path(out) / f"{name}.json")
    return made


def train(
    data: str | Path | Dataset,
    out: str | Path,
    *,
    method: str | None = None,
    budget: str | None = None,
    folds: Sequence[int] | None = (0,),
    start: str | Path | None = None,
    freeze: str | None = None,
    resume: bool = False,
    seed: int | None = None,
    device: str = "auto",
    workers: int | None = None,
    overrides: Mapping[str, Any] | None = None,
    where: Literal["local", "processes", "ray"] = "local",
    track: Literal["tensorboard"] | None = None,
    task: str | None = None,
) -> Scores:
    """Train a model, score it on the cases that it has not seen, and keep all of it in one folder.

    Args:
        data: An opened dataset, or what `open` takes.
        out: The folder of the run; a `plan.json` that lies there is followed.
        method: A key of the catalogue, or a method file of the user's own; by default the usual one for the
            task.
        budget: Training time per fold: `15m`, `2h` or `250 epochs`.
        folds: Which folds of the cross-validation to run; None for all.
        start: A trained model folder to start from.
        freeze: The part of the network that keeps the weights it starts with, for example `encoder`.
        resume: Go on where the run in `out` was interrupted.
        seed: What chance starts from: folds, weights, augmentation; by default the plan's, or 0.
        device: `auto`, `cpu`, `cuda` or `mps`.
        workers: Threads that prepare cases and make samples; by default one for each core that the process
            may use.
        overrides: Values of the plan by dotted key, for example `{"training.batch": 4}`.
        where: Run the folds one after another, in several processes here, or on a Ray cluster.
        track: Write the log for TensorBoard too, into `tensorboard/` beside `log.csv`.
        task: The question, where neither the method nor the dataset says it.

    Raises:
        BadDataset: The dataset is not sound.
        BadPlan: The method, the budget or an override cannot be followed.
        RunFailed: Training had to stop; what it had reached is kept.
    """
    from isocenter.pipeline import train as stage

    return stage.train(
        _dataset(data, task, method, [Path(out), *([] if start is None else [Path(start)])]),
        Path(out),
        method=method,
        budget=budget,
        folds=folds,
        start=start,
        freeze=freeze,
        resume=resume,
        seed=seed,
        device=device,
        workers=workers,
        overrides=overrides,
        where=where,
        track=track,
    )


def predict(
    run: str | Path,
    inputs: Sequence[str | Path],
    out: str | Path,
    *,
    device: str = "auto",
    workers: int | None = None,
    probabilities: bool = False,
    uncertainty: bool = False,
    maps: bool = False,
    mirror: bool | None = None,
    overwrite: bool = False,
    fixed: str | Path | None = None,
    stage: str | None = None,
    explain: Sequence[str] = (),
    explained: str | None = None,
) -> list[Path]:
    """Answer for new images, on their own grid and under their own names; give the files written.

    Args:
        run: A trained run or model folder.
        inputs: Image files or folders, in any readable format; or manifests of pairs, to be registered.
        out: The folder for the answers.
        device: `auto`, `cpu`, `cuda` or `mps`.
        workers: Threads for arithmetic; by default as many as PyTorch takes by itself.
        probabilities: Also write the probability of each label.
        uncertainty: Also write how unsure the model is at each voxel.
        maps: Also write the method's own maps, for example the gates of `segmentation/attention_unet`.
        mirror: Average over mirrored images; None for what the plan says.
        overwrite: Answer again where an answer exists.
        fixed: Where the task brings images together, the one that stays where it is.
        stage: The stage of the plan that answers, such as the first of a cascade; by default what
            cross-validation chose.
        explain: Also write maps of what each answer of a classifier rests on: `gradient`, `integrated`,
            `gradcam`, `occlusion`; of bags, `attention`, which they have anyway, is tested. A kind that fails
            the randomisation test on this model is marked so.
        explained: The class that these maps are about; by default each image's likeliest.

    Raises:
        BadModel: The folder holds no model that can be loaded safely.
        UnreadableFile: An image cannot be read whole.
    """
    from isocenter.pipeline import predict as answering

    return answering.predict(
        Path(run),
        inputs,
        Path(out),
        device=device,
        workers=workers,
        probabilities=probabilities,
        uncertainty=uncertainty,
        maps=maps,
        mirror=mirror,
        overwrite=overwrite,
        fixed=fixed,
        stage=stage,
        explain=explain,
        explained=explained,
    )


def generate(
    run: str | Path,
    out: str | Path,
    *,
    count: int | None = None,
    per_class: int | None = None,
    walk: int | None = None,
    label: str | None = None,
    seed: int = 0,
    guidance: float | None = None,
    device: str = "auto",
    workers: int | None = None,
) -> list[Path]:
    """Make new images with a model trained for generation; give the files written.

    Beside each image lie how it was made (`_about.json`) and its code (`_latent.npy`); `grid.png` shows all,
    `made.csv` lists them with the training image nearest to each, and is a manifest of them.

    Args:
        run: A trained run or model folder.
        out: The folder for the images.
        count: How many, 64 by default.
        per_class: In its place: how many of each class, in a folder for each.
        walk: Steps from one code to another: as many walks of this length as `count` holds, each a row of the
            grid.
        label: The class that all shall have; without it, each class of a conditional model in turn.
        seed: The same seed makes the same images.
        guidance: How strongly classes guide; by default as the plan says.
        device: `auto`, `cpu`, `cuda` or `mps`.
        workers: Threads for arithmetic; by default as many as PyTorch takes by itself.

    Raises:
        BadModel: The folder holds no model that can be loaded safely.
        BadPlan: The model makes no images, knows no such class or no guidance, or numbers make no sense.
    """
    from isocenter.pipeline import generate as stage

    return stage.generate(
        Path(run),
        Path(out),
        count=count,
        per_class=per_class,
        walk=walk,
        label=label,
        seed=seed,
        guidance=guidance,
        device=device,
        workers=workers,
    )


def evaluate(
    answers: str | Path,
    truths: str | Path,
    out: str | Path,
    *,
    task: str | None = None,
    missing: Literal["refuse", "empty"] = "refuse",
    consensus: Literal["majority", "staple", "shape"] | None = None,
    workers: int | None = None,
) -> Scores:
    """Score a folder of answers, from any tool, against the truth, and write `scores.json`.

    Args:
        answers: A folder of answers, matched to the truths by file name, or one file that names its cases.
        truths: A folder of truths, a dataset, or one file that names its cases.
        out: The folder for `scores.json`.
        task: What the files answer; by default what the truths ask, or segmentation.
        missing: Refuse truths without an answer, or judge these as empty answers.
        consensus: `truths` holds a folder for each of several raters: how they become one truth.
        workers: Processes that judge cases side by side; by default one for each core, or a single one for
            small files.

    Raises:
        BadDataset: Partners are missing, or an answer lies on another grid.
        BadPlan: There is no such task or consensus, or a consensus is asked for that the task has not.
    """
    from isocenter.pipeline import evaluate as stage

    if consensus is not None:
        from isocenter.errors import BadPlan
        from isocenter.pipeline import raters

        if task not in (None, raters.TASK):
            raise BadPlan(
                f"a consensus of drawings answers '{raters.TASK}', not '{task}'.",
                cure="Leave --task out, or judge by one rater at a time without --consensus.",
            )
        return raters.judge(
            Path(answers), Path(truths), Path(out), consensus, missing=missing, workers=workers
        )
    return stage.evaluate(Path(answers), Path(truths), Path(out), task=task, missing=missing, workers=workers)


def compare(
    data: str | Path | Dataset,
    methods: Sequence[str],
    out: str | Path,
    *,
    budget: str | None = None,
    folds: Sequence[int] | None = (0,),
    seed: int = 0,
    missing: Literal["refuse", "empty"] = "refuse",
    resume: bool = False,
    device: str = "auto",
    workers: int | None = None,
    task: str | None = None,
) -> Comparison:
    """Compare methods, finished runs and folders of answers on the same cases; the page lies in `out`.

    Args:
        data: An opened dataset, or what `open` takes; where only answers are compared, also files of truths
            without images, as for `evaluate`.
        methods: Keys of the catalogue, method files, run folders or answers from any tool (a folder, or one
            file that names its cases); `name=` before one of them gives it another name.
        out: The folder for `comparison.json`, `.csv` and `.html`; methods are trained in folders below it.
        budget: Training time per fold of each method.
        folds: Which folds of the cross-validation to train; None for all.
        seed: What chance starts from: folds, weights, augmentation.
        missing: Refuse answers that are missing, or judge these as empty.
        resume: Go on where the comparison was interrupted.
        device: `auto`, `cpu`, `cuda` or `mps`.
        workers: As for `train` and `evaluate`.
        task: The question, where neither the method nor the dataset says it.

    Raises:
        BadPlan: The contestants cannot be compared.
        BadDataset: There is no common case, or answers are missing or lie on another grid.
        BadModel: A run has no scores.
        RunFailed: Training had to stop; what it had reached is kept.
    """
    from isocenter.pipeline import compare as stage

    terms = stage.Terms(budget, folds, seed, resume, missing, device, workers)
    dataset = stage.asked(Path(data), methods, task, workers) if isinstance(data, str | Path) else data
    return stage.compare(dataset, methods, Path(out), terms)


def report(run: str | Path) -> Path:
    """Write the report of a run, one page that opens offline, and give its path.

    Raises:
        IsocenterError: The folder holds no scores.
    """
    from isocenter.pipeline import report as stage

    return stage.report(Path(run))


def load(model: str | Path, *, device: str = "auto") -> Model:
    """Load a trained model; `load(folder).predict("scan.nii.gz")` answers for one image.

    Raises:
        BadModel: The folder holds no model that can be loaded safely.
    """
    from isocenter.pipeline import predict as stage

    return stage.load(Path(model), device=device)


def _dataset(
    data: str | Path | Dataset, task: str | None, method: str | None = None, runs: Sequence[Path] = ()
) -> Dataset:
    """The opened dataset; who names a method, or a run to go on with or start from, has said what is asked.

    Raises:
        BadPlan: The method answers another task.
    """
    if not isinstance(data, str | Path):
        return data
    if method is not None:
        from isocenter.errors import BadPlan
        from isocenter.methods import card, task_of

        card(method)  # an unknown method is told as such
        answered = task_of(method)
        if task not in (None, answered):
            raise BadPlan(
                f"the method '{method}' answers '{answered}', but '{task}' is asked for.",
                cure="Choose another method, or leave --task out.",
            )
        task = answered
    records = ("plan.json", "dataset.json")
    asked = next((run for run in runs if all((run / name).is_file() for name in records)), None)
    if task is None and asked is not None:
        from isocenter.pipeline.run import Run

        task = Run(asked).dataset.task
    return open(data, task=task)
