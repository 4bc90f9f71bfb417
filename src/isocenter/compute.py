"""Devices, precision and torch.distributed: the only module that touches them."""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import platform
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import psutil
import torch
from torch import Tensor, distributed, nn

from isocenter.errors import IsocenterWarning, RunFailed, suggestion
from isocenter.methods.method import Batch, Method, Turn
from isocenter.records import Machine, Training

GIB = 2**30
MEMORY_FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}
OWN = "compute/"
"""Before the names of what a checkpoint keeps of how steps are taken."""
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

#: What to do when numbers grow without limit.
LESS_WILD = "Set a lower training.learning_rate, or precision=float32."

#: The packages whose faults are those of compiling.
COMPILERS = ("torch._dynamo", "torch._inductor")

#: How long processes wait for each other: while the first one plans, the others have nothing to do.
PATIENCE = timedelta(days=1)


def machine(device: str = "auto") -> Machine:
    """Describe the device that `auto`, `cpu`, `cuda` or `mps` names, with the precision that pays on it.

    Raises:
        RunFailed: The device's name is unknown.
    """
    known = ("auto", "cpu", "cuda", "mps")
    if device not in known:
        raise RunFailed(f"there is no device '{device}'.", cure=suggestion(device, known))
    chosen = _available(device)
    name = platform.processor() or platform.machine()
    accelerator_gb = 0.0
    if chosen == "cuda":
        properties = torch.cuda.get_device_properties(0)
        name, accelerator_gb = properties.name, properties.total_memory / GIB
    return Machine(
        device=chosen,
        name=name,
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        memory_gb=round(psutil.virtual_memory().total / GIB, 1),
        accelerator_gb=round(accelerator_gb, 1),
        precision=_precision(chosen),
    )


def _available(device: str) -> Any:
    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if device == "auto":
        return next(name for name in ("cuda", "mps", "cpu") if present[name])
    if not present[device]:
        warnings.warn(
            f"There is no {device} device here; the CPU is used instead.", IsocenterWarning, stacklevel=3
        )
        return "cpu"
    return device


def _precision(device: str) -> Any:
    """bfloat16 where the arithmetic units know it: twice as fast on an AVX512-BF16 CPU, slower without."""
    if device == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"
    if device == "cpu" and torch.cpu._is_avx512_bf16_supported():
        return "bfloat16"
    return "float32"


# ------------------------------------------------------------------------------------- several processes


