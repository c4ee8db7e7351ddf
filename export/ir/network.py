"""The integer network: its layers, their states and their weights. ops.py has what a layer consists of."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from quantal.export.base import names
from quantal.export.base.fixed import Ints
from quantal.export.ir.ops import Add, Op, Shr, State, Sub, Table, Weighted


@dataclass(frozen=True)
class StateVar:
    """A state: its value before the first step, its proven interval [lo, hi], and the value committed to it.

    `fraction` is the n_frac of its fxpmath format: −s where the code stands for code · 2^s accumulator units. STATE
    reads what was committed `delay` steps before.
    """

    name: str
    init: int
    lo: int
    hi: int
    next: int
    fraction: int = 0
    delay: int = 1


@dataclass(frozen=True)
class Layer:
    """`size` neurons: ops in order, states, weight matrices (neurons × inputs) of codes, and the output value.

    labels: what values are called, by their index, for readers of what is emitted.
    """

    name: str
    size: int
    semantics: Mapping[str, str]
    ops: tuple[Op, ...]
    states: tuple[StateVar, ...]
    weights: Mapping[str, NDArray[np.integer]]
    output: int
    output_name: str
    labels: Mapping[int, str] = field(default_factory=dict)

    @property
    def passed_on(self) -> StateVar | None:
        """The state that is read and sent on as it is, if that is all that the layer's output is."""
        op = self.ops[self.output]
        return self.state(op.name) if isinstance(op, State) else None

    @property
    def rings(self) -> tuple[StateVar, ...]:
        """The states of which the values of several steps are kept: delayed ones, and what is passed on."""
        passed_on = self.passed_on
        return tuple(state for state in self.states if state.delay > 1 or state is passed_on)

    def records(self) -> Iterator[tuple[str, int]]:
        """(name, value) of all that a step leaves to be compared: each state, and the output where it is no state.

        What is delayed is compared when it is read.
        """
        states = [state for state in self.states if state.delay == 1]
        yield from ((names.record(self.name, state.name), state.next) for state in states)
        if all(state.next != self.output for state in states):
            yield names.record(self.name, self.output_name), self.output

    def spread(self, op: Table) -> Ints:
        """The constants of all neurons, or the single one for all of them."""
        values = np.array(op.values, np.int64)
        return values if len(values) == 1 else np.repeat(values, self.size // len(values))

    def matrix(self, op: Weighted) -> Ints:
        """The weights of a product (neurons × inputs), or its kernels, as the integers that they are."""
        codes = self.weights[op.weights].astype(np.int64)
        return np.array(op.levels, np.int64)[codes] if op.levels else codes

    def leak(self, op: Op) -> int | None:
        """a, where op is u + SHR(−u, a): the builder's form of SHR(u·m, k), m = 2^k − 2^(k−a)."""
        fall = self.ops[op.b] if isinstance(op, Add) else None
        negated = self.ops[fall.a] if isinstance(fall, Shr) else None
        if not (isinstance(op, Add) and isinstance(fall, Shr) and isinstance(negated, Sub) and negated.b == op.a):
            return None
        zero = self.ops[negated.a]
        return fall.shift if isinstance(zero, Table) and zero.values == (0,) else None

    def state(self, name: str) -> StateVar:
        """The state of that name."""
        return next(state for state in self.states if state.name == name)


@dataclass(frozen=True)
class Network:
    """`inputs` integers in [lo, hi] come in at each step; layers follow in order, the last one the readout."""

    name: str
    inputs: int
    input_lo: int
    input_hi: int
    encoding: Mapping[str, str | int]
    layers: tuple[Layer, ...]

    @property
    def outputs(self) -> int:
        """How many outputs (classes) the readout has."""
        return self.layers[-1].size

    def renamed(self, name: str) -> "Network":
        """The same network under another name."""
        return replace(self, name=name)
