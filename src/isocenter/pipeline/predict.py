"""Tiles → network → stitch → decode → back to the file's own grid."""

from __future__ import annotations

import contextlib
import math
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import accumulate, chain, islice, pairwise
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from isocenter import compute as computing
from isocenter import files, images, methods, tasks
from isocenter.compute import Compute
from isocenter.errors import (
    BadDataset,
    BadModel,
    BadPlan,
    IsocenterError,
    IsocenterWarning,
    RunFailed,
    Unanswered,
    UnreadableFile,
)
from isocenter.images.image import Image
from isocenter.images.layouts import FIXED, IMAGE
from isocenter.images.orientation import turn_to
from isocenter.images.placement import Placement
from isocenter.images.resample import resample
from isocenter.images.views import present_in
from isocenter.methods.method import Arrays, Batch, Method, Network, Outputs
from isocenter.parts.stitching.tiles import stitch
from isocenter.pipeline import checkpoint, tuning
from isocenter.pipeline.answers import (
    OWN,
    PROBABILITIES,
    UNCERTAINTY,
    beside,
    expand,
    listed_pairs,
    named,
    refuse_taking_places,
)
from isocenter.pipeline.prepare import prepare_inputs
from isocenter.pipeline.progress import Bar, bar, clock, say
from isocenter.pipeline.run import WEIGHTS, Run
from isocenter.records import Fingerprint, Plan, Stage, regions
from isocenter.tasks.task import Task

IN_MEMORY_BYTES = 2 * 2**30
BEYOND = 1.5
"""By which factor voxels and fields of view may leave the range that the model has seen."""
ONE_IMAGES = (UnreadableFile, BadDataset, BadModel, RunFailed)
"""What may be wrong with one image while the next is answered."""
UNMIRRORED = "The model has not learnt from mirrored images; averaging over mirrors does it harm."
Files = str | Path | Sequence[str | Path] | Image
Source = Files | Mapping[str, Files]
Result = TypeVar("Result")


@dataclass(frozen=True)
class Answer:
    """What a model says of one image, on the image's own grid.

    Attributes:
        answer: Of the task's own type; for segmentation label values (*space).
        image: What was answered; of several images, the first.
        task: Knows how the answer is saved.
        probabilities: (output, *space) where asked for.
        uncertainty: Entropy of the probabilities, 0 … 1, (*space) where asked for.
        maps: The method's own maps by name, (*space), where asked for.
    """

    answer: Any
    image: Image
    task: Task
    probabilities: np.ndarray | None = None
    uncertainty: np.ndarray | None = None
    maps: Mapping[str, np.ndarray] = field(default_factory=dict)

    def save(self, path: str | Path) -> Path:
        """Write the answer on the grid of the image, in the format that the suffix names."""
        self.task.save(self.answer, Path(path), self.image)
        return Path(path)


