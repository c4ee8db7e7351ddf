"""Who writes a run holds its lock: a lock of the system on a file of the run, which ends with the process, however.

A run is read in a moment, and its checkpoint is replaced in one step: who reads holds nothing, but refuses a run that
is being written, for it would get the network of an epoch that nobody chose. Where the file system has no locks, there
are none.
"""

import errno
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from quantal.export.base import portable
from quantal.export.base.errors import BadInput

PATIENCE = 20
"""How often a lock is asked for, 50 ms apart: another process may hold it for the moment in which it reads."""

_BUSY = {errno.EACCES, errno.EAGAIN, errno.EDEADLK}
_own: set[tuple[int, int]] = set()  # the files that this process has locked


@contextmanager
def writing(file: Path) -> Iterator[None]:
    """Holds the lock on `file` while the block lasts; again and again in one process.

    Raises BadInput where another process has it.
    """
    with _opened(file, (True, False)) as held:  # on NFS a file must be open for writing to be locked
        if held is None or _key(held) in _own:
            yield
            return
        _take(held, file, shared=False)
        _own.add(_key(held))
        try:
            yield
        finally:
            _own.discard(_key(held))


def reading(file: Path) -> None:
    """Raises BadInput where another process holds the lock on `file`."""
    with _opened(file, (False,)) as held:
        if held is not None and _key(held) not in _own:
            _take(held, file, shared=True)


@contextmanager
def _opened(file: Path, writable: tuple[bool, ...]) -> Iterator[IO[bytes] | None]:
    """The file, open in the first way that can be; None where it cannot be opened, which whoever reads it says."""
    for writing_too in writable:
        try:
            if not file.is_file():  # a named pipe would wait for its other end
                break
            opened = file.open("r+b" if writing_too else "rb")
        except OSError:
            continue
        with opened:
            yield opened
        return
    yield None


def _key(file: IO[bytes]) -> tuple[int, int]:
    status = os.fstat(file.fileno())
    return status.st_dev, status.st_ino


def _take(opened: IO[bytes], file: Path, shared: bool) -> None:
    for attempt in range(PATIENCE):
        if attempt:
            time.sleep(0.05)
        try:
            portable.lock(opened, shared)
            return
        except OSError as error:
            if error.errno not in _BUSY:  # there are no locks here
                return
    raise BadInput(f"{file.parent}: another process is training this run; wait until it is done, or end it")