def rank_and_world() -> tuple[int, int]:
    """This process's number, and how many `torchrun` started; 0 and 1 without it."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def join(where: Machine) -> torch.device:
    """Meet the processes that `torchrun` started, if any; gives the device of this one."""
    device = torch.device(where.device)
    if where.device == "cuda":
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    _, world = rank_and_world()
    if world > 1 and not distributed.is_initialized():
        distributed.init_process_group("nccl" if where.device == "cuda" else "gloo", timeout=PATIENCE)
    return device


@contextlib.contextmanager
def joined(device: str) -> Iterator[bool]:
    """Work together with the other processes inside the block; gives whether this is the first of them.

    After a fault nobody is waited for: `torchrun` ends the others.
    """
    join(machine(device))
    yield rank_and_world()[0] == 0
    if distributed.is_initialized():
        distributed.destroy_process_group()


def wait() -> None:
    """Go on when all processes have come here."""
    if distributed.is_initialized():
        distributed.barrier()


@contextlib.contextmanager
def first_before_others() -> Iterator[None]:
    """Let the first process do the block before the others, so that they find the files that it made."""
    first = rank_and_world()[0] == 0
    if not first:
        wait()
    yield
    if first:
        wait()


@dataclass
class Compute:
    """Where a method's modules live and how a step is taken there."""

    device: torch.device
    training: Training
    rank: int = 0
    world: int = 1
    optimisers: dict[str, torch.optim.Optimizer] = field(default_factory=dict)
    average: dict[str, Tensor] = field(default_factory=dict)
    pieces: int = 1
    scaler: torch.amp.GradScaler | None = None

    @classmethod
    def start(cls, where: Machine, training: Training) -> Compute:
        """Join the processes that `torchrun` started, if any, and choose this one's device."""
        device = join(where)
        rank, world = rank_and_world()
        compute = cls(device=device, training=training, rank=rank, world=world)
        if training.precision == "float16" and where.device == "cuda":
            compute.scaler = torch.amp.GradScaler("cuda")
        return compute

    # ------------------------------------------------------------------------------------------- placing

    def place(self, method: Method) -> None:
        """Move a method's modules to the device, in the memory layout that its convolutions like.

        A method without any is told the device.
        """
        method.given_device = self.device
        method.modules.to(self.device)
        if self.training.channels_last:
            for parameter in method.modules.parameters():
                layout = MEMORY_FORMATS.get(parameter.ndim)
                if layout is not None:
                    parameter.data = parameter.data.contiguous(memory_format=layout)

    def move(self, batch: Batch) -> Batch:
        """Tensors of a batch on the device; images in channels-last layout."""
        return {name: self._moved(value) for name, value in batch.items()}

    def _moved(self, value: Any) -> Any:
        if isinstance(value, list | tuple):
            return [self._moved(item) for item in value]
        if not isinstance(value, Tensor):
            return value
        value = value.to(self.device, non_blocking=True)
        layout = MEMORY_FORMATS.get(value.ndim)
        if layout is not None and self.training.channels_last and value.is_floating_point():
            value = value.contiguous(memory_format=layout)
        return value

    @contextlib.contextmanager
    def autocast(self) -> Iterator[None]:
        """Mixed precision as the plan says."""
        dtype = DTYPES[self.training.precision]
        with torch.autocast(self.device.type, dtype=dtype, enabled=dtype is not torch.float32):
            yield

    # ------------------------------------------------------------------------------------------ learning

    def prepare_learning(self, method: Method) -> None:
        """Make one optimiser per turn and, where the plan averages weights, the average's first value.

        Where the plan says so, the modules are compiled by the first step.

        Raises:
            RunFailed: There are more processes than samples in a batch.
        """
        if self.world > self.training.batch:
            raise RunFailed(
                f"a batch of {self.training.batch} cannot be divided among {self.world} processes.",
                cure=f"Start at most {self.training.batch}, or plan with --set training.batch={self.world}.",
            )
        for name, turn in method.turns.items():
            paced: dict[float, list[nn.Parameter]] = {}
            for part in turn.modules:
                for own, parameter in method.modules[part].named_parameters():
                    if parameter.requires_grad:
                        paced.setdefault(method.pace(f"{part}.{own}"), []).append(parameter)
            groups = [{"params": parameters, "pace": pace} for pace, parameters in paced.items()]
            self.optimisers[name] = self._optimiser(groups)
        if self.training.average > 0:
            self.average = {key: value.detach().clone() for key, value in method.modules.state_dict().items()}
        if self.training.compile:
            for module in method.modules.values():
                module.compile()

    def _optimiser(self, parameters: list[dict[str, Any]]) -> torch.optim.Optimizer:
        plan = self.training
        if plan.optimiser == "adamw":
            return torch.optim.AdamW(
                parameters,
                lr=plan.learning_rate,
                betas=(plan.momentum, 0.999),
                weight_decay=plan.weight_decay,
                fused=self.device.type != "mps",
            )
        return torch.optim.SGD(
            parameters,
            lr=plan.learning_rate,
            momentum=plan.momentum,
            weight_decay=plan.weight_decay,
            nesterov=True,
        )

    def step(self, method: Method, batch: Batch, turn: str, learning_rate: float) -> float:
        """One optimiser step of one turn; gives the loss.

        When memory runs out the batch is taken in twice as many pieces from then on, with a warning.

        Raises:
            RunFailed: The loss is not finite, one sample does not fit into memory, or the network cannot be
                compiled here.
        """
        optimiser = self.optimisers[turn]
        for group in optimiser.param_groups:
            group["lr"] = learning_rate * group["pace"]
        while True:
            try:
                loss = self._backward(method, batch, turn)
                break
            except Exception as error:
                if out_of_memory(error):
                    self._halve(batch, error)
                    continue
                if type(error).__module__.startswith(COMPILERS):
                    raise RunFailed(
                        f"the network cannot be compiled here ({type(error).__name__}).",
                        cure="Plan with --set training.compile=false, or install a C++ compiler.",
                    ) from error
                raise
        if not math.isfinite(loss):
            raise RunFailed("the loss is no longer a finite number.", cure=LESS_WILD)
        self._update(method, optimiser, method.turns[turn])
        return loss

    def _backward(self, method: Method, batch: Batch, turn: str) -> float:
        self.optimisers[turn].zero_grad(set_to_none=True)
        total = 0.0
        for weight, piece in _split(batch, self.pieces):
            with self.autocast():
                loss = method.loss(piece, turn) * weight
            torch.autograd.backward(self.scaler.scale(loss) if self.scaler else loss)
            total += float(loss.detach())
        return total

    def _halve(self, batch: Batch, error: BaseException) -> None:
        size = next(len(value) for value in batch.values() if isinstance(value, Tensor))
        if self.pieces >= size:
            elsewhere = "" if self.device.type == "cpu" else " or run with --device cpu"
            raise RunFailed(
                "one sample alone does not fit into memory.",
                cure=f"Plan with a smaller patch (--set geometry.patch=[...]){elsewhere}.",
            ) from error
        self.pieces *= 2
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        warnings.warn(
            f"Memory ran out: each batch is now taken in {self.pieces} pieces.",
            IsocenterWarning,
            stacklevel=3,
        )

    def _update(self, method: Method, optimiser: torch.optim.Optimizer, turn: Turn) -> None:
        owned = [p for part in turn.modules for p in method.modules[part].parameters() if p.grad is not None]
        if self.world > 1:
            self._share_gradients(owned)
        if self.scaler:
            self.scaler.unscale_(optimiser)
        if self.training.clip > 0:
            nn.utils.clip_grad_norm_(owned, self.training.clip, foreach=True)
        if self.scaler:
            self.scaler.step(optimiser)
            self.scaler.update()
        else:
            optimiser.step()

    def _share_gradients(self, owned: Sequence[nn.Parameter]) -> None:
        """Mean over the processes, each weighted by its part of the batch, in one message."""
        gradients = [parameter.grad for parameter in owned if parameter.grad is not None]
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
        flat *= len(range(self.rank, self.training.batch, self.world)) / self.training.batch
        distributed.all_reduce(flat)
        start = 0
        for gradient in gradients:
            gradient.copy_(flat[start : start + gradient.numel()].view_as(gradient))
            start += gradient.numel()

    def follow(self, method: Method, step: int) -> None:
        """Move the average of the weights towards the weights; quickly at first, when they are still poor."""
        if not self.average:
            return
        keep = min(self.training.average, (1 + step) / (10 + step))
        for key, value in method.modules.state_dict().items():
            if value.is_floating_point():
                self.average[key].lerp_(value, 1 - keep)
            else:
                self.average[key].copy_(value)

    @contextlib.contextmanager
    def averaged(self, method: Method) -> Iterator[None]:
        """Use the averaged weights for a while, in evaluation mode and without gradients."""
        own = {key: value.detach().clone() for key, value in method.modules.state_dict().items()}
        if self.average:
            method.modules.load_state_dict(self.average)
        method.modules.eval()
        try:
            with torch.no_grad(), self.autocast(), self._as_written():
                yield
        finally:
            method.modules.load_state_dict(own)
            learning_mode(method)

    def _as_written(self) -> contextlib.AbstractContextManager[object]:
        """Without compiling: for a few samples it would take longer than it saves."""
        return torch.compiler.set_stance("force_eager") if self.training.compile else contextlib.nullcontext()

    def weights(self, method: Method) -> dict[str, Tensor]:
        """The weights that the trained model keeps, on the CPU."""
        source = self.average or method.modules.state_dict()
        return {key: value.detach().cpu().contiguous().clone() for key, value in source.items()}

    # ------------------------------------------------------------------------------------------ resuming

    def state(self, method: Method) -> dict[str, Tensor]:
        """Everything a run needs to go on, as named tensors."""
        tensors = {f"weights/{key}": value for key, value in method.modules.state_dict().items()}
        tensors |= {f"average/{key}": value for key, value in self.average.items()}
        for turn, optimiser in self.optimisers.items():
            for number, values in optimiser.state_dict()["state"].items():
                tensors |= {
                    f"optimiser/{turn}/{number}/{key}": value
                    for key, value in values.items()
                    if isinstance(value, Tensor)
                }
        tensors |= {f"method/{key}": torch.from_numpy(value) for key, value in method.state().items()}
        tensors |= {f"{OWN}{key}": torch.tensor(value) for key, value in self._own().items()}
        return {key: value.detach().cpu().contiguous().clone() for key, value in tensors.items()}

    def restore(self, method: Method, tensors: Mapping[str, Tensor]) -> None:
        """Take back what `state` gave, into modules that are already placed."""
        weights = {
            key.removeprefix("weights/"): v for key, v in tensors.items() if key.startswith("weights/")
        }
        method.modules.load_state_dict(weights)
        for key in self.average:
            self.average[key] = tensors[f"average/{key}"].to(self.average[key].device)
        for turn, optimiser in self.optimisers.items():
            content = optimiser.state_dict()
            content["state"] = _nested(tensors, f"optimiser/{turn}/")
            optimiser.load_state_dict(content)
            _as_parameters(optimiser)
        method.load(
            {k.removeprefix("method/"): v.numpy() for k, v in tensors.items() if k.startswith("method/")}
        )
        self._take_back({k.removeprefix(OWN): v.item() for k, v in tensors.items() if k.startswith(OWN)})

    def _own(self) -> dict[str, float]:
        """In how many pieces batches are taken, and how losses are scaled."""
        scaling = {} if self.scaler is None else self.scaler.state_dict()
        return {"pieces": self.pieces, **{f"scaling/{key}": value for key, value in scaling.items()}}

    def _take_back(self, own: Mapping[str, Any]) -> None:
        self.pieces = own["pieces"]
        scaling = {k.removeprefix("scaling/"): v for k, v in own.items() if k.startswith("scaling/")}
        if self.scaler is not None and scaling:
            self.scaler.load_state_dict(scaling)

    def handing_out(self) -> contextlib.AbstractContextManager[None]:
        """While steps are taken: beside an accelerator this thread computes next to nothing itself, and the
        others that OpenMP would keep spinning take the cores from those that make the samples."""
        return threads(torch.get_num_threads() if self.device.type == "cpu" else 1)

    def synchronise(self) -> None:
        """Wait until the device has done all it was asked to, so that clocks tell the truth."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def agree(self, flag: bool) -> bool:
        """Whether any process says so; every process gets the same answer."""
        if self.world == 1:
            return flag
        tensor = torch.tensor([float(flag)], device=self.device)
        distributed.all_reduce(tensor)
        return bool(tensor.item() > 0)

    def mean(self, number: float) -> float:
        """The mean of all processes' numbers."""
        if self.world == 1:
            return number
        tensor = torch.tensor([number], dtype=torch.float64, device=self.device)
        distributed.all_reduce(tensor)
        return float(tensor.item()) / self.world

    def agree_on(self, number: float) -> float:
        """The first process's number, for all."""
        if self.world == 1:
            return number
        tensor = torch.tensor([number], dtype=torch.float64, device=self.device)
        distributed.broadcast(tensor, 0)
        return float(tensor.item())