@dataclass
class Member:
    """One stage with the networks of one or several folds, whose outputs are averaged."""

    stage: Stage
    methods: tuple[Method, ...]
    compute: Compute

    def outputs(
        self, arrays: Arrays, folder: Path, *, mirror: Sequence[int] = (), shown: Bar | None = None
    ) -> Arrays:
        """What the networks say of a prepared case, by name; maps too large for memory lie on disk."""
        first = self.methods[0]
        if not first.tiled:
            return self._patiently(
                lambda: first.merge([each.respond(arrays, self._network(each)) for each in self.methods])
            )
        sizes = first.outputs
        shape = (sum(sizes.values()), *arrays[IMAGE].shape[1:])
        out = None
        if math.prod(shape) * 4 > IN_MEMORY_BYTES:
            path = folder / f"{self.stage.name}.npy"
            out = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)
        stitched = self._stitched(arrays, self._averaged, mirror=mirror, out=out, shown=shown)
        ends = list(accumulate(sizes.values(), initial=0))
        return {name: stitched[low:high] for name, (low, high) in zip(sizes, pairwise(ends), strict=True)}

    def maps(self, arrays: Arrays) -> dict[str, np.ndarray]:
        """The method's own maps (*space) of a prepared image, by name; of the first fold's network."""
        names: list[str] = []

        def look(batch: Batch) -> Outputs:
            found = self.methods[0].maps(batch)
            names[:] = found
            return {"all": torch.cat(list(found.values()), dim=1) if found else batch[IMAGE][:, :1]}

        stitched = self._stitched(arrays, look)
        return dict(zip(names, stitched, strict=True)) if names else {}

    def _network(self, method: Method) -> Network:
        """The method's `forward` for its `respond`: on its device, in its precision, without gradients."""
        return lambda batch: self._asked(method.forward, batch)

    def _asked(self, network: Network, batch: Batch) -> Outputs:
        """What a network says of a batch, float32 on the CPU; where it overflows in the usual precision, it
        computes in single precision from then on.

        Raises:
            _NotFinite: It overflows in single precision, too.
        """
        with torch.inference_mode(), self.compute.autocast():
            given = {name: value.float() for name, value in network(self.compute.move(batch)).items()}
        if all(bool(value.isfinite().all()) for value in given.values()):
            return {name: value.cpu() for name, value in given.items()}
        precision = self.compute.training.precision
        if precision == "float32":
            raise _NotFinite
        self.compute.training = self.compute.training.changed(precision="float32")
        numbers = self._asked(network, batch)
        _warn(f"The network overflows in {precision}: it answers in float32 from now on.")
        return numbers

    def _patiently(self, work: Callable[[], Result], tiles: int = 1) -> Result:
        """Do some work of the networks; where memory runs out, anew with less, and say so once."""
        told = ""
        while True:
            try:
                done = work()
            except (RuntimeError, MemoryError) as error:
                if not computing.out_of_memory(error) or not (told := self._spared(tiles)):
                    raise
            else:
                if told:
                    _warn(told)
                return done

    def _spared(self, tiles: int) -> str:
        """Take half as many tiles at once from now on, in the end on the CPU; says so, or nothing if all of
        that is done already."""
        if self.compute.pieces < tiles:
            self.compute.pieces *= 2
            return f"Memory ran out: each batch of tiles is now answered in {self.compute.pieces} pieces."
        if computing.retreat(self.compute, self.methods):
            return "Memory ran out: the network answers on the CPU from now on."
        return ""

    def _stitched(
        self,
        arrays: Arrays,
        network: Network,
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
        names = [name for name in (IMAGE, "earlier") if name in arrays]
        counts = [len(arrays[name]) for name in names]
        planes = [np.asarray(arrays[name], dtype=np.float32) for name in names]
        with torch.inference_mode():
            stitched = stitch(
                torch.from_numpy(np.concatenate(planes) if len(planes) > 1 else planes[0]),
                tile,
                lambda tiles: self._forward(_parted(tiles, names, counts), network),
                overlap=self.stage.prediction.overlap,
                batch=self.stage.prediction.batch,
                mirror=axes,
                unmirrored=self.methods[0].unmirrored,
                border=self.stage.prediction.border,
                out=out,
                progress=None if shown is None else _advance(shown),
            )
        return stitched.numpy()

    def _forward(self, tiles: Mapping[str, Tensor], network: Network) -> Tensor:
        across = self.stage.geometry.slice_axis
        flat = {name: tile if across is None else tile.squeeze(across + 2) for name, tile in tiles.items()}
        given = self._patiently(lambda: self._in_pieces(flat, network), len(tiles[IMAGE]))
        return given if across is None else given.unsqueeze(across + 2)

    def _in_pieces(self, tiles: Mapping[str, Tensor], network: Network) -> Tensor:
        """The outputs (tile, output, *space) of a batch, as many tiles at once as memory bears."""
        pieces = zip(*(tile.chunk(self.compute.pieces) for tile in tiles.values()), strict=True)
        given = [self._asked(network, dict(zip(tiles, piece, strict=True)))["all"] for piece in pieces]
        return given[0] if len(given) == 1 else torch.cat(given)

    def _averaged(self, batch: Batch) -> Outputs:
        """The mean over the folds' networks, one output behind the other."""
        given = [
            torch.cat([part.float() for part in method.forward(batch).values()], dim=1)
            for method in self.methods
        ]
        return {"all": torch.stack(given).mean(dim=0)}


class _NotFinite(ArithmeticError):
    """A network gave something that is no finite number."""


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
        if len(chosen) > 1:
            places = [run.together(number, chosen, len(self.plan.stages)) for number in numbers]
            self.members[0].methods[0].tuned = tuning.together([tuning.read(place) for place in places])
        self.earlier = self._before(self.members, numbers, device)

    @cached_property
    def fingerprint(self) -> Fingerprint:
        """What was measured of the images that it has learnt from."""
        return self.run.fingerprint

    def _before(self, members: Sequence[Member], folds: Sequence[int], device: str) -> dict[str, Member]:
        """By stage what answers before it, and what answers before that, as far back as it goes."""
        found = {
            member.stage.name: self._member(member.stage.after, folds, device)
            for member in members
            if member.stage.after
        }
        return found | self._before(list(found.values()), folds, device) if found else {}

    def _member(self, name: str, folds: Sequence[int], device: str) -> Member:
        stage = self.plan.stage(name)
        where = computing.machine(device)
        # What is planned in single precision needs its digits; the rest takes what pays on this machine.
        planned = stage.training.precision
        precision = planned if planned == "float32" else where.precision
        compute = Compute.start(where, stage.training.changed(precision=precision))
        kind = methods.load(self.plan.method).at(stage)
        loaded = []
        for number in folds:
            method = kind(self.plan, stage)
            folder = self.run.stage(number, name, len(self.plan.stages))
            checkpoint.load_weights(method, folder / WEIGHTS)
            method.modules.eval()
            compute.place(method)
            method.tuned = tuning.read(folder)
            loaded.append(method)
        loaded[0].tuned = tuning.together([method.tuned for method in loaded])
        return Member(stage, tuple(loaded), compute)

    def predict(
        self,
        source: Source,
        *,
        probabilities: bool = False,
        uncertainty: bool = False,
        maps: bool = False,
        mirror: bool | None = None,
        given: Arrays | None = None,
        shown: Bar | None = None,
    ) -> Answer:
        """Answer for one image, or for several that belong together.

        Args:
            source: A file, a DICOM folder, one file per channel, or an image; where the task needs several
                images, such a source for each of its roles, by name.
            probabilities: Keep each output's probability on the file's grid.
            uncertainty: Keep the entropy of the probabilities.
            maps: Keep the method's own maps, such as attention gates.
            mirror: Average over mirrored images; None for what the plan says.
            given: What is asked beside the images, see `Task.given`. Who gives it asks about the run's own
                images: only others are compared with those learnt from, and warned of.
            shown: Advanced to 1 as tiles are done.

        Raises:
            BadDataset: The image has another number of channels or axes than the model was trained on.
            BadModel: What the network says is no finite number.
            RunFailed: Memory does not suffice, however few tiles are answered at once.
        """
        inputs = self._inputs(source)
        if given is None:
            self._warn_if_unfamiliar(inputs)
        with self._in_words(inputs), tempfile.TemporaryDirectory(prefix="isocenter-") as folder:
            outputs, placement = self.outputs(inputs, Path(folder), mirror=mirror, given=given, shown=shown)
            first = self.members[0].methods[0]
            answer = first.polish(first.decode(outputs, placement), self.choice)
            answer = first.complete(answer, inputs)
            spread = None
            if probabilities or uncertainty:
                spread = _probabilities(first, outputs, placement)
            del outputs
            own = self._maps(inputs) if maps else {}
        return Answer(
            answer,
            inputs[0],
            self.task,
            probabilities=spread if probabilities else None,
            uncertainty=None if spread is None or not uncertainty else _entropy(spread, self._exclusive),
            maps=own,
        )

    def _warn_if_unfamiliar(self, inputs: Sequence[Image]) -> None:
        for image in inputs:
            for remark in unfamiliar(image, self.fingerprint):
                warnings.warn(f"{image.source or 'an image'}: {remark}", IsocenterWarning, stacklevel=3)

    @contextlib.contextmanager
    def _in_words(self, inputs: Sequence[Image]) -> Iterator[None]:
        """Say for which image memory runs out, or a network gives no numbers."""
        name = inputs[0].source or "an image"
        try:
            yield
        except _NotFinite as error:
            raise BadModel(
                f"the network's answer to {name} is not a finite number.",
                where=self.run.folder,
                cure="Copy the model again from where it came from, or train it again with a lower "
                "training.learning_rate.",
            ) from error
        except (RuntimeError, MemoryError) as error:
            if not computing.out_of_memory(error):
                raise
            raise RunFailed(
                "memory ran out while this image was answered.",
                where=name,
                cure="Free memory, answer on a machine with more, or train with a smaller patch "
                "(--set geometry.patch=[...]).",
            ) from error

    @property
    def _exclusive(self) -> bool:
        """Whether outputs exclude each other, so that their probabilities add up to 1."""
        return not regions(self.plan.labels)

    def _maps(self, inputs: Sequence[Image]) -> dict[str, np.ndarray]:
        """The first member's maps on the image's own grid."""
        member = self.members[0]
        with tempfile.TemporaryDirectory(prefix="isocenter-") as folder:
            arrays, placement = self._arrays(member, inputs, (), Path(folder))
            found = member.maps(arrays) if member.methods[0].tiled else {}
        if not found:
            warnings.warn(
                f"{self.plan.method} has no maps of its own to be written.", IsocenterWarning, stacklevel=4
            )
        return {
            name: placement.whole(resample(map_[None], placement.cropped, 1)[0])
            for name, map_ in found.items()
        }

    def outputs(
        self,
        inputs: Sequence[Image],
        folder: Path,
        *,
        mirror: bool | None = None,
        given: Arrays | None = None,
        shown: Bar | None = None,
    ) -> tuple[Arrays, Placement]:
        """Averaged outputs on the first member's grid, and where that grid lies in the (first) file.

        Args:
            inputs: With the channels that the model knows.
            folder: Where outputs too large for memory are kept while they are needed.
            mirror: As for `predict`.
            given: As for `predict`.
            shown: As for `predict`.
        """
        # One after another: of large outputs, those of two members are there at a time.
        answered = (self._of(each, inputs, mirror, folder, given or {}, shown) for each in self.members)
        with self._in_words(inputs):
            first = next(answered)
            if len(self.members) == 1:
                return first
            return self.members[0].methods[0].combine(chain([first], answered)), first[1]

    def _of(
        self,
        member: Member,
        inputs: Sequence[Image],
        mirror: bool | None,
        folder: Path,
        given: Arrays,
        shown: Bar | None,
    ) -> tuple[Arrays, Placement]:
        axes = member.stage.prediction.mirror if mirror is not False else ()
        if mirror and not axes:
            warnings.warn(UNMIRRORED, IsocenterWarning, stacklevel=4)
            axes = tuple(range(member.stage.geometry.dims))
        arrays, placement = self._arrays(member, inputs, axes, folder)
        return member.outputs(arrays | given, folder, mirror=axes, shown=shown), placement

    def _arrays(
        self, member: Member, inputs: Sequence[Image], axes: Sequence[int], folder: Path
    ) -> tuple[Arrays, Placement]:
        """A question's prepared arrays, with what an earlier stage says of it."""
        arrays, placement = prepare_inputs(inputs, member.methods[0])
        before = self.earlier.get(member.stage.name)
        if before is not None:
            shown, place = self._arrays(before, inputs, axes, folder)
            answer = before.methods[0].decode(before.outputs(shown, folder, mirror=axes), place)
            arrays |= member.methods[0].earlier(answer, placement)
        return arrays, placement

    def _inputs(self, source: Source) -> list[Image]:
        roles = self.task.inputs
        if not isinstance(source, Mapping):
            source = {roles[0]: source}
        absent = [role for role in roles if role not in source]
        if absent:
            raise BadDataset(
                f"an answer needs {len(roles)} images ({', '.join(roles)}); {', '.join(absent)} is missing.",
                cure="Give it with --fixed, or list pairs in a manifest." if FIXED in absent else "",
            )
        return [self.read(source[role]) for role in roles]

    def read(self, source: Files) -> Image:
        """One image, with the channels and axes that the model was trained on.

        Raises:
            BadDataset: It has others.
        """
        if not isinstance(source, Image):
            sources = [source] if isinstance(source, str | Path) else list(source)
            source = self.task.read([str(each) for each in sources])
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
                cure=f"Give images of {self.plan.dims} axes, or another model.",
            )
        there = zip(self.plan.channels, present_in(source), strict=True)
        absent = [channel.name for channel, present in there if not present]
        if absent and not self.members[0].methods[0].partial:
            raise BadDataset(
                f"it lacks {', '.join(absent)}, and {self.plan.method} needs all channels.",
                where=source.source,
                cure="Add the missing files.",
            )
        return source


