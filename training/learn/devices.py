"""Where training runs: a processor or GPUs, in one process or in several that train one model together.

Several processes go through the same plan with the same negatives. Of each batch a process takes every N-th
row, and its loss counts by its share of the batch's terms, so that their mean is what one process would have.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor

from models.base import PAD, Batch, SessionEncoder
from models.losses import Taught

if TYPE_CHECKING:  # it takes as long to import as torch does: who counts, or is refused, needs none of it
    from lightning_fabric import Fabric

T = TypeVar("T")
AHEAD = 3  # batches that are made while a GPU works
PATIENCE = timedelta(hours=12)  # of processes that wait for the first one's validation


class DeviceError(ValueError):
    """There is no such device, or the processes do not fit together; the message says what there is."""


def resolve_device(wanted: str) -> torch.device:
    """`cpu`, `cuda`, `cuda:N`, or `auto`: a GPU where there is one. Raises `DeviceError`."""
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind, colon, number = wanted.partition(":")
    if kind not in ("cpu", "cuda") or (colon and (kind == "cpu" or not number.isdecimal())):
        raise DeviceError(f"--device {wanted}: expected auto, cpu, cuda or cuda:N")
    if kind == "cuda" and not torch.cuda.is_available():
        built = "" if torch.version.cuda else f"; torch {torch.__version__} is built without CUDA"
        raise DeviceError(f"--device {wanted}: torch sees no GPU here{built}")
    if colon and int(number) >= torch.cuda.device_count():
        raise DeviceError(f"--device {wanted}: there are {torch.cuda.device_count()} GPUs, from cuda:0 on")
    return torch.device(wanted)


def open_fabric(device: str = "cpu", devices: int | None = None) -> Fabric:
    """Fabric on these devices, its processes started; under torchrun they have been.

    Without `devices` there is one process, or as many as torchrun has started. Raises `DeviceError`.
    """
    chosen = resolve_device(device)
    started = torchrun_processes()
    count = devices or (int(os.environ["LOCAL_WORLD_SIZE"]) if started else 1)
    if started and count != int(os.environ["LOCAL_WORLD_SIZE"]):
        raise DeviceError(
            f"--devices {devices}: torchrun has started {os.environ['LOCAL_WORLD_SIZE']} here; leave it out"
        )
    if chosen.type == "cuda":
        there = torch.cuda.device_count()
        if count > there:
            raise DeviceError(f"--devices {count}: a GPU is needed for each process, and there are {there}")
        if count > 1 and chosen.index is not None:
            raise DeviceError(f"--device {device}: names one GPU, and there are {count} processes; use cuda")
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # else sums come in any order
    from lightning_fabric import Fabric
    from lightning_fabric.strategies.ddp import DDPStrategy

    processes = max(count, started)
    if processes == 1:
        one = [chosen.index or 0] if chosen.type == "cuda" else 1
        fabric = Fabric(accelerator=chosen.type, devices=one)
    else:
        strategy = DDPStrategy(timeout=PATIENCE, forward_sync_buffers=False)
        nodes = started // count if started else 1
        fabric = Fabric(accelerator=chosen.type, devices=count, num_nodes=nodes, strategy=strategy)
    fabric.launch()
    return fabric


def on_processor() -> Fabric:
    """Fabric in this process alone, whoever has started it."""
    from lightning_fabric import Fabric

    return Fabric(accelerator="cpu", devices=1)


def torchrun_processes() -> int:
    """How many processes torchrun has started in all; 0 without it."""
    return int(os.environ.get("WORLD_SIZE", 1)) if torch.distributed.is_torchelastic_launched() else 0


@contextlib.contextmanager
def repeatable(device: torch.device) -> Iterator[None]:
    """Let a GPU add up in one order, so that a run that is resumed has the weights of one that was not.

    What torch has no such algorithm for here (sums along an axis, pooling) it warns of, but adds up in one
    order all the same; attention it would not.
    """
    if device.type != "cuda":
        yield
        return
    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    fill = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    kernels = [
        (torch.backends.cuda.flash_sdp_enabled, torch.backends.cuda.enable_flash_sdp),
        (torch.backends.cuda.mem_efficient_sdp_enabled, torch.backends.cuda.enable_mem_efficient_sdp),
        (torch.backends.cuda.cudnn_sdp_enabled, torch.backends.cuda.enable_cudnn_sdp),
    ]
    enabled = [is_enabled() for is_enabled, _ in kernels]  # type: ignore[no-untyped-call]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*deterministic")
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        for _, enable in kernels:
            enable(False)
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(before[0], warn_only=before[1])
            torch.utils.deterministic.fill_uninitialized_memory = fill  # type: ignore[attr-defined]
            for was, (_, enable) in zip(enabled, kernels, strict=True):
                enable(was)


def share(batch: Batch, rank: int, world: int) -> Batch:
    """The rows of a batch that are one process's; negatives are all processes'."""

    def rows(part: Tensor | None) -> Tensor | None:
        return None if part is None else part[rank::world]

    negatives = batch.negatives
    if negatives is not None and negatives.rows is not None:  # by the numbers that its own rows have here
        is_own = negatives.rows % world == rank
        own = torch.where(is_own, negatives.rows.div(world, rounding_mode="floor"), -1)
        negatives = dataclasses.replace(negatives, rows=own)
    taught = batch.taught
    if taught is not None:
        taught = Taught(taught.items, taught.places[rank::world], taught.shares[rank::world])
    sessions, targets = batch.sessions[rank::world], batch.targets[rank::world]
    return Batch(sessions, targets, rows(batch.starts), negatives, taught)


def part_of(model: SessionEncoder, batch: Batch, rank: int, world: int) -> tuple[Batch, float]:
    """One process's rows of a batch, and the weight of its loss, so that the processes' mean is the batch's.

    A process without a target, whose lanes have all run out, say, takes the whole batch at weight 0: all must
    go through a step together, and a mean over nothing is none.
    """
    own = share(batch, rank, world)
    if not (own.targets > PAD).any():
        return batch, 0.0
    return own, model.terms(own) * world / model.terms(batch)


def everyones(own: T, world: int) -> list[T]:
    """What each process has of its own, the first one's first; all processes must ask."""
    everyone = [own] * world
    if world > 1:
        torch.distributed.all_gather_object(everyone, own)
    return everyone


