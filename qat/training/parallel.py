"""One run on several processes: torchrun starts them, each takes its part of every batch, and gradients are summed.

One explicit all-reduce instead of DistributedDataParallel: that averages over processes, which is wrong where parts are
uneven; it needs a forward of every process, also of one without samples; and it wraps the module, whose methods are
called by name here. What it gains, sending while the backward runs, is nothing with so few parameters.

Without torchrun all of this is true of a single process: rank 0 of 1.
"""

import atexit
import functools
import importlib
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import click
import numpy as np
import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed.rendezvous import rendezvous

from quantal.export.base.errors import BadInput, ExecutorError
from quantal.qat.arithmetic.exact import FLOAT64, INT64


def size() -> int:
    """How many processes share the run."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Which of them this is. Rank 0 alone writes and prints."""
    return dist.get_rank() if size() > 1 else 0


def neighbours() -> int:
    """How many of them share this machine's processors, this one included."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", size())) if size() > 1 else 1


def part(items: np.ndarray) -> np.ndarray:
    """This process's part of a batch; empty where there are more processes than items."""
    return np.array_split(items, size())[rank()]


def add_up_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Sums every gradient over the processes, in one message: in float64, so that their order hardly matters.

    A process without samples has no gradients, and adds zeros.
    """
    if size() == 1:
        return
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    flat = _all_reduced(torch.cat([gradient.double().reshape(-1) for gradient in gradients]), "SUM")
    for parameter, summed in zip(parameters, torch.split(flat, [p.numel() for p in parameters]), strict=True):
        parameter.grad = summed.view_as(parameter).to(parameter.dtype)


def total(*numbers: float) -> list[float]:
    """The sum of each number over the processes."""
    sums: list[float] = _all_reduced(torch.tensor(numbers, **FLOAT64), "SUM").tolist()
    return sums


def largest(number: int) -> int:
    """The largest of the processes' numbers."""
    return int(_all_reduced(torch.tensor(number, **INT64), "MAX"))


def wait() -> None:
    """Waits for all processes: where one goes on, none has failed before."""
    total(0)


def _all_reduced(tensor: Tensor, operation: str) -> Tensor:
    if size() > 1:
        try:
            dist.all_reduce(tensor, getattr(dist.ReduceOp, operation))
        except RuntimeError:  # its connection was closed, or nothing came for half an hour
            raise BadInput(
                "another process of this run no longer answers; --resume goes on from the last checkpoint"
            ) from None
    return tensor


@functools.cache
def _store() -> tuple[Any, int, int] | None:
    """What torchrun's processes share, this one's rank and how many they are; None for a process on its own."""
    try:
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            return None
        found: tuple[Any, int, int] = next(rendezvous("env://"))
        return found
    except (ValueError, RuntimeError) as error:
        raise BadInput(f"WORLD_SIZE: the processes do not find each other ({str(error).splitlines()[0]})") from None


@contextmanager
def joined() -> Iterator[None]:
    """The process group, while the block lasts, where torchrun started several processes."""
    found = _store()
    if found is None:
        yield
        return
    store, which, count = found
    # Imported later, by torch's optimizers, its default arguments would hold the group, which could not be destroyed.
    importlib.import_module("torch.distributed.nn.functional")
    nccl = torch.cuda.is_available() and dist.is_nccl_available()
    dist.init_process_group("cpu:gloo,cuda:nccl" if nccl else "gloo", store=store, rank=which, world_size=count)
    try:
        yield
    finally:  # its threads may not outlive the interpreter
        dist.destroy_process_group()


@contextmanager
def one_voice() -> Iterator[None]:
    """Lets an error pass in the first process that has one; the others end in silence, once the first has spoken.

    They wait for it because torchrun ends all processes as soon as one ends. This block goes inside `joined`: a process
    must claim its error before it leaves the group, which makes the others fail.
    """
    found = _store()
    try:
        yield
    except (BadInput, ExecutorError, OSError, click.ClickException, click.Abort, KeyboardInterrupt):
        if found is not None and not _speaks(found[0]):
            sys.exit(2)
        raise


def _speaks(store: Any) -> bool:
    try:
        first: bool = store.add("quantal failed", 1) == 1
        if first:
            atexit.register(store.set, "quantal spoke", "")
        else:
            store.wait(["quantal spoke"], timedelta(seconds=10))
        return first
    except RuntimeError:  # the store is gone, or the first: rather one line too many than none
        return True
