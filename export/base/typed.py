"""Plain values from a file, read as typed structs: msgspec checks them, and what is wrong is said in words.

A message names the place, what is expected there and what stands there instead; of a name that is not known, the
nearest that is.
"""

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from types import UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import msgspec
from msgspec import NODEFAULT, Struct, inspect
from msgspec.structs import FieldInfo
from msgspec.structs import fields as fields_of

from quantal.export.base.errors import BadInput, listed, named, shown

Path = tuple[str | int, ...]
"""Where a value stands in a document: ("layer", 0, "neuron", "decay")."""
Kind = TypeVar("Kind")


def converted(kind: type[Kind], value: Any, where: str) -> Kind:
    """The value as that type. Raises BadInput with the first place at which it is not."""
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError:
        path, words = fault(kind, value)
        raise BadInput(": ".join(filter(None, (where, place(path), words)))) from None


def fault(kind: Any, value: Any) -> tuple[Path, str]:
    """The first place in the value that is not of that type, and what is wrong there.

    It goes down to the first part that does not convert, so a value is looked at once for each level that it has.
    """
    if structs := members(kind):
        return _fault_of_table(structs, value)
    bare = get_args(kind)[0] if get_origin(kind) is Annotated else kind
    parts: Iterable[tuple[str | int, Any]] = ()
    if get_origin(bare) in (tuple, list) and isinstance(value, list):
        parts = enumerate(value)
    elif get_origin(bare) is dict and isinstance(value, dict):
        parts = value.items()
    for key, part in parts:
        inner = get_args(bare)[-1 if isinstance(value, dict) else 0]
        if not fits(inner, part):
            return _under(key, fault(inner, part))
    takes = expected(kind)
    return (), f"{nearest(value, choices(kind))}expected {takes}, got {shown(value)}"


def _fault_of_table(structs: tuple[type[Struct], ...], value: Any) -> tuple[Path, str]:
    if not isinstance(value, Mapping):
        return (), f"expected an object, got {shown(value)}"
    kind, tag_field = structs[0], structs[0].__struct_config__.tag_field
    if tag_field:
        if tag_field not in value:
            return (tag_field,), "missing"
        tags = {str(one.__struct_config__.tag): one for one in structs}
        tag = value[tag_field]
        if not isinstance(tag, str) or tag not in tags:
            return (tag_field,), f"{nearest(tag, tuple(tags))}expected one of {listed(tags)}, got {shown(tag)}"
        kind = tags[tag]
    known = {field.encode_name: field for field in fields_of(kind)}
    for name in value:
        if name not in known and name != tag_field:
            return (name,), f"not a field of the format, {nearest(name, tuple(known))}expected {listed(known)}"
    for name, field in known.items():
        if name not in value and default(field) is NODEFAULT:
            return (name,), "missing"
        if name in value and not fits(field.type, value[name]):
            return _under(name, fault(field.type, value[name]))
    return (), f"expected an object, got {shown(value)}"


def _under(key: str | int, found: tuple[Path, str]) -> tuple[Path, str]:
    return (key, *found[0]), found[1]


def fits(kind: Any, value: Any) -> bool:
    """Whether the value is of that type."""
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError:
        return False
    return True


# ---- what is known of a type


def members(kind: Any) -> tuple[type[Struct], ...]:
    """The structs that a field of this type holds; none where it holds a value."""
    if get_origin(kind) is Annotated:
        return members(get_args(kind)[0])
    if get_origin(kind) in (UnionType, Union):
        return tuple(struct for one in get_args(kind) for struct in members(one))
    return (kind,) if isinstance(kind, type) and issubclass(kind, Struct) else ()


def default(field: FieldInfo) -> Any:
    """What a field is where a file says nothing; NODEFAULT where it must."""
    return field.default if field.default_factory is NODEFAULT else field.default_factory()


def choices(kind: Any) -> tuple[str, ...]:
    """The words that a field of this type takes."""
    if get_origin(kind) in (Annotated, UnionType, Union):
        return tuple(word for one in get_args(kind) for word in choices(one))
    return tuple(one for one in get_args(kind) if isinstance(one, str)) if get_origin(kind) is Literal else ()


# ---- in words


def expected(kind: Any) -> str:
    """What a field of that type takes: "an integer in [1, 12]"."""
    return _words(inspect.type_info(kind))


def _words(kind: inspect.Type, many: bool = False) -> str:
    match kind:
        case inspect.Metadata():
            return _words(kind.type, many)
        case inspect.UnionType():
            return " or ".join(_words(one, many) for one in kind.types if not isinstance(one, inspect.NoneType))
        case inspect.LiteralType():
            return ("" if len(kind.values) == 1 else "one of ") + ", ".join(map(str, kind.values))
        case inspect.VarTupleType():
            count = "" if kind.max_length is None else f"{kind.min_length or 0} to {kind.max_length} "
            return f"a list of {count}{_words(kind.item_type, many=True)}"
        case inspect.IntType() | inspect.FloatType():
            one, several = ("an integer", "integers") if isinstance(kind, inspect.IntType) else ("a number", "numbers")
            return (several if many else one) + _range(kind)
        case inspect.BoolType():
            return "true or false"
        case inspect.StrType():
            return "strings" if many else "a string"
        case inspect.ListType():
            return "lists" if many else "a list"
        case _:
            return "objects" if many else "an object"


def _range(kind: inspect.IntType | inspect.FloatType) -> str:
    lo, hi = (kind.ge if kind.gt is None else kind.gt), kind.le
    if lo is None or hi is None:
        return "" if lo is None else f" from {_plain(lo)} up"
    return f" in {'[' if kind.gt is None else '('}{_plain(lo)}, {_plain(hi)}]"


def _plain(number: float) -> str:
    return str(int(number)) if number == int(number) else str(number)


def nearest(name: Any, known: tuple[str, ...]) -> str:
    """ "did you mean …? " with the known name that is most like this one, or nothing."""
    found = get_close_matches(name[:40], known, 1) if isinstance(name, str) else []
    return f"did you mean {found[0]}? " if found else ""


def place(path: Path) -> str:
    """A place in words: "layer[0]: neuron: decay"."""
    words: list[str] = []
    for part in path:
        if isinstance(part, int):
            words[-1:] = [f"{words[-1] if words else ''}[{part}]"]
        else:
            words.append(named(part))
    return ": ".join(words)
