"""The C99 header of a network, and the test program beside it.

Products run over events: an input or spike that is 0 costs its test alone (see emit_c_weights.py). Everything else of a
layer is one loop over its neurons in int32_t; states and accumulators are stored in the smallest words that their
intervals allow.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import assert_never

import numpy as np
from quantal.export import __version__
from quantal.export.base import fixed, names
from quantal.export.base.fixed import Ints
from quantal.export.base.render import render, wrapped
from quantal.export.base.windows import Window
from quantal.export.base.word import Word
from quantal.export.emit.c.weights import Synapses, added, synapses
from quantal.export.ir import ops
from quantal.export.ir.fold import needed
from quantal.export.ir.interpret import Trace
from quantal.export.ir.network import Layer, Network, StateVar
from quantal.export.ir.ops import ARITHMETIC, operands
from quantal.export.proof.intervals import WORD_HI, WORD_LO, Interval, Proven
from quantal.export.verify.probes import FILLINGS, GUARD, encoder_calls

SELF_TEST_STEPS = 64
_FEW_BORDERS = 16  # up to here, comparing with all of them is no more than a search
_HASH_START, _HASH_FACTOR = 2166136261, 16777619  # FNV-1a, fed 32 bits at a time


def c_type(word: Word) -> str:
    """The fixed-width C type of a word."""
    return f"{'' if word.signed else 'u'}int{word.bits}_t"


def _fitting(lo: int, hi: int) -> str:
    """The smallest C type that holds [lo, hi]."""
    return c_type(Word.holding(lo, hi))


@dataclass(frozen=True)
class CArray:
    """An array of the state struct or of the scratch: C type, name, length, and what the header says of it."""

    word: Word
    name: str
    size: int
    comment: str = ""

    @property
    def type(self) -> str:
        """Of one of its entries, in C."""
        return c_type(self.word)


@dataclass(frozen=True)
class CTable:
    """A constant table, as text: e.g. type int8_t, name hidden_fan_in, dimensions [64][128]."""

    type: str
    name: str
    dimensions: str
    values: str
    comment: str = ""


@dataclass(frozen=True)
class CProduct:
    """A product: each entry of `source` that is not 0 adds its row of `weights` to `count` sums, as `how` says.

    With a window, to the sums at each position that sees it, in its own share of `channels` (in, out).
    """

    sums: str
    count: int
    word: Word
    source: str
    row_type: str
    weights: str
    how: Synapses
    comment: str
    window: Window | None = None
    channels: tuple[int, int] = (1, 1)

    @property
    def type(self) -> str:
        """Of a sum, in C."""
        return c_type(self.word)

    @property
    def wide(self) -> str:
        """What is written before a sum of 16 bits, so that an int of 16 is added to it in 32 bits."""
        return "(int32_t)" if self.word.bits == 16 and self.how.spikes else ""


@dataclass(frozen=True)
class CRing:
    """A delayed state: `delay` times `size` values, of which the oldest are at `index`, read as `name`."""

    word: Word
    field: str
    name: str
    size: int
    delay: int
    comment: str

    @property
    def type(self) -> str:
        """Of a value, in C."""
        return c_type(self.word)

    @property
    def index(self) -> str:
        """The field that says where the oldest are."""
        return names.ring_index(self.field)


@dataclass(frozen=True)
class CLayer:
    """One layer's function: products, the lines of its neuron loop, constant tables.

    `searched`: the types of the border tables in which a step searches.
    """

    name: str
    private: str
    size: int
    title: str
    products: list[CProduct]
    lines: list[str]
    tables: list[CTable]
    scratch: list[CArray]
    searched: list[str]
    rings: list[CRing]

    @property
    def sums(self) -> str:
        """The member of the scratch memory that holds its products."""
        return names.sums(self.name)


def _interval_comment(lo: int, hi: int, fraction: int = 0) -> str:
    return f"[{lo}, {hi}], {fixed.dtype_name(lo, hi, fraction)}"


class _LayerWriter:
    """Turns one layer's ops into C. `fields` maps a layer's name to where its output stands.

    The layer's number keeps private names apart, whatever layers and matrices are called.
    """

    def __init__(self, network: Network, layer: Layer, intervals: Sequence[Interval], fields: dict[str, str]):
        self.network, self.layer, self.fields = network, layer, fields
        self.hulls = [interval.hull for interval in intervals]
        self.needed = needed(layer)
        self.private = names.private(network.name, network.layers.index(layer) + 1, layer.name)
        self.result = CLayer(layer.name, self.private, layer.size, layer_title(layer), [], [], [], [], [], rings(layer))

    def write(self) -> CLayer:
        values = [self._value(index) if index in self.needed else "" for index in range(len(self.layer.ops))]
        records = dict(self.layer.records())
        for name, value in records.items():
            lo, hi = self.hulls[value]
            state = next((s for s in self.layer.states if name == names.record(self.layer.name, s.name)), None)
            kind = _fitting(state.lo, state.hi) if state else _fitting(lo, hi)
            self.result.lines.append(f"state->{names.field(name)}[i] = ({kind}){values[value]};")
        for ring, state in zip(self.result.rings, _delayed(self.layer), strict=True):
            self.result.lines.append(f"{ring.name}[i] = ({ring.type}){values[state.next]};")
        if self.layer is self.network.layers[-1]:
            self.result.lines.append(f"out[i] = {values[self.layer.output]};")
        return self.result

    def _table(self, suffix: str, values: tuple[int, ...], comment: str = "") -> CTable:
        kind = _fitting(min(values), max(values))
        return self._add(CTable(kind, f"{self.private}_{suffix}", f"[{len(values)}]", wrapped(values), comment))

    def _add(self, table: CTable) -> CTable:
        if table not in self.result.tables:  # two products may read one matrix
            self.result.tables.append(table)
        return table

    def _literal(self, value: int) -> str:
        return str(value) if value > -(2**31) else "(-2147483647 - 1)"

    def _value(self, index: int) -> str:
        """The C expression by which later lines call value `index`; what is not trivial gets a line of its own."""
        op = self.layer.ops[index]
        match op:
            case ops.Table(values) if len(values) == 1:
                return self._literal(values[0])
            case ops.Input() | ops.State() if not self._read_by_neurons(index):
                return ""
        lo, hi = self.hulls[index]
        expression = self._expression(index)
        self.result.lines.append(f"const int32_t v{index} = {expression}; /* [{lo}, {hi}] */")
        return f"v{index}"

    def _read_by_neurons(self, index: int) -> bool:
        readers = [op for i, op in enumerate(self.layer.ops) if i in self.needed and not isinstance(op, ops.Product)]
        direct = {value for op in readers for value in operands(op)}
        return index in direct or index == self.layer.output or any(s.next == index for s in self.layer.states)

    def _name(self, index: int) -> str:
        op = self.layer.ops[index]
        return self._literal(op.values[0]) if isinstance(op, ops.Table) and len(op.values) == 1 else f"v{index}"

    def _expression(self, index: int) -> str:
        op, n = self.layer.ops[index], self._name
        match op:
            case ops.Input() | ops.State():
                return f"{self._array(index)}[i]"
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
            case ops.Clamp(a):
                lo, hi = self.hulls[index]  # its proven interval: no value changes, and the line alone shows its bounds
                below = f"{n(a)} > {hi} ? {hi} : {n(a)}" if hi < WORD_HI else n(a)
                return f"{n(a)} < {lo} ? {lo} : ({below})" if lo > WORD_LO else below
            case ops.Gt(a, b):
                return f"{n(a)} > {n(b)} ? 1 : 0"
            case ops.Select(condition, a, b):
                return f"{n(condition)} != 0 ? {n(a)} : {n(b)}"
            case ops.Step(a, borders):
                table = self._table(f"{index}_borders", borders)
                if len(borders) > _FEW_BORDERS:
                    self.result.searched.append(table.type)
                    return f"{self.network.name}_priv_step_{table.type}({table.name}, {len(borders)}, {n(a)})"
                return " + ".join(f"({n(a)} >= {table.name}[{i}])" for i in range(len(borders)))
            case ops.Lookup(a, levels):
                return f"{self._table(f'{index}_levels', levels).name}[{n(a)}]"
            case _:
                assert_never(op)

    def _array(self, index: int) -> str:
        """Where the values of an INPUT or a STATE stand."""
        op = self.layer.ops[index]
        if isinstance(op, ops.Input):
            return self.fields[op.source]
        assert isinstance(op, ops.State)
        field = names.field(names.record(self.layer.name, op.name))
        return next((ring.name for ring in self.result.rings if ring.field == field), f"state->{field}")

    def _product(self, index: int, op: ops.Product) -> str:
        """The product for neuron i, as C; all that computes it goes into the layer."""
        total = self.hulls[index]
        if isinstance(op, ops.SumPool):
            how, weights, row_type, named = added(total), "", "", "window"
        else:
            weights, row_type, how = self._weights(index, op)
            named = op.weights
        word = Word.holding(min(how.lo, -1), how.hi)
        sums, interval = f"{named}_{index}", _interval_comment(how.lo, how.hi)
        count = how.sums if isinstance(op, ops.MatVec) else self.layer.size
        accumulator = f"state->scratch.{names.sums(self.layer.name)}.{sums}"
        self.result.scratch.append(CArray(word, sums, count, interval))
        product = CProduct(
            accumulator, count, word, self._array(op.x), row_type, weights, how,
            f"{self.layer.name} {named}: {how.of} in {interval}",
        )  # fmt: skip
        if not isinstance(op, ops.MatVec):
            groups = op.groups if isinstance(op, ops.Conv) else op.shape[0]
            channels = op.shape[0] // groups, self.layer.size // op.window.positions // groups
            product = replace(product, window=op.window, channels=channels)
        self.result.products.append(product)
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
        self._add(CTable(row_type, name, dimensions, rows, f"one row {one}{packing}, {dtype}"))
        if how.table:
            self._table(f"{index}_weights", how.table, f"what the codes of {op.weights} stand for")
        return name, row_type, how


def _delayed(layer: Layer) -> list[StateVar]:
    return [state for state in layer.states if state.delay > 1]


def rings(layer: Layer) -> list[CRing]:
    """The layer's delayed states."""
    return [
        CRing(
            Word.holding(s.lo, s.hi), names.field(names.record(layer.name, s.name)), f"oldest_{s.name}", layer.size,
            s.delay, _interval_comment(s.lo, s.hi, s.fraction),
        )
        for s in _delayed(layer)
    ]  # fmt: skip


