"""Tiles → network → stitch → decode → back to the file's own grid."""

from __future__ import annotations

import math
import re
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor

from isocenter import compute as computing
from isocenter import images, methods, tasks
from isocenter.compute import Compute
from isocenter.errors import BadDataset, BadModel, IsocenterWarning
from isocenter.images.image import Image
from isocenter.images.placement import Placement
from isocenter.images.resample import resample, resample_labels
from isocenter.methods.method import Batch
from isocenter.methods.supervised import SupervisedMasks
from isocenter.parts.stitching.tiles import stitch
from isocenter.pipeline import checkpoint
from isocenter.pipeline.prepare import prepare_image
from isocenter.pipeline.progress import Bar, bar
from isocenter.pipeline.run import WEIGHTS, Run
from isocenter.records import Fingerprint, Plan, Stage

IN_MEMORY_BYTES = 2 * 2**30
RASTERS = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
UNMIRRORED = "The model has not learnt from mirrored images; averaging over mirrors does it harm."
CHANNEL_NUMBER = re.compile(r"^(?P<name>.+)_(?P<channel>\d{4})$")


@dataclass(frozen=True)
class Answer:
    """What a model says of one image, on the image's own grid.

    Attributes:
        answer: Of the task's own type; for segmentation label values (*space).
        image: What was answered.
        probabilities: (output, *space) where asked for.
        uncertainty: Entropy of the probabilities, 0 … 1, (*space) where asked for.
        maps: The method's own maps by name, (*space), where asked for.
    """

    answer: np.ndarray
    image: Image
    probabilities: np.ndarray | None = None
    uncertainty: np.ndarray | None = None
    maps: Mapping[str, np.ndarray] = field(default_factory=dict)

    def save(self, path: str | Path) -> Path:
        """Write the answer on the grid of the image, in the format that the suffix names."""
        images.write(self.answer[None], Path(path), self.image)
        return Path(path)


@dataclass
class Member:
    """One stage with the networks of one or several folds, whose outputs are averaged tile by tile."""

    stage: Stage
    methods: tuple[SupervisedMasks, ...]
    compute: Compute

    def outputs(
        self, array: np.ndarray, folder: Path, *, mirror: Sequence[int], shown: Bar | None = None
    ) -> np.ndarray:
        """Averaged scores (output, *space) of a prepared image; on disk when they are large."""
        shape = (self.methods[0].encoding.outputs, *array.shape[1:])
        out = None
        if math.prod(shape) * 4 > IN_MEMORY_BYTES:
            out = np.lib.format.open_memmap(folder / "scores.npy", mode="w+", dtype=np.float32, shape=shape)
        return self._stitched(array, self._scores, mirror=mirror, out=out, shown=shown)

    def maps(self, array: np.ndarray) -> dict[str, np.ndarray]:
        """The method's own maps (*space) of a prepared image, by name; of the first fold's network."""
        names: list[str] = []

        def look(batch: Batch) -> Tensor:
            found = self.methods[0].maps(batch)
            names[:] = found
            return torch.cat(list(found.values()), dim=1) if found else batch["image"][:, :1]

        stitched = self._stitched(array, look)
        return dict(zip(names, stitched, strict=True)) if names else {}

    def _stitched(
        self,
        array: np.ndarray,
        network: Callable[[Batch], Tensor],
        *,
        mirror: Sequence[int] = (),
        out: np.ndarray | None = None,
        shown: Bar | None = None,
    ) -> np.ndarray:
        """The network's outputs (output, *space), tile by tile; a flat network takes slice after slice."""
        across = self.stage.geometry.slice_axis
        tile, axes = list(self.stage.geometry.patch), list(mirror)
        if across is not None:
            tile.insert(across, 1)
            axes = [axis + (axis >= across) for axis in axes]
        with torch.inference_mode():
            stitched = stitch(
                torch.from_numpy(array),
                tile,
                lambda tiles: self._forward(tiles, across, network),
                overlap=self.stage.prediction.overlap,
                batch=self.stage.prediction.batch,
                mirror=axes,
                border=self.stage.prediction.border,
                out=out,
                progress=None if shown is None else _advance(shown),
            )
        return stitched.numpy()

    def _forward(self, tiles: Tensor, across: int | None, network: Callable[[Batch], Tensor]) -> Tensor:
        if across is not None:
            tiles = tiles.squeeze(across + 2)
        channels = len(self.methods[0].plan.channels)
        batch = self.compute.move({"image": tiles[:, :channels]})
        if tiles.shape[1] > channels:
            batch |= self.compute.move({"earlier": tiles[:, channels:]})
        with self.compute.autocast():
            given = network(batch).float().cpu()
        return given if across is None else given.unsqueeze(across + 2)

    def _scores(self, batch: Batch) -> Tensor:
        """The mean over the folds' networks."""
        return torch.stack([method.forward(batch)["scores"].float() for method in self.methods]).mean(dim=0)


