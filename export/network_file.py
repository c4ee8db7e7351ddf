"""network.json: an integer network as sorted, diffable text with a sha256 digest. Reading it re-proves everything.

A weight matrix is a list of its rows, a row one string of integers: the weights, or where the MATVEC that reads it has
`levels`, codes into those. Every op carries its proven interval.
"""

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
from quantal.export.base import fixed, reading
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


class _Field:
    """A place in the document: it knows its name, so that every complaint can say it."""

    def __init__(self, value: Any, where: str):
        self.value, self.where = value, where

    def fail(self, expected: str) -> BadInput:
        return BadInput(f"{self.where}: expected {expected}, got {shown(self.value)}")

    def __getitem__(self, key: str) -> "_Field":
        if not isinstance(self.value, dict):
            raise self.fail("an object")
        if key not in self.value:
            raise BadInput(f"{self.where}: {key}: missing")
        return _Field(self.value[key], f"{self.where}: {key}")

    def keys(self, *expected: str) -> "_Field":
        for key in expected:
            _ = self[key]
        for key in self.value:
            if key not in expected:
                raise BadInput(f"{self.where}: {shown(key)}: not a field of the format")
        return self

    def items(self) -> list["_Field"]:
        if not isinstance(self.value, list):
            raise self.fail("a list")
        return [_Field(value, f"{self.where}[{i}]") for i, value in enumerate(self.value)]

    def integer(self, lo: int = -(2**31), hi: int = 2**31 - 1) -> int:
        if type(self.value) is not int or not lo <= self.value <= hi:
            raise self.fail(f"an integer in [{lo}, {hi}]")
        return self.value

    def text(self) -> str:
        if not isinstance(self.value, str):
            raise self.fail("a string")
        return self.value

    def words(self) -> str:
        """Text that may stand in a comment of any language."""
        if not _WORDS.fullmatch(self.text()):
            raise self.fail("words: letters, digits and _ , . > -")
        return self.text()

    def identifier(self) -> str:
        return check_identifier(self.text(), self.where, MOST_MADE)

    def integers(self) -> tuple[int, ...]:
        try:
            values = tuple(int(word) for word in self.text().split())
        except ValueError:
            raise self.fail("integers with spaces between them") from None
        if not values or any(not -(2**31) <= v < 2**31 for v in values):
            raise self.fail("at least one integer, each of 32 bits")
        return values

    def mapping(self) -> dict[str, "_Field"]:
        if not isinstance(self.value, dict):
            raise self.fail("an object")
        return {check_identifier(key, self.where): self[key] for key in self.value}


def loads(text: str, where: str, *, trust_digest: bool = False) -> Proven:
    """The network in `text`. Raises BadInput, naming the field, unless it is well formed, proven and unchanged.

    `trust_digest` is for `verify`, which rather shows what a changed network does wrong.
    """
    try:
        document = json.loads(reading.plain(text))
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{where}: not JSON ({str(error).splitlines()[0]})") from None
    root = _Field(document, where)
    if root["format"].text() != FORMAT:
        raise root["format"].fail(repr(FORMAT))
    root.keys("format", "arithmetic", "name", "input", "layers", "digest")
    arithmetic = root["arithmetic"].keys(*ARITHMETIC)
    for name, rule in ARITHMETIC.items():
        if arithmetic[name].value != rule:
            raise arithmetic[name].fail(repr(rule))
    source = root["input"].keys("size", "lo", "hi", "dtype", "encoding")
    network = Network(
        name=root["name"].identifier(),
        inputs=source["size"].integer(1, 2**20),
        input_lo=source["lo"].integer(-(2**15), 0),
        input_hi=source["hi"].integer(0, 2**16 - 1),
        encoding={key: _scalar(value) for key, value in source["encoding"].mapping().items()},
        layers=tuple(_layer(field) for field in root["layers"].items()),
    )
    check(network, where)
    try:
        proven = prove(network)
    except BadInput as error:
        raise BadInput(f"{where}: {error}") from None
    if not trust_digest:
        _check_derived(root, _to_json(proven) | {"digest": digest(proven)})
    return proven


def load(path: Path, *, trust_digest: bool = False) -> Proven:
    """The network in the file `path`; see `loads`."""
    return loads(reading.text(path, reading.LARGE_TEXT), str(path), trust_digest=trust_digest)


def _check_derived(found: _Field, expected: Any) -> None:
    """What the file says of itself (intervals, dtypes, digest) must be what the network gives again."""
    if isinstance(expected, dict):
        for key in expected:
            _check_derived(found[key], expected[key])
    elif isinstance(expected, list) and isinstance(found.value, list) and len(expected) == len(found.value):
        for item, value in zip(found.items(), expected, strict=True):
            _check_derived(item, value)
    elif type(found.value) is not type(expected) or found.value != expected:
        raise found.fail(shown(expected, 80) + ", as the network proves")


def _scalar(field: _Field) -> str | int:
    return field.words() if isinstance(field.value, str) else field.integer(0, 2**32 - 1)


def _layer(field: _Field) -> Layer:
    field.keys("name", "size", "semantics", "ops", "states", "weights", "output", "output_name")
    ops = field["ops"].items()
    return Layer(
        name=field["name"].identifier(),
        size=field["size"].integer(1, 2**16),
        semantics={key: value.words() for key, value in field["semantics"].mapping().items()},
        ops=tuple(map(_op, ops)),
        states=tuple(_state(state) for state in field["states"].items()),
        weights={name: _matrix(value) for name, value in field["weights"].mapping().items()},
        output=field["output"].integer(0),
        output_name=field["output_name"].identifier(),
        labels={index: op["label"].identifier() for index, op in enumerate(ops) if "label" in op.value},
    )


def _state(field: _Field) -> StateVar:
    delayed = isinstance(field.value, dict) and "delay" in field.value
    field.keys(*(f.name for f in fields(StateVar) if f.name != "delay" or delayed), "dtype")
    numbers = {name: field[name].integer() for name in ("init", "lo", "hi", "next")}
    delay = field["delay"].integer(2, MOST_DELAY) if delayed else 1
    return StateVar(field["name"].identifier(), **numbers, fraction=field["fraction"].integer(-31, 31), delay=delay)


def _matrix(field: _Field) -> np.ndarray:
    rows = [row.integers() for row in field.keys("rows", "dtype")["rows"].items()]
    if not rows or len({len(row) for row in rows}) != 1 or any(not -128 <= v <= 255 for row in rows for v in row):
        raise field.fail("rows of equal length, integers in [-128, 127], or codes in [0, 255]")
    return np.array(rows, np.int16)


_READERS: dict[Any, Callable[[_Field], Any]] = {
    int: _Field.integer,
    str: _Field.identifier,
    tuple[int, ...]: _Field.integers,
}


def _op(field: _Field) -> Op:
    kind = OPS.get(field["op"].text())
    if kind is None:
        raise field["op"].fail("one of " + " ".join(OPS))
    free = {f.name for f in fields(kind) if f.default == ()} - field.value.keys()  # what is empty is not written
    types = {name: hint for name, hint in get_type_hints(kind).items() if name not in free}
    field.keys(*types, "op", "interval", *({"label"} & field.value.keys()))
    return kind(**{name: _READERS[hint](field[name]) for name, hint in types.items()})
