"""network.json: an integer network as sorted, diffable text with a sha256 digest. Reading it re-proves everything.

A weight matrix is a list of its rows, a row one string of integers: the weights, or where the MATVEC that reads it has
`levels`, codes into those. Every op carries its proven interval.
"""

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np

from export import fixed
from export.errors import BadInput
from export.intervals import Interval, prove
from export.ir import (
    ARITHMETIC,
    OPS,
    Clamp,
    Input,
    Layer,
    MatVec,
    Network,
    Op,
    State,
    StateVar,
    Step,
    Table,
    op_name,
    operands,
)

FORMAT = "quantal integer network, version 1"
_NAME = re.compile(r"[a-z][a-z0-9_]{0,31}")
_WORDS = re.compile(r"[A-Za-z0-9_ ,.>-]{1,80}")
_C_WORDS = frozenset(
    """
    alignas alignof and asm auto bitand bitor bool break case catch char class compl const constexpr continue default
    delete do double else enum explicit export extern false float for friend goto if inline int long main mutable
    namespace new not nullptr operator or private protected public register requires restrict return short signed
    sizeof static struct switch template this throw true try typedef typeid typename union unsigned using virtual
    void volatile while xor
    """.split()
) | {"harness"}  # with which the test program's own symbols begin


def check_identifier(name: str, where: str) -> str:
    """The name, if C, C++ and Python take it as an identifier everywhere quantal uses it. Raises BadInput else."""
    if not _NAME.fullmatch(name) or name in _C_WORDS:
        raise BadInput(
            f"{where}: expected a C identifier [a-z][a-z0-9_]*, at most 32 long, no keyword, got {_shown(name)}"
        )
    return name


# ---- writing


def digest(network: Network) -> str:
    """The sha256 of the network's canonical text: what the header's banner and every later check refer to."""
    text = json.dumps(_to_json(network, prove(network)), sort_keys=True, separators=(",", ":"))
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def dumps(network: Network) -> str:
    """The text of network.json. Raises BadInput for a network that the checks refuse."""
    check(network, "network")
    document = _to_json(network, prove(network)) | {"digest": digest(network)}
    return json.dumps(document, sort_keys=True, indent=1, ensure_ascii=True) + "\n"


def _to_json(network: Network, intervals: list[list[Interval]]) -> dict[str, Any]:
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
        "layers": [_layer_to_json(*pair) for pair in zip(network.layers, intervals, strict=True)],
    }


