"""One process at a time trains a run, and none reads it meanwhile; the lock goes with its process."""

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest import mock

import pytest

from quantal.export.base import portable
from quantal.export.base.errors import BadInput
from quantal.qat.training import checkpoint, epochs, lock, parallel, sitting
from quantal.qat.training.run import Run
from support.commands import contents, quantal, succeed
from support.messages import one_line

HOLD = """
import sys
from pathlib import Path
from quantal.qat.training import lock
lock.PATIENCE = 1
with lock.writing(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""
READERS = [
    "export run --out new",
    "train --network net.toml --from run --out new",
    "train --network net.toml --teacher run --out new",
    "prune run --keep 5 --out new",
    "verify build --on interpreter --run run",
]
RESUME = "train --resume --epochs 3 --out run"


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "PATIENCE", 1)


@contextmanager
def another(file: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process, which holds the lock while the block lasts, unless it is killed before."""
    command = [sys.executable, "-c", HOLD, str(file)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def free(file: Path) -> bool:
    """Whether another process gets the lock."""
    done = subprocess.run([sys.executable, "-c", HOLD, str(file)], input=b"", capture_output=True, check=False)
    assert done.returncode == 0 or b"another process is training this run" in done.stderr
    return done.returncode == 0


def test_a_run_that_is_trained_is_neither_trained_nor_read(place: Path) -> None:
    before = contents(place)
    with another(Path("run/network.toml")) as process:
        for command in (RESUME, *READERS):
            done = quantal(*command.split())
            assert (done.code, done.out) == (2, ""), command
            assert done.err == "quantal: run: another process is training this run; wait until it is done, or end it\n"
            assert contents(place) == before
        process.send_signal(signal.SIGTERM if os.name == "nt" else signal.SIGKILL)
        process.wait()
        succeed(*RESUME.split())  # nothing is left of the lock, and nothing has to be removed


def test_a_run_is_locked_from_before_it_is_read_until_the_command_ends(place: Path) -> None:
    """What another had added between reading and training would be lost."""
    seen: list[tuple[str, bool]] = []

    def noting(module: ModuleType, name: str) -> Any:
        ordinary = getattr(module, name)

        def noted(*given: Any) -> Any:
            seen.append((name, free(Path("run/network.toml"))))
            return ordinary(*given)

        return mock.patch.object(module, name, noted)

    with noting(checkpoint, "restore"), noting(epochs, "_keep"), noting(sitting, "measure"):
        succeed(*RESUME.split(), "--compare")
    assert set(seen) == {(name, False) for name in ("restore", "_keep", "measure")}
    assert free(Path("run/network.toml"))


def test_a_new_run_is_locked_while_it_and_its_twin_are_trained(place: Path) -> None:
    seen = []
    ordinary = sitting.measure

    def noted(run: Run, *given: Any) -> Any:
        seen.append((str(run.path), free(Path("new/network.toml"))))
        return ordinary(run, *given)

    with mock.patch.object(sitting, "measure", noted):
        succeed("train", "--network", "net.toml", "--compare", "--out", "new")
    assert seen == [("new", False), ("new/full_precision", False)]


def test_runs_are_read_by_many_and_where_nobody_may_write(place: Path) -> None:
    with lock._opened(Path("run/network.toml"), (False,)) as reader:
        assert reader is not None
        portable.lock(reader, shared=True)
        succeed(*READERS[0].split())
    for file in Path("run").iterdir():
        file.chmod(0o444)
    Path("run").chmod(0o555)
    succeed("export", "run", "--out", "again")
    Path("run").chmod(0o755)


def test_it_waits_for_whoever_reads_at_this_moment(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "PATIENCE", 3)
    waited: list[float] = []
    with lock._opened(Path("run/network.toml"), (False,)) as reader:
        assert reader is not None
        portable.lock(reader, shared=True)
        clock = SimpleNamespace(sleep=lambda seconds: (waited.append(seconds), reader.close()))
        monkeypatch.setattr(lock, "time", clock)
        with lock.writing(Path("run/network.toml")):
            assert len(waited) == 1


def test_where_there_are_no_locks_it_goes_on_without(place: Path) -> None:
    with mock.patch(
        "quantal.export.base.portable.lock", side_effect=OSError(errno.ENOLCK, "no locks available")
    ) as asked:
        succeed(*READERS[0].split())
        succeed(*RESUME.split())
    assert asked.call_count >= 2


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    """Whoever reads it says what it is."""
    if not hasattr(os, "mkfifo"):
        pytest.skip("this system has no named pipes")
    os.mkfifo(tmp_path / "network.toml")
    for use in ("lock.reading(file)", "lock.writing(file).__enter__()"):
        imports = "import sys; from pathlib import Path; from quantal.qat.training import lock"
        main = f"{imports}; file = Path(sys.argv[1]); {use}"
        subprocess.run([sys.executable, "-c", main, str(tmp_path / "network.toml")], check=True, timeout=60)


def test_of_several_processes_that_share_a_run_one_holds_the_lock(place: Path) -> None:
    """The others are part of the same training."""
    with another(Path("run/network.toml")), mock.patch("quantal.qat.training.parallel.rank", return_value=1):
        assert parallel.rank() == 1
        Run.open(Path("run"))
        with Run.alone(Path("run")):
            pass


# ---- without Windows


def is_open(handle: int) -> bool:
    try:
        os.fstat(handle)
    except OSError:
        return False
    return True


class Msvcrt(ModuleType):
    """As Windows' module locks: a byte once, whoever has it; another's lock is an error of access."""

    LK_NBLCK = 2

    def __init__(self) -> None:
        super().__init__("msvcrt")
        self.locked: dict[int, int] = {}

    def locking(self, handle: int, mode: int, count: int) -> None:
        assert (mode, count) == (self.LK_NBLCK, 1)
        assert os.lseek(handle, 0, os.SEEK_CUR) >= 2**30  # what is locked cannot be read
        inode = os.fstat(handle).st_ino
        holder = self.locked.get(inode)
        if holder is not None and is_open(holder):
            raise PermissionError(errno.EACCES, "Permission denied")
        self.locked[inode] = handle


def test_the_lock_of_windows(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake, file = Msvcrt(), Path("run/network.toml")
    monkeypatch.setitem(sys.modules, "msvcrt", fake)
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(lock, "PATIENCE", 1)
    lock.reading(file)
    fake.locked.clear()
    with lock.writing(file):
        lock.reading(file)  # its own
        with lock.writing(file):
            pass
        monkeypatch.setattr(lock, "_own", set())  # now it is another's
        for refused in (lock.reading, lambda path: lock.writing(path).__enter__()):
            with pytest.raises(BadInput) as error:
                refused(file)
            one_line(error, "run: another process is training this run")
