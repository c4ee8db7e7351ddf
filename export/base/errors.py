"""What can go wrong, as the user sees it: one line, and the exit code of its kind (2 and 1)."""

import reprlib
from typing import Any

_MOST_SHOWN = 60  # letters of a value in a message
_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxstring, _SHORT.maxother, _SHORT.maxlong = 3, 2 * _MOST_SHOWN, _MOST_SHOWN, _MOST_SHOWN


class BadInput(Exception):
    """Input is malformed. The message is one line: the file, the field, what was expected."""


class ExecutorError(Exception):
    """What was built does not run: a failed check, not bad input. The message is one line."""


def shown(value: Any, most: int = _MOST_SHOWN) -> str:
    """The value for a message: in one line and short, however long or deep it is."""
    try:
        text = repr(value) if isinstance(value, str | bytes) and len(value) <= most else _SHORT.repr(value)
    except ValueError:  # Python writes no number of more than 4300 digits
        text = "a number of thousands of digits"
    return text if len(text) <= most else text[: most - 3] + "..."


def named(name: str) -> str:
    """A name from a file, as it is, unless it is empty, long or odd."""
    return name if name and name.isprintable() and len(name) <= _MOST_SHOWN else shown(name)


def listed(names: Any, most: int = 240) -> str:
    """Names for a message, with commas between them: as many as fit."""
    text = ", ".join(map(str, names))
    return text if len(text) <= most else text[: text.rindex(", ", 0, most)] + ", ..."