def layer_title(layer: Layer) -> str:
    """One line: what the layer is, as its semantics have it, in the order in which network.json keeps them."""
    said = (f"{key.replace('_', ' ')} {value}" for key, value in sorted(layer.semantics.items()))
    return "; ".join([f"{layer.size} neurons", *said])


def output_field(layer: Layer) -> str:
    """The struct field (record name with _) that holds the layer's output after a step."""
    return names.field(next(name for name, value in layer.records() if value == layer.output))


def state_arrays(proven: Proven) -> list[CArray]:
    """The arrays of the state struct, in the order of the records: all that a step leaves to be compared but `out`."""
    arrays = []
    for layer, values in proven.layers:
        states = {names.record(layer.name, s.name): s for s in layer.states}
        for name, value in layer.records():
            state = states.get(name)
            lo, hi = (state.lo, state.hi) if state else values[value].hull
            comment = _interval_comment(lo, hi, state.fraction if state else 0)
            arrays.append(CArray(Word.holding(lo, hi), names.field(name), layer.size, comment))
    return arrays


Columns = list[tuple[str, str, tuple[int]]]
"""Of a record: name, numpy's code of its type, number of values."""


def array_columns(proven: Proven) -> Columns:
    """The state's arrays, packed, little-endian."""
    records = [name for layer in proven.network.layers for name, _ in layer.records()]
    arrays = state_arrays(proven)
    return [(name, array.word.dtype.str, (array.size,)) for name, array in zip(records, arrays, strict=True)]


