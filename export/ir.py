"""The integer network: a small SSA program over integer vectors, one list of ops per layer.

A value is known by its index in the layer's list. All ops but products (MATVEC, CONV, SUMPOOL) work neuron by neuron,
so a layer is: products over whole vectors first, then one loop over its neurons, then the commit of its states. Every
op reads old states; only the commit writes them, so spikes that come back through a recurrent product are those of the
step before.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, assert_never

import numpy as np
from numpy.typing import NDArray

from export import fixed, names
from export.fixed import Ints
from export.windows import Window

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
    """A state of this layer, as committed at the step before, or as many steps ago as it is delayed."""

    name: str


@dataclass(frozen=True)
class Table:
    """Constants: one for each neuron, for each channel of as many neurons in a row, or for all of them.

    The name is for readers of what is emitted.
    """

    values: tuple[int, ...]
    name: str = "table"


@dataclass(frozen=True)
class MatVec:
    """The product of a weight matrix (neurons × inputs) with an INPUT or a STATE.

    With `levels` the matrix holds codes, and a weight is levels[code]; without, the codes are the weights.
    """

    weights: str
    x: int
    levels: tuple[int, ...] = ()


@dataclass(frozen=True)
class Conv:
    """The convolution of an INPUT or a STATE with kernels (channels out × channels in / groups · kernel).

    shape: (channels, height, width) of x; kernel, stride and padding: (down, across). Neurons are in the order channel,
    row, column. `levels` are MATVEC's.
    """

    weights: str
    x: int
    shape: tuple[int, ...]
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    groups: int
    levels: tuple[int, ...] = ()

    @property
    def window(self) -> Window:
        """What its kernels see."""
        return Window(self.shape, self.kernel, self.stride, self.padding)


@dataclass(frozen=True)
class SumPool:
    """The sum over each window of each channel of an INPUT or a STATE; fields as CONV has them."""

    x: int
    shape: tuple[int, ...]
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]

    @property
    def window(self) -> Window:
        """What is added up."""
        return Window(self.shape, self.kernel, self.stride, self.padding)


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
    """How many of the sorted borders lie at or below a. Of equal ones, the code between never occurs."""

    a: int
    borders: tuple[int, ...]


@dataclass(frozen=True)
class Lookup:
    """levels[a]."""

    a: int
    levels: tuple[int, ...]


Pointwise = Add | Sub | Mul | Shr | Shl | Clamp | Gt | Select | Step | Lookup
Weighted = MatVec | Conv
Product = Weighted | SumPool
Op = Input | State | Table | Product | Pointwise
OPS: dict[str, type[Op]] = {
    "INPUT": Input, "STATE": State, "TABLE": Table, "MATVEC": MatVec, "CONV": Conv, "SUMPOOL": SumPool, "ADD": Add,
    "SUB": Sub, "MUL": Mul, "SHR": Shr, "SHL": Shl, "CLAMP": Clamp, "GT": Gt, "SELECT": Select, "STEP": Step,
    "LOOKUP": Lookup,
}  # fmt: skip

_OPERANDS = ("condition", "x", "a", "b")


def op_name(op: Op) -> str:
    """The op's name in network.json, e.g. MATVEC."""
    return type(op).__name__.upper()


def operands(op: Op) -> tuple[int, ...]:
    """The values an op reads."""
    return tuple(getattr(op, field) for field in _OPERANDS if hasattr(op, field))


def pointwise(op: Pointwise, v: Sequence[Ints] | Mapping[int, Ints]) -> Ints:
    """What a pointwise op makes of its operands, v[a], v[b] and so on: the meaning of these ops."""
    match op:
        case Add(a, b):
            return v[a] + v[b]
        case Sub(a, b):
            return v[a] - v[b]
        case Mul(a, b):
            return v[a] * v[b]
        case Shr(a, shift):
            return fixed.shr(v[a], shift)
        case Shl(a, shift):
            return fixed.shl(v[a], shift)
        case Clamp(a, lo, hi):
            return fixed.clamp(v[a], lo, hi)
        case Gt(a, b):
            return fixed.gt(v[a], v[b])
        case Select(condition, a, b):
            return fixed.select(v[condition], v[a], v[b])
        case Step(a, borders):
            return fixed.step(v[a], np.array(borders, np.int64))
        case Lookup(a, levels):
            return fixed.lookup(v[a], np.array(levels, np.int64))
        case _:
            assert_never(op)


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
    """`size` neurons: ops in order, states, weight matrices (neurons × inputs) of codes, and the output value."""

    name: str
    size: int
    semantics: Mapping[str, str]
    ops: tuple[Op, ...]
    states: tuple[StateVar, ...]
    weights: Mapping[str, NDArray[np.integer]]
    output: int
    output_name: str

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


def _table(values: Iterable[int], name: str) -> Table:
    entries = tuple(int(v) for v in values)
    return Table(entries[:1] if len(set(entries)) == 1 else entries, name)