def load(folder: str | Path, *, device: str = "auto") -> Model:
    """Load a trained run or model folder.

    Raises:
        BadModel: The folder holds no model that can be loaded safely.
    """
    return Model(Run(Path(folder)), device=device)


def default_members(plan: Plan) -> tuple[str, ...]:
    """What answers where nothing was chosen: full resolution in 3D, else the last, with what repeats it."""
    names = [stage.name for stage in plan.stages if stage.repeats is None]
    return plan.together("3d_fullres" if "3d_fullres" in names else names[-1])


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
    fixed: str | Path | None = None,
    stage: str | None = None,
    explain: Sequence[str] = (),
    explained: str | None = None,
) -> list[Path]:
    """Answer for many images in one process; answers that exist are left alone unless `overwrite`.

    An answer exists when all that is asked for exists; of one that exists in part, only the rest is written.
    An image that cannot be answered holds up no other: what is wrong is said in the end.

    Args:
        inputs: Images; or, where the task brings images together, manifests of pairs or their folders.
        fixed: Where the task brings images together, the one that stays where it is; not for pairs.
        stage: The stage that answers; what cross-validation chose when None.
        explain: Which maps of what an answer rests on are to be written, see `pipeline/explain`.
        explained: The class that they are about; the likeliest by default.

    Returns:
        The answer of every input, in order.

    Raises:
        BadDataset: There is nothing to answer, two inputs would get the same name, or an answer would take an
            input's place.
        BadPlan: A class is to be explained, but by no kind of map; or the model knows no such class.
        RunFailed: `out` is a file, or it cannot be written to.
        Unanswered: Some of several images are damaged or otherwise not to be answered; all others are.
        IsocenterError: So is the only one; of the kind that fits.
    """
    files.refuse_what_is_no_folder(out)
    if explained is not None and not explain:
        raise BadPlan(
            f"maps about '{explained}' are asked for, but no kind of map.", cure="Add --explain gradcam, say."
        )
    model = Model(Run(Path(folder)), members=None if stage is None else [stage], device=device)
    if explained is not None:
        model.plan.place(explained)
    mirror = _mirrors(model, mirror)
    asked = {PROBABILITIES: probabilities, UNCERTAINTY: uncertainty}
    kinds = [kind for kind, there in asked.items() if there]
    pairs = listed_pairs(inputs, out, model.task, model.plan.dims, kinds) if fixed is None else None
    if pairs is None:
        wanted = list(expand(inputs, len(model.plan.channels), model.task))
        paths = named(wanted, out, model.task, model.plan.dims, kinds)
        stills = [_still(model, fixed)] * len(wanted)
    else:
        wanted, paths = [[file] for file in pairs.moving], list(pairs.paths)
        stills = [{FIXED: file} for file in pairs.fixed]
    given = [] if fixed is None else [fixed]
    refuse_taking_places(paths, kinds, [*chain(*wanted), *(pairs.fixed if pairs else given)])
    told = not maps  # which maps of its own a method has, its first answer tells
    faults: dict[Path, IsocenterError] = {}
    computing_threads = torch.get_num_threads() if workers is None else workers
    with (
        computing.threads(computing_threads),
        _explaining(model, wanted, explain) as explaining,
        bar(f"Answering {len(wanted)} images", total=len(wanted)) as shown,
    ):
        for done, (sources, still, path) in enumerate(zip(wanted, stills, paths, strict=True)):
            parts = [path, *beside(path, kinds), *explaining.paths(path)]
            if overwrite or not told or not all(part.exists() for part in parts):
                try:
                    image = model.read(sources)
                    answer = model.predict(
                        {**still, model.task.inputs[-1]: image},
                        probabilities=probabilities,
                        uncertainty=uncertainty,
                        maps=maps,
                        mirror=mirror,
                    )
                except ONE_IMAGES as fault:
                    faults[path] = fault
                else:
                    kinds, told = _save(model, answer, path, overwrite=overwrite), True
                    explaining.write(image, path, explained)
            explaining.reach(done + 1)
            shown.reach(done + 1)
    _tell_unanswered(faults, paths, out)
    return paths


