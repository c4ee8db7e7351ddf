"""What the structs of a network file share: ranges and help stand beside each field, and can be put in words.

A struct is one table. Where a part comes in several kinds, each has only its own fields, and `tag_field` names the one
that says which kind it is; the first of a union is meant where a file does not say.
"""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, cast, dataclass_transform, get_args, get_origin

import msgspec
from msgspec import NODEFAULT, Meta, Struct, StructMeta
from msgspec.structs import FieldInfo
from msgspec.structs import fields as fields_of
from msgspec.structs import replace as replace

from quantal.export.base.typed import default, members


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(msgspec.field,))
class _Parts(StructMeta):
    """What all parts are: frozen, made by the names of their fields, refusing others."""

    def __new__(mcls, name: str, bases: tuple[type, ...], namespace: dict[str, Any], **options: Any) -> type:
        fixed: dict[str, Any] = {"frozen": True, "kw_only": True, "forbid_unknown_fields": True}
        return super().__new__(mcls, name, bases, namespace, **(fixed | options))


class Part(Struct, metaclass=_Parts):
    """A table of a network file.

    number: the field that a number in place of the table gives. words: the tables that words in its place stand for,
    beside the names of its kinds.
    """

    number: ClassVar[str] = ""
    words: ClassVar[Mapping[str, Mapping[str, Any]]] = {}


def within(lo: float, hi: float, text: str) -> Meta:
    """A number in [lo, hi], and its help."""
    return Meta(ge=lo, le=hi, description=text)


def above(lo: float, hi: float, text: str) -> Meta:
    """A number in (lo, hi], and its help."""
    return Meta(gt=lo, le=hi, description=text)


def about(text: str) -> Meta:
    """A field's help."""
    return Meta(description=text)


# ---- what is known of them


def tag_field(kind: type[Part]) -> str:
    """The field that says which kind of the part a table is; "" where there is one kind."""
    return kind.__struct_config__.tag_field or ""


def tag(kind: type[Part]) -> str:
    """What stands in that field for this kind."""
    return str(kind.__struct_config__.tag or "")


def known(kind: type[Part]) -> dict[str, FieldInfo]:
    """The fields of a table by their names in the file, parts last."""
    fields = sorted(
        fields_of(kind), key=lambda field: bool(kinds(field.type) or listed_kinds(field.type))
    )  # parts last, as in a file
    return {field.encode_name: field for field in fields}


def kinds(annotation: Any) -> tuple[type[Part], ...]:
    """The structs that a field of this type holds; none where it holds a value."""
    return cast(tuple[type[Part], ...], members(annotation))


def listed_kinds(annotation: Any) -> tuple[type[Part], ...]:
    """The structs of which a field of this type holds a list."""
    inner = get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation
    return kinds(get_args(inner)[0]) if get_origin(inner) is tuple else ()


def help_of(annotation: Any) -> str:
    """The help that stands beside a field of this type."""
    own = [meta.description for meta in getattr(annotation, "__metadata__", ()) if isinstance(meta, Meta)]
    inner = (help_of(one) for one in get_args(annotation) if not isinstance(one, str))
    return "".join(filter(None, own)) or next(filter(None, inner), "")


def words(members: tuple[type[Part], ...]) -> tuple[str, ...]:
    """The words that may stand in place of a table of these kinds."""
    complete = [kind for kind in members if all(default(field) is not NODEFAULT for field in known(kind).values())]
    return (*(tag(kind) for kind in complete if tag(kind)), *members[0].words)
