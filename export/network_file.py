"""network.json: an integer network as sorted, diffable text with a sha256 digest. Reading it re-proves everything.

A weight matrix is a list of its rows, a row one string of integers: the weights, or where the MATVEC that reads it has
`levels`, codes into those. Every op carries its proven interval.
"""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import fields
from functools import reduce
from operator import or_
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import msgspec
import numpy as np
from msgspec import Meta, Struct, defstruct

from quantal.export.base import fixed, reading, typed
from quantal.export.base.errors import BadInput, shown
from quantal.export.base.names import MOST_MADE, check_identifier
from quantal.export.ir.check import MOST_DELAY, check
from quantal.export.ir.network import Layer, Network, StateVar
from quantal.export.ir.ops import ARITHMETIC, OPS, Op, op_name
from quantal.export.proof.intervals import Interval, Proven, prove

FORMAT = "quantal integer network, version 1"
_WORDS = re.compile(r"[A-Za-z0-9_ ,.>-]{1,80}")


# ---- writing


def digest(proven: Proven) -> str:
    """The sha256 of the network's canonical text: what the header's banner and every later check refer to."""
    text = json.dumps(_to_json(proven), sort_keys=True, separators=(",", ":"))
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def dumps(proven: Proven) -> str:
    """The text of network.json. Raises BadInput for a network that the checks refuse."""
    check(proven.network, "network")
    document = _to_json(proven) | {"digest": digest(proven)}
    return json.dumps(document, sort_keys=True, indent=1, ensure_ascii=True) + "\n"


def _to_json(proven: Proven) -> dict[str, Any]:
    network = proven.network
    return {
        "format": FORMAT,
        "arithmetic": ARITHMETIC,
        "name": network.name,
        "input": {
            "size": network.inputs,
            "lo": network.input_lo,
            "hi": network.input_hi,
            "dtype": fixed.dtype_name(network.input_lo, network.input_hi),
            "encoding": dict(network.encoding),
        },
        "layers": [_layer_to_json(*pair) for pair in proven.layers],
    }


def _layer_to_json(layer: Layer, intervals: Sequence[Interval]) -> dict[str, Any]:
    return {
        "name": layer.name,
        "size": layer.size,
        "semantics": dict(layer.semantics),
        "ops": [
            _op_to_json(op, interval) | ({"label": layer.labels[index]} if index in layer.labels else {})
            for index, (op, interval) in enumerate(zip(layer.ops, intervals, strict=True))
        ],
        "states": [
            {f.name: getattr(s, f.name) for f in fields(StateVar) if f.name != "delay" or s.delay > 1}
            | {"dtype": fixed.dtype_name(s.lo, s.hi, s.fraction)}
            for s in layer.states
        ],
        "weights": {
            name: {
                "dtype": fixed.dtype_name(int(w.min()), int(w.max())),
                "rows": [" ".join(map(str, row)) for row in w.tolist()],
            }
            for name, w in layer.weights.items()
        },
        "output": layer.output,
        "output_name": layer.output_name,
    }


def _op_to_json(op: Op, interval: Interval) -> dict[str, Any]:
    arguments = {f.name: getattr(op, f.name) for f in fields(op) if getattr(op, f.name) != ()}
    lists = {name: " ".join(map(str, value)) for name, value in arguments.items() if isinstance(value, tuple)}
    return arguments | lists | {"op": op_name(op), "interval": list(interval.hull)}


# ---- reading


_Word = Annotated[int, Meta(ge=-(2**31), le=2**31 - 1)]


class _Table(Struct, forbid_unknown_fields=True):
    pass


class _Matrix(_Table):
    dtype: str
    rows: list[str]


class _State(_Table, kw_only=True):
    name: str
    init: _Word
    lo: _Word
    hi: _Word
    next: _Word
    fraction: Annotated[int, Meta(ge=-31, le=31)]
    delay: Annotated[int, Meta(ge=2, le=MOST_DELAY)] = 1
    dtype: str


