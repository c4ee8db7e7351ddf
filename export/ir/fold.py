"""Folding: the same values by fewer and cheaper ops. What was recorded is written again, op by op; see `folded`."""

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from quantal.export.base.fixed import Ints
from quantal.export.ir.builder import Builder
from quantal.export.ir.network import Layer
from quantal.export.ir.ops import (
    Add,
    Gt,
    Lookup,
    Mul,
    Op,
    Pointwise,
    Shr,
    Sub,
    Table,
    Weighted,
    operands,
    pointwise,
    with_operands,
)


class Folder(Builder):
    """Records ops folded.

    What costs nothing to leave out is left out: added zeros, and the multiplication of a pure shift leak
    (m = 2^k − 2^(k−a): SHR(u·m, k) = u + SHR(−u, a), exactly).

    What is computed from constants is a TABLE, and what is computed from one code and constants is a LOOKUP of that
    code: a table state decays, resets and fires by lookup. What led there stays in `ops`, for `without` to drop.
    """

    def __init__(self) -> None:
        super().__init__()
        self._tables: dict[int, Table | Lookup] = {}  # the values that are one, also where they are recorded as a GT

    def record(self, op: Op) -> int:
        """The value of the op, folded."""
        op = table = self._folded(op)
        if isinstance(table, Lookup):
            op = self._comparison(table) or table
        value = super().record(op)
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
        return Table.of(values.tolist(), "constant") if code is None else Lookup(code, tuple(values.tolist()))

    def _comparison(self, table: Lookup) -> Op | None:
        """The comparison of the code itself that a table 0 … 0 1 … 1 is."""
        zeros = table.levels.count(0)
        rises = table.levels == (0,) * zeros + (1,) * (len(table.levels) - zeros)
        return Gt(table.a, self.const(zeros - 1)) if rises else None

    def _constant(self, value: int) -> tuple[int, ...] | None:
        op = self.ops[value]
        return op.values if isinstance(op, Table) else None

    def add(self, a: int, b: int) -> int:
        if self._constant(b) == (0,):
            return a
        return self.record(Add(a, b))

    def sub(self, a: int, b: int) -> int:
        if self._constant(b) == (0,):
            return a
        total = self.ops[a]
        if isinstance(total, Add) and {total.a, b} <= set(self._tables) and self._domain(total.a) == self._domain(b):
            return self.add(self.sub(total.a, b), total.b)  # (f + x) − g = (f − g) + x: one table in place of two
        return self.record(Sub(a, b))

    def shr(self, a: int, shift: int) -> int:
        if shift == 0:
            return a
        product = self.ops[a]
        leak = self._shift_leak(product, shift) if isinstance(product, Mul) else None
        if isinstance(product, Mul) and leak is not None:
            return self.add(product.a, self.shr(self.sub(self.const(0), product.a), leak))
        return self.record(Shr(a, shift))

    def _shift_leak(self, product: Mul, k: int) -> int | None:
        """a, where the factor is 2^k − 2^(k−a) for every neuron."""
        factor = self._constant(product.b)
        if factor is None or len(factor) != 1:
            return None
        rest = (1 << k) - factor[0]
        return k - rest.bit_length() + 1 if 0 < rest < 1 << k and rest & (rest - 1) == 0 else None


def folded(layer: Layer) -> Layer:
    """The layer, its ops folded: every output and every state keeps its value at every step."""
    ops = Folder()
    new: dict[int, int] = {}
    for value, op in enumerate(layer.ops):
        new[value] = _said_again(ops, with_operands(op, new))
    states = tuple(replace(state, next=new[state.next]) for state in layer.states)
    for value, label in layer.labels.items():
        ops.called(label, new[value])
    return without(replace(layer, ops=tuple(ops.ops), output=new[layer.output], states=states, labels=ops.labels), {})


def _said_again(ops: Folder, op: Op) -> int:
    match op:
        case Add(a, b):
            return ops.add(a, b)
        case Sub(a, b):
            return ops.sub(a, b)
        case Shr(a, shift):
            return ops.shr(a, shift)
        case _:
            return ops.record(op)


def needed(layer: Layer, target: Callable[[int], int] = lambda value: value) -> set[int]:
    """The values that an output or a state comes from, where target(v) is read in place of v."""
    found: set[int] = set()
    pending = [target(v) for v in (layer.output, *(state.next for state in layer.states))]
    while pending:
        value = pending.pop()
        if value not in found:
            found.add(value)
            pending += [target(v) for v in operands(layer.ops[value])]
    return found


def _relabelled(labels: Mapping[int, str], new: Mapping[int, int]) -> dict[int, str]:
    """The labels of the values that are left; of two that became one, the first."""
    found: dict[int, str] = {}
    for value, label in labels.items():
        if value in new:
            found.setdefault(new[value], label)
    return found


def without(layer: Layer, identities: Mapping[int, int]) -> Layer:
    """The layer, reading identities[v] in place of v, and without the ops and weights that nothing needs any more."""

    def target(value: int) -> int:
        while value in identities:
            value = identities[value]
        return value

    new: dict[int, int] = {}
    ops: list[Op] = []
    for value in sorted(needed(layer, target)):
        new[value] = len(ops)
        ops.append(with_operands(layer.ops[value], {v: new[target(v)] for v in operands(layer.ops[value])}))
    return replace(
        layer,
        ops=tuple(ops),
        output=new[target(layer.output)],
        states=tuple(replace(state, next=new[target(state.next)]) for state in layer.states),
        labels=_relabelled(layer.labels, {v: new[target(v)] for v in layer.labels if target(v) in new}),
        weights={op.weights: layer.weights[op.weights] for op in ops if isinstance(op, Weighted)},
    )
