"""What a refusal says."""

import pytest

from quantal.export.base.errors import BadInput


def one_line(error: pytest.ExceptionInfo[BadInput], *words: str) -> str:
    """The message of a refusal: one line that holds all the words."""
    line = str(error.value)
    assert len(line.splitlines()) == 1, ascii(line)
    for word in words:
        assert word in line, ascii(line)
    return line
