"""One step of a network as an ONNX model of integer operators: the states come in and go out as int32 tensors.

Inputs: "input" and each state, (batch, neurons); outputs: every record of the step (its states under "NAME.next") and
"output". The standard opset has no arithmetic right shift on signed integers, and its Div truncates: x is first moved
up by a multiple of 2^s that its interval makes large enough, where truncation and floor agree.
"""

from collections.abc import Sequence
from typing import Any, assert_never

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from quantal.export import __version__
from quantal.export.base.fixed import Ints
from quantal.export.base.names import record as record_name
from quantal.export.base.windows import Window
from quantal.export.ir import ops
from quantal.export.ir.network import Layer
from quantal.export.proof.intervals import Interval, Proven

OPSET, IR_VERSION = 17, 8


class _Graph:
    """Collects nodes and constants; `node` returns the name of its result."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def node(self, kind: str, *inputs: str, name: str = "", **attributes: Any) -> str:
        output = name or f"n{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [output], **attributes))
        return output

    def called(self, name: str | None, result: str) -> str:
        """The result of the last node, under that name, if there is one."""
        if name is None:
            return result
        self.nodes[-1].output[0] = name
        return name

    def constant(self, values: Ints, dtype: type = np.int32) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(values).astype(dtype), name))
        return name

    def number(self, value: int) -> str:
        return self.constant(np.array([value]))

    def shape(self, *sizes: int) -> str:
        return self.constant(np.array(sizes), np.int64)


def _floor_shift(graph: _Graph, x: str, shift: int, lo: int, hi: int) -> str:
    """floor((x + half) / 2^s) for x in [lo, hi], in int64 where the lifted x leaves 32 bits."""
    lifts = max(0, -(lo >> shift))
    offset = (lifts << shift) + ((1 << shift) >> 1)
    dtype, wide = (np.int32, False) if hi + offset < 2**31 and 1 << shift < 2**31 else (np.int64, True)

    def number(value: int) -> str:
        return graph.constant(np.array([value]), dtype)

    lifted = graph.node("Add", graph.node("Cast", x, to=TensorProto.INT64) if wide else x, number(offset))
    floor = graph.node("Sub", graph.node("Div", lifted, number(1 << shift)), number(lifts))
    return graph.node("Cast", floor, to=TensorProto.INT32) if wide else floor


def _oldest(graph: _Graph, layer: Layer, state: str) -> str:
    """What STATE reads: of a delayed state, (batch, delay · neurons), the oldest first, its first neurons."""
    name = record_name(layer.name, state)
    if layer.state(state).delay == 1:
        return name
    return graph.node("Slice", name, graph.shape(0), graph.shape(layer.size), graph.shape(1))


def _gathered(graph: _Graph, window: Window, x: str) -> str:
    """Window.gathered: (batch, inputs) → (batch, channels, positions, kernel)."""
    planes = graph.node("Reshape", x, graph.shape(0, window.shape[0], -1))
    padded = graph.node("Pad", planes, graph.shape(0, 0, 0, 0, 0, 1))
    return graph.node("Gather", padded, graph.constant(window.taps(), np.int64), axis=2)


def _convolution(graph: _Graph, op: ops.Conv, x: str, kernels: Ints) -> str:
    """Window.products, as one matrix product a group."""
    window, groups = op.window, op.groups
    split = graph.node(
        "Reshape", _gathered(graph, window, x), graph.shape(0, groups, -1, window.positions, len(window.taps()[0]))
    )
    columns = graph.node("Transpose", split, perm=[0, 1, 3, 2, 4])
    flat = graph.node("Reshape", columns, graph.shape(0, groups, window.positions, -1))
    transposed = np.swapaxes(kernels.reshape(groups, len(kernels) // groups, -1), 1, 2)
    products = graph.node("MatMul", flat, graph.constant(transposed))
    return graph.node("Flatten", graph.node("Transpose", products, perm=[0, 1, 3, 2]))


def _label(layer: Layer, index: int) -> str | None:
    """What the value is called in the graph, whose records are "LAYER.STATE"."""
    label = layer.labels.get(index)
    made = isinstance(layer.ops[index], ops.Pointwise | ops.Product)
    return f"{layer.name}/{label}" if made and label is not None else None


def _value(
    graph: _Graph, layer: Layer, index: int, names: list[str], intervals: Sequence[Interval], outputs: dict[str, str]
) -> str:
    op = layer.ops[index]
    match op:
        case ops.Input(source):
            return outputs[source]
        case ops.State(name):
            return _oldest(graph, layer, name)
        case ops.Table():
            return graph.constant(layer.spread(op))
        case ops.Conv(_, x):
            return _convolution(graph, op, names[x], layer.matrix(op))
        case ops.SumPool(x):
            summed = graph.node("ReduceSum", _gathered(graph, op.window, names[x]), graph.shape(-1), keepdims=0)
            return graph.node("Flatten", summed)
        case ops.MatVec(_, x):
            transposed = layer.matrix(op).T
            lo, hi = intervals[x].hull
            bytes_hold = 0 <= lo <= hi <= 255 and -128 <= transposed.min() <= transposed.max() <= 127
            # Runtimes on x86 without VNNI add two neighbouring products in 16 bits, and saturate.
            if not bytes_hold or 2 * hi * int(np.abs(transposed).max()) >= 2**15:
                return graph.node("MatMul", names[x], graph.constant(transposed))
            byte = graph.node("Cast", names[x], to=TensorProto.UINT8)
            return graph.node("MatMulInteger", byte, graph.constant(transposed, np.int8))
        case ops.Add(a, b):
            return graph.node("Add", names[a], names[b])
        case ops.Sub(a, b):
            return graph.node("Sub", names[a], names[b])
        case ops.Mul(a, b):
            return graph.node("Mul", names[a], names[b])
        case ops.Shr(a, shift):
            return _floor_shift(graph, names[a], shift, *intervals[a].hull)
        case ops.Shl(a, shift):
            return graph.node("Mul", names[a], graph.number(1 << shift))
        case ops.Clamp(a, lo, hi):
            return graph.node("Min", graph.node("Max", names[a], graph.number(lo)), graph.number(hi))
        case ops.Gt(a, b):
            return graph.node("Cast", graph.node("Greater", names[a], names[b]), to=TensorProto.INT32)
        case ops.Select(condition, a, b):
            return graph.node("Where", graph.node("Cast", names[condition], to=TensorProto.BOOL), names[a], names[b])
        case ops.Step(a, borders):
            column = graph.node("Unsqueeze", names[a], graph.shape(-1))
            below = graph.node("GreaterOrEqual", column, graph.constant(np.array(borders)))
            ones = graph.node("Cast", below, to=TensorProto.INT32)
            return graph.node("ReduceSum", ones, graph.shape(-1), keepdims=0)
        case ops.Lookup(a, levels):
            return graph.node("Gather", graph.constant(np.array(levels)), names[a])
        case _:
            assert_never(op)


def emit_onnx(proven: Proven, digest: str) -> bytes:
    """The serialized model of one step; the network's digest is its documentation."""
    network = proven.network
    graph = _Graph()
    outputs = {"input": "input"}
    batch = "batch"

    def tensor(name: str, size: int) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.INT32, [batch, size])

    graph_inputs = [tensor("input", network.inputs)]
    graph_outputs = []
    for layer, intervals in proven.layers:
        graph_inputs += [
            tensor(record_name(layer.name, state.name), state.delay * layer.size) for state in layer.states
        ]
        names: list[str] = []
        for index in range(len(layer.ops)):
            names.append(graph.called(_label(layer, index), _value(graph, layer, index, names, intervals, outputs)))
        for record, value in layer.records():
            name = graph.node("Identity", names[value], name=f"{record}.next")
            graph_outputs.append(tensor(name, layer.size))
            if value == layer.output:
                outputs[layer.name] = name
        for state in (state for state in layer.states if state.delay > 1):
            held = record_name(layer.name, state.name)
            ends = graph.shape(layer.size), graph.shape(state.delay * layer.size)
            younger = graph.node("Slice", held, *ends, graph.shape(1))
            name = graph.node("Concat", younger, names[state.next], name=f"{held}.next", axis=1)
            graph_outputs.append(tensor(name, state.delay * layer.size))
    graph.node("Identity", outputs[network.layers[-1].name], name="output")
    graph_outputs.append(tensor("output", network.outputs))
    model = helper.make_model(
        helper.make_graph(graph.nodes, network.name, graph_inputs, graph_outputs, graph.constants),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="quantal",
        producer_version=__version__,
        doc_string=digest,
    )
    onnx.checker.check_model(model, full_check=True)
    content: bytes = model.SerializeToString(deterministic=True)
    return content
