"""Reads and writes network files: text to structs and back."""

import re
import tomllib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import tomli_w

from quantal.export.base import reading
from quantal.export.base.errors import BadInput, shown
from quantal.qat.config.graph import placed
from quantal.qat.config.lines import key_lines, line_of
from quantal.qat.config.parts.network import Config
from quantal.qat.config.problems import Enough, Problems
from quantal.qat.config.reader import read_config
from quantal.qat.config.rules import check

_LONG_KEY = re.compile(r"""(?:\.[ \t]*+(?:"(?:[^"\\\n]|\\.)*+"|'[^'\n]*+'|[\w-]*+)[ \t]*+){32}""")
"""More parts than any key has; tomllib takes time that grows with the square of their number."""


def loads(text: str, where: str) -> Config:
    """The configuration in `text`. Raises BadInput with one line: the line of the text, the table, the field."""
    config, problems = _read(text, where)
    if config is None or problems.found:
        lines = key_lines(reading.plain(text))
        problems.refuse(where, lambda path: line_of(path, lines))
    assert config is not None
    return config


def load(path: Path) -> Config:
    """The configuration in the file `path`; see `loads`."""
    return loads(reading.text(path, reading.SMALL_TEXT), str(path))


def made(document: Mapping[str, Any], where: str) -> Config:
    """The configuration of a document of plain values, each as in a network file. Raises BadInput as `loads` does."""
    config, problems = _checked(document)
    problems.refuse(where)
    assert config is not None
    return config


def complaints(text: str, where: str) -> list[str]:
    """All that is wrong with the text, a line each, as far as it is looked for."""
    problems = _read(text, where)[1]
    lines = key_lines(reading.plain(text)) if problems.found else {}
    return [problem.line(where, lambda path: line_of(path, lines)) for problem in problems.found]


def _read(text: str, where: str) -> tuple[Config | None, Problems]:
    """The configuration, unless there are problems. Raises BadInput where the text is not TOML."""
    return _checked(_document(text, where))


def _checked(document: Mapping[str, Any]) -> tuple[Config | None, Problems]:
    problems, config = Problems(), None
    with suppress(Enough):
        config = read_config(document, problems)
        config = None if config is None else placed(config, problems)
        if config is not None:
            check(config, problems)
    return config, problems


def _document(text: str, where: str) -> dict[str, Any]:
    if long := _LONG_KEY.search(text):
        raise BadInput(f"{where}: {shown(long[0])}: expected keys of a few parts")
    try:
        return tomllib.loads(reading.plain(text))
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{where}: not TOML ({_first(error)})") from None


def _first(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:120]


def dumps(config: Config) -> str:
    """The TOML text that `loads` reads back to the same configuration: every field of it, in a fixed order."""
    document = _without_none(msgspec.to_builtins(config))
    options = document["task"].pop("options", {})
    document["task"] |= options
    return tomli_w.dumps(document)


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_none(entry) for key, entry in value.items() if entry is not None}
    return [_without_none(entry) for entry in value] if isinstance(value, list | tuple) else value