class Model:
    """A trained run, ready to answer.

    Args:
        run: The folder.
        folds: Whose networks are averaged; all trained ones when None.
        members: Stages whose probabilities are averaged; what cross-validation chose when None.
        device: `auto`, `cpu`, `cuda` or `mps`.
    """

    def __init__(
        self,
        run: Run,
        *,
        folds: Sequence[int] | None = None,
        members: Sequence[str] | None = None,
        device: str = "auto",
    ) -> None:
        self.run = run
        self.plan = run.plan
        self.choice = run.choice
        self.task = tasks.load(self.plan.task)
        numbers = list(folds) if folds is not None else run.trained_folds(self.plan)
        if not numbers:
            raise BadModel("no fold of this run is trained.", where=run.folder, cure="Train it first.")
        chosen = members or (self.choice.members if self.choice else default_members(self.plan))
        self.members = [self._member(name, numbers, device) for name in chosen]
        self.earlier = {
            member.stage.name: self._member(member.stage.after, numbers, device)
            for member in self.members
            if member.stage.after
        }

    def _member(self, name: str, folds: Sequence[int], device: str) -> Member:
        stage = self.plan.stage(name)
        where = computing.machine(device)
        compute = Compute.start(where, stage.training.changed(precision=where.precision))
        kind = methods.load(self.plan.method)
        loaded = []
        for number in folds:
            method = cast(SupervisedMasks, kind(self.plan, stage))
            folder = self.run.stage(number, name, len(self.plan.stages))
            checkpoint.load_weights(method, folder / WEIGHTS)
            method.modules.eval()
            compute.place(method)
            loaded.append(method)
        return Member(stage, tuple(loaded), compute)

    def predict(
        self,
        source: str | Path | Sequence[str | Path] | Image,
        *,
        probabilities: bool = False,
        uncertainty: bool = False,
        maps: bool = False,
        mirror: bool | None = None,
        shown: Bar | None = None,
    ) -> Answer:
        """Answer for one image.

        Args:
            source: A file, a DICOM folder, one file per channel, or an image.
            probabilities: Keep each output's probability on the file's grid.
            uncertainty: Keep the entropy of the probabilities.
            maps: Keep the method's own maps, such as attention gates.
            mirror: Average over mirrored images; None for what the plan says.
            shown: Advanced to 1 as tiles are done.

        Raises:
            BadDataset: The image has another number of channels or axes than the model was trained on.
        """
        image = self._read(source)
        with tempfile.TemporaryDirectory(prefix="isocenter-") as folder:
            scores, placement = self.scores(image, Path(folder), mirror=mirror, shown=shown)
            first = self.members[0].methods[0]
            answer = first.polish(first.decode({"scores": scores}, placement), self.choice)
            spread = None
            if probabilities or uncertainty:
                spread = _probabilities(scores, placement, first.encoding.overlapping)
            del scores
        return Answer(
            answer,
            image,
            probabilities=spread if probabilities else None,
            uncertainty=_entropy(spread, first.encoding.overlapping)
            if uncertainty and spread is not None
            else None,
            maps=self._maps(image) if maps else {},
        )

    def _maps(self, image: Image) -> dict[str, np.ndarray]:
        """The first member's maps on the image's own grid."""
        member = self.members[0]
        array, placement = prepare_image(image, member.stage)
        if member.stage.name in self.earlier:
            with tempfile.TemporaryDirectory(prefix="isocenter-") as folder:
                earlier = self._earlier(member, image, placement, (), Path(folder))
            array = np.concatenate([array, earlier])
        found = member.maps(array)
        if not found:
            warnings.warn(
                f"{self.plan.method} has no maps of its own to be written.", IsocenterWarning, stacklevel=4
            )
        return {
            name: placement.whole(resample(map_[None], placement.cropped, 1)[0])
            for name, map_ in found.items()
        }

    def scores(
        self, image: Image, folder: Path, *, mirror: bool | None = None, shown: Bar | None = None
    ) -> tuple[np.ndarray, Placement]:
        """Averaged scores (output, *space) on the first member's grid, and where that grid lies in the file.

        Args:
            image: With the channels that the model knows.
            folder: Where scores too large for memory are kept while they are needed.
            mirror: As for `predict`.
            shown: As for `predict`.
        """
        first, placement = self._of(self.members[0], image, mirror, folder, shown)
        if len(self.members) == 1:
            return first, placement
        overlapping = self.members[0].methods[0].encoding.overlapping
        total = _as_probabilities(first, overlapping)
        for member in self.members[1:]:
            scores, _ = self._of(member, image, mirror, folder, shown)
            total += resample(_as_probabilities(scores, overlapping), placement.shape, 1)
        return _as_scores(total / len(self.members), overlapping), placement

    def _of(
        self, member: Member, image: Image, mirror: bool | None, folder: Path, shown: Bar | None
    ) -> tuple[np.ndarray, Placement]:
        array, placement = prepare_image(image, member.stage)
        axes = member.stage.prediction.mirror if mirror is not False else ()
        if mirror and not axes:
            warnings.warn(UNMIRRORED, IsocenterWarning, stacklevel=4)
            axes = tuple(range(member.stage.geometry.dims))
        if member.stage.name in self.earlier:
            array = np.concatenate([array, self._earlier(member, image, placement, axes, folder)])
        return member.outputs(array, folder, mirror=axes, shown=shown), placement

    def _earlier(
        self, member: Member, image: Image, placement: Placement, axes: Sequence[int], folder: Path
    ) -> np.ndarray:
        """The earlier stage's answer as one plane per label, on this stage's grid."""
        before = self.earlier[member.stage.name]
        array, place = prepare_image(image, before.stage)
        scores = before.outputs(array, folder, mirror=axes)
        answer = before.methods[0].decode({"scores": scores}, place)
        return planes(answer, before.methods[0], placement)

    def _read(self, source: str | Path | Sequence[str | Path] | Image) -> Image:
        if not isinstance(source, Image):
            sources = [source] if isinstance(source, str | Path) else list(source)
            source = images.read_channels(sources)
        if source.channels != len(self.plan.channels):
            names = ", ".join(channel.name for channel in self.plan.channels)
            raise BadDataset(
                f"the image has {source.channels} channels, the model was trained on "
                f"{len(self.plan.channels)} ({names}).",
                where=source.source,
                cure="Give one file per channel, named <case>_0000, <case>_0001 …, or a folder of them.",
            )
        if source.dims != self.plan.dims:
            raise BadDataset(
                f"the image has {source.dims} axes, the model was trained on {self.plan.dims}.",
                where=source.source,
            )
        return source


