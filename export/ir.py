"""The integer network: a small SSA program over integer vectors, one list of ops per layer.

A value is known by its index in the layer's list. All ops but MATVEC work neuron by neuron, so a layer is: products
over whole vectors first, then one loop over its neurons, then the commit of its states. Every op reads old states;
only the commit writes them, so spikes that come back through a recurrent product are those of the step before.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

ARITHMETIC = {
    "integers": "two's complement",
    "right_shift": "arithmetic, half up: floor((x + 2^(s-1)) / 2^s)",
    "overflow": "none: every value is proven to fit in 32 bits",
    "order": "layers in sequence; all ops read old states; states are committed at the end of their layer",
    "decision": "argmax of the output, ties to the lowest index",
}


@dataclass(frozen=True)
class Input:
    """The output of another layer at this step, or the network's own input (source "input")."""

    source: str


@dataclass(frozen=True)
class State:
    """A state of this layer, as committed at the step before."""

    name: str


@dataclass(frozen=True)
class Table:
    """Constants: one for each neuron, or a single one for all of them. The name is for readers of what is emitted."""

    values: tuple[int, ...]
    name: str = "table"


@dataclass(frozen=True)
class MatVec:
    """The product of a weight matrix (neurons × inputs) with an INPUT or a STATE."""

    weights: str
    x: int


@dataclass(frozen=True)
class Add:
    """a + b."""

    a: int
    b: int


@dataclass(frozen=True)
class Sub:
    """a − b."""

    a: int
    b: int


@dataclass(frozen=True)
class Mul:
    """a · b."""

    a: int
    b: int


@dataclass(frozen=True)
class Shr:
    """floor((a + 2^(s−1)) / 2^s): the right shift that rounds half up."""

    a: int
    shift: int


@dataclass(frozen=True)
class Shl:
    """a · 2^s."""

    a: int
    shift: int


@dataclass(frozen=True)
class Clamp:
    """a, saturated to [lo, hi]."""

    a: int
    lo: int
    hi: int


@dataclass(frozen=True)
class Gt:
    """1 where a > b, strictly, else 0."""

    a: int
    b: int


@dataclass(frozen=True)
class Select:
    """a where the condition is not 0, else b."""

    condition: int
    a: int
    b: int


@dataclass(frozen=True)
class Step:
    """How many of the sorted borders lie at or below a."""

    a: int
    borders: tuple[int, ...]


@dataclass(frozen=True)
class Lookup:
    """levels[a]."""

    a: int
    levels: tuple[int, ...]


Op = Input | State | Table | MatVec | Add | Sub | Mul | Shr | Shl | Clamp | Gt | Select | Step | Lookup
OPS: dict[str, type[Op]] = {
    "INPUT": Input, "STATE": State, "TABLE": Table, "MATVEC": MatVec, "ADD": Add, "SUB": Sub, "MUL": Mul,
    "SHR": Shr, "SHL": Shl, "CLAMP": Clamp, "GT": Gt, "SELECT": Select, "STEP": Step, "LOOKUP": Lookup,
}  # fmt: skip

_OPERANDS = ("condition", "x", "a", "b")


def op_name(op: Op) -> str:
    """The op's name in network.json, e.g. MATVEC."""
    return type(op).__name__.upper()


def operands(op: Op) -> tuple[int, ...]:
    """The values an op reads."""
    return tuple(getattr(op, field) for field in _OPERANDS if hasattr(op, field))


@dataclass(frozen=True)
class StateVar:
    """A state: its value before the first step, its proven interval [lo, hi], and the value committed to it.

    `fraction` is the n_frac of its fxpmath format: −s where the code stands for code · 2^s accumulator units.
    """

    name: str
    init: int
    lo: int
    hi: int
    next: int
    fraction: int = 0


@dataclass(frozen=True)
class Layer:
    """`size` neurons: ops in order, states, weight matrices (neurons × inputs, int8) and the output value."""

    name: str
    size: int
    semantics: Mapping[str, str]
    ops: tuple[Op, ...]
    states: tuple[StateVar, ...]
    weights: Mapping[str, NDArray[np.int8]]
    output: int
    output_name: str

    def records(self) -> Iterator[tuple[str, int]]:
        """(name, value) of all that a step leaves to be compared: each state, and the output where it is no state."""
        yield from ((f"{self.name}.{state.name}", state.next) for state in self.states)
        if all(state.next != self.output for state in self.states):
            yield f"{self.name}.{self.output_name}", self.output

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