def _mirrors(model: Model, asked: bool | None) -> bool | None:
    """What is asked of mirrored images; nothing, with a warning, where the method makes nothing of it."""
    kind, stage = type(model.members[0].methods[0]), model.members[0].stage
    why = kind.unread(model.plan, stage).get("prediction.mirror")
    if asked is None or why is None:
        return asked
    what = f"averaging over mirrored images has no effect for method {model.plan.method}: {why}"
    warnings.warn(what, IsocenterWarning, stacklevel=3)
    return None


def _tell_unanswered(faults: Mapping[Path, IsocenterError], paths: Sequence[Path], out: Path) -> None:
    """Say what is wrong with the images that have no answer, where there are any."""
    if not faults:
        return
    if len(paths) == 1:
        raise faults[paths[0]]
    raise Unanswered([*faults.values()], [path for path in paths if path not in faults], where=out)


@dataclass(frozen=True)
class _Explaining:
    """Which files explain the answer of a path, what writes them, and what is told that so many images are
    done; nothing where none are asked for."""

    paths: Callable[[Path], Sequence[Path]] = lambda path: ()
    write: Callable[[Image, Path, str | None], object] = lambda image, path, label: None
    reach: Callable[[int], object] = lambda done: None


@contextlib.contextmanager
def _explaining(model: Model, wanted: Sequence[Sequence[str]], kinds: Sequence[str]) -> Iterator[_Explaining]:
    """How answers are explained, with the time left shown. The tests of these maps run here, once."""
    if not kinds:
        yield _Explaining()
        return
    from isocenter.pipeline import explain, explain_attention

    explainer: explain.Explainer | explain_attention.AttentionTest
    if model.task.name == "mil":
        explainer = explain_attention.AttentionTest(model, kinds)
        paths, write = (
            partial(explain_attention.paths, explainer),
            partial(explain_attention.write, explainer),
        )
    else:
        explainer = explain.Explainer(model, kinds)
        paths, write = partial(explain.paths, explainer), partial(explain.write, explainer)
    first = list(islice(_readable(model, wanted), explain.TESTED))
    if first:
        seconds = explainer.begin(first[0], len(wanted))
        say(f"Explaining {len(wanted)} images, with the tests of their maps: about {clock(seconds)}.")
    tests, whole = explainer.work_of_tests(len(first)), explainer.work(len(wanted))
    with bar(f"Explaining {len(wanted)} images", total=whole) as explainer.shown:
        explainer.test(first)
        for sentence in explain.told(explainer):
            warnings.warn(sentence, IsocenterWarning, stacklevel=3)
        each = (whole - tests) / len(wanted)
        yield _Explaining(paths, write, lambda done: explainer.shown.reach(tests + done * each))