def mean_of_processes(values: Tensor, world: int) -> Tensor:
    """The mean over all processes, which must all ask."""
    if world > 1:
        torch.distributed.all_reduce(values)
    return values / world


def moved(batch: Batch, device: torch.device) -> Batch:
    """The batch on a device; nobody waits until it is there."""
    if device.type == "cpu":
        return batch

    def move(part: Tensor) -> Tensor:
        return part.pin_memory().to(device, non_blocking=True)

    negatives = batch.negatives
    if negatives is not None:
        of, log_expected = negatives.target_items, negatives.log_expected_targets
        negatives = dataclasses.replace(
            negatives,
            items=move(negatives.items),
            log_expected=move(negatives.log_expected),
            target_items=None if of is None else move(of),
            log_expected_targets=None if log_expected is None else move(log_expected),
            rows=None if negatives.rows is None else move(negatives.rows),
        )
    taught = batch.taught
    if taught is not None:
        taught = Taught(move(taught.items), move(taught.places), move(taught.shares))
    return dataclasses.replace(
        batch,
        sessions=move(batch.sessions),
        targets=move(batch.targets),
        starts=None if batch.starts is None else move(batch.starts),
        negatives=negatives,
        taught=taught,
        known_places=move(batch.places),
    )


def made_ahead(make: Callable[[int], T], steps: Iterable[int], device: torch.device) -> Iterator[T]:
    """What `make` makes of each step; while a GPU works, the next ones are made in a thread.

    On a processor a thread would only take time from the step.
    """
    if device.type == "cpu":
        yield from map(make, steps)
        return
    with ThreadPoolExecutor(1) as maker:
        coming: deque[Future[T]] = deque()
        for step in steps:
            coming.append(maker.submit(make, step))
            if len(coming) > AHEAD:
                yield coming.popleft().result()
        while coming:
            yield coming.popleft().result()