def ring_columns(network: Network) -> Columns:
    """What else of a state is kept from step to step: each delayed one, and where in its ring the oldest are."""
    columns: Columns = []
    for layer in network.layers:
        for ring, state in zip(rings(layer), _delayed(layer), strict=True):
            name = names.record(layer.name, state.name)
            columns.append((name, ring.word.dtype.str, (ring.delay * ring.size,)))
            columns.append((names.ring_index(name), "<u2", (1,)))
    return columns


def record_dtype(proven: Proven) -> np.dtype[np.void]:
    """What the test program writes after every step: the state's arrays, then the output."""
    return np.dtype([*array_columns(proven), ("output", "<i4", (proven.network.outputs,))])


def sample_dtype(network: Network) -> np.dtype[np.generic]:
    """The type of one value before the header's encoder."""
    return _sample_word(network).dtype


def _sample_word(network: Network) -> Word:
    return Word.holding(0, int(network.encoding.get("maximum", 0)))


def input_dtype(network: Network) -> np.dtype[np.generic]:
    """The type of one input in memory."""
    return Word.holding(network.input_lo, network.input_hi).dtype


def _initial_values(network: Network) -> list[tuple[str, int, int]]:
    """(field, size, value) of all that reset writes."""
    values = []
    for layer in network.layers:
        initial = {names.record(layer.name, s.name): s.init for s in layer.states}
        values += [(names.field(name), layer.size, initial.get(name, 0)) for name, _ in layer.records()]
        values += [
            (ring.field, ring.delay * ring.size, s.init) for ring, s in zip(rings(layer), _delayed(layer), strict=True)
        ]
    return values


