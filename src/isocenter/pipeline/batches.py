"""The stream of training batches: case, patch and chance follow from the seed and the step alone."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from isocenter.images.layouts import IMAGE
from isocenter.methods.method import Arrays, Batch, Method, Request
from isocenter.parts.augment.augmenter import Augmenter, Parameters
from isocenter.pipeline.prepare import Prepared

ORDER, SAMPLE, VALIDATION = 1, 2, 3


class Batches:
    """Seeded samples of a method's stage, made ahead of time by threads.

    Each worker uses one thread for arithmetic, so the samples are the same for any number of workers.

    Args:
        method: Samples, augments and encodes.
        prepared: Where the cases' arrays lie.
        case_ids: The cases to be learnt from.
        seed: Of everything.
        workers: Threads that make samples.
        rank: This process's number among `world`; each takes its part of every batch.
    """

    def __init__(
        self,
        method: Method,
        prepared: Prepared,
        case_ids: Sequence[str],
        *,
        seed: int,
        workers: int = 1,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.method = method
        self.prepared = prepared
        self.case_ids = tuple(case_ids)
        self.seed = seed
        self.part = range(rank, method.stage.training.batch, world)
        self.workers = max(1, workers)
        self.augmenter = augmenter(method)
        self._here = threading.local()

    def stream(self, first: int) -> Generator[Batch, None, None]:
        """Batches of step `first`, `first + 1`, … without end."""
        with ThreadPoolExecutor(self.workers, "sample") as pool:
            waiting: deque[list[Future[dict[str, Tensor]]]] = deque()
            step = first
            ahead = 2 + self.workers
            try:
                while True:
                    while len(waiting) < ahead:
                        waiting.append([pool.submit(self.sample, step, place) for place in self.part])
                        step += 1
                    yield collate([future.result() for future in waiting.popleft()])
            finally:
                for futures in waiting:
                    for future in futures:
                        future.cancel()

    def sample(self, step: int, place: int) -> dict[str, Tensor]:
        """The sample at one place of one step's batch."""
        if not getattr(self._here, "single", False):
            torch.set_num_threads(1)
            self._here.single = True
        rng = np.random.default_rng([self.seed, SAMPLE, step, place])
        parameters = self.augmenter.draw(rng)
        batch, share = self.method.stage.training.batch, self.method.stage.training.foreground_share
        request = Request(
            size=patch_of(self.method),
            source_size=_as_volume(self.method, parameters.source_size),
            foreground=place >= round(batch * (1 - share)),
        )
        arrays = question(self.method, self.prepared, self._case(step, place), self.case_ids, rng)
        arrays = self.method.sample(arrays, rng, request)
        return _encoded(self.method, self.augmenter, parameters, arrays)

    def _case(self, step: int, place: int) -> str:
        position = step * self.method.stage.training.batch + place
        epoch, number = divmod(position, len(self.case_ids))
        order = np.random.default_rng([self.seed, ORDER, epoch]).permutation(len(self.case_ids))
        return self.case_ids[int(order[number])]


def validation_samples(
    method: Method, prepared: Prepared, case_ids: Sequence[str], *, seed: int, limit: int = 12
) -> list[dict[str, Tensor]]:
    """The same unchanged patches each time, one per case and showing foreground, to watch learning."""
    augment = augmenter(method)
    plain = augment.identity()
    samples = []
    for number, case_id in enumerate(list(case_ids)[:limit]):
        rng = np.random.default_rng([seed, VALIDATION, number])
        size = patch_of(method)
        arrays = question(method, prepared, case_id, case_ids, rng)
        arrays = method.sample(arrays, rng, Request(size, size, foreground=True))
        samples.append(_encoded(method, augment, plain, arrays))
    return samples


def question(
    method: Method, prepared: Prepared, case_id: str, among: Sequence[str], rng: np.random.Generator
) -> Arrays:
    """The arrays of a case, joined with those of others where the method's questions need several images."""
    arrays = prepared.arrays(case_id)
    if not method.companions or IMAGE not in arrays:
        return arrays
    others = [other for other in among if other != case_id] or [case_id]
    chosen = rng.choice(len(others), method.companions, replace=len(others) < method.companions)
    return method.join([arrays, *(prepared.arrays(others[int(number)]) for number in chosen)])


def _encoded(method: Method, augment: Augmenter, parameters: Parameters, arrays: Arrays) -> dict[str, Tensor]:
    """A sample as the network learns from it; arrays without a kind are not augmented."""
    tensors = _tensors(method, arrays)
    kinds = {name: method.kinds[name] for name in tensors if name in method.kinds}
    moved = augment.apply({name: tensors[name] for name in kinds}, kinds, parameters)
    return method.encode({**tensors, **moved})


def augmenter(method: Method) -> Augmenter:
    """The augmentation that a method's stage plans."""
    stage, across = method.stage, slice_axis(method)
    seen = [mm for axis, mm in enumerate(stage.geometry.spacing_mm) if axis != across]
    return Augmenter(
        stage.augmentation,
        stage.geometry.patch,
        channels=method.channels,
        anisotropic_axis=stage.geometry.anisotropic_axis if across is None else None,
        spacing_mm=seen,
    )


def patch_of(method: Method) -> tuple[int, ...]:
    """The patch as the prepared arrays have axes: a plane of a volume is one voxel thick."""
    return _as_volume(method, method.stage.geometry.patch)


def slice_axis(method: Method) -> int | None:
    """Along which axis a 2D network takes slices of volumes; None where image and network have equal axes."""
    return method.stage.geometry.slice_axis


def _as_volume(method: Method, size: Sequence[int]) -> tuple[int, ...]:
    axis = slice_axis(method)
    if axis is None:
        return tuple(size)
    return (*size[:axis], 1, *size[axis:])


def _tensors(method: Method, arrays: Arrays) -> dict[str, Tensor]:
    axis = slice_axis(method)
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    if axis is None:
        return tensors
    return {
        name: tensor.squeeze(axis + 1)
        if method.kinds.get(name) in ("intensity", "label", "vector")
        else tensor
        for name, tensor in tensors.items()
    }


def collate(samples: Sequence[dict[str, Tensor]]) -> Batch:
    """Stack equal shapes; else keep a list."""
    batch: Batch = {}
    for name in samples[0]:
        values = [sample[name] for sample in samples]
        same = len({value.shape for value in values}) == 1
        # One alone is not copied: a bag may be as large as memory allows.
        batch[name] = values if not same else values[0][None] if len(values) == 1 else torch.stack(values)
    return batch
