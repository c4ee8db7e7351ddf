"""What it takes to read, and how reading is refused."""

import tracemalloc
from collections.abc import Callable

import pytest

from quantal.export.base.errors import BadInput
from support.messages import one_line

MiB = 1 << 20


def peak(act: Callable[[], object]) -> int:
    """The bytes of memory that it took at most, numpy's included; what it refuses is fine."""
    tracemalloc.start()
    try:
        act()
    except BadInput:
        pass
    finally:
        taken = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    return taken


def refused(act: Callable[[], object], *words: str) -> str:
    """The short line with which it is refused."""
    with pytest.raises(BadInput) as error:
        act()
    line = one_line(error, *words)
    assert len(line) < 500
    return line
