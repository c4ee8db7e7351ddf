"""The standalone numpy simulator of a network: one file, numpy alone, fast enough for whole test sets.

Matrix products ride on float BLAS: exact, because every partial sum is proven to lie below the float's 2^24 or 2^53.
"""

from dataclasses import dataclass
from typing import assert_never

from export import __version__, ir
from export.intervals import Interval, prove
from export.ir import ARITHMETIC, Layer, Network
from export.network_file import digest
from export.render import render, wrapped


@dataclass(frozen=True)
class PythonLayer:
    """One layer's part of the step function, and its constants."""

    name: str
    size: int
    lines: list[str]
    records: list[tuple[str, str]]
    output: str
    matrices: list[tuple[str, str, list[str]]]
    tables: list[tuple[str, str]]


def _write_layer(number: int, layer: Layer, intervals: list[Interval]) -> PythonLayer:
    matrices: list[tuple[str, str, list[str]]] = []
    tables: list[tuple[str, str]] = []
    constants = f"LAYER{number}_{layer.name.upper()}"  # the number keeps names apart, whatever layers are called

    def table(suffix: str, values: tuple[int, ...]) -> str:
        tables.append((f"{constants}_{suffix}", wrapped(values)))
        return tables[-1][0]

    def matrix(op: ir.MatVec, index: int) -> str:
        lo, hi = intervals[index].hull
        exact = "np.float32" if max(-lo, hi) < 2**24 else "np.float64"
        rows = [" ".join(map(str, row)) for row in layer.matrix(op).T.tolist()]
        matrices.append((f"{constants}_{op.weights.upper()}_{index}", exact, rows))
        return matrices[-1][0]

    def expression(index: int) -> str:
        op = layer.ops[index]
        match op:
            case ir.Input(source):
                return f"outputs[{source!r}]"
            case ir.State(name):
                return f"state[{layer.name + '.' + name!r}]"
            case ir.Table(values, name):
                return str(values[0]) if len(values) == 1 else table(f"{index}_{name.upper()}", values)
            case ir.MatVec(_, x):
                return f"product(v{x}, {matrix(op, index)})"
            case ir.Add(a, b):
                return f"v{a} + v{b}"
            case ir.Sub(a, b):
                return f"v{a} - v{b}"
            case ir.Mul(a, b):
                return f"v{a} * v{b}"
            case ir.Shr(a, shift):
                return f"(v{a} + {1 << (shift - 1)}) >> {shift}" if shift else f"v{a}"
            case ir.Shl(a, shift):
                return f"v{a} << {shift}"
            case ir.Clamp(a, lo, hi):
                return f"np.minimum(np.maximum(v{a}, {lo}), {hi})"
            case ir.Gt(a, b):
                return f"np.greater(v{a}, v{b}).astype(np.int32)"
            case ir.Select(condition, a, b):
                return f"np.where(np.not_equal(v{condition}, 0), v{a}, v{b})"
            case ir.Step(a, borders):
                return f"np.searchsorted({table(f'BORDERS{index}', borders)}, v{a}, side='right').astype(np.int32)"
            case ir.Lookup(a, levels):
                return f"{table(f'LEVELS{index}', levels)}[v{a}]"
            case _:
                assert_never(op)

    hulls = [interval.hull for interval in intervals]
    lines = [f"v{i} = {expression(i)}  # [{hulls[i][0]}, {hulls[i][1]}]" for i in range(len(layer.ops))]
    records = [(name, f"v{value}") for name, value in layer.records()]
    return PythonLayer(layer.name, layer.size, lines, records, f"v{layer.output}", matrices, tables)


def emit_simulator(network: Network) -> str:
    """NAME_sim.py. Constants of one value stay Python ints, so every array stays int32."""
    intervals = prove(network)
    return render(
        "simulator.py.j2",
        version=__version__,
        digest=digest(network),
        arithmetic=ARITHMETIC,
        name=network.name,
        inputs=network.inputs,
        input_lo=network.input_lo,
        input_hi=network.input_hi,
        outputs=network.outputs,
        initial=[(f"{layer.name}.{s.name}", layer.size, s.init) for layer in network.layers for s in layer.states],
        layers=[_write_layer(n, *pair) for n, pair in enumerate(zip(network.layers, intervals, strict=True), 1)],
        readout=network.layers[-1].name,
    )