def load(folder: str | Path, *, device: str = "auto") -> Model:
    """Load a trained run or model folder.

    Raises:
        BadModel: The folder holds no model that can be loaded safely.
    """
    return Model(Run(Path(folder)), device=device)


def default_members(plan: Plan) -> tuple[str, ...]:
    """The stage that answers where nothing was chosen: full resolution in 3D, else the last."""
    names = [stage.name for stage in plan.stages]
    return ("3d_fullres",) if "3d_fullres" in names else (names[-1],)


def planes(answer: np.ndarray, method: SupervisedMasks, placement: Placement) -> np.ndarray:
    """A label answer on the file's grid as planes (label, *space) of 0 and 1 on a network's grid."""
    values = resample_labels(answer[placement.box], placement.shape)
    found = [np.isin(values, list(label.values)) for label in method.plan.labels]
    return np.stack(found).astype(np.uint8)


# --------------------------------------------------------------------------------------------- many files


def predict(
    folder: Path,
    inputs: Sequence[str | Path],
    out: Path,
    *,
    device: str = "auto",
    workers: int | None = None,
    probabilities: bool = False,
    uncertainty: bool = False,
    maps: bool = False,
    mirror: bool | None = None,
    overwrite: bool = False,
) -> list[Path]:
    """Answer for many images in one process; answers that exist are left alone unless `overwrite`.

    Returns:
        The answer of every input, in order.

    Raises:
        BadDataset: There is nothing to answer, or two inputs would get the same name.
    """
    model = load(folder, device=device)
    fingerprint = model.run.fingerprint
    wanted = list(expand(inputs, len(model.plan.channels)))
    paths = _named(wanted, out, flat=model.plan.dims == 2)
    computing_threads = torch.get_num_threads() if workers is None else workers
    with (
        computing.threads(computing_threads),
        bar(f"Answering {len(wanted)} images", total=len(wanted)) as shown,
    ):
        for done, (sources, path) in enumerate(zip(wanted, paths, strict=True)):
            if overwrite or not path.exists():
                image = images.read_channels(sources)
                _warn_if_unfamiliar(image, fingerprint)
                answer = model.predict(
                    image, probabilities=probabilities, uncertainty=uncertainty, maps=maps, mirror=mirror
                )
                _save(model, answer, path)
            shown.reach(done + 1)
    return paths