class Builder:
    """Records a layer's ops. Its methods are the `ops` that a neuron's step function is written against.

    Equal ops are recorded once. What costs nothing to leave out is left out: shifts by 0, added zeros, and the
    multiplication of a pure shift leak (m = 2^k − 2^(k−a): SHR(u·m, k) = u + SHR(−u, a), exactly).

    What is computed from constants is a TABLE, and what is computed from one code and constants is a LOOKUP of that
    code: a table state decays, resets and fires by lookup. What led there stays in `ops`, for `without` to drop.
    """

    def __init__(self) -> None:
        self.ops: list[Op] = []
        self._known: dict[Op, int] = {}
        self._tables: dict[int, Table | Lookup] = {}  # the values that are one, also where they are recorded as a GT

    def _record(self, op: Op) -> int:
        op = table = self._folded(op)
        if isinstance(table, Lookup):
            op = self._comparison(table) or table
        if op not in self._known:
            self._known[op] = len(self.ops)
            self.ops.append(op)
        value = self._known[op]
        if isinstance(table, Table | Lookup):
            self._tables[value] = table
        return value

    def _domain(self, value: int) -> tuple[int | None, int] | None:
        """What a table is indexed by, and its length: a code, or (None) the neuron. None of a single constant."""
        table = self._tables[value]
        if isinstance(table, Lookup):
            return table.a, len(table.levels)
        return (None, len(table.values)) if len(table.values) > 1 else None

    def _entries(self, value: int) -> Ints:
        table = self._tables[value]
        return np.array(table.levels if isinstance(table, Lookup) else table.values, np.int64)

    def _folded(self, op: Op) -> Op:
        """The table that an op is whose operands are tables of one domain, or single constants; else the op."""
        read = operands(op)
        if not isinstance(op, Pointwise) or not set(read) <= set(self._tables):
            return op
        domains = {domain for value in read if (domain := self._domain(value))}
        v = {value: self._entries(value) for value in read}
        if len(domains) > 1 or (isinstance(op, Lookup) and not 0 <= v[op.a].min() <= v[op.a].max() < len(op.levels)):
            return op
        values = pointwise(op, v)
        if any(x.min() < -(2**31) or x.max() >= 2**31 for x in (values, *v.values())):
            return op  # for the proof to refuse
        code = next((index for index, _ in domains), None)
        return _table(values.tolist(), "constant") if code is None else Lookup(code, tuple(values.tolist()))

    def _comparison(self, table: Lookup) -> Op | None:
        """The comparison of the code itself that a table 0 … 0 1 … 1 is."""
        zeros = table.levels.count(0)
        rises = table.levels == (0,) * zeros + (1,) * (len(table.levels) - zeros)
        return Gt(table.a, self.const(zeros - 1)) if rises else None

    def _constant(self, value: int) -> tuple[int, ...] | None:
        op = self.ops[value]
        return op.values if isinstance(op, Table) else None

    def input(self, source: str) -> int:
        return self._record(Input(source))

    def state(self, name: str) -> int:
        return self._record(State(name))

    def table(self, values: Iterable[int], name: str = "table") -> int:
        """Constants; where all are equal, one is stored."""
        return self._record(_table(values, name))

    def const(self, value: int) -> int:
        return self.table((value,), "constant")

    def matvec(self, weights: str, x: int, levels: Iterable[int] = ()) -> int:
        return self._record(MatVec(weights, x, tuple(levels)))

    def conv(self, weights: str, x: int, window: Window, groups: int, levels: Iterable[int] = ()) -> int:
        w = window
        return self._record(Conv(weights, x, w.shape, w.kernel, w.stride, w.padding, groups, tuple(levels)))

    def sumpool(self, x: int, window: Window) -> int:
        return self._record(SumPool(x, window.shape, window.kernel, window.stride, window.padding))

    def add(self, a: int, b: int) -> int:
        if self._constant(b) == (0,):
            return a
        return self._record(Add(a, b))

    def sub(self, a: int, b: int) -> int:
        if self._constant(b) == (0,):
            return a
        total = self.ops[a]
        if isinstance(total, Add) and {total.a, b} <= set(self._tables) and self._domain(total.a) == self._domain(b):
            return self.add(self.sub(total.a, b), total.b)  # (f + x) − g = (f − g) + x: one table in place of two
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

    def step(self, a: int, borders: Iterable[int], levels: object = None) -> int:
        """`levels` say in training where gradients pass; the value is the same."""
        return self._record(Step(a, tuple(borders)))

    def lookup(self, a: int, levels: Iterable[int]) -> int:
        return self._record(Lookup(a, tuple(levels)))


def with_operands(op: Op, new: Mapping[int, int]) -> Op:
    """The op, reading new[v] where it read v."""
    changes: dict[str, Any] = {field: new[getattr(op, field)] for field in _OPERANDS if hasattr(op, field)}
    return replace(op, **changes)


def without(layer: Layer, identities: Mapping[int, int]) -> Layer:
    """The layer, reading identities[v] in place of v, and without the ops and weights that nothing needs any more."""

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
        weights={op.weights: layer.weights[op.weights] for op in ops if isinstance(op, Weighted)},
    )
