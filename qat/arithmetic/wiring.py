"""A layer's wiring, written once against `ops`, as the neurons are: torch and SAF evaluate it, engines and lowering
record it.

    J = (W x[t]) · 2^fan_in + J' · 2^added      what comes from other layers, J' being another's current
    I = J + (V s[t−1]) · 2^recurrent + b
    s[t], states = the neuron's step(I, states)

Products of weights are made by whoever reads this: of all steps at once, in a kernel, or as an op of its own.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Generic

from quantal.qat.arithmetic import neurons
from quantal.qat.arithmetic.neurons import Neuron, Params, StateRange
from quantal.qat.arithmetic.ops import Ops, V


@dataclass(frozen=True)
class Shifts:
    """By how many bits products with the input, products with own spikes and an added current come into the unit."""

    fan_in: int
    recurrent: int
    added: int = 0


@dataclass(frozen=True)
class Wires(Generic[V]):
    """What of a layer is the same at every step, in the values of some ops.

    matrix: makes V s of the spikes s of the step before; diagonal: V where each neuron feeds itself back alone. A layer
    has one of them, or neither.
    """

    neuron: Neuron
    params: Params
    shifts: Shifts
    bias: V | None = None
    matrix: Callable[[V], V] | None = None
    diagonal: V | None = None

    @property
    def recurrent(self) -> bool:
        """Whether its spikes come back."""
        return self.matrix is not None or self.diagonal is not None


def states(neuron: Neuron, params: Params, recurrent: bool) -> dict[str, StateRange]:
    """A layer's states by name: the neuron's, and where it is recurrent the spikes of the step before."""
    return neuron.states(params) | ({"spike": neurons.spikes(params)} if recurrent else {})


def fan_in(
    ops: Ops[V], wires: Wires[V], product: V, added: Callable[[], V] | None = None, shared: bool = False
) -> tuple[V, Wires[V]]:
    """(J, and what is left of the wires) for W x, where J is wanted before the step.

    added: gives J', if a current is added. shared: others add J in turn, and then b is in it.
    """
    total = ops.shl(product, wires.shifts.fan_in)
    if added is not None:
        total = ops.add(total, ops.shl(added(), wires.shifts.added))
    left = replace(wires, shifts=replace(wires.shifts, fan_in=0, added=0))
    if not shared or wires.bias is None:
        return total, left
    return ops.add(total, wires.bias), replace(left, bias=None)


def layer_step(ops: Ops[V], wires: Wires[V], product: V, state: dict[str, V]) -> tuple[V, dict[str, V]]:
    """(output, states after) of one step, for W x, or for J with the wires that `fan_in` left."""
    back = _fed_back(ops, wires, state)
    current = neurons.current(ops, product, wires.shifts.fan_in, back, wires.shifts.recurrent, wires.bias)
    output, after = wires.neuron.step(ops, current, state, wires.params)
    return output, after | {"spike": output} if wires.recurrent else after


def _fed_back(ops: Ops[V], wires: Wires[V], state: dict[str, V]) -> V | None:
    """V s[t−1]."""
    if wires.diagonal is not None:
        return ops.mul(wires.diagonal, state["spike"])
    return None if wires.matrix is None else wires.matrix(state["spike"])
