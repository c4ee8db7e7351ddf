"""The integer network: a small SSA program over integer vectors, one list of ops per layer.

A value is known by its index in the layer's list. All ops but products (MATVEC, CONV, SUMPOOL) work neuron by neuron,
so a layer is: products over whole vectors first, then one loop over its neurons, then the commit of its states. Every
op reads old states; only the commit writes them, so spikes that come back through a recurrent product are those of the
step before.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, assert_never

import numpy as np

from quantal.export.base import fixed
from quantal.export.base.fixed import Ints
from quantal.export.base.windows import Window

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

    @classmethod
    def of(cls, values: Iterable[int], name: str) -> "Table":
        """The table of these values, or of one where all are equal."""
        entries = tuple(int(v) for v in values)
        return cls(entries[:1] if len(set(entries)) == 1 else entries, name)


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


def with_operands(op: Op, new: Mapping[int, int]) -> Op:
    """The op, reading new[v] where it read v."""
    changes: dict[str, Any] = {field: new[getattr(op, field)] for field in _OPERANDS if hasattr(op, field)}
    return replace(op, **changes)