def _nested(tensors: Mapping[str, Tensor], prefix: str) -> dict[int, dict[str, Tensor]]:
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith(prefix):
            number, name = key.removeprefix(prefix).split("/")
            state.setdefault(int(number), {})[name] = value
    return state


def _as_parameters(optimiser: torch.optim.Optimizer) -> None:
    """Give restored moments the memory layout of their parameters, so that sums run in the same order."""
    for parameter, values in optimiser.state.items():
        for name, value in values.items():
            if value.shape == parameter.shape and value.stride() != parameter.stride():
                values[name] = torch.empty_like(parameter).copy_(value)


def _split(batch: Batch, pieces: int) -> Iterator[tuple[float, Batch]]:
    """A batch in pieces, each with its share of the samples."""
    if pieces == 1:
        yield 1.0, batch
        return
    size = next(len(value) for value in batch.values() if isinstance(value, Tensor))
    bounds = [size * part // pieces for part in range(pieces + 1)]
    for start, stop in itertools.pairwise(bounds):
        if stop > start:
            yield (stop - start) / size, {name: value[start:stop] for name, value in batch.items()}


def clock(work: Callable[[], object], repeats: int = 3) -> float:
    """Median seconds of calling `work`, after one call that is not counted."""
    work()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return sorted(seconds)[repeats // 2]


@contextlib.contextmanager
def threads(number: int) -> Iterator[None]:
    """Let torch use so many threads for what this Python thread computes, for a while."""
    before = torch.get_num_threads()
    torch.set_num_threads(max(1, number))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def seed_step(seed: int, step: int) -> None:
    """Seed torch for one step (dropout, noise): a resumed run draws what the first would have drawn."""
    torch.manual_seed((seed * 1_000_003 + step) % 2**63)


def learning_mode(method: Method) -> None:
    """Bring a method's modules into training mode, but for running statistics of parts that do not learn."""
    method.modules.train()
    for part in method.modules.modules():
        weights = list(part.parameters())
        if weights and not any(weight.requires_grad for weight in weights):
            for layer in part.modules():
                if getattr(layer, "running_mean", None) is not None:
                    layer.eval()


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out; torch has a class for that, but not on every device."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    known = ("can't allocate memory", "not enough memory", "out of memory", "ALLOC_FAILED")
    return isinstance(error, RuntimeError) and any(words in str(error) for words in known)


def retreat(compute: Compute, several: Sequence[Method]) -> bool:
    """Go on with methods on the CPU, where a device's memory does not suffice; False if they are there."""
    if compute.device.type == "cpu":
        return False
    compute.device = torch.device("cpu")
    compute.training = compute.training.changed(precision=_precision("cpu"))
    with torch.inference_mode(False):  # weights made within an inference could not be used after it
        for method in several:
            compute.place(method)
    return True
