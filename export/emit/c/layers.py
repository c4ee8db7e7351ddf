"""A layer's function in C: its products, one loop over its neurons, and the tables of constants that it reads.

Everything of a neuron is in int32_t; states and sums are stored in the smallest words that their intervals allow.
"""

from dataclasses import dataclass, field, replace
from typing import assert_never

import numpy as np

from quantal.export.base import fixed, names
from quantal.export.base.render import wrapped
from quantal.export.base.word import Word
from quantal.export.emit.c.equations import equations
from quantal.export.emit.c.memory import Array, Ring, arrays, interval_comment, output_place, rings
from quantal.export.emit.c.products import Product
from quantal.export.emit.c.text import c_type, literal, loop
from quantal.export.emit.c.weights import Synapses, added, synapses
from quantal.export.ir import ops
from quantal.export.ir.fold import needed
from quantal.export.ir.labels import UNNAMED, value_names
from quantal.export.ir.network import Layer, Network
from quantal.export.ir.ops import operands
from quantal.export.proof.intervals import Interval, Proven

_FEW_BORDERS = 16  # up to here, comparing with all of them is no more than a search


@dataclass(frozen=True)
class Table:
    """Constants, as text: e.g. type int8_t, name hidden_fan_in, dimensions [64][128]."""

    type: str
    name: str
    dimensions: str
    values: str
    comment: str = ""


@dataclass
class Function:
    """A layer's function. `declared` comes first, then `products`, and `lines` for each neuron below its `equations`.

    `arguments`: those of step that it needs beside the state. `searched`: the types of the tables of borders in which
    it searches. `sums`: what the products are added up in, a member of the scratch memory.
    """

    name: str
    private: str
    size: int
    title: str
    arguments: list[str]
    equations: list[str]
    declared: list[str] = field(default_factory=list)
    products: list[Product] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    sums: list[Array] = field(default_factory=list)
    searched: list[str] = field(default_factory=list)

    @property
    def scratch(self) -> str:
        """The member of the scratch memory that holds its sums."""
        return names.sums(self.name)

    def body(self, index_type: str) -> list[str]:
        """The lines between its braces."""
        indices = [f"{index_type} i;"]
        if any(product.window is None for product in self.products):
            indices.append("uint_fast32_t e;")
        bases = [f"int32_t {product.how.base} = 0;" for product in self.products if product.how.base]
        blocks = [line for product in self.products for line in ("", *product.lines())]
        return [*indices, *self.declared, *bases, *blocks, "", *self.equations, *loop("i", self.size, *self.lines)]


def layer_title(layer: Layer) -> str:
    """One line: what the layer is, as its semantics have it, in the order in which network.json keeps them."""
    said = (f"{key.replace('_', ' ')} {value}" for key, value in sorted(layer.semantics.items()))
    return "; ".join([f"{layer.size} neurons", *said])


def functions(proven: Proven) -> list[Function]:
    """Those of all layers, in order."""
    places, found = {"input": "in"}, []
    for layer, intervals in proven.layers:
        found.append(_Writer(proven.network, layer, intervals, places).write())
        places[layer.name] = output_place(layer)
    return found


