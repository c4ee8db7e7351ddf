"""One run on several processes: the gradients of one process, one result however often it is killed, one voice."""

import re
import signal
from pathlib import Path

import numpy as np
import pytest

from quantal.qat.training.run import Run
from support.commands import NETWORK, Done, contents
from support.processes import BATCHES, PROCESSES, calling, gradients, processes, torchrun

TRAIN = ("train", "--network", "net.toml", "--epochs", 3, "--out")
BATCHES_AN_EPOCH = -(-1442 // 64)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, empty but for net.toml: a small recurrent network for the digits."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.toml").write_text(NETWORK)
    return tmp_path


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
