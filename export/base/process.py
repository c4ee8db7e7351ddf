"""Runs a program within bounds of time, of memory and of what it writes. Where it leaves them it is ended, with all
that it started.

It ends with this process, too, whatever ends that.
"""

import os
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from quantal.export.base import portable, reading
from quantal.export.base.errors import ExecutorError

_MOST_SAID = 1 << 20  # bytes of standard error that are kept


class Stopped(ExecutorError):
    """A program left its bounds and was ended. The message is one line."""


@dataclass(frozen=True)
class Done:
    """What a program left: its exit code, what it wrote, and what it said on standard error."""

    code: int
    out: bytes
    err: bytes


class _Reader(threading.Thread):
    """Reads up to `most` + 1 bytes of a stream; of one that is `drained` the rest too, to throw it away."""

    def __init__(self, stream: IO[bytes], most: int, *, drained: bool) -> None:
        super().__init__(daemon=True)
        self.stream, self.most, self.drained, self.content = stream, most, drained, b""
        self.start()

    def run(self) -> None:
        self.content = self.stream.read(self.most + 1)
        while self.drained and self.stream.read(1 << 16):
            pass


def run(
    command: Sequence[str | Path],
    *,
    seconds: int,
    most: int | None = None,
    stdin: Path | None = None,
    environment: Mapping[str, str] | None = None,
    folder: Path | None = None,
) -> Done:
    """Runs `command` to its end, in `folder` or where this process is, with the file `stdin` as its input.

    Where the system bounds the memory of others, as Linux, each process gets what QUANTAL_MEMORY says at most.
    Raises Stopped where that takes more than `seconds`, or where it writes more than `most` bytes; without `most` what
    it writes beyond a MiB is thrown away. Raises OSError where it cannot be started.
    """
    memory, deadline = reading.memory_limit(), time.monotonic() + seconds
    with open(stdin or os.devnull, "rb") as source:
        process = subprocess.Popen(
            list(map(str, command)),
            stdin=source,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            cwd=folder,
            **portable.OWN_GROUP,
        )
    portable.bound_memory(process.pid, memory)
    with portable.guarded(process):
        return _finished(process, deadline, seconds, most)


def _finished(process: subprocess.Popen[bytes], deadline: float, seconds: int, most: int | None) -> Done:
    """What the process leaves when it has ended. Raises Stopped where it leaves its bounds first, and still runs."""
    assert process.stdout is not None
    assert process.stderr is not None
    err = _Reader(process.stderr, _MOST_SAID, drained=True)
    out = _Reader(process.stdout, _MOST_SAID if most is None else most, drained=most is None)
    try:
        for reader in (out, err):
            reader.join(max(0.0, deadline - time.monotonic()))
            if reader.is_alive():
                raise Stopped(f"stopped after {seconds:,} s without an answer")
            if most is not None and len(out.content) > most:
                raise Stopped(f"stopped when it wrote more than the {most:,} bytes of its answer")
        try:
            code = process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            raise Stopped(f"stopped after {seconds:,} s without an answer") from None
        return Done(code, out.content, err.content)
    except BaseException:
        portable.end(process)  # before its pipes are closed
        raise
    finally:
        for reader in (out, err):
            reader.join(1.0)
            if not reader.is_alive():  # what it started may have left the group, and have the pipe still
                reader.stream.close()
