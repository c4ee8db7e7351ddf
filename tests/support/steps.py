"""One step of an integer network, value by value, and every 16-bit word."""

import numpy as np

from quantal.export.base.fixed import Ints
from quantal.export.ir import interpret
from quantal.export.ir.network import Network

ALL = np.arange(-(2**15), 2**15)


def one_step(network: Network, states: interpret.Trace, x: Ints) -> list[list[Ints]]:
    """Every op's value in every layer, as the interpreter computes it; `states` becomes what the step commits."""
    inputs, everything = {"input": x}, []
    after = {}
    for layer in network.layers:
        values: list[Ints] = []
        for op in layer.ops:
            values.append(interpret._apply(op, values, layer, inputs, states))
        inputs[layer.name] = values[layer.output]
        after |= {f"{layer.name}.{s.name}": values[s.next] for s in layer.states}
        everything.append(values)
    states |= after
    return everything
