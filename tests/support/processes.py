"""One training on several processes, and what runs in each of them."""

import os
import signal
import subprocess
import sys
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch.distributed import TCPStore

from quantal.export.cli import main
from quantal.qat.config import config_file
from quantal.qat.data.registry import load
from quantal.qat.training import epochs, parallel, sitting
from quantal.qat.training.epochs import batch_gradients
from quantal.qat.training.run import Run
from support.commands import MAIN, NETWORK, Done
from support.sources import SUPPORTED

PROCESSES = 2
BATCHES = (6, 5, 1)  # shared evenly, unevenly, and not at all
HERE = os.environ | SUPPORTED


# ---- what runs in the processes


def gradients(batch: int) -> dict[str, np.ndarray]:
    """The gradients, in float64, of the first `batch` digits; also their mean loss, and how many are right."""
    data = load("digits", None)
    run = Run(Path("run"), config_file.loads(NETWORK, "net.toml"), data.train.x.shape[-1], data.maximum)
    run.network.double()
    loss, *right = parallel.total(*batch_gradients(run, data.train, np.arange(batch), torch.float64))
    found = {name: p.grad.numpy() for name, p in run.network.named_parameters()}
    return found | {"loss": np.array(loss), "right": np.array(right)}


def write_gradients() -> None:
    """The gradients of all batches, in a file a process."""
    with parallel.joined():
        process_group = weakref.ref(torch.distributed.group.WORLD)
        found = {f"{batch} {name}": g for batch in BATCHES for name, g in gradients(batch).items()}
        np.savez(f"{parallel.rank()}.npz", **found)
    assert process_group() is None, "its threads may outlive the interpreter, and then abort"


def main_that_is_killed(killed: set[int], after: int) -> None:
    """Runs `quantal`; the processes of those ranks are killed when `after` batches are done."""
    ordinary, left = epochs.batch_gradients, after

    def counting(*given: Any) -> Any:
        nonlocal left
        left -= 1
        if left < 0 and parallel.rank() in killed:
            os.kill(os.getpid(), signal.SIGKILL)
        return ordinary(*given)

    with mock.patch.object(epochs, "batch_gradients", counting):
        main.main()


def main_that_keeps_what_it_has() -> None:
    """Runs `quantal`; every process writes a checkpoint of its own at the end."""
    ordinary = sitting.measure

    def keeping(run: Run, *given: Any) -> dict[str, float]:
        Path(f"{parallel.rank()}.safetensors").write_bytes(run.checkpoint())
        return ordinary(run, *given)

    with mock.patch.object(sitting, "measure", keeping):
        main.main()


def calling(function: str) -> str:
    """A program that calls a function of this module."""
    return f"from support import processes; processes.{function}"


def processes(*args: object, main: str = MAIN, folders: Mapping[int, Path] | None = None) -> list[Done]:
    """Runs `quantal` in several processes, each in its folder, as torchrun would; what each of them left."""
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    shared = {
        **HERE,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(store.port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "WORLD_SIZE": str(PROCESSES),
        "LOCAL_WORLD_SIZE": str(PROCESSES),
    }
    started = [
        subprocess.Popen(
            [sys.executable, "-c", main, *map(str, args)],
            env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            cwd=(folders or {}).get(rank),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(PROCESSES)
    ]
    ends = [process.communicate() for process in started]
    return [Done(process.returncode, *end) for process, end in zip(started, ends, strict=True)]


def torchrun(*args: object, main: str) -> Done:
    """Runs `quantal` by torchrun itself."""
    options = ("--nproc-per-node", str(PROCESSES), "--no-python", sys.executable, "-c", main)
    command = [sys.executable, "-m", "torch.distributed.run", *options, *map(str, args)]
    done = subprocess.run(command, env=HERE, capture_output=True, text=True, check=False)
    return Done(done.returncode, done.stdout, done.stderr)
