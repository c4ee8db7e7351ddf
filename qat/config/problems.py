"""What is wrong with a network file: where in it, in which line, and what was expected."""

from collections.abc import Callable
from dataclasses import dataclass, field

from quantal.export.base.errors import BadInput
from quantal.export.base.typed import Path, place

MOST = 20
"""Problems that are looked for in one file: what reads a hostile one has an end."""


@dataclass(frozen=True)
class Problem:
    """Something wrong at a place of the document."""

    path: Path
    message: str

    def line(self, where: str, line_of: Callable[[Path], int | None]) -> str:
        """It in one line: the file, the line in it, the place and what is wrong."""
        number = line_of(self.path)
        file = where if number is None else f"{where}:{number}"
        return ": ".join(filter(None, (file, place(self.path), self.message)))


class Enough(Exception):
    """There are as many problems as are looked for."""


@dataclass
class Problems:
    """The problems that were found so far, MOST at most."""

    found: list[Problem] = field(default_factory=list)

    def add(self, path: Path, message: str) -> None:
        """Takes one more. Raises Enough with the last that is taken."""
        self.found.append(Problem(path, message))
        if len(self.found) >= MOST:
            raise Enough

    def refuse(self, where: str, line_of: Callable[[Path], int | None] = lambda _: None) -> None:
        """Raises BadInput with the first of them, if there is one."""
        if self.found:
            raise BadInput(self.found[0].line(where, line_of))