def _readable(model: Model, wanted: Iterable[Sequence[str]]) -> Iterator[Image]:
    """The images that can be read; of the others it is told when they are to be answered."""
    for sources in wanted:
        with contextlib.suppress(*ONE_IMAGES):
            yield model.read(sources)


def _still(model: Model, fixed: str | Path | None) -> dict[str, Files]:
    """The image that all others are brought to, under its role, where the task asks for one."""
    if fixed is None:
        return {}
    if FIXED not in model.task.inputs:
        raise BadPlan(f"a model for {model.task.name} takes no fixed image.", cure="Leave --fixed out.")
    channels = next(iter(expand([fixed], len(model.plan.channels), model.task)))
    return {FIXED: model.task.read(channels)}


def _save(model: Model, answer: Answer, path: Path, *, overwrite: bool) -> list[str]:
    """Write what of an answer is not there yet, the maps first; gives which maps it has."""
    extra = {f"{OWN}{name}": map_[None] for name, map_ in answer.maps.items()}
    if answer.probabilities is not None:
        extra[PROBABILITIES] = answer.probabilities
    if answer.uncertainty is not None:
        extra[UNCERTAINTY] = answer.uncertainty[None]
    for array, place in zip(extra.values(), beside(path, extra), strict=True):
        if overwrite or not place.exists():
            images.write(array, place, answer.image)
    if overwrite or not path.exists():
        model.task.save(answer.answer, path, answer.image)
    return list(extra)


