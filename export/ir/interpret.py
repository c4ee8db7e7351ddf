"""The interpreter: runs an integer network op by op in int64. It defines what a network means."""

from collections.abc import Mapping

import numpy as np

from quantal.export.base.errors import BadInput
from quantal.export.base.fixed import Ints
from quantal.export.base.names import record
from quantal.export.ir import ops
from quantal.export.ir.network import Layer, Network
from quantal.export.ir.ops import Op

Trace = dict[str, Ints]


def _apply(op: Op, v: list[Ints], layer: Layer, inputs: Mapping[str, Ints], states: Mapping[str, Ints]) -> Ints:
    match op:
        case ops.Input(source):
            return inputs[source]
        case ops.State(name):
            return states[record(layer.name, name)][:, : layer.size]
        case ops.Table():
            return layer.spread(op)
        case ops.MatVec(_, x):
            return v[x] @ layer.matrix(op).T
        case ops.Conv(_, x):
            return op.window.products(v[x], layer.matrix(op), op.groups)
        case ops.SumPool(x):
            sums: Ints = op.window.gathered(v[x]).sum(axis=-1).reshape(len(v[x]), -1)
            return sums
        case _:
            return ops.pointwise(op, v)


def initial_states(network: Network, batch: int) -> Trace:
    """The states before the first step, each (batch, delay · neurons), the oldest first."""
    return {
        record(layer.name, state.name): np.full((batch, state.delay * layer.size), state.init, np.int64)
        for layer in network.layers
        for state in layer.states
    }


def step(network: Network, states: Trace, x: Ints) -> tuple[Trace, Trace]:
    """One step on the input x (batch, inputs): (every record and "output", the states for the next step)."""
    inputs = {"input": x}
    after: Trace = {}
    committed: Trace = {}
    for layer in network.layers:
        values: list[Ints] = []
        for op in layer.ops:
            values.append(_apply(op, values, layer, inputs, states))
        after |= {name: values[value] for name, value in layer.records()}
        for state in layer.states:
            name = record(layer.name, state.name)
            committed[name] = np.concatenate([states[name][:, layer.size :], values[state.next]], axis=1)
        inputs[layer.name] = values[layer.output]
    return after | {"output": inputs[network.layers[-1].name]}, committed


def labelled(network: Network, x: Ints, layer: str, neuron: int) -> dict[str, int]:
    """What a neuron's values are that have a label, at the last step of x (steps, inputs), in the order of its ops."""
    states = initial_states(network, 1)
    for before in x[:-1]:
        _, states = step(network, states, before[None])
    inputs = {"input": x[-1:]}
    for one in network.layers:
        values: list[Ints] = []
        for op in one.ops:
            values.append(_apply(op, values, one, inputs, states))
        inputs[one.name] = values[one.output]
        if one.name == layer:
            named = [(label, values[index]) for index, label in sorted(one.labels.items())]
            return {label: int(np.broadcast_to(value, (1, one.size))[0, neuron]) for label, value in named}
    return {}


def run(network: Network, x: Ints) -> Trace:
    """The whole network on x (batch, steps, inputs): every record and the output, each (batch, steps, neurons).

    Raises BadInput unless x has a step and holds integers within what was proven.
    """
    lo, hi = network.input_lo, network.input_hi
    whole = x.dtype.kind in "biu" and x.ndim == 3 and x.shape[1] > 0 and x.shape[2] == network.inputs
    if not whole or (x.size and not lo <= x.min() <= x.max() <= hi):
        expected = f"integers (samples, steps from 1, {network.inputs}) in [{lo}, {hi}]"
        raise BadInput(f"input: expected {expected}, got {x.dtype} {x.shape}")
    states = initial_states(network, len(x))
    steps = []
    for t in range(x.shape[1]):
        after, states = step(network, states, x[:, t].astype(np.int64))
        steps.append(after)
    return {name: np.stack([after[name] for after in steps], axis=1) for name in steps[0]}


def classify(output: Ints) -> Ints:
    """The class of each sample from the output (batch, steps, classes): the last step's argmax, ties to the lowest."""
    decision: Ints = output[:, -1].argmax(axis=1)
    return decision