_IN_FILE: dict[Any, Any] = {int: _Word, str: str, tuple[int, ...]: str}
"""How a field of an op stands in the file: integers are one string of them."""


def _op_table(kind: type[Op]) -> type[Struct]:
    """The table of an op of that kind: its fields, where what is empty is left out, its interval, and maybe a label."""
    types = get_type_hints(kind)
    own = [
        (f.name, _IN_FILE[types[f.name]] | None, None) if f.default == () else (f.name, _IN_FILE[types[f.name]])
        for f in fields(kind)
    ]
    return defstruct(
        kind.__name__,
        [*own, ("interval", list[int]), ("label", str | None, None)],
        bases=(_Table,),
        kw_only=True,
        tag_field="op",
        tag=kind.__name__.upper(),
    )


if TYPE_CHECKING:

    class _OpTable(_Table):
        label: str | None = None

else:
    _OpTable = reduce(or_, map(_op_table, OPS.values()))


class _Layer(_Table):
    name: str
    size: Annotated[int, Meta(ge=1, le=2**16)]
    semantics: dict[str, str]
    ops: list[_OpTable]
    states: list[_State]
    weights: dict[str, _Matrix]
    output: Annotated[int, Meta(ge=0, le=2**31 - 1)]
    output_name: str


class _Source(_Table):
    size: Annotated[int, Meta(ge=1, le=2**20)]
    lo: Annotated[int, Meta(ge=-(2**15), le=0)]
    hi: Annotated[int, Meta(ge=0, le=2**16 - 1)]
    dtype: str
    encoding: dict[str, Annotated[int, Meta(ge=0, le=2**32 - 1)] | str]


class _Document(_Table):
    format: str
    arithmetic: dict[str, str]
    name: str
    input: _Source
    layers: list[_Layer]
    digest: str


def loads(text: str, where: str, *, trust_digest: bool = False) -> Proven:
    """The network in `text`. Raises BadInput, naming the field, unless it is well formed, proven and unchanged.

    `trust_digest` is for `verify`, which rather shows what a changed network does wrong.
    """
    document = _parsed(reading.plain(text), where)
    if isinstance(document, dict) and document.get("format", FORMAT) != FORMAT:
        raise BadInput(f"{where}: format: expected {FORMAT!r}, got {shown(document['format'])}")
    _check_arithmetic(document, where)
    network = _network(typed.converted(_Document, document, where), where)
    check(network, where)
    try:
        proven = prove(network)
    except BadInput as error:
        raise BadInput(f"{where}: {error}") from None
    if not trust_digest:
        _check_derived(document, _to_json(proven) | {"digest": digest(proven)}, (), where)
    return proven


def load(path: Path, *, trust_digest: bool = False) -> Proven:
    """The network in the file `path`; see `loads`."""
    return loads(reading.text(path, reading.LARGE_TEXT), str(path), trust_digest=trust_digest)


