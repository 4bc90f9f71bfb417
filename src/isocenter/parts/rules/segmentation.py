"""All rules together: from a fingerprint to the stages of a segmentation plan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, prod

from isocenter.errors import BadPlan, suggestion
from isocenter.parts.rules import budget as timing
from isocenter.parts.rules import topology as shaping
from isocenter.parts.rules.augmentation import augmentation
from isocenter.parts.rules.batch import SMALLEST_BATCH, batch_size
from isocenter.parts.rules.folds import NUMBER, VALIDATION_SHARE
from isocenter.parts.rules.normalisation import normalisation
from isocenter.parts.rules.patch import Patch, largest_patch, shrunk
from isocenter.parts.rules.spacing import Shape, Spacing, anisotropic_axis, coarser, resized, target_spacing
from isocenter.parts.rules.training import expected_steps, training
from isocenter.records import Budget, Fingerprint, Geometry, Machine, Network, Prediction, Stage, regions

MOST_FEATURES = {1: 320, 2: 512, 3: 320}
SMALLEST_FLAT_BATCH = 8
SMALLEST_PATCH_VOXELS = {1: 1024, 2: 64 * 64, 3: 32**3}
CONVOLUTIONS = 2
BUDGET_PARTS = {"2d": 0.5}
CONFIGURATIONS = {1: ("1d",), 2: ("2d",), 3: ("2d", "3d_fullres", "3d_lowres", "3d_cascade")}
MEASUREMENTS = 3
AGREEMENT = 0.1


@dataclass(frozen=True)
class Situation:
    """What every rule looks at."""

    fingerprint: Fingerprint
    budget: Budget
    machine: Machine
    speed: timing.Speed | float | None

    @property
    def outputs(self) -> int:
        """What the network gives per voxel: a score for each class, or for each overlapping region."""
        count = len(self.fingerprint.labels)
        return count if regions(self.fingerprint.labels) else count + 1

    @property
    def learnt_from(self) -> int:
        """Cases one fold learns from: without its test part, and without the tenth used for choices."""
        count = len(self.fingerprint.cases)
        parts = min(NUMBER, max(count, 1))
        rest = count - count / parts if parts > 1 else float(count)
        return max(1, ceil(rest * (1 - VALIDATION_SHARE))) if parts > 1 else max(1, count)


@dataclass(frozen=True)
class Grid:
    """The grid of one stage: its spacing, the median case there, and the axis a flat network slices through."""

    name: str
    spacing_mm: Spacing
    median_shape: Shape
    why: str
    slice_axis: int | None = None
    after: str | None = None
    extra_channels: int = 0

    @property
    def seen_spacing_mm(self) -> Spacing:
        """The spacing along the axes that the network sees."""
        return tuple(mm for axis, mm in enumerate(self.spacing_mm) if axis != self.slice_axis)

    @property
    def seen_shape(self) -> Shape:
        """The median shape along the axes that the network sees."""
        return tuple(edge for axis, edge in enumerate(self.median_shape) if axis != self.slice_axis)


def stages(
    fingerprint: Fingerprint,
    budget: Budget,
    machine: Machine,
    speed: timing.Speed | float | None = None,
    configurations: Sequence[str] | None = None,
) -> tuple[Stage, ...]:
    """Every stage of a segmentation plan, each decision with its reason.

    Args:
        fingerprint: The measured dataset.
        budget: Wall time per fold, shared by all stages; or epochs for each of them.
        machine: Where training will run.
        speed: Measures a stage's seconds per training step; or multiply-accumulates per second in training; or
            None for a cautious guess. Not used when the budget is in epochs.
        configurations: Which of `2d`, `3d_fullres`, `3d_lowres`, `3d_cascade`; by default data and budget decide.

    Raises:
        BadPlan: A configuration is unknown, or unfit for these data.
    """
    situation = Situation(fingerprint, budget, machine, speed)
    full = _full_grid(fingerprint)
    cover = prod(_memory_patch(situation, full).shape) / prod(full.median_shape)
    low = _coarse_grid(situation, full) if fingerprint.dims == 3 and cover < timing.CASCADE_COVER else None
    anisotropic = anisotropic_axis(full.spacing_mm) is not None
    names, why = timing.configurations(fingerprint.dims, anisotropic, 1.0 if low is None else cover, budget)
    if configurations is not None:
        names, why = _checked(configurations, fingerprint.dims), "The configurations that were asked for."
    grids = [_grid(name, full, low, situation) for name in names]
    parts = [BUDGET_PARTS.get(name, 1.0) for name in names]
    return tuple(
        _stage(situation, grid, _share(budget, part / sum(parts)), why, whole=low is None)
        for grid, part in zip(grids, parts, strict=True)
    )


def _share(budget: Budget, part: float) -> Budget:
    """Time is shared; epochs are counted for each network by itself."""
    return budget if budget.epochs is not None or part == 1.0 else budget.share(part)


def _checked(names: Sequence[str], dims: int) -> tuple[str, ...]:
    known = CONFIGURATIONS[dims]
    for name in names:
        if name not in known:
            raise BadPlan(
                f"there is no configuration '{name}' for {dims}D data.", cure=suggestion(name, known)
            )
    if "3d_cascade" in names and "3d_lowres" not in names:
        raise BadPlan("'3d_cascade' builds on '3d_lowres'.", cure="Ask for both.")
    if not names:
        raise BadPlan("no configuration is left to train.", cure=f"Known: {', '.join(known)}.")
    return tuple(name for name in known if name in names)


# -------------------------------------------------------------------------------------------------- grids


def _full_grid(fingerprint: Fingerprint) -> Grid:
    spacings = [case.spacing_mm for case in fingerprint.cases]
    shapes = [case.cropped_shape for case in fingerprint.cases]
    if not spacings:
        return Grid(
            "3d_fullres",
            fingerprint.median_spacing_mm,
            tuple(round(edge) for edge in fingerprint.median_shape),
            "The median spacing of the cases.",
        )
    target, why = target_spacing(spacings, shapes)
    at_target = [resized(shape, own, target) for shape, own in zip(shapes, spacings, strict=True)]
    median = tuple(_median([shape[axis] for shape in at_target]) for axis in range(len(target)))
    return Grid("3d_fullres", target, median, why)


def _median(values: Sequence[int]) -> int:
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) // 2


def _coarse_grid(situation: Situation, full: Grid) -> Grid | None:
    """The finest grid on which a patch sees a quarter of the median case; None when it would hardly be coarser."""
    spacing, shape = full.spacing_mm, full.median_shape
    while True:
        spacing = coarser(spacing)
        shape = resized(full.median_shape, full.spacing_mm, spacing)
        grid = Grid("3d_lowres", spacing, shape, "")
        if prod(_memory_patch(situation, grid).shape) >= timing.CASCADE_COVER * prod(shape):
            break
    if 2 * prod(shape) > prod(full.median_shape):
        return None
    rounded = tuple(float(f"{mm:.6g}") for mm in spacing)
    why = "Coarsened, the finer axes first, until one patch sees a quarter of the median case (Isensee et al. 2021)."
    return Grid("3d_lowres", rounded, shape, why)


def _grid(name: str, full: Grid, low: Grid | None, situation: Situation) -> Grid:
    if name == "3d_lowres":
        return low or Grid(
            name, full.spacing_mm, full.median_shape, "As at full resolution: one patch sees enough."
        )
    if name == "3d_cascade":
        labels = len(situation.fingerprint.labels)
        return Grid(
            name, full.spacing_mm, full.median_shape, full.why, after="3d_lowres", extra_channels=labels
        )
    if name == "2d" and len(full.spacing_mm) == 3:
        through = full.spacing_mm.index(max(full.spacing_mm))
        return Grid(name, full.spacing_mm, full.median_shape, full.why, slice_axis=through)
    return Grid(name, full.spacing_mm, full.median_shape, full.why)


# -------------------------------------------------------------------------------------- patch and network


def network(situation: Situation, grid: Grid, shape: shaping.Topology, width: int) -> Network:
    """The U-Net that belongs to a topology, without its reasons."""
    levels = len(shape.strides)
    return Network(
        features=shaping.features(width, levels, MOST_FEATURES[len(grid.seen_shape)]),
        kernels=shape.kernels,
        strides=shape.strides,
        convolutions=(CONVOLUTIONS,) * levels,
        decoder_convolutions=(CONVOLUTIONS,) * (levels - 1),
    )


def _elements(situation: Situation, grid: Grid, patch: Shape, shape: shaping.Topology) -> float:
    channels = len(situation.fingerprint.channels) + grid.extra_channels
    built = network(situation, grid, shape, timing.REFERENCE_WIDTH)
    return shaping.elements(built, patch, channels, situation.outputs)


def _memory_patch(situation: Situation, grid: Grid) -> Patch:
    """The largest patch of which memory holds the smallest batch, at the reference width."""
    room = timing.memory_gb(situation.machine)[0] * timing.ELEMENTS_PER_GB

    def fits(patch: Shape, shape: shaping.Topology) -> bool:
        return SMALLEST_BATCH * _elements(situation, grid, patch, shape) <= room

    return largest_patch(grid.seen_shape, grid.seen_spacing_mm, fits)


@dataclass(frozen=True)
class Fitted:
    """A patch with what the time rule made of it."""

    patch: Patch
    fit: timing.Fit
    why_patch: str
    why_batch: str


def _fitted(situation: Situation, grid: Grid, budget: Budget, rate: float) -> Fitted:
    """Patch, width and batch for a budget, at a rate of multiply-accumulates per second."""
    patch = _memory_patch(situation, grid)
    memory = timing.memory_gb(situation.machine)[1]
    why = f"As much of the median case {_by(grid.seen_shape)} as fits twice into memory ({memory[:-1]})."
    if all(edge >= full for edge, full in zip(patch.shape, grid.seen_shape, strict=True)):
        why = f"The whole median case {_by(grid.seen_shape)}, rounded up to what the halvings divide."
    channels = len(situation.fingerprint.channels) + grid.extra_channels
    while True:

        def step(width: int, batch: int, shape: Patch = patch) -> float:
            built = network(situation, grid, shape.topology, width)
            work = shaping.multiply_accumulates(built, shape.shape, channels, situation.outputs)
            return timing.TRAINING_COST * work * batch / rate

        held = timing.ELEMENTS_PER_GB * min(timing.REFERENCE_GB, timing.memory_gb(situation.machine)[0])
        room = held / _elements(situation, grid, patch.shape, patch.topology)
        largest, why_batch = batch_size(
            room, prod(patch.shape), grid.median_shape, len(situation.fingerprint.cases)
        )
        smallest = SMALLEST_BATCH if len(patch.shape) == 3 else SMALLEST_FLAT_BATCH
        fit = timing.fit(budget, largest, smallest, step)
        smaller = None if fit.enough else shrunk(patch, grid.seen_shape, grid.seen_spacing_mm)
        if smaller is None or prod(smaller.shape) < SMALLEST_PATCH_VOXELS[len(smaller.shape)]:
            return Fitted(patch, fit, why, fit.why_batch or why_batch)
        patch = smaller
        why = (
            f"Smaller than memory allows, for time: even the narrowest network would take too few steps in {budget} "
            f"with a larger part of the median case {_by(grid.seen_shape)}."
        )


def _by(shape: Shape) -> str:
    return "×".join(str(edge) for edge in shape)


# -------------------------------------------------------------------------------------------------- stages


def _stage(situation: Situation, grid: Grid, budget: Budget, why: str, whole: bool) -> Stage:
    """One stage; where speed can be measured, guess, measure and decide again until both agree."""
    speed = situation.speed
    rate = speed if isinstance(speed, float | int) else timing.assumed_speed(situation.machine)
    fitted = _fitted(situation, grid, budget, rate)
    stage = _record(situation, grid, budget, fitted, why, whole, fitted.fit.seconds_per_step)
    if not callable(speed) or budget.seconds is None:
        return stage
    for _ in range(MEASUREMENTS):
        expected, measured = stage.training.seconds_per_step, speed(stage)
        rate *= fitted.fit.seconds_per_step / measured
        stage = _record(situation, grid, budget, fitted, why, whole, measured)
        if abs(expected / measured - 1) <= AGREEMENT:
            break
        again = _fitted(situation, grid, budget, rate)
        if (again.patch, again.fit.width, again.fit.batch) == (
            fitted.patch,
            fitted.fit.width,
            fitted.fit.batch,
        ):
            fitted = again
            stage = _record(situation, grid, budget, again, why, whole, measured)
            break
        fitted = again
        stage = _record(situation, grid, budget, again, why, whole, again.fit.seconds_per_step)
    return stage


def _record(
    situation: Situation, grid: Grid, budget: Budget, fitted: Fitted, why: str, whole: bool, seconds: float
) -> Stage:
    fingerprint, patch, fit = situation.fingerprint, fitted.patch.shape, fitted.fit
    learnt_from = situation.learnt_from
    steps = expected_steps(budget, fit.batch, learnt_from, seconds)
    augmented = augmentation(patch, steps * fit.batch / learnt_from, fingerprint.labels)
    trained = training(
        budget, situation.machine, fit.batch, learnt_from, seconds, batch_dice=len(patch) < 3 or not whole
    )
    return Stage(
        name=grid.name,
        after=grid.after,
        geometry=_geometry(grid, fitted, why),
        normalisation=normalisation(fingerprint),
        network=_explained(network(situation, grid, fitted.patch.topology, fit.width), fit.why_width),
        training=trained.changed(why={**trained.why, "batch": fitted.why_batch}),
        augmentation=augmented,
        prediction=_prediction(situation.machine, fit.batch, augmented.mirror),
    )


def _geometry(grid: Grid, fitted: Fitted, why: str) -> Geometry:
    axis = anisotropic_axis(grid.spacing_mm)
    return Geometry.parse(
        {
            "dims": len(grid.seen_shape),
            "spacing_mm": grid.spacing_mm,
            "median_shape": grid.median_shape,
            "patch": fitted.patch.shape,
            "slice_axis": grid.slice_axis,
            "anisotropic_axis": axis,
            "image_order": 3,
            "through_order": 0 if axis is not None else 3,
            "why": {
                "dims": why,
                "spacing_mm": grid.why,
                "median_shape": "The median case, cropped to where it is not empty, at this spacing.",
                "patch": fitted.why_patch,
                "slice_axis": "A flat network sees slices across the axis with the coarsest voxels."
                if grid.slice_axis is not None
                else "None: the network sees all axes.",
                "anisotropic_axis": f"Axis {axis}: its voxels are more than three times longer than the finest."
                if axis is not None
                else "None: no axis has voxels three times longer than another.",
                "image_order": "Cubic: keeps edges sharper than linear, without the ringing of higher orders.",
                "through_order": "Nearest along the coarse axis: between slices so far apart, curves would invent."
                if axis is not None
                else "Cubic along all axes.",
            },
        }
    )


def _explained(built: Network, why_width: str) -> Network:
    return built.changed(
        why={
            "features": why_width + " Doubled with each halving.",
            "kernels": shaping.WHY_KERNELS,
            "strides": shaping.WHY_STRIDES,
            "convolutions": "Two on each level, as the U-Net: deeper levels gained nothing (Isensee et al. 2021).",
            "decoder_convolutions": "Two on each level, mirroring the encoder.",
            "norm": "Instance normalisation: batches are too small for batch statistics.",
            "activation": "Leaky: a unit that is off still learns.",
            "pooling": "Strided convolutions: the network chooses what to keep.",
            "deep_supervision": "The loss also looks at coarser levels, so that deep layers learn from the first step.",
        }
    )


def _prediction(machine: Machine, batch: int, mirror: tuple[int, ...]) -> Prediction:
    return Prediction(
        overlap=0.5,
        mirror=mirror,
        batch=1 if machine.device == "cpu" else min(batch, 4),
        border="constant",
        why={
            "overlap": "Half a tile, weighted by a Gaussian: borders of tiles are seen from several sides.",
            "mirror": "As in training: each mirrored view is one more opinion."
            if mirror
            else "Off, as in training: mirrored views would be strangers to the network.",
            "batch": "One tile at a time: a processor gains nothing from more."
            if machine.device == "cpu"
            else "Several tiles at a time keep the accelerator busy.",
            "border": "Beyond the image lies what training showed there: the value zero after normalisation.",
        },
    )