def _layer_to_json(layer: Layer, intervals: list[Interval]) -> dict[str, Any]:
    return {
        "name": layer.name,
        "size": layer.size,
        "semantics": dict(layer.semantics),
        "ops": [_op_to_json(*pair) for pair in zip(layer.ops, intervals, strict=True)],
        "states": [
            {field.name: getattr(s, field.name) for field in fields(StateVar)}
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


def _shown(value: Any, most: int = 40) -> str:
    """The value for a message: short, in one line, however deep it is nested."""
    if isinstance(value, list | dict):
        return "a list" if isinstance(value, list) else "an object"
    text = repr(value)
    return text if len(text) <= most else text[: most - 3] + "..."


class _Field:
    """A place in the document: it knows its name, so that every complaint can say it."""

    def __init__(self, value: Any, where: str):
        self.value, self.where = value, where

    def fail(self, expected: str) -> BadInput:
        return BadInput(f"{self.where}: expected {expected}, got {_shown(self.value)}")

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
                raise BadInput(f"{self.where}: {_shown(key)}: not a field of the format")
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
        return check_identifier(self.text(), self.where)

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


def loads(text: str, where: str, *, trust_digest: bool = False) -> Network:
    """The network in `text`. Raises BadInput, naming the field, unless it is well formed, proven and unchanged.

    `trust_digest` is for `verify`, which rather shows what a changed network does wrong.
    """
    try:
        document = json.loads(text)
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
        intervals = prove(network)
    except BadInput as error:
        raise BadInput(f"{where}: {error}") from None
    if not trust_digest:
        _check_derived(root, _to_json(network, intervals) | {"digest": digest(network)})
    return network


def load(path: Path, *, trust_digest: bool = False) -> Network:
    """The network in the file `path`; see `loads`."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from None
    return loads(text, str(path), trust_digest=trust_digest)


def _check_derived(found: _Field, expected: Any) -> None:
    """What the file says of itself (intervals, dtypes, digest) must be what the network gives again."""
    if isinstance(expected, dict):
        for key in expected:
            _check_derived(found[key], expected[key])
    elif isinstance(expected, list) and isinstance(found.value, list) and len(expected) == len(found.value):
        for item, value in zip(found.items(), expected, strict=True):
            _check_derived(item, value)
    elif type(found.value) is not type(expected) or found.value != expected:
        raise found.fail(_shown(expected, 80) + ", as the network proves")


def _scalar(field: _Field) -> str | int:
    return field.words() if isinstance(field.value, str) else field.integer(0, 2**32 - 1)


def _layer(field: _Field) -> Layer:
    field.keys("name", "size", "semantics", "ops", "states", "weights", "output", "output_name")
    return Layer(
        name=field["name"].identifier(),
        size=field["size"].integer(1, 2**16),
        semantics={key: value.words() for key, value in field["semantics"].mapping().items()},
        ops=tuple(_op(op) for op in field["ops"].items()),
        states=tuple(_state(state) for state in field["states"].items()),
        weights={name: _matrix(value) for name, value in field["weights"].mapping().items()},
        output=field["output"].integer(0),
        output_name=field["output_name"].identifier(),
    )


def _state(field: _Field) -> StateVar:
    field.keys(*(f.name for f in fields(StateVar)), "dtype")
    numbers = {name: field[name].integer() for name in ("init", "lo", "hi", "next")}
    return StateVar(field["name"].identifier(), **numbers, fraction=field["fraction"].integer(-31, 31))


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
    field.keys(*types, "op", "interval")
    return kind(**{name: _READERS[hint](field[name]) for name, hint in types.items()})


# ---- the checks on form; what values can be is proven in intervals.py


def check(network: Network, where: str) -> None:
    """Raises BadInput, naming the layer, unless every reference, size and name in the network fits."""
    check_identifier(network.name, f"{where}: name")
    _check_encoding(network, f"{where}: input: encoding")
    if not network.layers:
        raise BadInput(f"{where}: layers: expected at least one")
    sizes = {"input": network.inputs}
    for layer in network.layers:
        _check_layer(layer, sizes, f"{where}: layer {layer.name}")
        sizes[layer.name] = layer.size
    records = [name.replace(".", "_") for layer in network.layers for name, _ in layer.records()]
    repeated = {name for name in records if records.count(name) > 1}
    if repeated:
        raise BadInput(f"{where}: {min(repeated)}: two states or outputs share this name")


# What each encoder's formula needs, with the range in which its products fit uint32_t (see the header's encoder).
_ENCODINGS: dict[str, tuple[int, tuple[str, ...]]] = {
    "direct": (1, ()),
    "latency": (1, ("maximum",)),
    "rate": (1, ("maximum", "seed")),
    "delta": (2, ("maximum", "delta")),
}


def _check_encoding(network: Network, where: str) -> None:
    encoding = network.encoding
    if not encoding:
        return
    kind = encoding.get("kind")
    if kind not in _ENCODINGS:
        raise BadInput(f"{where}: kind: expected one of {', '.join(_ENCODINGS)}, got {kind!r}")
    fan, needed = _ENCODINGS[str(kind)]
    for name in ("steps", "channels", *needed):
        value, (lo, hi) = encoding.get(name), (0, 2**32 - 1) if name == "seed" else (1, 2**16 - 1)
        if not isinstance(value, int) or not lo <= value <= hi:
            raise BadInput(f"{where}: {name}: expected an integer in [{lo}, {hi}], got {value!r}")
    if encoding["channels"] * fan != network.inputs:
        raise BadInput(f"{where}: channels: {encoding['channels']} do not make {network.inputs} inputs")


def _check_layer(layer: Layer, sizes: dict[str, int], where: str) -> None:
    check_identifier(layer.name, where)
    if layer.name in sizes:
        raise BadInput(f"{where}: the name is taken")
    states = [state.name for state in layer.states]
    widths: list[int] = []
    varies: list[bool] = []
    for index, op in enumerate(layer.ops):
        place = f"{where}: ops[{index}] ({op_name(op)})"
        for value in operands(op):
            if not 0 <= value < index:
                raise BadInput(f"{place}: reads value {value}, expected an earlier one")
            if not isinstance(op, MatVec) and isinstance(layer.ops[value], Input) and widths[value] != layer.size:
                raise BadInput(f"{place}: reads {widths[value]} inputs neuron by neuron in a layer of {layer.size}")
        widths.append(_check_op(op, layer, sizes, states, widths, place))
        varies.append(isinstance(op, Input | State | MatVec) or any(varies[value] for value in operands(op)))
    for value in (layer.output, *(state.next for state in layer.states)):
        if not 0 <= value < len(layer.ops) or widths[value] != layer.size or not varies[value]:
            raise BadInput(f"{where}: output or state is value {value}: expected one computed for each neuron")
    for name, codes in layer.weights.items():
        _check_codes(
            codes,
            {op.levels for op in layer.ops if isinstance(op, MatVec) and op.weights == name},
            f"{where}: weights: {name}",
        )
    for state in layer.states:
        if state.lo > state.hi:
            raise BadInput(f"{where}: state {state.name}: lo {state.lo} lies above hi {state.hi}")
    if len(set(states)) != len(states):
        raise BadInput(f"{where}: states: two share a name")


def _check_codes(codes: np.ndarray, tables: set[tuple[int, ...]], where: str) -> None:
    """`tables`: the levels of all ops that read the matrix."""
    if len(tables) != 1:
        raise BadInput(f"{where}: expected one MATVEC that reads it, or several with the same levels")
    (levels,) = tables
    lo, hi = (0, len(levels) - 1) if levels else (-128, 127)
    for neuron, source in np.argwhere((codes < lo) | (codes > hi))[:1]:
        kind = "a code" if levels else "a weight"
        raise BadInput(
            f"{where}: neuron {neuron}, input {source}: expected {kind} in [{lo}, {hi}], got {codes[neuron, source]}"
        )


def _check_op(op: Op, layer: Layer, sizes: dict[str, int], states: list[str], widths: list[int], place: str) -> int:
    if isinstance(op, Input):
        if op.source not in sizes:
            raise BadInput(f"{place}: source: expected the input or an earlier layer, got {op.source!r}")
        return sizes[op.source]
    if isinstance(op, State) and op.name not in states:
        raise BadInput(f"{place}: name: expected a state of the layer, got {op.name!r}")
    if isinstance(op, Table) and len(op.values) not in (1, layer.size):
        raise BadInput(f"{place}: values: expected 1 or {layer.size} of them, got {len(op.values)}")
    if isinstance(op, MatVec):
        if not isinstance(layer.ops[op.x], Input | State):
            raise BadInput(f"{place}: x: expected an INPUT or a STATE")
        if op.weights not in layer.weights:
            raise BadInput(f"{place}: weights: no matrix {op.weights!r}")
        if layer.weights[op.weights].shape != (layer.size, widths[op.x]):
            raise BadInput(
                f"{place}: weights: expected ({layer.size}, {widths[op.x]}), got {layer.weights[op.weights].shape}"
            )
        if len(op.levels) > 256 or any(not -(2**15) <= level < 2**15 for level in op.levels):
            raise BadInput(f"{place}: levels: expected at most 256 integers in [{-(2**15)}, {2**15 - 1}]")
    if hasattr(op, "shift") and not 0 <= op.shift <= 31:
        raise BadInput(f"{place}: shift: expected 0 to 31, got {op.shift}")
    if isinstance(op, Clamp) and op.lo > op.hi:
        raise BadInput(f"{place}: lo {op.lo} lies above hi {op.hi}")
    if isinstance(op, Step) and list(op.borders) != sorted(op.borders):
        raise BadInput(f"{place}: borders: expected integers in ascending order")
    return layer.size