def unfamiliar(image: Image, fingerprint: Fingerprint) -> list[str]:
    """In what an image lies outside of all that the model has learnt from."""
    remarks = []
    turn = turn_to(image.geometry, fingerprint.orientation)
    sizes = zip(turn.ordered(image.spacing_mm), turn.ordered(image.shape), strict=True)
    for axis, (own, count) in enumerate(sizes):
        seen = [case.spacing_mm[axis] for case in fingerprint.cases]
        if _outside(own, seen):
            what = f"voxels of {own:g} mm along axis {axis}" if image.dims > 1 else f"frames every {own:g} s"
            remarks.append(f"{what}; the model has seen {min(seen):g} … {max(seen):g}.")
        views = [case.spacing_mm[axis] * case.shape[axis] for case in fingerprint.cases]
        # A picture, a signal or a bag has no place in a patient, and any size.
        if image.geometry.known and image.dims > 1 and _outside(own * count, views):
            what = f"a field of view of {own * count:.4g} mm along axis {axis}"
            remarks.append(f"{what}; the model has seen {min(views):.4g} … {max(views):.4g}.")
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


def _outside(own: float, seen: Sequence[float]) -> bool:
    return bool(seen) and not min(seen) / BEYOND <= own <= max(seen) * BEYOND


# ------------------------------------------------------------------------------------------ probabilities


