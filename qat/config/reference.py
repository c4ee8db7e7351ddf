"""The reference page of network files, made from the structs: each table, its fields, what they take and what for."""

from collections.abc import Iterator
from itertools import groupby

from msgspec import NODEFAULT
from msgspec.structs import FieldInfo

from quantal.export.base.typed import default, expected
from quantal.qat.config.parts.fields import Part, help_of, kinds, known, listed_kinds, tag, tag_field, words
from quantal.qat.config.parts.network import Config


def reference() -> str:
    """Each table, its kinds and their fields, as Markdown."""
    return "\n".join(_sections()).rstrip()


def _sections() -> Iterator[str]:
    pending: list[tuple[str, tuple[type[Part], ...]]] = []
    for name, field in known(Config).items():
        several = listed_kinds(field.type)
        pending.append((f"[[{name}]]" if several else f"[{name}]", several or kinds(field.type)))
    seen: set[type[Part]] = set()
    while pending:
        table, members = pending.pop(0)
        new = [kind for kind in members if kind not in seen]
        seen |= set(new)
        if not new:
            continue
        yield f"## `{table}`\n"
        if short := _short_forms(members):
            yield short
        inner: dict[str, tuple[type[Part], ...]] = {}
        for alike in _alike(new):
            yield from _section(alike, members)
            for name, field in known(alike[0]).items():
                if found := kinds(field.type):
                    inner[name] = tuple(dict.fromkeys((*inner.get(name, ()), *found)))
        pending[:0] = [(f"[{table.strip('[]')}.{name}]", found) for name, found in inner.items()]


def _short_forms(members: tuple[type[Part], ...]) -> str:
    forms = [f"`{word}`" for word in words(members)] if tag_field(members[0]) != "connection" else []
    number = [f"a number: `{members[0].number}`"] if members[0].number else []
    return f"In short: {', '.join(forms + number)}.\n" if forms + number else ""


def _alike(members: list[type[Part]]) -> Iterator[list[type[Part]]]:
    """Kinds that follow each other and have the same fields."""
    for _, kinds_of_one in groupby(members, lambda kind: [_row(*field) for field in known(kind).items()]):
        yield list(kinds_of_one)


def _section(alike: list[type[Part]], members: tuple[type[Part], ...]) -> Iterator[str]:
    for kind in alike:
        text = " ".join(line.strip() for line in (kind.__doc__ or "").strip().splitlines())
        if tag(kind):
            unless = ", unless another is named" if kind is members[0] and len(members) > 1 else ""
            yield f'### `{tag_field(kind)} = "{tag(kind)}"`{unless}\n'
        yield f"{text}\n"
    rows = [_row(name, field) for name, field in known(alike[0]).items() if name != "options"]
    if rows:
        yield "\n".join(["| field | takes | default | |", "|---|---|---|---|", *rows]) + "\n"


def _row(name: str, field: FieldInfo) -> str:
    value = default(field)
    takes = "a part" if kinds(field.type) or listed_kinds(field.type) else expected(field.type)
    if isinstance(value, Part):
        first = f"`{tag(type(value))}`"
    else:
        first = "" if value is NODEFAULT or value is None else f"`{_toml(value)}`"
    return f"| `{name}` | {takes} | {first} | {help_of(field.type)} |"


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return str(list(value))
    return f'"{value}"' if isinstance(value, str) else str(value)
