"""The checks on a network's form: names, references, sizes. What its values can be is proven in intervals.py."""

import numpy as np

from quantal.export.base import names
from quantal.export.base.errors import BadInput, shown
from quantal.export.ir.network import Layer, Network
from quantal.export.ir.ops import (
    Clamp,
    Conv,
    Input,
    MatVec,
    Op,
    Product,
    State,
    Step,
    SumPool,
    Table,
    Weighted,
    op_name,
    operands,
)

MOST_DELAY = 4096
MOST_VALUES, MOST_HELD = 1 << 25, 1 << 24
"""How many values a network computes in a step at most, and how many states it holds: 64 MiB of them."""


def check(network: Network, where: str) -> None:
    """Raises BadInput, naming the layer, unless every reference, size and name in the network fits."""
    names.check_network(network.name, f"{where}: name")
    _check_encoding(network, f"{where}: input: encoding")
    if not network.layers:
        raise BadInput(f"{where}: layers: expected at least one")
    values = sum(layer.size * len(layer.ops) for layer in network.layers)
    held = sum(layer.size * state.delay for layer in network.layers for state in layer.states)
    for what, count, most in (("values a step", values, MOST_VALUES), ("states", held, MOST_HELD)):
        if count > most:
            raise BadInput(f"{where}: layers: compute {count:,} {what} in all, expected at most {most:,}")
    sizes = {"input": network.inputs}
    for layer in network.layers:
        _check_layer(layer, sizes, f"{where}: layer {layer.name}")
        sizes[layer.name] = layer.size
    names.check_fields(map(_fields, network.layers), where)


def _fields(layer: Layer) -> names.Fields:
    rings = [names.record(layer.name, state.name) for state in layer.rings]
    return names.Fields(tuple(name for name, _ in layer.records() if name not in rings), tuple(rings))


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
        raise BadInput(f"{where}: kind: expected one of {', '.join(_ENCODINGS)}, got {shown(kind)}")
    fan, needed = _ENCODINGS[str(kind)]
    for name in ("steps", "channels", *needed):
        value, (lo, hi) = encoding.get(name), (0, 2**32 - 1) if name == "seed" else (1, 2**16 - 1)
        if not isinstance(value, int) or not lo <= value <= hi:
            raise BadInput(f"{where}: {name}: expected an integer in [{lo}, {hi}], got {shown(value)}")
    if encoding["channels"] * fan != network.inputs:
        raise BadInput(f"{where}: channels: {encoding['channels']} do not make {network.inputs} inputs")


def _check_layer(layer: Layer, sizes: dict[str, int], where: str) -> None:
    names.check_identifier(layer.name, where, names.MOST_MADE)
    if layer.name in sizes:
        raise BadInput(f"{where}: the name is taken")
    states = {state.name for state in layer.states}
    named = [op.name for op in layer.ops if isinstance(op, Table)]
    for name in (*states, layer.output_name, *layer.weights, *named):
        names.check_identifier(name, f"{where}: name", names.MOST_MADE)
    widths: list[int] = []
    varies: list[bool] = []
    for index, op in enumerate(layer.ops):
        place = f"{where}: ops[{index}] ({op_name(op)})"
        for value in operands(op):
            if not 0 <= value < index:
                raise BadInput(f"{place}: reads value {value}, expected an earlier one")
            if not isinstance(op, Product) and isinstance(layer.ops[value], Input) and widths[value] != layer.size:
                raise BadInput(f"{place}: reads {widths[value]} inputs neuron by neuron in a layer of {layer.size}")
        widths.append(_check_op(op, layer, sizes, states, widths, place))
        varies.append(isinstance(op, Input | State | Product) or any(varies[value] for value in operands(op)))
    for value in (layer.output, *(state.next for state in layer.states)):
        if not 0 <= value < len(layer.ops) or widths[value] != layer.size or not varies[value]:
            raise BadInput(f"{where}: output or state is value {value}: expected one computed for each neuron")
    for value, label in layer.labels.items():
        names.check_identifier(label, f"{where}: ops[{value}]: label", names.MOST_MADE)
    if len(set(layer.labels.values())) != len(layer.labels):
        raise BadInput(f"{where}: ops: two share a label")
    tables: dict[str, set[tuple[int, ...]]] = {name: set() for name in layer.weights}
    for op in layer.ops:
        if isinstance(op, Weighted):
            tables[op.weights].add(op.levels)
    for name, codes in layer.weights.items():
        _check_codes(codes, tables[name], f"{where}: weights: {name}")
    for state in layer.states:
        if state.lo > state.hi:
            raise BadInput(f"{where}: state {state.name}: lo {state.lo} lies above hi {state.hi}")
    if len(states) != len(layer.states):
        raise BadInput(f"{where}: states: two share a name")