def _step_hashes(network: Network, trace: Trace) -> list[int]:
    """For each step of the first sample, FNV-1a over all records and the output, as 32-bit words."""
    hashes = []
    for t in range(min(SELF_TEST_STEPS, trace["output"].shape[1])):
        value = _HASH_START
        for name in (*(name for layer in network.layers for name, _ in layer.records()), "output"):
            for word in trace[name][0, t].tolist():
                value = ((value ^ (word & 0xFFFFFFFF)) * _HASH_FACTOR) & 0xFFFFFFFF
        hashes.append(value)
    return hashes


def emit_header(proven: Proven, digest: str, x: Ints, trace: Trace) -> str:
    """NAME.h, with the network's digest. The first sample of the golden vectors (x, trace) becomes its self test."""
    network = proven.network
    input_type = _fitting(network.input_lo, network.input_hi)
    fields = {"input": "in"}
    layers = []
    for layer, values in proven.layers:
        layers.append(_LayerWriter(network, layer, values, fields).write())
        fields[layer.name] = f"state->{output_field(layer)}"
    hashes, initial = _step_hashes(network, trace), _initial_values(network)
    shown = x[0, : len(hashes)].reshape(-1)
    packed = network.input_hi == 1 and network.input_lo == 0
    sample = np.packbits(shown.astype(np.uint8), bitorder="little").tolist() if packed else shown.tolist()
    return render(
        "c/header.h.j2",
        version=__version__,
        digest=digest,
        arithmetic=ARITHMETIC,
        name=network.name,
        NAME=network.name.upper(),
        inputs=network.inputs,
        outputs=network.outputs,
        encoder=network.encoding,
        sample_type=c_type(_sample_word(network)),
        seed_offset=int(network.encoding.get("seed", 0)) * 0x9E3779B9 % 2**32,
        input_type=input_type,
        input_comment=_interval_comment(network.input_lo, network.input_hi),
        input_lo=network.input_lo,
        input_hi=network.input_hi,
        output_comment=_interval_comment(*proven.intervals[-1][network.layers[-1].output].hull),
        arrays=state_arrays(proven),
        initial=initial,
        layers=layers,
        searched=sorted({kind for layer in layers for kind in layer.searched}),
        index_type="uint_fast16_t" if max(size for _, size, _ in initial) < 2**16 - 8 else "uint_fast32_t",
        arguments={layer.name: _arguments(network, layer) for layer in network.layers},
        test_steps=len(hashes),
        test_packed=packed,
        test_input=wrapped(sample),
        test_input_size=len(sample),
        test_hashes=wrapped(hashes).replace(",", "u,") + "u",
        hash_start=_HASH_START,
        hash_factor=_HASH_FACTOR,
    )


def _arguments(network: Network, layer: Layer) -> list[str]:
    """Which of step's arguments a layer's function needs beside the state."""
    reads_input = any(layer.ops[value] == ops.Input("input") for value in needed(layer))
    return ["in"] * reads_input + ["out"] * (layer is network.layers[-1])


def emit_test(proven: Proven) -> str:
    """NAME_test.c: runs the self test, or streams steps; built without an operating system it only offers symbols."""
    network = proven.network
    return render(
        "c/test.c.j2",
        version=__version__,
        name=network.name,
        NAME=network.name.upper(),
        arrays=state_arrays(proven),
        rings=[ring for layer in network.layers for ring in rings(layer)],
        encoder=str(network.encoding.get("kind")) if encoder_calls(network) else "",
        fillings=FILLINGS,
        guard=GUARD,
    )