def _warn_if_unfamiliar(image: Image, fingerprint: Fingerprint) -> None:
    for remark in unfamiliar(image, fingerprint):
        warnings.warn(f"{image.source}: {remark}", IsocenterWarning, stacklevel=3)


def _save(model: Model, answer: Answer, path: Path) -> None:
    """Write the maps that were asked for, then the answer: where that exists, all of it does."""
    name = images.stem(path)
    extra = {name: map_[None] for name, map_ in answer.maps.items()}
    if answer.probabilities is not None:
        extra["probabilities"] = answer.probabilities
    if answer.uncertainty is not None:
        extra["uncertainty"] = answer.uncertainty[None]
    for kind, array in extra.items():
        images.write(array, path.with_name(f"{name}_{kind}.nii.gz"), answer.image)
    model.task.save(answer.answer, path, answer.image)


def expand(inputs: Sequence[str | Path], channels: int) -> Iterator[list[str]]:
    """One list of channel files per image that the inputs name.

    A file is an image; a folder is a DICOM series or is searched. With several channels, files named
    `<case>_0000`, `<case>_0001` … belong together.

    Raises:
        BadDataset: Nothing readable is there, or a channel is missing.
    """
    sources: list[str] = []
    for given in inputs:
        path = Path(str(given).split("::", maxsplit=1)[0])
        if not path.exists():
            raise BadDataset("there is no such file or folder.", where=given)
        found = images.find(path) if path.is_dir() and "::" not in str(given) else [str(given)]
        if not found:
            raise BadDataset("no readable image lies here.", where=given)
        sources += found
    if channels == 1:
        yield from ([source] for source in sources)
        return
    yield from _grouped(sources, channels)