def _check_codes(codes: np.ndarray, tables: set[tuple[int, ...]], where: str) -> None:
    """`tables`: the levels of all ops that read the matrix."""
    if len(tables) != 1:
        raise BadInput(f"{where}: expected one op that reads it, or several with the same levels")
    (levels,) = tables
    lo, hi = (0, len(levels) - 1) if levels else (-128, 127)
    for neuron, source in np.argwhere((codes < lo) | (codes > hi))[:1]:
        kind = "a code" if levels else "a weight"
        raise BadInput(
            f"{where}: neuron {neuron}, input {source}: expected {kind} in [{lo}, {hi}], got {codes[neuron, source]}"
        )


def _check_op(op: Op, layer: Layer, sizes: dict[str, int], states: set[str], widths: list[int], place: str) -> int:
    if isinstance(op, Input):
        if op.source not in sizes:
            raise BadInput(f"{place}: source: expected the input or an earlier layer, got {op.source!r}")
        return sizes[op.source]
    if isinstance(op, State) and op.name not in states:
        raise BadInput(f"{place}: name: expected a state of the layer, got {op.name!r}")
    if isinstance(op, Table) and layer.size % len(op.values):
        raise BadInput(f"{place}: values: expected a number that divides {layer.size}, got {len(op.values)}")
    if isinstance(op, Product) and not isinstance(layer.ops[op.x], Input | State):
        raise BadInput(f"{place}: x: expected an INPUT or a STATE")
    if isinstance(op, Weighted) and op.weights not in layer.weights:
        raise BadInput(f"{place}: weights: no matrix {op.weights!r}")
    if isinstance(op, Conv | SumPool):
        _check_window(op, layer, widths[op.x], place)
    if isinstance(op, MatVec) and layer.weights[op.weights].shape != (layer.size, widths[op.x]):
        raise BadInput(
            f"{place}: weights: expected ({layer.size}, {widths[op.x]}), got {layer.weights[op.weights].shape}"
        )
    levels = op.levels if isinstance(op, Weighted) else ()
    if len(levels) > 256 or any(not -(2**15) <= level < 2**15 for level in levels):
        raise BadInput(f"{place}: levels: expected at most 256 integers in [{-(2**15)}, {2**15 - 1}]")
    if hasattr(op, "shift") and not 0 <= op.shift <= 31:
        raise BadInput(f"{place}: shift: expected 0 to 31, got {op.shift}")
    if isinstance(op, Clamp) and op.lo > op.hi:
        raise BadInput(f"{place}: lo {op.lo} lies above hi {op.hi}")
    if isinstance(op, Step) and list(op.borders) != sorted(op.borders):
        raise BadInput(f"{place}: borders: expected integers in ascending order")
    return layer.size


def _check_window(op: Conv | SumPool, layer: Layer, inputs: int, place: str) -> None:
    for name, count, least in (("shape", 3, 1), ("kernel", 2, 1), ("stride", 2, 1), ("padding", 2, 0)):
        numbers = getattr(op, name)
        if len(numbers) != count or not all(least <= number < 2**16 for number in numbers):
            raise BadInput(f"{place}: {name}: expected {count} integers from {least} up, got {shown(numbers)}")
    window = op.window
    if window.size != inputs:
        raise BadInput(f"{place}: shape: {op.shape} are not the {inputs} values that it reads")
    if not window.fits:
        raise BadInput(f"{place}: kernel: {op.kernel} with a padding of {op.padding} does not go with {op.shape}")
    window.check_work(place)
    channels = op.shape[0]
    if isinstance(op, Conv):
        kernels = layer.weights[op.weights].shape
        expected = channels // max(op.groups, 1) * op.kernel[0] * op.kernel[1]
        if op.groups < 1 or channels % op.groups or kernels[0] % op.groups:
            raise BadInput(f"{place}: groups: {op.groups} do not divide {channels} and {kernels[0]} channels")
        if kernels[1] != expected:
            raise BadInput(f"{place}: weights: expected kernels of {expected} weights, got {kernels[1]}")
        channels = kernels[0]
    if channels * window.positions != layer.size:
        raise BadInput(f"{place}: gives {channels * window.positions} values in a layer of {layer.size}")