class Builder:
    """Records a layer's ops. Its methods are the `ops` that a neuron's step function is written against.

    Equal ops are recorded once. What costs nothing to leave out is left out: shifts by 0, added zeros, and the
    multiplication of a pure shift leak (m = 2^k − 2^(k−a): SHR(u·m, k) = u + SHR(−u, a), exactly).
    """

    def __init__(self) -> None:
        self.ops: list[Op] = []
        self._known: dict[Op, int] = {}

    def _record(self, op: Op) -> int:
        if op not in self._known:
            self._known[op] = len(self.ops)
            self.ops.append(op)
        return self._known[op]

    def _constant(self, value: int) -> tuple[int, ...] | None:
        op = self.ops[value]
        return op.values if isinstance(op, Table) else None

    def input(self, source: str) -> int:
        return self._record(Input(source))

    def state(self, name: str) -> int:
        return self._record(State(name))

    def table(self, values: Iterable[int], name: str = "table") -> int:
        """Constants; where all are equal, one is stored."""
        entries = tuple(int(v) for v in values)
        return self._record(Table(entries[:1] if len(set(entries)) == 1 else entries, name))

    def const(self, value: int) -> int:
        return self.table((value,), "constant")

    def matvec(self, weights: str, x: int) -> int:
        return self._record(MatVec(weights, x))

    def add(self, a: int, b: int) -> int:
        if self._constant(b) == (0,):
            return a
        return self._record(Add(a, b))

    def sub(self, a: int, b: int) -> int:
        if self._constant(b) == (0,):
            return a
        return self._record(Sub(a, b))

    def mul(self, a: int, b: int) -> int:
        return self._record(Mul(a, b))

    def shr(self, a: int, shift: int) -> int:
        if shift == 0:
            return a
        product = self.ops[a]
        leak = self._shift_leak(product, shift) if isinstance(product, Mul) else None
        if isinstance(product, Mul) and leak is not None:
            return self.add(product.a, self.shr(self.sub(self.const(0), product.a), leak))
        return self._record(Shr(a, shift))

    def _shift_leak(self, product: Mul, k: int) -> int | None:
        """a, where the factor is 2^k − 2^(k−a) for every neuron."""
        factor = self._constant(product.b)
        if factor is None or len(factor) != 1:
            return None
        rest = (1 << k) - factor[0]
        return k - rest.bit_length() + 1 if 0 < rest < 1 << k and rest & (rest - 1) == 0 else None

    def shl(self, a: int, shift: int) -> int:
        return a if shift == 0 else self._record(Shl(a, shift))

    def clamp(self, a: int, lo: int, hi: int) -> int:
        return self._record(Clamp(a, lo, hi))

    def gt(self, a: int, b: int) -> int:
        return self._record(Gt(a, b))

    def select(self, condition: int, a: int, b: int) -> int:
        return self._record(Select(condition, a, b))

    def detach(self, a: int) -> int:
        """Gradients end here in training; the value is the same."""
        return a

    def step(self, a: int, borders: Iterable[int]) -> int:
        return self._record(Step(a, tuple(borders)))

    def lookup(self, a: int, levels: Iterable[int]) -> int:
        return self._record(Lookup(a, tuple(levels)))


def with_operands(op: Op, new: Mapping[int, int]) -> Op:
    """The op, reading new[v] where it read v."""
    changes: dict[str, Any] = {field: new[getattr(op, field)] for field in _OPERANDS if hasattr(op, field)}
    return replace(op, **changes)


def without(layer: Layer, identities: Mapping[int, int]) -> Layer:
    """The layer, reading identities[v] in place of v, and without the ops that nothing needs any more."""

    def target(value: int) -> int:
        while value in identities:
            value = identities[value]
        return value

    needed: set[int] = set()
    pending = [target(v) for v in (layer.output, *(state.next for state in layer.states))]
    while pending:
        value = pending.pop()
        if value not in needed:
            needed.add(value)
            pending += [target(v) for v in operands(layer.ops[value])]
    new: dict[int, int] = {}
    ops: list[Op] = []
    for value in sorted(needed):
        new[value] = len(ops)
        ops.append(with_operands(layer.ops[value], {v: new[target(v)] for v in operands(layer.ops[value])}))
    return replace(
        layer,
        ops=tuple(ops),
        output=new[target(layer.output)],
        states=tuple(replace(state, next=new[target(state.next)]) for state in layer.states),
    )