def _grouped(sources: Sequence[str], channels: int) -> Iterator[list[str]]:
    """Files that bear channel numbers by case; any other file has to hold all channels itself."""
    numbered: dict[str, dict[int, str]] = {}
    for source in sources:
        matched = CHANNEL_NUMBER.match(images.stem(source))
        if matched is None:
            yield [source]
        else:
            case = str(Path(source).parent / matched["name"])
            numbered.setdefault(case, {})[int(matched["channel"])] = source
    for case, files in numbered.items():
        if sorted(files) != list(range(channels)):
            there = ", ".join(f"{number:04d}" for number in sorted(files))
            raise BadDataset(
                f"of {channels} channels only {there} are there.", where=case, cure="Add the missing files."
            )
        yield [files[number] for number in sorted(files)]


def _named(wanted: Sequence[Sequence[str]], out: Path, *, flat: bool) -> list[Path]:
    """An answer's file for each input: the input's own name."""
    paths = []
    for sources in wanted:
        name = images.stem(sources[0])
        if len(sources) > 1 and (matched := CHANNEL_NUMBER.match(name)):
            name = matched["name"]
        suffix = ".png" if flat and Path(sources[0]).suffix.lower() in RASTERS else ".nii.gz"
        paths.append(out / f"{name}{suffix}")
    twice = {path.name for path in paths if paths.count(path) > 1}
    if twice:
        raise BadDataset(
            f"several inputs would be answered as '{sorted(twice)[0]}'.",
            where=out,
            cure="Give inputs with different names, or answer them into different folders.",
        )
    return paths


def unfamiliar(image: Image, fingerprint: Fingerprint) -> list[str]:
    """In what an image lies outside of all that the model has learnt from."""
    remarks = []
    for axis, own in enumerate(image.spacing_mm):
        seen = [case.spacing_mm[axis] for case in fingerprint.cases]
        if not min(seen) / 1.5 <= own <= max(seen) * 1.5:
            remarks.append(
                f"voxels of {own:g} mm along axis {axis}; the model has seen {min(seen):g} … {max(seen):g}."
            )
    if image.channels == len(fingerprint.intensities):
        for channel, known in zip(image.array, fingerprint.intensities, strict=True):
            if known.modality != "ct":
                continue
            low, high = np.quantile(channel, [0.005, 0.995])
            if high < known.low or low > known.high:
                remarks.append(
                    f"intensities {low:g} … {high:g}; the model has seen {known.low:g} … {known.high:g}."
                )
    return remarks


# ------------------------------------------------------------------------------------------ probabilities


def _as_probabilities(scores: np.ndarray, overlapping: bool) -> np.ndarray:
    tensor = torch.from_numpy(np.asarray(scores))
    return (torch.sigmoid(tensor) if overlapping else torch.softmax(tensor, dim=0)).numpy()


def _as_scores(probabilities: np.ndarray, overlapping: bool) -> np.ndarray:
    clipped = np.clip(probabilities, 1e-7, 1 - 1e-7)
    return np.asarray(np.log(clipped) - (np.log1p(-clipped) if overlapping else 0))


def _probabilities(scores: np.ndarray, placement: Placement, overlapping: bool) -> np.ndarray:
    """Probabilities (output, *space) on the file's grid; outside the box all is background."""
    inside = resample(_as_probabilities(scores, overlapping), placement.cropped, 1)
    whole = np.stack([placement.whole(plane) for plane in inside])
    if not overlapping:
        outside = placement.whole(np.zeros(placement.cropped, dtype=np.float32), fill=1)
        whole[0] += outside
    return whole


def _entropy(probabilities: np.ndarray, overlapping: bool) -> np.ndarray:
    """Entropy as a share of the largest possible one."""
    clipped = np.clip(probabilities, 1e-7, 1)
    if overlapping:
        other = np.clip(1 - probabilities, 1e-7, 1)
        each = -(clipped * np.log(clipped) + other * np.log(other)) / math.log(2)
        return np.asarray(each.max(axis=0), dtype=np.float32)
    return np.asarray(-(clipped * np.log(clipped)).sum(axis=0) / math.log(len(clipped)), dtype=np.float32)


def _advance(shown: Bar) -> Callable[[int, int], None]:
    return lambda done, total: shown.reach(done / total)
