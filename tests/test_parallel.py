"""One run on several processes: the gradients of one process, one result however often it is killed, one voice."""

import os
import re
import signal
import subprocess
import sys
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from quantal.export.cli import main
from quantal.qat.cli import commands
from quantal.qat.config import config_file
from quantal.qat.data.registry import load
from quantal.qat.training import epochs, parallel
from quantal.qat.training.epochs import batch_gradients
from quantal.qat.training.run import Run
from test_cli import MAIN, NETWORK, Done, contents
from torch.distributed import TCPStore

PROCESSES = 2
BATCHES = (6, 5, 1)  # shared evenly, unevenly, and not at all
TRAIN = ("train", "--network", "net.toml", "--epochs", 3, "--out")
BATCHES_AN_EPOCH = -(-1442 // 64)
HERE = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, empty but for net.toml: a small recurrent network for the digits."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.toml").write_text(NETWORK)
    return tmp_path


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
    ordinary = commands.measure

    def keeping(run: Run, *given: Any) -> dict[str, float]:
        Path(f"{parallel.rank()}.safetensors").write_bytes(run.checkpoint())
        return ordinary(run, *given)

    with mock.patch.object(commands, "measure", keeping):
        main.main()


def calling(function: str) -> str:
    """A program that calls a function of this file."""
    return f"import test_parallel; test_parallel.{function}"


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


# ---- one result


def test_gradients_are_those_of_one_process_on_the_whole_batch() -> None:
    assert processes(main=calling("write_gradients()")) == PROCESSES * [Done(0, "", "")]
    for batch in BATCHES:
        for name, expected in gradients(batch).items():
            for rank in range(PROCESSES):
                with np.load(f"{rank}.npz") as file:
                    found = file[f"{batch} {name}"]
                np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12 * np.abs(expected).max(), err_msg=name)


def test_torchrun_trains_one_run_and_resumes_it_to_the_same_result() -> None:
    """Also when all are killed within an epoch."""
    done = torchrun(*TRAIN, "whole", main=calling("main_that_keeps_what_it_has()"))
    assert done.code == 0, done.err
    assert "quantal:" not in done.err
    assert re.search(r"^peak memory \d+ MiB a process\ntest accuracy \d\d\.\d\d %\n\Z", done.out, re.MULTILINE)
    assert len(Path("whole/metrics.jsonl").read_text().splitlines()) == 3
    assert Run.open(Path("whole")).epochs_done == 3
    checkpoint = Path("whole/checkpoint.safetensors").read_bytes()
    assert [Path(f"{rank}.safetensors").read_bytes() == checkpoint for rank in range(PROCESSES)] == [True, True]

    after = BATCHES_AN_EPOCH + BATCHES_AN_EPOCH // 2
    processes(*TRAIN, "cut", main=calling(f"main_that_is_killed({{0, 1}}, {after})"))
    assert Run.open(Path("cut")).epochs_done == 1
    resumed, silent = processes("train", "--resume", "--out", "cut")
    assert (resumed.code, resumed.err, resumed.out.splitlines()[1:]) == (0, "", done.out.splitlines()[1:])
    assert silent == Done(0, "", "")
    assert contents(Path("cut")) == contents(Path("whole"))


# ---- one voice


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ((*TRAIN, "run", "--weights", 9), "quantal: Invalid value for '--weights': expected one of 1, 2, "),
        (("demo", "--out", "run"), "quantal: demo: runs in one process; start it without torchrun"),
    ],
)
def test_what_all_refuse_is_said_once(here: Path, arguments: tuple[object, ...], line: str) -> None:
    before = contents(here)
    done = processes(*arguments)
    assert [(one.code, one.out) for one in done] == [(2, ""), (2, "")]
    (said,) = (one.err for one in done if one.err)
    assert said.startswith(line)
    assert len(said.splitlines()) == 1
    assert contents(here) == before


def test_what_one_refuses_ends_all(here: Path) -> None:
    (here / "elsewhere").mkdir()
    before = contents(here)
    done = processes(*TRAIN, here / "run", folders={1: here / "elsewhere"})
    assert done == [Done(2, "", ""), Done(2, "", "quantal: net.toml: cannot be read (No such file or directory)\n")]
    assert contents(here) == before


def test_when_one_is_killed_the_others_end() -> None:
    main = calling(f"main_that_is_killed({{1}}, {BATCHES_AN_EPOCH + 1})")
    done = processes(*TRAIN, "run", main=main)
    line = "quantal: another process of this run no longer answers; --resume goes on from the last checkpoint\n"
    assert done == [Done(2, "", line), Done(-signal.SIGKILL, "", "")]
    assert Run.open(Path("run")).epochs_done == 1
