"""The JSON Schema of network files, for editors: made from the structs, with the short forms that the reader takes.

python -m quantal.qat.config.json_schema > docs/reference/network.schema.json
"""

import json
import sys
from collections.abc import Iterator
from typing import Any

import msgspec

from quantal.export.base.typed import default
from quantal.qat.config.parts.fields import Part, kinds, known, listed_kinds, tag_field, words
from quantal.qat.config.parts.network import Config, Task


def json_schema() -> str:
    """The text of network.schema.json (draft 2020-12)."""
    document = msgspec.json.schema(Config)
    structs = document["$defs"]
    for kind, first in all_kinds():
        schema = structs[kind.__name__]
        schema["description"] = (kind.__doc__ or "").partition("\n")[0]
        if first:  # which is meant where a file does not say
            schema["required"] = [name for name in schema.get("required", ()) if name != tag_field(kind)]
        for name, field in known(kind).items():
            if members := kinds(field.type):
                schema["properties"][name] = _short(members, schema["properties"][name], structs)
            elif default(field) is None:
                schema["properties"][name] = _given(schema["properties"][name])
    task = structs[Task.__name__]
    task["additionalProperties"] = task["properties"].pop("options")["additionalProperties"]
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "A network file of quantal"}
    return json.dumps(head | document, indent=1) + "\n"


def all_kinds() -> Iterator[tuple[type[Part], bool]]:
    """Every struct of a network file, once, and whether it is the first of its kinds."""
    pending: list[tuple[type[Part], bool]] = [(Config, True)]
    seen: set[type[Part]] = set()
    while pending:
        kind, first = pending.pop(0)
        if kind not in seen:
            seen.add(kind)
            yield kind, first
            for field in known(kind).values():
                members = kinds(field.type) or listed_kinds(field.type)
                pending += [(member, member is members[0]) for member in members]


def _short(members: tuple[type[Part], ...], schema: dict[str, Any], structs: dict[str, Any]) -> dict[str, Any]:
    """A part as a table, as a word or as a number."""
    forms: list[dict[str, Any]] = [{"$ref": f"#/$defs/{kind.__name__}"} for kind in members]
    if tag_field(members[0]) and words(members):
        forms.append({"enum": list(words(members))})
    if number := members[0].number:
        forms.append({"$ref": f"#/$defs/{members[0].__name__}/properties/{number}"})
    return {"description": schema.get("description", ""), "anyOf": forms}


def _given(schema: dict[str, Any]) -> dict[str, Any]:
    """A value that may be left out, as it is where it is given: TOML has no null."""
    forms = [form for form in schema["anyOf"] if form != {"type": "null"}]
    return {"description": schema.get("description", "")} | forms[0] if len(forms) == 1 else {"anyOf": forms}


if __name__ == "__main__":
    sys.stdout.write(json_schema())
