"""Reads NET.toml: every field checked, none ignored."""

import re
import tomllib
from collections.abc import Iterable
from dataclasses import MISSING, Field, fields
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any, get_args, get_origin

from quantal.export.base import reading
from quantal.export.base.errors import BadInput, listed, named, shown
from quantal.qat.config.graph import placed
from quantal.qat.config.rules import check
from quantal.qat.config.schema import Augmentation, Config, Encoder, Layer, Task, Training

MOST_LAYERS = 4096
_LONG_KEY = re.compile(r"""(?:\.[ \t]*+(?:"(?:[^"\\\n]|\\.)*+"|'[^'\n]*+'|[\w-]*+)[ \t]*+){32}""")
"""More parts than any key has; tomllib takes time that grows with the square of their number."""


def loads(text: str, where: str) -> Config:
    """The configuration in `text`. Raises BadInput with one line naming the table and the field."""
    if long := _LONG_KEY.search(text):
        raise BadInput(f"{where}: {shown(long[0])}: expected keys of a few parts")
    try:
        document = tomllib.loads(reading.plain(text))
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{where}: not TOML ({_first(error)})") from None
    for key in document:
        if key not in ("task", "encoder", "layer", "training", "augmentation"):
            expected = "[task] [encoder] [[layer]] [training] [augmentation]"
            raise BadInput(f"{where}: {named(key)}: not a table of the format, expected {expected}")
    if not isinstance(document.get("layer"), list) or not document["layer"]:
        raise BadInput(f"{where}: layer: expected at least one [[layer]] table")
    if len(document["layer"]) > MOST_LAYERS:
        raise BadInput(f"{where}: layer: expected at most {MOST_LAYERS}, got {len(document['layer'])}")
    task = _table(document, "task", where)
    if "name" not in task:
        raise BadInput(f"{where}: task: name: missing")
    options = {key: value for key, value in task.items() if key != "name"}
    for key, value in options.items():
        if not isinstance(value, int | float | str):
            raise BadInput(f"{where}: task: {named(key)}: expected a number or a string, got {shown(value)}")
    config = Config(
        task=_read(Task, {"name": task["name"]} | ({"options": options}), f"{where}: task"),
        encoder=_read(Encoder, _table(document, "encoder", where), f"{where}: encoder"),
        layers=placed([_read(Layer, row, f"{where}: layer[{i}]") for i, row in enumerate(document["layer"])], where),
        training=_read(Training, _table(document, "training", where), f"{where}: training"),
        augmentation=_read(Augmentation, _table(document, "augmentation", where), f"{where}: augmentation"),
    )
    check(config, where)
    return config


def load(path: Path) -> Config:
    """The configuration in the file `path`; see `loads`."""
    return loads(reading.text(path, reading.SMALL_TEXT), str(path))


def _first(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:120]


def _near(key: str, known: Iterable[str]) -> list[str]:
    """The known names, the most alike first."""
    return sorted(known, key=lambda name: -SequenceMatcher(None, key[:40], name).ratio())


def _table(document: dict[str, Any], key: str, where: str) -> dict[str, Any]:
    table = document.get(key, {})
    if not isinstance(table, dict):
        raise BadInput(f"{where}: {key}: expected a table")
    return table


def _read(kind: Any, row: Any, where: str) -> Any:
    if not isinstance(row, dict):
        raise BadInput(f"{where}: expected a table")
    known = {f.name: f for f in fields(kind)}
    for key in row:
        if key not in known:
            raise BadInput(f"{where}: {named(key)}: not a field, expected one of {listed(_near(key, known))}")
    for name, f in known.items():
        if name not in row and f.default is MISSING and f.default_factory is MISSING:
            raise BadInput(f"{where}: {name}: missing")
    return kind(**{name: _value(known[name], value, f"{where}: {name}") for name, value in row.items()})


def _value(f: Field[Any], value: Any, where: str) -> Any:
    if "choices" in f.metadata:
        choices = f.metadata["choices"]
        if isinstance(value, bool) or value not in choices or isinstance(value, float):
            raise BadInput(f"{where}: expected one of {listed(choices)}, got {shown(value)}")
        return value
    if get_origin(f.type) is tuple:
        items = get_args(f.type)[0]
        if not isinstance(value, list) or any(type(item) is not items for item in value):
            raise BadInput(f"{where}: expected a list of {'names' if items is str else 'integers'}, got {shown(value)}")
        return tuple(value)
    expected = {int: "an integer", float: "a number", bool: "true or false", str: "a string", dict: "a table"}
    kind: Any = dict if f.name == "options" else f.type
    accepted = (int, float) if kind is float else kind
    if not isinstance(value, accepted) or (isinstance(value, bool) and kind is not bool):
        raise BadInput(f"{where}: expected {expected[kind]}, got {shown(value)}")
    if "range" in f.metadata:
        lo, hi = f.metadata["range"]
        if not lo <= value <= hi:
            raise BadInput(f"{where}: expected {expected[kind]} in [{lo}, {hi}], got {shown(value)}")
    return kind(value)
