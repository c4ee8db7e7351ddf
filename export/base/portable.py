"""What differs between operating systems, each behind a function: no other module asks which system this is."""

import errno
import importlib
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import IO, Any, NoReturn


def peak_memory() -> int:
    """The most bytes of memory that this process has held; 0 where the system does not say, as Windows."""
    try:
        resource = importlib.import_module("resource")
    except ImportError:
        return 0
    unit = 1 if sys.platform == "darwin" else 1024
    return int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) * unit


def processors() -> int:
    """How many processors this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def user() -> str:
    """What tells this user's folders from those of others, in a folder that all share."""
    number = getattr(os, "getuid", None)
    return str(number()) if number else os.environ.get("USERNAME", "user")


def own(folder: Path) -> bool:
    """Whether `folder` is a folder, no link, of this user, in which nobody else may write.

    Windows has no such modes: there a folder of the user's profile is the user's.
    """
    found = folder.lstat()
    number = getattr(os, "getuid", None)
    if number is None:
        return stat.S_ISDIR(found.st_mode)
    others = stat.S_IWGRP | stat.S_IWOTH
    return stat.S_ISDIR(found.st_mode) and found.st_uid == number() and not found.st_mode & others


OWN_GROUP: dict[str, Any] = {"start_new_session": True} if os.name == "posix" else {}
"""Options of subprocess.Popen for a process that `end` ends with all that it starts."""


def end(process: subprocess.Popen[bytes]) -> None:
    """Ends a process of OWN_GROUP and all that it started."""
    if hasattr(os, "killpg") and hasattr(signal, "SIGKILL"):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    else:
        subprocess.run(["taskkill", "/F", "/T", "/PID", str(process.pid)], capture_output=True, check=False)
        process.kill()
    process.wait()


def bound_memory(number: int, most: int) -> None:
    """Has the process of that number, and all that it starts, hold `most` bytes of data each at most; on Linux.

    What counts is what it may write to: code, files that it maps and room that it only reserves are free.
    """
    with suppress(ImportError, AttributeError, OSError):  # other systems, and a process that has ended
        resource = importlib.import_module("resource")
        _, hard = resource.prlimit(number, resource.RLIMIT_DATA)
        bound = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.prlimit(number, resource.RLIMIT_DATA, (bound, bound))
        # From here on what it starts is bound as it is. What it has started already:
        for child in Path(f"/proc/{number}/task/{number}/children").read_text(encoding="utf-8").split():
            bound_memory(int(child), most)


@contextmanager
def guarded(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """In the block, a process of OWN_GROUP ends with this one, however this one ends; on POSIX systems with a shell.

    Another process waits for the end of a pipe that this one alone holds open, and then ends the group.
    """
    try:
        guard = subprocess.Popen(
            ["/bin/sh", "-c", 'read -r _; kill -s KILL -- "-$1"', "sh", str(process.pid)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            **OWN_GROUP,
        )
    except OSError:
        yield
        return
    try:
        yield
    finally:  # before the number of the process may become another's
        guard.kill()
        guard.communicate()


@contextmanager
def terminable() -> Iterator[None]:
    """In the block, SIGTERM ends what runs as Ctrl-C does, by SystemExit: what was begun is ended and taken away."""

    def end(number: int, _: FrameType | None) -> NoReturn:
        sys.exit(128 + number)

    try:
        before = signal.signal(signal.SIGTERM, end)
    except ValueError:  # this is not the main thread, which alone gets signals
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def lock(file: IO[bytes], shared: bool) -> None:
    """Locks the open file until it is closed. Raises OSError where another has it, or there are no locks."""
    if sys.platform == "win32":  # it knows no shared locks
        import msvcrt

        os.lseek(file.fileno(), 2**30, os.SEEK_SET)  # a byte far behind the end: what is locked cannot be read there
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    else:
        try:
            import fcntl
        except ImportError:
            raise OSError(errno.ENOLCK, "no locks available") from None
        fcntl.flock(file.fileno(), (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
