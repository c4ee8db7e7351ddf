"""In which line of a TOML text each key stands. tomllib, which has read the text before, does not say."""

import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field

from quantal.export.base.typed import Path

_TOKEN = re.compile(
    r"""\#[^\n]*|(?P<token>\n"""
    r'''|"""(?:[^\\]|\\.)*?"{3,5}|"(?:[^"\\\n]|\\.)*"'''
    r"""|'''.*?'{3,5}|'[^'\n]*'"""
    r"""|[\[\]{}=,.]|[^\s\[\]{}=,.\#"']+)""",
    re.DOTALL,
)


def key_lines(text: str) -> dict[Path, int]:
    """The line, from 1, of every table and key of a valid TOML text, by its path."""
    scan = _Scan()
    for line, token in _tokens(text):
        scan.take(line, token)
    return scan.found


def line_of(path: Path, lines: dict[Path, int]) -> int | None:
    """The line of the nearest of what stands at the path and around it that the text has."""
    return next((lines[path[:n]] for n in range(len(path), 0, -1) if path[:n] in lines), None)


def _tokens(text: str) -> Iterator[tuple[int, str]]:
    line = 1
    for match in _TOKEN.finditer(text):
        if (token := match["token"]) is not None:
            yield line, token
            line += token.count("\n")
    yield line, "\n"


@dataclass
class _Scan:
    """Keys and values in turn: a key ends with "=", a value with its line unless a bracket is open."""

    found: dict[Path, int] = field(default_factory=dict)
    counts: dict[Path, int] = field(default_factory=dict)  # the last of each array of tables
    table: Path = ()
    key: tuple[str, ...] = ()
    header: int = 0  # brackets before the key
    path: Path = ()  # of the value that is read
    value: bool = False
    opened: list[tuple[str, Path]] = field(default_factory=list)  # arrays and inline tables around it

    def take(self, line: int, token: str) -> None:
        """Goes on by a token."""
        if self.value:
            self._in_value(token)
        elif token == "[":
            self.header += 1
        elif token == "=":
            base = self.opened[-1][1] if self.opened else self.table
            self.path, self.key, self.value = self._noted(base, line), (), True
        elif token == "}":
            self.opened.pop()
            self.key, self.value = (), True
        elif token == "\n":
            if self.header:
                self.table = self._entered(line)
            self.key, self.header = (), 0
        elif token not in ("]", ".", ","):
            self.key += (tomllib.loads(f"key = {token}")["key"] if token[0] in "\"'" else token,)

    def _in_value(self, token: str) -> None:
        if token == "[":
            self.opened.append((token, self.path))
            self.path = (*self.path, 0)
        elif token == "{":
            self.opened.append((token, self.path))
            self.value = False
        elif token in ("]", "}") and self.opened:
            self.path = self.opened.pop()[1]
        elif token == "," and self.opened:
            if self.opened[-1][0] == "{":
                self.value = False
            else:
                *start, index = self.path
                self.path = (*start, int(index) + 1)
        elif token == "\n" and not self.opened:
            self.value = False

    def _noted(self, path: Path, line: int) -> Path:
        for part in self.key:
            path = (*path, part)
            self.found.setdefault(path, line)
        return path

    def _entered(self, line: int) -> Path:
        """The path of the table whose header was read."""
        path: Path = ()
        for left, part in zip(range(len(self.key) - 1, -1, -1), self.key, strict=True):
            path = (*path, part)
            if self.header == 2 and not left:
                self.counts[path] = self.counts.get(path, -1) + 1
            self.found.setdefault(path, line)
            if path in self.counts:
                path = (*path, self.counts[path])
                self.found.setdefault(path, line)
        return path