def _parsed(text: str, where: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except (msgspec.MsgspecError, RecursionError, ValueError) as error:
        words = str(error).splitlines()[0]
        at = re.search(r"byte ([0-9]+)", words)
        line = "" if at is None else f":{text.encode()[: int(at[1])].count(10) + 1}"
        raise BadInput(f"{where}{line}: not JSON ({words})") from None


def _check_arithmetic(document: Any, where: str) -> None:
    """The rules that the file names are those that hold here."""
    named = document.get("arithmetic") if isinstance(document, dict) else None
    if isinstance(named, dict) and named != ARITHMETIC:
        key = next(key for key in (*ARITHMETIC, *named) if named.get(key) != ARITHMETIC.get(key))
        wanted = f"expected {ARITHMETIC[key]!r}" if key in ARITHMETIC else "not a field of the format"
        raise BadInput(f"{where}: {typed.place(('arithmetic', key))}: {wanted}, got {shown(named.get(key))}")


def _check_derived(found: Any, expected: Any, path: typed.Path, where: str) -> None:
    """What the file says of itself (intervals, dtypes, digest) must be what the network gives again."""
    if isinstance(expected, dict) and isinstance(found, dict):
        for key in expected:
            _check_derived(found.get(key), expected[key], (*path, key), where)
    elif isinstance(expected, list) and isinstance(found, list) and len(expected) == len(found):
        for i, (one, value) in enumerate(zip(found, expected, strict=True)):
            _check_derived(one, value, (*path, i), where)
    elif type(found) is not type(expected) or found != expected:
        wanted = shown(expected, 80)
        raise BadInput(f"{where}: {typed.place(path)}: expected {wanted}, as the network proves, got {shown(found)}")


# ---- from tables to the network


def _network(document: _Document, where: str) -> Network:
    source = document.input
    return Network(
        name=check_identifier(document.name, f"{where}: name", MOST_MADE),
        inputs=source.size,
        input_lo=source.lo,
        input_hi=source.hi,
        encoding=_worded(source.encoding, f"{where}: input: encoding"),
        layers=tuple(_layer(layer, f"{where}: layers[{i}]") for i, layer in enumerate(document.layers)),
    )


def _layer(layer: _Layer, where: str) -> Layer:
    return Layer(
        name=check_identifier(layer.name, f"{where}: name", MOST_MADE),
        size=layer.size,
        semantics=_worded(layer.semantics, f"{where}: semantics"),
        ops=tuple(_op(op, f"{where}: ops[{i}]") for i, op in enumerate(layer.ops)),
        states=tuple(_state(state, f"{where}: states[{i}]") for i, state in enumerate(layer.states)),
        weights={
            check_identifier(name, f"{where}: weights"): _matrix(matrix, f"{where}: weights: {name}")
            for name, matrix in layer.weights.items()
        },
        output=layer.output,
        output_name=check_identifier(layer.output_name, f"{where}: output_name", MOST_MADE),
        labels={
            i: check_identifier(op.label, f"{where}: ops[{i}]: label", MOST_MADE)
            for i, op in enumerate(layer.ops)
            if op.label is not None
        },
    )


def _worded(entries: dict[str, Any], where: str) -> dict[str, Any]:
    """The entries, if their texts may stand in a comment of any language."""
    for key, value in entries.items():
        check_identifier(key, where)
        if isinstance(value, str) and not _WORDS.fullmatch(value):
            raise BadInput(f"{where}: {key}: expected words: letters, digits and _ , . > -, got {shown(value)}")
    return entries


def _state(state: _State, where: str) -> StateVar:
    values = {f.name: getattr(state, f.name) for f in fields(StateVar)}
    check_identifier(state.name, f"{where}: name", MOST_MADE)
    return StateVar(**values)


def _op(table: _Table, where: str) -> Op:
    kind = OPS[str(table.__struct_config__.tag)]
    types, values = get_type_hints(kind), {}
    for f in fields(kind):
        value, at = getattr(table, f.name), f"{where}: {f.name}"
        if types[f.name] is str:
            value = check_identifier(value, at, MOST_MADE)
        elif types[f.name] is not int:
            value = () if value is None else _integers(value, at)
        values[f.name] = value
    return kind(**values)


def _integers(text: str, where: str) -> tuple[int, ...]:
    try:
        values = tuple(int(word) for word in text.split())
    except ValueError:
        raise BadInput(f"{where}: expected integers with spaces between them, got {shown(text)}") from None
    if not values or any(not -(2**31) <= value < 2**31 for value in values):
        raise BadInput(f"{where}: expected at least one integer, each of 32 bits, got {shown(text)}")
    return values


def _matrix(matrix: _Matrix, where: str) -> np.ndarray:
    rows = [_integers(row, f"{where}: rows[{i}]") for i, row in enumerate(matrix.rows)]
    if not rows or len({len(row) for row in rows}) != 1 or any(not -128 <= v <= 255 for row in rows for v in row):
        expected = "rows of equal length, integers in [-128, 127], or codes in [0, 255]"
        raise BadInput(f"{where}: expected {expected}, got {shown(matrix.rows)}")
    return np.array(rows, np.int16)
