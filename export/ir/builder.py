"""Records a layer's ops just as they are said: what is recorded is what torch computes. fold.py makes less of it."""

from collections.abc import Iterable

from quantal.export.base.windows import Window
from quantal.export.ir.ops import (
    Add,
    Clamp,
    Conv,
    Gt,
    Input,
    Lookup,
    MatVec,
    Mul,
    Op,
    Select,
    Shl,
    Shr,
    State,
    Step,
    Sub,
    SumPool,
    Table,
)


class Builder:
    """The `ops` that a neuron's step function is written against: each method records an op and returns its value.

    Equal ops are recorded once, and shifts by 0 not at all.
    """

    def __init__(self) -> None:
        self.ops: list[Op] = []
        self.labels: dict[int, str] = {}
        self._known: dict[Op, int] = {}

    def called(self, label: str, value: int) -> int:
        """The value, which is called so where it is emitted, unless it has a name: a state, a table, what is labelled.

        A second value of that label gets a number behind it.
        """
        if value not in self.labels and not isinstance(self.ops[value], Input | State | Table):
            taken = set(self.labels.values())
            more = (f"{label}_{number}" for number in range(2, len(taken) + 3))
            self.labels[value] = next(name for name in (label, *more) if name not in taken)
        return value

    def record(self, op: Op) -> int:
        """The value of the op, which is recorded unless an equal one is."""
        if op not in self._known:
            self._known[op] = len(self.ops)
            self.ops.append(op)
        return self._known[op]

    def input(self, source: str) -> int:
        return self.record(Input(source))

    def state(self, name: str) -> int:
        return self.record(State(name))

    def table(self, values: Iterable[int], name: str = "table") -> int:
        """Constants; where all are equal, one is stored."""
        return self.record(Table.of(values, name))

    def const(self, value: int) -> int:
        return self.table((value,), "constant")

    def matvec(self, weights: str, x: int, levels: Iterable[int] = ()) -> int:
        return self.record(MatVec(weights, x, tuple(levels)))

    def conv(self, weights: str, x: int, window: Window, groups: int, levels: Iterable[int] = ()) -> int:
        w = window
        return self.record(Conv(weights, x, w.shape, w.kernel, w.stride, w.padding, groups, tuple(levels)))

    def sumpool(self, x: int, window: Window) -> int:
        return self.record(SumPool(x, window.shape, window.kernel, window.stride, window.padding))

    def add(self, a: int, b: int) -> int:
        return self.record(Add(a, b))

    def sub(self, a: int, b: int) -> int:
        return self.record(Sub(a, b))

    def mul(self, a: int, b: int) -> int:
        return self.record(Mul(a, b))

    def shr(self, a: int, shift: int) -> int:
        return a if shift == 0 else self.record(Shr(a, shift))

    def shl(self, a: int, shift: int) -> int:
        return a if shift == 0 else self.record(Shl(a, shift))

    def clamp(self, a: int, lo: int, hi: int) -> int:
        return self.record(Clamp(a, lo, hi))

    def gt(self, a: int, b: int) -> int:
        return self.record(Gt(a, b))

    def select(self, condition: int, a: int, b: int) -> int:
        return self.record(Select(condition, a, b))

    def detach(self, a: int) -> int:
        """Gradients end here in training; the value is the same."""
        return a

    def step(self, a: int, borders: Iterable[int], levels: object = None) -> int:
        """`levels` say in training where gradients pass; the value is the same."""
        return self.record(Step(a, tuple(borders)))

    def lookup(self, a: int, levels: Iterable[int]) -> int:
        return self.record(Lookup(a, tuple(levels)))