class _Writer:
    """Turns one layer's ops into C. `places` maps a layer's name to where its output stands.

    The layer's number keeps private names apart, whatever layers and matrices are called.
    """

    def __init__(self, network: Network, layer: Layer, intervals: tuple[Interval, ...], places: dict[str, str]):
        self.network, self.layer, self.intervals, self.places = network, layer, intervals, places
        self.hulls = [interval.hull for interval in intervals]
        self.needed = needed(layer)
        self.private = names.private(network.name, network.layers.index(layer) + 1, layer.name)
        self.names = self._named()
        self.search = f"{network.name}_priv_step"
        self.last = layer is network.layers[-1]
        reads_input = any(layer.ops[value] == ops.Input("input") for value in self.needed)
        arguments = ["in"] * reads_input + ["out"] * self.last
        title, said = layer_title(layer), equations(layer, self.names)
        self.made = Function(layer.name, self.private, layer.size, title, arguments, said)

    def write(self) -> Function:
        """The function."""
        self._point_into_rings()
        for index in sorted(self.needed):
            self._write(index)
        values = self.names
        own = arrays(self.layer, self.intervals)
        for name, value in self.layer.records():
            if name in own:
                self.made.lines.append(f"state->{own[name].name}[i] = ({own[name].type}){values[value]};")
        for state, ring in zip(self.layer.rings, rings(self.layer), strict=True):
            written = f"{state.name}_newest" if ring.passed_on else f"{state.name}_oldest"
            self.made.lines.append(f"{written}[i] = ({ring.array.type}){values[state.next]};")
        if self.last:
            self.made.lines.append(f"out[i] = {values[self.layer.output]};")
        return self.made

    def _point_into_rings(self) -> None:
        """Every ring moves on before anything is read."""
        for state, ring in zip(self.layer.rings, rings(self.layer), strict=True):
            kind = ring.array.type
            if ring.passed_on:  # over what the step before read
                self.made.declared += [f"{kind} *const {state.name}_newest = {ring.oldest};", ring.advance]
            else:
                self.made.declared += [ring.advance, f"{kind} *const {state.name}_oldest = {ring.oldest};"]

    def _table(self, suffix: str, values: tuple[int, ...], comment: str = "") -> Table:
        kind = c_type(Word.holding(min(values), max(values)))
        return self._add(Table(kind, f"{self.private}_{suffix}", f"[{len(values)}]", wrapped(values), comment))

    def _add(self, table: Table) -> Table:
        if table not in self.made.tables:  # two products may read one matrix
            self.made.tables.append(table)
        return table

    def _named(self) -> list[str]:
        """How lines call each value: by its name, or a constant that has none by its number."""
        pointers = (f"{state.name}_{end}" for state in self.layer.rings for end in ("oldest", "newest"))
        seen = (f"{op.source}_seen" for op in self.layer.ops if isinstance(op, ops.Input))
        own = (f"{kind}_{index}" for kind in ("base", "borders") for index in range(len(self.layer.ops)))
        outside = {"i", "e", "state", "in", "out", *names.of_header(self.network.name)}
        found = value_names(self.layer, {*outside, *pointers, *seen, *own})
        for index, op in enumerate(self.layer.ops):
            if isinstance(op, ops.Table) and len(op.values) == 1 and op.name in UNNAMED:
                found[index] = literal(op.values[0])
        return found

    def _write(self, index: int) -> None:
        """A line for value `index`, unless it is a number, or a place that products alone read."""
        op, name, (lo, hi) = self.layer.ops[index], self.names[index], self.hulls[index]
        if isinstance(op, ops.Table) and len(op.values) == 1:
            if op.name not in UNNAMED:
                self.made.declared.append(f"const int32_t {name} = {literal(op.values[0])};")
        elif not isinstance(op, ops.Input | ops.State) or self._read_by_neurons(index):
            rounded = ", rounded half up" if isinstance(op, ops.Shr) and op.shift else ""
            self.made.lines.append(f"const int32_t {name} = {self._expression(index)}; /* [{lo}, {hi}]{rounded} */")

    def _read_by_neurons(self, index: int) -> bool:
        readers = [self.layer.ops[value] for value in self.needed]
        direct = {value for op in readers if not isinstance(op, ops.Product) for value in operands(op)}
        written = index == self.layer.output and (self.last or self.layer.passed_on is None)
        return index in direct or written or any(state.next == index for state in self.layer.states)

    def _expression(self, index: int) -> str:
        op, n = self.layer.ops[index], self.names.__getitem__
        match op:
            case ops.Input() | ops.State():
                return f"{self._place(index)}[i]"
            case ops.Table(values, name):
                each = self.layer.size // len(values)
                return f"{self._table(f'{index}_{name}', values).name}[i{f' / {each}' if each > 1 else ''}]"
            case ops.MatVec() | ops.Conv() | ops.SumPool():
                return self._product(index, op)
            case ops.Add(a, b):
                return f"{n(a)} + {n(b)}"
            case ops.Sub(a, b):
                return f"{n(a)} - {n(b)}"
            case ops.Mul(a, b):
                return f"{n(a)} * {n(b)}"
            case ops.Shr(a, shift):
                return f"({n(a)} + {1 << (shift - 1)}) >> {shift}" if shift else n(a)
            case ops.Shl(a, shift):
                return f"{n(a)} * {1 << shift}" if shift < 31 else f"{n(a)} * {1 << 30} * 2"
            case ops.Clamp(a, lo, hi):
                least, most = self.hulls[a]  # an end that it never reaches is not compared with
                below = f"{n(a)} > {hi} ? {hi} : {n(a)}" if most > hi else n(a)
                if least >= lo:
                    return below
                return f"{n(a)} < {lo} ? {lo} : ({below})" if most > hi else f"{n(a)} < {lo} ? {lo} : {n(a)}"
            case ops.Gt(a, b):
                return f"{n(a)} > {n(b)} ? 1 : 0"
            case ops.Select(condition, a, b):
                return f"{n(condition)} != 0 ? {n(a)} : {n(b)}"
            case ops.Step(a, borders):
                return self._step(index, n(a), borders)
            case ops.Lookup(a, levels):
                return f"{self._table(f'{index}_levels', levels).name}[{n(a)}]"
            case _:
                assert_never(op)

    def _step(self, index: int, value: str, borders: tuple[int, ...]) -> str:
        table = self._table(f"{index}_borders", borders)
        if len(borders) > _FEW_BORDERS:
            self.made.searched.append(table.type)
            return f"{self.search}_{table.type}({table.name}, {len(borders)}, {value})"
        name = f"borders_{index}"
        self.made.declared.append(f"const {table.type} *const {name} = {table.name};")
        return " + ".join(f"({value} >= {name}[{i}])" for i in range(len(borders)))

    def _place(self, index: int) -> str:
        """Where the values of an INPUT or a STATE stand."""
        op = self.layer.ops[index]
        if isinstance(op, ops.Input):
            return self._pointed(f"{op.source}_seen", self.places[op.source], index)
        assert isinstance(op, ops.State)
        state = self.layer.state(op.name)
        if state in self.layer.rings:
            return self._pointed(f"{op.name}_oldest", Ring.of(self.layer, state).oldest, index)
        return "state->" + names.field(names.record(self.layer.name, op.name))

    def _pointed(self, name: str, place: str, index: int) -> str:
        """The place, by a pointer of that name where it is in a ring."""
        if "[" not in place:
            return place
        pointer = f" *const {name} = {place};"
        if not any(line.endswith(pointer) for line in self.made.declared):
            kind = c_type(Word.holding(*self.hulls[index]))
            self.made.declared.append(f"const {kind}{pointer}")
        return name

    def _product(self, index: int, op: ops.Product) -> str:
        """The product for neuron i, as C; all that computes it goes into the function."""
        total = self.hulls[index]
        if isinstance(op, ops.SumPool):
            how, weights, row_type, named = added(total), "", "", "window"
        else:
            weights, row_type, how = self._weights(index, op)
            named = op.weights
        word = Word.holding(min(how.lo, -1), how.hi)
        sums, interval = f"{named}_{index}", interval_comment(how.lo, how.hi)
        count = how.sums if isinstance(op, ops.MatVec) else self.layer.size
        accumulator = f"state->scratch.{self.made.scratch}.{sums}"
        self.made.sums.append(Array(word, sums, count, interval))
        product = Product(
            accumulator, count, word, self._place(op.x), row_type, weights, how,
            f"{self.layer.name} {named}: {how.of} in {interval}",
        )  # fmt: skip
        if not isinstance(op, ops.MatVec):
            groups = op.groups if isinstance(op, ops.Conv) else op.shape[0]
            channels = op.shape[0] // groups, self.layer.size // op.window.positions // groups
            product = replace(product, window=op.window, channels=channels)
        self.made.products.append(product)
        return f"{how.before}{accumulator}[i]"

    def _weights(self, index: int, op: ops.Weighted) -> tuple[str, str, Synapses]:
        """(the table of weights, its type, how they are added)."""
        name, codes = f"{self.private}_{op.weights}", self.layer.weights[op.weights].astype(np.int64)
        dtype = fixed.dtype_name(int(codes.min()), int(codes.max()))
        one, groups = (
            ("a channel and a place in its kernels", op.groups) if isinstance(op, ops.Conv) else ("an input", 0)
        )
        table, base = f"{self.private}_{index}_weights", f"base_{index}"
        how = synapses(codes, groups, op.levels, self.hulls[op.x], self.hulls[index], table, base)
        packing = f", {len(how.terms)} codes a byte from its lowest bits up" if len(how.terms) > 1 else ""
        rows = ",\n".join("    {\n" + wrapped(row, "        ") + "\n    }" for row in how.rows.tolist())
        row_type = "uint8_t" if packing or op.levels else "int8_t"
        dimensions = "".join(f"[{length}]" for length in how.rows.shape)
        self._add(Table(row_type, name, dimensions, rows, f"one row {one}{packing}, {dtype}"))
        if how.table:
            self._table(f"{index}_weights", how.table, f"what the codes of {op.weights} stand for")
        return name, row_type, how
