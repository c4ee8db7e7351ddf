"""The text of a network.json with every op, one place of it changed, and its refusal."""

import json
import re
from typing import Any

import numpy as np
import pytest

from quantal.export.base.errors import BadInput
from quantal.export.ir.network import Layer, Network, StateVar
from quantal.export.ir.ops import (
    Add,
    Clamp,
    Conv,
    Gt,
    Input,
    Lookup,
    MatVec,
    Mul,
    Select,
    Shl,
    Shr,
    State,
    Step,
    Sub,
    SumPool,
    Table,
)
from quantal.export.network_file import dumps, loads
from quantal.export.proof.intervals import prove
from support.messages import one_line

WHERE = "some/network.json"
WEIGHTS = np.array([[1, -2], [127, -128], [0, 5]], np.int8)
HIDDEN = Layer(
    name="hidden",
    size=3,
    semantics={"neuron": "lif", "fires": "level > threshold, strictly"},
    ops=(
        Input("input"), MatVec("fan_in", 0), Shl(1, 2), State("spike"), MatVec("recurrent", 3), Add(2, 4),
        State("u"), Table((57, 58, 59)), Mul(6, 7), Shr(8, 6), Add(5, 9), Table((30,)), Gt(10, 11), Table((0,)),
        Select(12, 11, 13), Sub(10, 14), Step(15, (-50, 0, 50)), Lookup(16, (-64, -16, 16, 64)), Clamp(17, -60, 60),
    ),
    states=(StateVar("u", 0, -60, 60, 18, -2), StateVar("spike", 0, 0, 1, 12)),
    weights={"fan_in": WEIGHTS, "recurrent": np.eye(3, dtype=np.int8)},
    output=12,
    output_name="spike",
)  # fmt: skip
CODES = np.array([[0, 2, 1], [1, 3, 3]], np.uint8)
READOUT = Layer(
    "readout", 2, {}, (Input("hidden"), MatVec("fan_in", 0, (300, -7, 0, -(2**15)))), (), {"fan_in": CODES}, 1,
    "membrane",
)  # fmt: skip
PLANE = Layer(
    "plane", 2,  {}, (
        Input("readout"), Conv("kernels", 0, (1, 1, 2), (1, 2), (1, 3), (0, 1), 1, (5, -9)), State("old"), Add(1, 2),
        SumPool(0, (2, 1, 1), (1, 1), (1, 1), (0, 0)), Sub(3, 4), Clamp(5, -(2**15), 7),
    ),
    (StateVar("old", 3, -(2**15), 7, 6, delay=5),), {"kernels": np.array([[0, 1], [1, 1]], np.int8)}, 6, "sum",
)  # fmt: skip
ENCODING = {"kind": "rate", "steps": 8, "seed": 2**32 - 1, "delta": 16, "channels": 2, "maximum": 9}
NETWORK = Network("example", 2, -3, 9, ENCODING, (HIDDEN, READOUT, PLANE))
TEXT = dumps(prove(NETWORK))
Path_ = tuple[str | int, ...]
LAYER, TABLED, WINDOWED = ("layers", 0), ("layers", 1), ("layers", 2)


def changed(path: Path_, value: Any) -> str:
    """The file with the value at `path` replaced."""
    document = json.loads(TEXT)
    place = document
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return json.dumps(document)


def refused(text: str, *words: str, trust_digest: bool = False) -> None:
    with pytest.raises(BadInput) as error:
        loads(text, WHERE, trust_digest=trust_digest)
    line = one_line(error, *words)
    assert re.match(rf"{WHERE}(:[0-9]+)?: ", line)
    assert line.isprintable(), ascii(line)
    assert len(line) < 400


def places(value: Any, path: Path_ = ()) -> list[Path_]:
    """The paths of all values inside `value`."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(found for key, item in inside for found in places(item, (*path, key)))]


def value_at(path: Path_) -> Any:
    value = json.loads(TEXT)
    for key in path:
        value = value[key]
    return value


PLACES = places(json.loads(TEXT))
OBJECTS = [path for path in PLACES if isinstance(value_at(path), dict)]
FIELDS = [(*path, key) for path in OBJECTS for key in value_at(path)]
