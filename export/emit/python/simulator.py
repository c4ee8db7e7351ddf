"""The standalone numpy simulator of a network: one file, numpy alone, fast enough for whole test sets.

Matrix products ride on float BLAS: exact, because every partial sum is proven to lie below the float's 2^24 or 2^53.
"""

import keyword
from collections.abc import Sequence
from dataclasses import dataclass
from typing import assert_never

from quantal.export import __version__
from quantal.export.base import names
from quantal.export.base.render import render, wrapped
from quantal.export.base.windows import Window
from quantal.export.ir import ops
from quantal.export.ir.labels import value_names
from quantal.export.ir.network import Layer
from quantal.export.ir.ops import ARITHMETIC
from quantal.export.proof.intervals import Interval, Proven

# What a step's lines use beside its values.
_TAKEN = {
    *keyword.kwlist,
    "state",
    "x",
    "outputs",
    "younger",
    "after",
    "np",
    "len",
    "product",
    "gathered",
    "convolution",
}


@dataclass(frozen=True)
class PythonLayer:
    """One layer's part of the step function, and its constants."""

    name: str
    size: int
    lines: list[str]
    records: list[tuple[str, str]]
    output: str
    matrices: list[tuple[str, str, list[str]]]
    tables: list[tuple[str, str, str]]
    windows: list[tuple[str, Window]]
    delayed: list[tuple[str, str]]


def _write_layer(number: int, layer: Layer, intervals: Sequence[Interval]) -> PythonLayer:
    matrices: list[tuple[str, str, list[str]]] = []
    tables: list[tuple[str, str, str]] = []
    windows: list[tuple[str, Window]] = []
    constants = names.constant(number, layer.name)

    def table(suffix: str, values: tuple[int, ...], each: int = 1) -> str:
        tables.append((f"{constants}_{suffix}", wrapped(values), f".repeat({each})" if each > 1 else ""))
        return tables[-1][0]

    def window(op: ops.Conv | ops.SumPool, index: int) -> str:
        windows.append((f"{constants}_TAPS{index}", op.window))
        return windows[-1][0]

    def matrix(op: ops.Weighted, index: int) -> str:
        lo, hi = intervals[index].hull
        exact = "np.float32" if max(-lo, hi) < 2**24 else "np.float64"
        rows = [" ".join(map(str, row)) for row in layer.matrix(op).T.tolist()]
        matrices.append((f"{constants}_{op.weights.upper()}_{index}", exact, rows))
        return matrices[-1][0]

    n = value_names(layer, _TAKEN)

    def expression(index: int) -> str:
        op = layer.ops[index]
        match op:
            case ops.Input(source):
                return f"outputs[{source!r}]"
            case ops.State(name):
                oldest = f"[:, :{layer.size}]" if layer.state(name).delay > 1 else ""
                return f"state[{names.record(layer.name, name)!r}]{oldest}"
            case ops.Table(values, name):
                each = layer.size // len(values)
                return str(values[0]) if len(values) == 1 else table(f"{index}_{name.upper()}", values, each)
            case ops.Conv(_, x):
                return f"convolution({n[x]}, {matrix(op, index)}, {window(op, index)}, {op.shape[0]}, {op.groups})"
            case ops.SumPool(x):
                return f"gathered({n[x]}, {window(op, index)}, {op.shape[0]}).sum(axis=-1).reshape(len({n[x]}), -1)"
            case ops.MatVec(_, x):
                return f"product({n[x]}, {matrix(op, index)})"
            case ops.Add(a, b):
                return f"{n[a]} + {n[b]}"
            case ops.Sub(a, b):
                return f"{n[a]} - {n[b]}"
            case ops.Mul(a, b):
                return f"{n[a]} * {n[b]}"
            case ops.Shr(a, shift):
                return f"({n[a]} + {1 << (shift - 1)}) >> {shift}" if shift else f"{n[a]}"
            case ops.Shl(a, shift):
                return f"{n[a]} << {shift}"
            case ops.Clamp(a, lo, hi):
                return f"np.minimum(np.maximum({n[a]}, {lo}), {hi})"
            case ops.Gt(a, b):
                return f"np.greater({n[a]}, {n[b]}).astype(np.int32)"
            case ops.Select(condition, a, b):
                return f"np.where(np.not_equal({n[condition]}, 0), {n[a]}, {n[b]})"
            case ops.Step(a, borders):
                return f"np.searchsorted({table(f'BORDERS{index}', borders)}, {n[a]}, side='right').astype(np.int32)"
            case ops.Lookup(a, levels):
                return f"{table(f'LEVELS{index}', levels)}[{n[a]}]"
            case _:
                assert_never(op)

    hulls = [interval.hull for interval in intervals]
    lines = [f"{n[i]} = {expression(i)}  # [{hulls[i][0]}, {hulls[i][1]}]" for i in range(len(layer.ops))]
    records = [(name, n[value]) for name, value in layer.records()]
    delayed = [(names.record(layer.name, state.name), n[state.next]) for state in layer.states if state.delay > 1]
    return PythonLayer(layer.name, layer.size, lines, records, n[layer.output], matrices, tables, windows, delayed)


def emit_simulator(proven: Proven, digest: str) -> str:
    """NAME_sim.py. Constants of one value stay Python ints, so every array stays int32."""
    network = proven.network
    layers = [_write_layer(n, *pair) for n, pair in enumerate(proven.layers, 1)]
    return render(
        "python/simulator.py.j2",
        version=__version__,
        digest=digest,
        arithmetic=ARITHMETIC,
        name=network.name,
        inputs=network.inputs,
        input_lo=network.input_lo,
        input_hi=network.input_hi,
        outputs=network.outputs,
        initial=[
            (names.record(layer.name, s.name), s.delay * layer.size, s.init)
            for layer in network.layers
            for s in layer.states
        ],
        layers=layers,
        windows=any(layer.windows for layer in layers),
        convolutions=any(isinstance(op, ops.Conv) for layer in network.layers for op in layer.ops),
        delayed=[name for layer in layers for name, _ in layer.delayed],
        readout=network.layers[-1].name,
    )
