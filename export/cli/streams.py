"""Standard output and error: what cannot be written has an answer of our own, for click and rich exit with 1."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any

UNREAD = 141
"""What shells say of a program that ends because nobody reads its output: 128 + SIGPIPE."""


class Undelivered(Exception):
    """Standard output takes nothing more."""

    def __init__(self, error: OSError):
        super().__init__(f"standard output: {error.strerror}")
        self.code = UNREAD if isinstance(error, BrokenPipeError) else 2


class Stream:
    """A stream that tells `answer` what cannot be written."""

    def __init__(self, stream: Any, answer: Callable[[OSError], None]):
        self._stream, self._answer = stream, answer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    @property
    def buffer(self) -> "Stream":
        """The same in bytes."""
        return Stream(self._stream.buffer, self._answer)

    def write(self, content: Any) -> int:
        """Writes the content, if it can be."""
        try:
            self._stream.write(content)
        except OSError as error:
            self._answer(error)
        return len(content)

    def flush(self) -> None:
        """Flushes, if it can be."""
        try:
            self._stream.flush()
        except OSError as error:
            self._answer(error)


@contextmanager
def streams() -> Iterator[None]:
    """In the block, what cannot be written is Undelivered of standard output, and dropped of standard error."""

    def undelivered(error: OSError) -> None:
        raise Undelivered(error) from None

    out, err = sys.stdout, sys.stderr
    told_out: Any = out and Stream(out, undelivered)
    told_err: Any = err and Stream(err, lambda error: None)
    with redirect_stdout(told_out), redirect_stderr(told_err):
        try:
            yield
        finally:  # what the interpreter cannot flush when it ends would change the exit code
            for stream in filter(None, (out, err)):
                try:
                    stream.flush()
                except OSError:
                    nowhere = os.open(os.devnull, os.O_WRONLY)
                    os.dup2(nowhere, stream.fileno())
                    os.close(nowhere)


@contextmanager
def ending(code: int) -> Iterator[None]:
    """Ends the command with the code of what failed, if anything did, even where what the block shows is not read."""
    try:
        yield
    except Undelivered:
        if not code:
            raise
    if code:
        sys.exit(code)


def finish(measure: Callable[[], int], rows: list[Any], show: Callable[[], None]) -> None:
    """Ends the command: `measure` fills the rows and gives the exit code. Rows are shown whatever interrupts it."""
    try:
        code = measure()
    except BaseException:
        if rows:
            show()
        raise
    with ending(code):
        show()
