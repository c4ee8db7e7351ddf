"""Output that cannot be delivered: a closed pipe is no failed check, a full disk is said, and no work is stopped."""

import contextlib
import errno
import io
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest

from quantal.export.cli import main
from quantal.qat.training.run import Run
from support.commands import MAIN

VERIFY = "verify build --on interpreter"
COMMANDS = [
    *("--help", "--version", "train --help", VERIFY, f"{VERIFY} --json", f"{VERIFY} --run run"),
    *("cost build --core cortex-m0", "cost build --core cortex-m0 --json"),
    *("export run --out new", "train --resume --epochs 2 --out run", "train --network net.toml --out new"),
]


@contextlib.contextmanager
def closed_pipe() -> Iterator[io.TextIOWrapper]:
    """A stream that nobody reads any more."""
    read, write = os.pipe()
    os.close(read)
    stream = os.fdopen(write, "w", encoding="utf-8")
    yield stream
    with contextlib.suppress(OSError):
        stream.close()


class Full(io.StringIO):
    """A file on a full disk. Its descriptor is another's: what is dropped is dropped there."""

    def __init__(self, descriptor: int):
        super().__init__()
        self.descriptor = descriptor

    def fileno(self) -> int:
        return self.descriptor

    def flush(self) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def ended(command: str, out: io.TextIOBase, err: io.TextIOBase) -> int:
    """The exit code of `quantal command` in this process."""
    arguments = mock.patch.object(sys, "argv", ["quantal", *command.split()])
    with arguments, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main.main()
        except SystemExit as end:
            return int(end.code or 0)
    return 0


@pytest.mark.parametrize("command", COMMANDS)
def test_a_closed_pipe_is_neither_a_mismatch_nor_a_success(place: Path, command: str) -> None:
    if command.startswith("cost"):
        pytest.importorskip("unicorn")
    err = io.StringIO()
    with closed_pipe() as out:
        assert (ended(command, out, err), err.getvalue()) == (141, "")


@pytest.mark.parametrize("command", COMMANDS)
def test_a_full_disk_under_standard_output_is_said(place: Path, tmp_path: Path, command: str) -> None:
    if command.startswith("cost"):
        pytest.importorskip("unicorn")
    err = io.StringIO()
    with (tmp_path / "descriptor").open("wb") as file:
        code = ended(command, Full(file.fileno()), err)
    assert (code, err.getvalue()) == (2, "quantal: standard output: No space left on device\n")


@pytest.mark.parametrize("command", [VERIFY, f"{VERIFY} --json"])
def test_a_mismatch_stays_one_where_nobody_reads(place: Path, command: str, tmp_path: Path) -> None:
    header = Path("build/digits.h")
    header.write_text(header.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    with closed_pipe() as out:
        assert ended(command, out, io.StringIO()) == 1
    with (tmp_path / "descriptor").open("wb") as file:
        assert ended(command, Full(file.fileno()), io.StringIO()) == 1


@pytest.mark.parametrize(("command", "code"), [("verify nowhere", 2), ("frobnicate", 2), (VERIFY, 1)])
def test_a_complaint_that_nobody_reads_does_not_change_the_code(place: Path, command: str, code: int) -> None:
    header = Path("build/digits.h")
    header.write_text(header.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    with closed_pipe() as err:
        assert ended(command, io.StringIO(), err) == code
    with closed_pipe() as out, closed_pipe() as err:
        assert ended(command, out, err) == code


@pytest.mark.parametrize("command", [VERIFY, "train --resume --epochs 2 --out run", "export run --out new"])
def test_bars_that_nobody_sees_stop_no_work(place: Path, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # bars as on a terminal
    monkeypatch.setenv("TERM", "xterm")
    shown, out = io.StringIO(), io.StringIO()
    assert ended(command, io.StringIO(), shown) == 0
    assert "\x1b[" in shown.getvalue()
    if command.startswith("export"):
        command = command.replace("new", "another")
    with closed_pipe() as err:
        assert ended(command, out, err) == 0
    assert out.getvalue()
    Run.open(Path("run"))


def test_the_program_ends_as_a_shell_says_of_a_closed_pipe(place: Path) -> None:
    """Also when the interpreter ends, which flushes once more."""
    for closed, command, code in (
        ("stdout", VERIFY, 141),
        ("stderr", VERIFY, 0),
        ("stderr", "verify nowhere", 2),
        ("stdout", "verify nowhere", 2),
    ):
        read, write = os.pipe()
        os.close(read)
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, closed: write}
        done = subprocess.run([sys.executable, "-c", MAIN, *command.split()], check=False, **streams)  # type: ignore[call-overload]
        os.close(write)
        assert done.returncode == code, (closed, command)
        assert b"Traceback" not in (done.stderr or b"")
        assert b"Exception" not in (done.stderr or b"")


def test_the_program_says_that_the_disk_is_full(place: Path) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("this system has no /dev/full")
    with full.open("wb") as stdout:
        done = subprocess.run([sys.executable, "-c", MAIN, *VERIFY.split()], stdout=stdout, stderr=subprocess.PIPE)
    assert (done.returncode, done.stderr) == (2, b"quantal: standard output: No space left on device\n")


@pytest.mark.parametrize("closed", ["stdout", "stderr"])
def test_a_stream_that_is_closed_from_the_start_changes_nothing(place: Path, closed: str) -> None:
    main = f"import sys; sys.{closed} = None; {MAIN}"  # as Python does where the descriptor is closed
    for command, code in ((VERIFY, 0), ("verify nowhere", 2)):
        done = subprocess.run([sys.executable, "-c", main, *command.split()], capture_output=True, check=False)
        assert done.returncode == code
        assert b"Traceback" not in done.stderr
