"""All rules together: from a fingerprint to the stages of a segmentation plan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import ceil, prod

from isocenter.errors import BadPlan, suggestion
from isocenter.parts.rules import budget as timing
from isocenter.parts.rules import topology as shaping
from isocenter.parts.rules.batch import SMALLEST_BATCH, batch_size
from isocenter.parts.rules.folds import learnt_from
from isocenter.parts.rules.grids import Grid, coarse_grid, full_grid, sliced
from isocenter.parts.rules.patch import Patch, largest_patch, shrunk
from isocenter.parts.rules.spacing import Shape, anisotropic_axis
from isocenter.parts.rules.stage import Decided, stage, unet
from isocenter.records import Budget, Fingerprint, Machine, Stage, regions

SMALLEST_FLAT_BATCH = 8
SMALLEST_PATCH_VOXELS = {1: 1024, 2: 64 * 64, 3: 32**3}
BUDGET_PARTS = {"2d": 0.5}
CONFIGURATIONS = {1: ("1d",), 2: ("2d",), 3: ("2d", "3d_fullres", "3d_lowres", "3d_cascade")}
FULL = {1: "1d", 2: "2d", 3: "3d_fullres"}
"""By the number of axes, the configuration that sees all of them at full resolution."""
MEASUREMENTS = 3
AGREEMENT = 0.1


@dataclass(frozen=True)
class Situation:
    """What every rule looks at.

    `rate` is in multiply-accumulates per second. `view_mm` is the width of what has to be seen at once; None
    where everything that memory holds teaches something. `wide` is whether a wider network is worth more than
    seeing more than that.
    """

    fingerprint: Fingerprint
    budget: Budget
    machine: Machine
    rate: float
    view_mm: float | None = None
    wide: bool = False

    @property
    def outputs(self) -> int:
        """What the network gives per voxel: a score for each class, or for each overlapping region."""
        count = len(self.fingerprint.labels)
        return count if regions(self.fingerprint.labels) else count + 1

    @property
    def learnt_from(self) -> int:
        """Cases that one fold learns from."""
        return learnt_from(len(self.fingerprint.cases))


def stages(
    fingerprint: Fingerprint,
    budget: Budget,
    machine: Machine,
    speed: timing.Speed | float | None = None,
    configurations: Sequence[str] | None = None,
    *,
    repeated: bool = False,
    alone: bool = False,
    view_mm: float | None = None,
    wide: bool = False,
) -> tuple[Stage, ...]:
    """Every stage of a segmentation plan, each decision with its reason.

    Args:
        fingerprint: The measured dataset.
        budget: Wall time per fold, shared by all stages; or epochs for each of them.
        machine: Where training will run.
        speed: Measures a stage's seconds per training step; or multiply-accumulates per second in training;
            or None for a cautious guess. Not used when the budget is in epochs.
        configurations: Which of `2d`, `3d_fullres`, `3d_lowres`, `3d_cascade`; by default data and budget
            decide.
        repeated: Whether several networks of one configuration can answer together, where there is time.
        alone: Whether one network has the whole budget: of the configurations that data and budget decide
            on, the one at full resolution, if there is one.
        view_mm: The width of what has to be seen at once, down to which patches become smaller where time
            would else give fewer steps than it should.
        wide: Whether they become so, too, where time would else make the network narrower than the reference.

    Raises:
        BadPlan: A configuration is unknown, or unfit for these data.
    """
    first = float(speed) if isinstance(speed, float | int) else timing.assumed_speed(machine)
    situation = Situation(fingerprint, budget, machine, first, view_mm, wide)
    measure = _once(speed) if callable(speed) and budget.seconds is not None else None
    full = full_grid(fingerprint)
    whole, situation = _settled(situation, full, budget, measure)
    grids, why = _grids(situation, full, whole.patch, configurations)
    if alone:
        grids, why = [_chief(grids)], "One network, as published: it has the whole budget."
    parts = [BUDGET_PARTS.get(grid.name, 1.0) for grid in grids]
    in_parts = any(grid.after for grid in grids)
    found = []
    for grid, part in zip(grids, parts, strict=True):
        own = budget if budget.epochs is not None or len(grids) == 1 else budget.share(part / sum(parts))
        batch_dice = len(grid.seen_shape) < 3 or (in_parts and grid.name != "3d_lowres")
        one = _planned(situation, grid, own, measure, batch_dice, why)
        count, why_count = timing.members(one.training) if repeated and not in_parts else (1, "")
        if count > 1:
            one = _planned(situation, grid, own.share(1 / count), measure, batch_dice, f"{why} {why_count}")
        found += [one, *(timing.again(one, number) for number in range(2, count + 1))]
    return tuple(found)


def _planned(
    situation: Situation,
    grid: Grid,
    budget: Budget,
    measure: timing.Speed | None,
    batch_dice: bool,
    why: str,
) -> Stage:
    """One stage, as its own budget allows."""
    decided, _ = _settled(situation, grid, budget, measure)
    decided = replace(decided, why_stage=why, batch_dice=batch_dice)
    return stage(decided, situation.fingerprint, situation.machine, situation.learnt_from)


def single(
    fingerprint: Fingerprint,
    budget: Budget,
    machine: Machine,
    speed: timing.Speed | float | None,
    grid: Grid,
    why: str,
) -> Stage:
    """One stage on a given grid, by the same rules.

    Args:
        fingerprint: The measured dataset.
        budget: For this stage alone.
        machine: Where training will run.
        speed: As for `stages`.
        grid: What the network sees.
        why: The reason for this stage.
    """
    rate = float(speed) if isinstance(speed, float | int) else timing.assumed_speed(machine)
    situation = Situation(fingerprint, budget, machine, rate)
    measure = _once(speed) if callable(speed) and budget.seconds is not None else None
    decided, _ = _settled(situation, grid, budget, measure)
    return stage(replace(decided, why_stage=why), fingerprint, machine, situation.learnt_from)


# -------------------------------------------------------------------------------------- which networks


def _grids(
    situation: Situation, full: Grid, fitted: Patch, wanted: Sequence[str] | None
) -> tuple[list[Grid], str]:
    """The grids to be trained on, and why these."""
    dims = len(full.spacing_mm)
    low = None
    cover = prod(fitted.shape) / prod(full.median_shape)
    if dims == 3:
        overview = coarse_grid(full, timing.CASCADE_COVER, lambda grid: _voxels(situation, grid))
        low, cover = overview, 1.0 if overview is None and cover >= timing.SHORT_COVER else cover
    anisotropic = anisotropic_axis(full.spacing_mm) is not None
    names, why = timing.configurations(dims, anisotropic, cover, situation.budget)
    if wanted is not None:
        names, why = _checked(wanted, dims), "The configurations that were asked for."
    elif names == ("3d_lowres",):
        low = coarse_grid(full, timing.SHORT_COVER, lambda grid: _voxels(situation, grid, in_time=True))
        names = names if low is not None else ("3d_fullres",)
    return [_grid(name, full, low, situation) for name in names], why


def _chief(grids: Sequence[Grid]) -> Grid:
    """The grid at full resolution, else the last."""
    return next((grid for grid in grids if grid.name == "3d_fullres"), grids[-1])


def _grid(name: str, full: Grid, low: Grid | None, situation: Situation) -> Grid:
    if name in ("1d", "2d"):
        return sliced(name, full)
    if name == "3d_lowres":
        return low or replace(full, name=name, why="As at full resolution: one patch sees enough.")
    if name == "3d_cascade":
        return replace(full, name=name, after="3d_lowres", extra_channels=len(situation.fingerprint.labels))
    return full


def _checked(names: Sequence[str], dims: int) -> tuple[str, ...]:
    known = CONFIGURATIONS[dims]
    for name in names:
        if name not in known:
            what = f"there is no configuration '{name}' for {dims}D data."
            raise BadPlan(what, cure=suggestion(name, known))
    if "3d_cascade" in names and "3d_lowres" not in names:
        raise BadPlan("'3d_cascade' builds on '3d_lowres'.", cure="Ask for both.")
    if not names:
        raise BadPlan("no configuration is left to train.", cure=f"Known: {', '.join(known)}.")
    return tuple(name for name in known if name in names)


def _voxels(situation: Situation, grid: Grid, in_time: bool = False) -> int:
    """Voxels of the patch that memory, or memory and time, allow on a grid."""
    found = _decided(situation, grid, situation.budget).patch if in_time else _memory_patch(situation, grid)
    return prod(found.shape)


# ----------------------------------------------------------------------------------- what fits on a grid


def _once(measure: timing.Speed) -> timing.Speed:
    """The measurement, taken only once of each network: planning is part of the budget."""
    known: dict[object, float] = {}

    def remembered(stage: Stage) -> float:
        key = (stage.geometry.patch, stage.unet.features, stage.training.batch, stage.after)
        if key not in known:
            known[key] = measure(stage)
        return known[key]

    return remembered


def _settled(
    situation: Situation, grid: Grid, budget: Budget, measure: timing.Speed | None
) -> tuple[Decided, Situation]:
    """Decide; and where speed can be measured, measure and decide again until the decision stands."""
    decided = _decided(situation, grid, budget)
    for _ in range(MEASUREMENTS if measure is not None else 0):
        assert measure is not None
        tried = stage(decided, situation.fingerprint, situation.machine, situation.learnt_from)
        rate = situation.rate * decided.fit.seconds_per_step / measure(tried)
        situation = replace(situation, rate=rate)
        before, decided = decided, _decided(situation, grid, budget)
        if (before.patch, before.fit.width, before.fit.batch) == (
            decided.patch,
            decided.fit.width,
            decided.fit.batch,
        ):
            break
    return decided, situation


def _decided(situation: Situation, grid: Grid, budget: Budget) -> Decided:
    """Patch, width and batch: first what memory allows, then what time allows."""
    patch = _memory_patch(situation, grid)
    why = _why_patch(situation, grid, patch)
    while True:
        largest, why_batch = _largest_batch(situation, grid, patch)
        smallest = SMALLEST_BATCH if len(patch.shape) == 3 else SMALLEST_FLAT_BATCH
        fit = timing.fit(budget, largest, smallest, partial(_seconds, situation, grid, patch))
        smaller, why_smaller = _smaller(situation, grid, patch, fit, budget)
        if smaller is None or prod(smaller.shape) < SMALLEST_PATCH_VOXELS[len(smaller.shape)]:
            return Decided(grid, patch, fit, budget, False, "", why, fit.why_batch or why_batch)
        patch, why = smaller, f"Smaller than memory allows, for time: {why_smaller}"


def _smaller(
    situation: Situation, grid: Grid, patch: Patch, fit: timing.Fit, budget: Budget
) -> tuple[Patch | None, str]:
    """The patch one step smaller and why, if time asks for one."""
    if not fit.enough:
        return shrunk(patch, grid.seen_shape, grid.seen_spacing_mm), (
            "even the narrowest network would take too few steps in "
            f"{budget} with a larger part of the median case ({by(grid.seen_shape)})."
        )
    narrow = situation.wide and fit.width < timing.REFERENCE_WIDTH
    if situation.view_mm is None or (fit.ample and not narrow):
        return None, ""
    least = [ceil(situation.view_mm / mm) for mm in grid.seen_spacing_mm]
    gained = (
        "a network that is wider, or takes more steps, tells more than one that sees further: on nuclei, in "
        "six minutes, AP at IoU .5 rose from .742 to .806."
        if situation.wide
        else f"of smaller patches more fit into {budget}: so many of them are centred on an object, however "
        "large they are."
    )
    return shrunk(patch, grid.seen_shape, grid.seen_spacing_mm, least=least), (
        f"{situation.view_mm:.3g} mm show nearly every object with what surrounds it, and {gained}"
    )


def _why_patch(situation: Situation, grid: Grid, patch: Patch) -> str:
    if all(edge >= full for edge, full in zip(patch.shape, grid.seen_shape, strict=True)):
        return f"The whole median case ({by(grid.seen_shape)}), rounded up to what the halvings divide."
    memory = timing.memory_gb(situation.machine)[1]
    return f"As much of the median case ({by(grid.seen_shape)}) as two patches may take of memory: {memory}"


def _seconds(situation: Situation, grid: Grid, patch: Patch, width: int, batch: int) -> float:
    """Estimated seconds of one training step."""
    channels = len(situation.fingerprint.channels) + grid.extra_channels
    built = unet(patch.topology, width)
    work = shaping.multiply_accumulates(built, patch.shape, channels, situation.outputs)
    return timing.TRAINING_COST * work * batch / situation.rate


def _elements(situation: Situation, grid: Grid, patch: Shape, shape: shaping.Topology) -> float:
    channels = len(situation.fingerprint.channels) + grid.extra_channels
    return shaping.elements(unet(shape, timing.REFERENCE_WIDTH), patch, channels, situation.outputs)


def _memory_patch(situation: Situation, grid: Grid) -> Patch:
    """The largest patch of which memory holds the smallest batch, at the reference width."""
    room = timing.memory_gb(situation.machine)[0] * timing.ELEMENTS_PER_GB

    def fits(patch: Shape, shape: shaping.Topology) -> bool:
        return SMALLEST_BATCH * _elements(situation, grid, patch, shape) <= room

    return largest_patch(grid.seen_shape, grid.seen_spacing_mm, fits)


def _largest_batch(situation: Situation, grid: Grid, patch: Patch) -> tuple[int, str]:
    # Memory beyond the reference goes into larger patches, not into larger batches.
    held = min(timing.REFERENCE_GB, timing.memory_gb(situation.machine)[0]) * timing.ELEMENTS_PER_GB
    room = held / _elements(situation, grid, patch.shape, patch.topology)
    return batch_size(room, prod(patch.shape), grid.median_shape, len(situation.fingerprint.cases))


def by(shape: Shape) -> str:
    """A shape as people write it: 40×56×40."""
    return "×".join(str(edge) for edge in shape)
