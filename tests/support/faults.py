"""What a wrong exporter, or a wrong hand, could make of each file of a build: one integer changed."""

import json
import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from support.verifying import with_integer

KINDS = ("weight", "shift", "comparator")


# ---- faults: what a wrong exporter, or a wrong hand, could make of each file


def in_network_json(text: str, kind: str) -> Iterator[str]:
    """network.json with one code, one shift or one threshold changed by 1: s > t − 1 is s ≥ t."""
    for number, layer in enumerate(json.loads(text)["layers"]):
        for place in places_in(layer, kind):
            document = json.loads(text)
            place(document["layers"][number])
            yield json.dumps(document)


def places_in(layer: dict[str, Any], kind: str) -> Iterator[Callable[[dict[str, Any]], None]]:
    def weigh(name: str, row: int, changed: dict[str, Any]) -> None:
        rows = changed["weights"][name]["rows"]
        rows[row] = with_integer(rows[row], "^", 0, lambda code: code - 1)

    def shift(index: int, changed: dict[str, Any]) -> None:
        changed["ops"][index]["shift"] -= 1

    def compare(table: int, changed: dict[str, Any]) -> None:
        changed["ops"][table]["values"] = " ".join(str(int(t) - 1) for t in changed["ops"][table]["values"].split())

    if kind == "weight":
        yield from (partial(weigh, name, row) for name in layer["weights"] for row in range(layer["size"]))
    if kind == "shift":
        yield from (partial(shift, index) for index, op in enumerate(layer["ops"]) if op["op"] == "SHR")
    if kind == "comparator":
        yield from (partial(compare, op["b"]) for op in layer["ops"] if op["op"] == "GT")


def in_text(patterns: dict[str, tuple[str, str]]) -> Callable[[str, str], Iterator[str]]:
    """A text with one place changed that matches the kind's pattern, each in turn."""

    def faults(text: str, kind: str) -> Iterator[str]:
        if kind == "weight":
            for table in re.finditer(patterns[kind][0], text):
                for index in range(12):
                    changed = with_integer(
                        text[table.start() :], r"\A" + patterns[kind][0], index, lambda codes: codes ^ 1
                    )
                    yield text[: table.start()] + changed
        else:
            pattern, new = patterns[kind]
            for place in re.finditer(pattern, text):
                yield text[: place.start()] + place.expand(new) + text[place.end() :]

    return faults


in_header = in_text(
    {
        "weight": (r"static const u?int8_t \w+\[\d+\]\[\d+\] = \{", ""),
        "shift": (r"\+ 32\) >> 6", "+ 16) >> 5"),
        "comparator": (r" > (\w+) \? 1 : 0", r" >= \1 ? 1 : 0"),
    }
)
in_simulator = in_text(
    {
        "weight": (r'\w+ = matrix\(\s+"""', ""),
        "shift": (r"\+ 32\) >> 6", "+ 16) >> 5"),
        "comparator": (r"np\.greater\(", "np.greater_equal("),
    }
)


def in_onnx(content: bytes, kind: str) -> Iterator[bytes]:
    """The model with one element of a matrix, one divisor or one comparison changed."""
    model = onnx.load_from_string(content)
    constants = {constant.name: constant for constant in model.graph.initializer}

    def changed(name: str, change: Callable[[np.ndarray], np.ndarray]) -> bytes:
        tensor = constants[name]
        original = onnx.TensorProto.FromString(tensor.SerializeToString())
        tensor.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(original).copy()), name))
        result = model.SerializeToString()
        tensor.CopyFrom(original)
        return result

    def weigh(row: int, weights: np.ndarray) -> np.ndarray:
        weights[row, 0] -= 1
        return weights

    for node in model.graph.node:
        if kind == "weight" and node.op_type.startswith("MatMul"):
            for row in range(numpy_helper.to_array(constants[node.input[1]]).shape[0]):
                yield changed(node.input[1], partial(weigh, row))
        if kind == "shift" and node.op_type == "Div":
            yield changed(node.input[1], lambda divisor: divisor * 2)
        if kind == "comparator" and node.op_type == "Greater":
            node.op_type = "GreaterOrEqual"
            yield model.SerializeToString()
            node.op_type = "Greater"


FAULTS: dict[str, tuple[str, Callable[[Any, str], Iterator[Any]]]] = {
    "interpreter": ("network.json", in_network_json),
    "simulator": ("model_sim.py", in_simulator),
    "onnx": ("model.onnx", in_onnx),
    "c-host": ("model.h", in_header),
    "cortex-m0": ("model.h", in_header),
}