def _probabilities(method: Method, outputs: Arrays, placement: Placement) -> np.ndarray | None:
    """Probabilities (output, *space) on the file's grid; outside the box all is background."""
    known = method.probabilities(outputs)
    if known is None:
        warnings.warn(
            f"{method.plan.method} gives no probabilities that could be written.",
            IsocenterWarning,
            stacklevel=4,
        )
        return None
    inside = resample(known, placement.cropped, 1)
    whole = np.stack([placement.whole(plane) for plane in inside])
    if not regions(method.plan.labels):
        outside = placement.whole(np.zeros(placement.cropped, dtype=np.float32), fill=1)
        whole[0] += outside
    return whole


def _entropy(probabilities: np.ndarray, exclusive: bool) -> np.ndarray:
    """Entropy as a share of the largest possible one."""
    clipped = np.clip(probabilities, 1e-7, 1)
    if not exclusive:
        other = np.clip(1 - probabilities, 1e-7, 1)
        each = -(clipped * np.log(clipped) + other * np.log(other)) / math.log(2)
        return np.asarray(each.max(axis=0), dtype=np.float32)
    return np.asarray(-(clipped * np.log(clipped)).sum(axis=0) / math.log(len(clipped)), dtype=np.float32)


def _parted(tiles: Tensor, names: Sequence[str], counts: Sequence[int]) -> dict[str, Tensor]:
    """Tiles whose channels are those of several arrays, array by array."""
    ends = list(accumulate(counts, initial=0))
    return {name: tiles[:, low:high] for name, (low, high) in zip(names, pairwise(ends), strict=True)}


def _warn(what: str) -> None:
    warnings.warn(what, IsocenterWarning, stacklevel=3)


def _advance(shown: Bar) -> Callable[[int, int], None]:
    return lambda done, total: shown.reach(done / total)
