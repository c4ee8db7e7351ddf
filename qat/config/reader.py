"""Reads a network file into its structs: every field checked, none ignored, every problem named with its place."""

from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import NODEFAULT

from quantal.export.base.errors import listed, shown
from quantal.export.base.typed import Path, default, expected, fault, nearest
from quantal.qat.config.moved import MOVED
from quantal.qat.config.parts.fields import Part, kinds, known, listed_kinds, tag, tag_field, words
from quantal.qat.config.parts.network import MOST_LAYERS, Config, Task
from quantal.qat.config.problems import Problems

BAD = object()
"""What stands for a value that was refused."""


def read_config(document: Mapping[str, Any], problems: Problems) -> Config | None:
    """The configuration in a document of plain values; None with at least one problem."""
    found = _table((Config,), document, (), problems)
    return found if isinstance(found, Config) else None


def part(annotation: Any, value: Any, path: Path, problems: Problems) -> Any:
    """The struct that a value of a part is: a table, or a number or a word that stands for one."""
    possible = kinds(annotation)
    first = possible[0]
    if isinstance(value, str) and value in first.words:
        value = first.words[value]
    elif isinstance(value, str) and tag_field(first):
        return _table(possible, {tag_field(first): value}, path, problems, short=True)
    elif first.number and isinstance(value, int | float) and not isinstance(value, bool):
        value = {first.number: value}
        return _table(possible, value, path, problems, short=True)
    return _table(possible, value, path, problems)


def _table(possible: tuple[type[Part], ...], value: Any, path: Path, problems: Problems, short: bool = False) -> Any:
    """The struct of the kind that the table says it is. short: the table stands for a word or a number."""
    if not isinstance(value, Mapping):
        named = ", ".join(words(possible))
        problems.add(path, f"expected a table{named and f' or one of {named}'}, got {shown(value)}")
        return BAD
    field, tags = tag_field(possible[0]), {tag(kind): kind for kind in possible}
    chosen = value.get(field, tag(possible[0])) if field else ""
    if not isinstance(chosen, str) or chosen not in tags:
        hint = nearest(chosen, tuple(tags)) if isinstance(chosen, str) else ""
        problems.add(path if short else (*path, field), f"{hint}expected one of {', '.join(tags)}, got {shown(chosen)}")
        return BAD
    kind = tags[chosen]
    rest = {name: entry for name, entry in value.items() if name != field or not field}
    if kind is Task:
        rest = _with_options(rest, path, problems)
    fields, values = known(kind), {}
    for name, entry in rest.items():
        if name not in fields:
            problems.add((*path, name), _unknown(name, entry, kind, possible))
        else:
            at = path if short and path else (*path, name)
            values[fields[name].name] = _value(fields[name].type, entry, at, problems)
    for name, one in fields.items():
        if name not in rest and default(one) is NODEFAULT:
            problems.add((*path, name), f"missing, expected {_wanted(one.type)}")
            values[one.name] = BAD
    return BAD if any(entry is BAD for entry in values.values()) or len(rest) > len(values) else kind(**values)


def _value(annotation: Any, value: Any, path: Path, problems: Problems) -> Any:
    if kinds(annotation):
        return part(annotation, value, path, problems)
    if several := listed_kinds(annotation):
        return _tables(several, value, path, problems)
    try:
        return msgspec.convert(value, annotation)
    except msgspec.ValidationError:
        inner, words = fault(annotation, value)
        problems.add((*path, *inner), words)
        return BAD


def _tables(possible: tuple[type[Part], ...], value: Any, path: Path, problems: Problems) -> Any:
    if not isinstance(value, list) or not value:
        problems.add(path, f"expected at least one [[{path[-1]}]] table, got {shown(value)}")
        return BAD
    if len(value) > MOST_LAYERS:
        problems.add(path, f"expected at most {MOST_LAYERS}, got {len(value)}")
        return BAD
    found = tuple(_table(possible, row, (*path, i), problems) for i, row in enumerate(value))
    return BAD if any(row is BAD for row in found) else found


def _wanted(annotation: Any) -> str:
    """What a field takes, in words."""
    if listed_kinds(annotation):
        return "a list of tables"
    return "a table" if kinds(annotation) else expected(annotation)


def _with_options(rest: Mapping[str, Any], path: Path, problems: Problems) -> dict[str, Any]:
    """[task] with what its loader takes as a table of its own."""
    options = {name: value for name, value in rest.items() if name != "name"}
    for name, value in tuple(options.items()):
        if not isinstance(value, int | float | str):
            problems.add((*path, name), f"expected a number or a string, got {shown(options.pop(name))}")
    return {name: value for name, value in rest.items() if name == "name"} | {"options": options}


def _unknown(name: str, value: Any, kind: type[Part], possible: tuple[type[Part], ...]) -> str:
    """What to say of a field that the kind has not: where it stands now, who has it, what is like it."""
    if tag_field(kind) == "connection" and name in MOVED:
        words = str(value).lower() if isinstance(value, bool) else shown(value).replace("'", '"')
        return "stands elsewhere now: " + MOVED[name].format(key=name, value=words)
    fields = tuple(known(kind)) + ((tag_field(kind),) if tag_field(kind) else ())
    what = f"not a field of {tag(kind)}" if tag(kind) else "not a field"
    others = [tag(one) for one in possible if name in known(one)]
    if others:
        return f"{what}, only of {listed(others)}"
    return f"{what}, {nearest(name, fields)}expected one of {listed(fields)}"
